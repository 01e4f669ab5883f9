"""Results as tables in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.goals import COPY, PEERS, seconds

console = Console(width=120, highlight=False)


def show(result: dict) -> None:
    found = result["seconds"]
    medians = {name: f["median"] for name, f in found.items()}
    fastest = min((medians[name] for name in PEERS if name in medians), default=None)
    table = Table("", title=f"{result['name']}: {result['batch']}", title_justify="left", title_style="bold", box=None)
    for heading in ("median", "quartiles", "x copy", "x fastest peer", "peak memory"):
        table.add_column(heading, justify="right")
    for name, f in found.items():
        memory = result["peak"].get(name)
        table.add_row(
            name,
            seconds(f["median"]),
            f"{seconds(f['low'])} - {seconds(f['high'])}",
            f"{f['median'] / medians[COPY]:.2f}" if COPY in medians else "",
            f"{fastest / f['median']:.2f}" if fastest and name not in PEERS else "",
            "" if memory is None else f"{memory / 2**20:.1f} MiB",
        )
    console.print(table)
    for goal in result["goals"]:
        show_goal(goal)
    console.print()


def show_goal(goal: dict, before: str = "") -> None:
    met = "[green]met" if goal["met"] else "[red]NOT MET"
    console.print(f"{before}goal: {goal['goal']}   measured {goal['figure']}   {met}")


def summary(results: dict[str, list[dict]]) -> None:
    """How many goals of each group are met, and those that are not."""
    console.print("[bold]goals")
    for group, cases in results.items():
        goals = [(case["name"], goal) for case in cases for goal in case["goals"]]
        console.print(f"{group}: {sum(goal['met'] for _, goal in goals)} of {len(goals)} met")
        for name, goal in goals:
            if not goal["met"]:
                show_goal(goal, f"  {name}: ")
