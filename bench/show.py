"""Results in a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench import rates
from bench.goals import seconds
from bench.providers import ABSENT, PROVIDERS

console = Console(width=None if sys.stdout.isatty() else 170, highlight=False)
LEGEND = (
    "cold: a call with empty caches; warm: the call right after it; medians. ±: how far the warm one may be off. "
    "GB/s and % of roof (the faster copy; the read, for a read): warm, of the bytes that the task must move. "
    "x copy: times the copy's time; x peer: times as fast as the fastest peer; ≈: no difference beyond noise. "
    "errors against float64: of the loss, relative; of the gradient, in the largest that a row can have. "
    "memory: the worst moment of a call, beyond inputs and given outputs."
)


def progress_bar() -> Progress:
    columns = TextColumn("{task.description}", justify="left"), BarColumn(30)
    return Progress(*columns, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console)


def head(content: dict) -> None:
    machine = content["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    console.print(f"[bold]{machine['cpu']}[/], {machine['threads']} threads; {versions}; {content['commit']}")
    console.print(LEGEND, style="dim")
    console.print()


def show(case: dict) -> None:
    about = f" ({case['about']})" if case.get("about") else ""
    title = f"{case['name']}{about}: {case['batch']}; {case['rounds']} rounds"
    if case.get("cut"):
        title += f"; [yellow]{case['cut']}[/]"
    table = Table("", title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("cold", "warm", "±", "GB/s", "% of roof", "x copy", "x peer"):
        table.add_column(heading, justify="right", no_wrap=True)
    for heading in ("loss error", "grad. error", "memory"):
        table.add_column(heading, justify="right")
    if goals := bool(case["goals"]):
        table.add_column("goals")
    for name, line in case["contestants"].items():
        figures = failed(name, line) if "failed" in line else cells(case, name)
        table.add_row(*figures, *([verdicts(case, name)] if goals else []))
    console.print(table, "")


def failed(name: str, line: dict) -> list[str]:
    return [f"{name}: [red]{'REFUSED, ' if line['wrong'] else 'failed: '}{line['failed']}[/]", *[""] * 10]


def cells(case: dict, name: str) -> list[str]:
    line = case["contestants"][name]
    warm, cold = line["warm"], line.get("cold")
    speed = warm.get("GB/s")
    errors = line.get("errors") or {}
    if "same code" not in case:  # nothing to be compared with
        return [name, "", seconds(warm["median"]), f"{warm['off']:.1%}", *[""] * 7]
    return [
        name,
        seconds(cold["median"]) if cold else "",
        seconds(warm["median"]),
        f"{warm['off']:.1%}",
        f"{speed:.1f}" if case["repeat"] == 1 else "",
        f"{warm['roof']:.0%}" if warm["roof"] else "",
        rates.times_copy(case, name, "warm"),
        rates.times_fastest_peer(case, name, "warm"),
        error(errors.get("loss")),
        error(max((e for e in (errors.get("gradient"), errors.get("hessian")) if e is not None), default=None)),
        size(line.get("peak")),
    ]


def error(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def size(number: int | None) -> str:
    return "" if number is None else f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


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
