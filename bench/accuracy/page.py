"""Put a result into README.md and beside it: python -m bench.accuracy.page bench/results/accuracy-CPU.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.accuracy.contestants import PEERS
from bench.accuracy.judge import CANCELS, GOALS, MET, best_of, worst_of
from bench.accuracy.show import better_line, figure, ulps
from bench.table import insert

START, END = "<!-- accuracy: made by bench/accuracy/page.py -->", "<!-- end of accuracy -->"
MEASURES = (("loss", "loss, same ulp"), ("gradient", "gradient"))


def heading(content: dict) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    return f"{content['machine']['cpu']}; {versions}; commit {content['commit']}."


def groups(content: dict) -> dict[str, list[dict]]:
    found: dict[str, list[dict]] = {}
    for case in content["cases"]:
        wide = case["dtype"] == "float32"
        found.setdefault(case["group"] if wide else f"the same, {case['dtype']}", []).append(case)
    return found


def largest(cases: list[dict], who: str, ulp: str) -> str:
    """Over the cases, of fastsce's worst form or of a peer's best."""
    found = []
    for case in cases:
        answers = {name: {k: figure(f) for k, f in a.items()} for name, a in case["answers"].items()}
        found.append(worst_of(answers, ulp) if who == "fastsce" else best_of(answers, who, ulp))
    return ulps(max((f for f in found if f is not None), default=None))


def short(content: dict, source: str) -> str:
    """A line a group of cases."""
    everyone = ("fastsce", *PEERS)
    lines = [
        f"{heading(content)} From `{source}`; every case is in `{Path(source).with_suffix('.md')}`.",
        "",
        f"| cases | {' | '.join(everyone)} | goal met | a peer is better |",
        "|---" * (len(everyone) + 3) + "|",
    ]
    for group, cases in groups(content).items():
        cells = [" / ".join(largest(cases, who, ulp) for _, ulp in MEASURES).strip(" /") for who in everyone]
        goal = f"{sum(c['goal'] == MET for c in cases)} of {len(cases)}"
        if cancelled := sum(c["goal"] == CANCELS for c in cases):
            goal += f", {cancelled} in ulps of the terms"
        losses, gradients = (sum(any(b["what"] == what for b in c["better"]) for c in cases) for what in GOALS)
        lines.append(f"| {group} | {' | '.join(cells)} | {goal} | loss {losses}, gradient {gradients} |")
    return "\n".join(lines)


def full(content: dict, source: str) -> str:
    lines = [
        "# Accuracy, case by case",
        "",
        f"{heading(content)} Made by `python -m bench.accuracy.page {source}`.",
        "Largest errors of loss / gradient in ulp; in brackets, fastsce's beyond what rounding z − max once costs.",
        "",
    ]
    names = list({name: None for case in content["cases"] for name in case["answers"]})
    lines += [f"| case | {' | '.join(names)} | goal | a peer is better |", "|---" * (len(names) + 3) + "|"]
    for case in content["cases"]:
        cells = [cell(case["answers"].get(name), name) for name in names]
        better = "; ".join(map(better_line, case["better"]))
        size = f"{case['rows']} × {case['classes']} {case['dtype']}"
        lines.append(f"| {case['name']}: {size}; {case['why']} | {' | '.join(cells)} | {case['goal']} | {better} |")
    return "\n".join(lines) + "\n"


def cell(answer: dict | None, name: str) -> str:
    if answer is None:
        return ""
    text = " / ".join(ulps(answer[what]) for what in GOALS if what in answer)
    if not name.startswith("fastsce"):
        return text
    return f"{text} ({' / '.join(ulps(answer[f'{what} excess']) for what in GOALS if what in answer)})"


def main() -> None:
    path = Path(sys.argv[1])
    content = json.loads(path.read_text())
    path.with_suffix(".md").write_text(full(content, path.as_posix()))
    insert(short(content, path.as_posix()), START, END)


if __name__ == "__main__":
    main()
