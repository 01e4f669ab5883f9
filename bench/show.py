"""Results in a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench import lines
from bench.providers import ABSENT, PROVIDERS

console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)


def progress_bar() -> Progress:
    columns = TextColumn("{task.description}", justify="left"), BarColumn(30)
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def head(content: dict) -> None:
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    console.print(f"[bold]{lines.machine(content)}[/]; {versions}; commit {content['commit']}")
    for what, meaning in lines.LEGEND.items():
        console.print(f"{what}: {meaning}", style="dim", soft_wrap=True)
    console.print()


def show(case: dict) -> None:
    table = Table("", title=lines.title(case), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in lines.HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    if goals := bool(case["goals"]):
        table.add_column("goals")
    refused = {}
    for name, line in case["contestants"].items():
        if "failed" in line:
            refused[name] = line
        else:
            table.add_row(name, *lines.cells(case, name), *([verdicts(case, name)] if goals else []))
    console.print(table)
    for name, line in refused.items():
        console.print(f"[red]{name}: {escape(lines.failure(line))}", soft_wrap=True)
    console.print()


def verdicts(case: dict, name: str) -> str:
    return "\n".join(verdict(goal) for goal in case["goals"] if goal["who"] == name)


def verdict(goal: dict) -> str:
    met = "[green]met[/]" if goal["met"] else "[red]NOT MET[/]"
    return f"{goal['goal']}: {goal['figure']}, {met}"


def summary(cases: list[dict]) -> None:
    """How many goals of each group are met, and those that are not."""
    groups = dict.fromkeys(case["group"] for case in cases if case["goals"])
    for group in groups:
        goals = [(case["name"], goal) for case in cases if case["group"] == group for goal in case["goals"]]
        console.print(f"goals of {group}: {sum(goal['met'] for _, goal in goals)} of {len(goals)} met")
        for name, goal in goals:
            if not goal["met"]:
                console.print(f"  {name}: {goal['who']} {verdict(goal)}", soft_wrap=True)


def catalogue(cases) -> None:
    table = Table("case", "batch", "who runs it", "bytes that must be moved", title="cases", box=None)
    for case in cases:
        table.add_row(case.name, str(case), case.about, case.formula)
    console.print(table, "")


def providers() -> None:
    table = Table("contestant", "library", "computes", "allocates", title="contestants", box=None)
    for provider in PROVIDERS.values():
        table.add_row(provider.name, provider.library, provider.computes, provider.allocates)
    for name, reason in ABSENT.items():
        table.add_row(f"{name}: not timed", "", reason, "")
    console.print(table)
