"""Puts results into the documents: python -m bench.table bench/results/FILE.json [...].

README.md gets the workloads, between its two marks, and the plot beside the result; `bench/results/contestants.md` who
takes part; `bench/results/goals.md` the goals, of results that have any. Nothing of it is written by hand, and a test
holds the documents against the results.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import compare, lines, rates
from bench.cases import GROUPS, workloads
from bench.goals import BARE, COPY, FRESH, OURS, seconds
from bench.providers import ABSENT, PROVIDERS

ROOT = Path(__file__).parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "bench" / "results"
START, END = "<!-- figures: made by bench/table.py -->", "<!-- end of figures -->"
WORKLOADS = frozenset(case.group for case in workloads())


def is_of_goals(content: dict) -> bool:
    return bool(content["cases"]) and all(case["group"] not in WORKLOADS for case in content["cases"])


def between(document: str, text: str, start: str, end: str) -> str:
    """A document with another text between two marks."""
    before, rest = document.split(start)
    after = rest.split(end)[1]
    return f"{before}{start}\n\n{text}\n\n{end}{after}"


def insert(text: str, start: str, end: str) -> None:
    """Put it into README between two marks."""
    README.write_text(between(README.read_text(encoding="utf-8"), text, start, end), encoding="utf-8")


def figures(content: dict, source: str) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items() if name != "fastsce")
    return "\n".join(
        [
            f"{lines.machine(content)}; {versions}; commit {content['commit']}; {content['date'][:10]}. "
            f"From `{source}`.",
            *(f"**{warning}**" for warning in lines.warnings(content)),
            "",
            "| workload | batch | fastsce, `out=` | fresh | copy | fastest peer | × copy | × peer | fresh × peer |",
            "|---|---|--:|--:|--:|--:|--:|--:|--:|",
            *(workload(case) for case in content["cases"] if case["group"] in WORKLOADS and timed(case, OURS)),
            "",
            f"![Throughput of fastsce and its fastest peer, in % of a copy's]({Path(source).with_suffix('.png')})",
        ]
    )


def timed(case: dict, name: str) -> bool:
    return "warm" in case["contestants"].get(name, {})


def workload(case: dict) -> str:
    best = rates.fastest_peer(case["contestants"], "warm")
    warm = {name: seconds(line["warm"]["median"]) for name, line in case["contestants"].items() if "warm" in line}
    shape = " × ".join(map(str, case["shape"]))
    cells = [
        f"`{case['name']}`",
        f"{shape} {case['dtype']}",
        warm[OURS],
        warm.get(FRESH, ""),
        warm.get(COPY, ""),
        f"{warm[best]}, {best}" if best else "",
        rates.times_copy(case, OURS, "warm"),
        rates.times_fastest_peer(case, OURS, "warm"),
        rates.times_fastest_peer(case, FRESH, "warm") if FRESH in warm else "",
    ]
    return f"| {' | '.join(cells)} |"


def goals(contents: dict[str, dict]) -> str:
    """The page of goals, of results by the name of their file."""
    found = [
        "# Goals, and what was measured",
        "",
        "Made by `python -m bench.table`; judged by the medians of one run. NumPy and optax are not among the goals'",
        "peers; README holds fastsce against them, too.",
    ]
    for source, content in contents.items():
        found += ["", f"{lines.machine(content)}; commit {content['commit']}; {content['date'][:10]}. From `{source}`."]
        for group in dict.fromkeys(case["group"] for case in content["cases"]):
            cases = [case for case in content["cases"] if case["group"] == group]
            met = [goal["met"] for case in cases for goal in case["goals"]]
            found += ["", f"## {group}: {sum(met)} of {len(met)} met", "", GROUPS[group], ""]
            found += ["| case | contestant | goal | measured | |", "|---|---|---|--:|---|"]
            found += [line for case in cases for line in goal_lines(case)]
    return "\n".join(found) + "\n"


def goal_lines(case: dict) -> list[str]:
    """A case's goals, and what arithmetic alone takes, where that was timed."""
    found = []
    for goal in case["goals"]:
        met = "met" if goal["met"] else "**not met**"
        found.append(f"| `{case['name']}` | {goal['who']} | {goal['goal']} | {goal['figure']} | {met} |")
    if timed(case, BARE) and timed(case, COPY):
        bare, copy = (case["contestants"][name]["warm"]["median"] for name in (BARE, COPY))
        found.append(f"| `{case['name']}` | {BARE} | no goal; x copy | {bare / copy:.2f} | |")
    return found


def contestants() -> str:
    """The page of who takes part."""
    found = ["# Contestants", "", "Made by `python -m bench.table` from `bench/providers.py`.", ""]
    found += ["| name | process | computes | allocates | in place |", "|---|---|---|---|---|"]
    for p in PROVIDERS.values():
        place = "yes" if p.in_place else ""
        found.append(f"| {p.name} | {p.library} | {p.computes} | {p.allocates} | {place} |")
    found += ["", "Not timed on a CPU, and why:", ""]
    found += [f"- **{name}**: {reason}." for name, reason in ABSENT.items()]
    return "\n".join(found) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.table", description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", metavar="FILE.json")
    found = {path.resolve().relative_to(ROOT).as_posix(): compare.read(path) for path in parser.parse_args().results}
    of_goals = {source: content for source, content in found.items() if is_of_goals(content)}
    (RESULTS / "contestants.md").write_text(contestants(), encoding="utf-8")
    if of_goals:
        (RESULTS / "goals.md").write_text(goals(of_goals), encoding="utf-8")
    for source, content in found.items():
        if source not in of_goals:
            from bench import plots  # with matplotlib

            insert(figures(content, source), START, END)
            if picture := plots.overview(content["cases"]):
                (ROOT / source).with_suffix(".png").write_bytes(picture)


if __name__ == "__main__":
    main()
