"""Results as tables in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from bench.goals import COPY, PEERS, seconds

console = Console(width=160, highlight=False)


def show(result: dict) -> None:
    found = result["seconds"]
    medians = {name: f["median"] for name, f in found.items()}
    fastest = min((medians[name] for name in PEERS if name in medians), default=None)
    title = f"{result['name']}: {result['batch']}"
    table = Table("", title=title, title_justify="left", title_style="bold", box=None)
    for heading in ("median", "quartiles", "x copy", "x fastest peer", "peak memory"):
        table.add_column(heading, justify="right")
    table.add_column("goal")
    for name, f in found.items():
        memory = result["peak"].get(name)
        table.add_row(
            name,
            seconds(f["median"]),
            f"{seconds(f['low'])} - {seconds(f['high'])}",
            f"{f['median'] / medians[COPY]:.2f}" if COPY in medians else "",
            f"{fastest / f['median']:.2f}" if fastest and name not in PEERS else "",
            "" if memory is None else f"{memory / 2**20:.1f} MiB",
            "\n".join(verdict(goal) for goal in result["goals"] if goal["who"] == name),
        )
    console.print(table, "")


def verdict(goal: dict) -> str:
    met = "[green]met[/]" if goal["met"] else "[red]NOT MET[/]"
    return f"{goal['goal']}: measured {goal['figure']}, {met}"


def summary(results: dict[str, list[dict]]) -> None:
    """How many goals of each group are met, and those that are not."""
    console.print("[bold]goals")
    for group, cases in results.items():
        goals = [(case["name"], goal) for case in cases for goal in case["goals"]]
        console.print(f"{group}: {sum(goal['met'] for _, goal in goals)} of {len(goals)} met")
        for name, goal in goals:
            if not goal["met"]:
                console.print(f"  {name}: {goal['who']} {verdict(goal)}", soft_wrap=True)
