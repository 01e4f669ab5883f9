"""Put a result into README.md: python -m bench.table bench/results/FILE.json."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from bench.goals import COPY, PEERS, STREAM, seconds

README = Path(__file__).parents[1] / "README.md"
START, END = "<!-- figures: made by bench/table.py -->", "<!-- end of figures -->"
SHOWN = {
    "rows": ["256 MiB, C = 32768", "64 MiB, C = 1024", "64 MiB, C = 8192", "64 MiB, C = 131072"],
    "short": ["C = 2", "C = 10", "C = 100"],
    "strided": ["segmentation", "classes first"],
    "dtypes": ["bfloat16, C = 32768"],
    "options": ["binary"],
    "latency": ["N = 1"],
}


def table(content: dict, source: str) -> str:
    machine = content["machine"]
    lines = [
        f"{machine['cpu']}, {machine['threads']} threads; "
        + ", ".join(f"{name} {version}" for name, version in content["versions"].items())
        + f". Medians, from `{source}`.",
        "",
        "| case | batch | fastsce | copy | stream copy | fastest peer | × copy | × fastest peer |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, names in SHOWN.items():
        cases = {case["name"]: case for case in content["groups"].get(group, [])}
        lines += [line(cases[name]) for name in names if name in cases]
    return "\n".join([*lines, "", *map(goals, content["groups"], content["groups"].values())])


def line(case: dict) -> str:
    medians = {name: f["median"] for name, f in case["seconds"].items()}
    ours = next(t for name, t in medians.items() if name.startswith("fastsce"))
    best = min((name for name in PEERS if name in medians), key=medians.__getitem__, default=None)
    cells = [
        case["name"],
        case["batch"].replace(" x ", " × "),
        seconds(ours),
        *(seconds(medians[roof]) if roof in medians else "" for roof in (COPY, STREAM)),
        f"{seconds(medians[best])}, {best}" if best else "",
        f"{ours / medians[COPY]:.2f}" if COPY in medians else "",
        f"{medians[best] / ours:.1f}" if best else "",
    ]
    return f"| {' | '.join(cells)} |"


def goals(group: str, cases: list[dict]) -> str:
    judged = [(case["name"], goal) for case in cases for goal in case["goals"]]
    missed = [
        f"{name}: {goal['who']} {goal['goal']}, measured {goal['figure']}" for name, goal in judged if not goal["met"]
    ]
    return "; ".join([f"- {group}: {len(judged) - len(missed)} of {len(judged)} goals met", *missed])


def insert(text: str, start: str, end: str) -> None:
    """Put it into README between two marks."""
    before, rest = README.read_text().split(start)
    after = rest.split(end)[1]
    README.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}")


def main() -> None:
    path = Path(sys.argv[1])
    insert(table(json.loads(path.read_text()), path.as_posix()), START, END)


if __name__ == "__main__":
    main()
