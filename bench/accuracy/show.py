"""Figures as a table in a terminal."""

from __future__ import annotations

import math

from rich.table import Table

from bench.accuracy.judge import GOALS, MET, verdict_of, worst_of
from bench.show import console


def figure(f: float | str) -> float:
    """A file says that a figure is wrong."""
    return math.inf if f == "wrong" else f


def ulps(f: float | str | None) -> str:
    """Three digits; nothing for what is not offered."""
    if f is None:
        return ""
    if figure(f) == math.inf:
        return "wrong"
    return f"{f:.2f}" if f < 10 else f"{f:.1f}" if f < 100 else f"{f:.3g}"


def show(found: dict) -> None:
    title = f"{found['name']}: {found['rows']} x {found['classes']} {found['dtype']}; {found['why']}"
    table = Table("", title=title, title_justify="left", title_style="bold", box=None)
    for heading in ("loss", "beyond", "gradient", "beyond", "in ulps of its terms"):
        table.add_column(heading, justify="right")
    table.add_column("goal")
    for name, a in found["answers"].items():
        figures = ("loss", "loss excess", "gradient", "gradient excess", "gradient of terms")
        table.add_row(name, *(ulps(a.get(what)) for what in figures), verdict_of([a]))
    console.print(table)
    for b in found["better"]:
        console.print(f"[red]{better_line(b)}[/]")
    console.print()


def better_line(b: dict) -> str:
    return f"{b['what']}: {b['peer']} {ulps(b['peer ulp'])} ulp, fastsce {ulps(b['fastsce ulp'])}"


def summary(cases: list[dict]) -> None:
    goals = " and ".join(f"{what} <= {most} ulp" for what, most in GOALS.items())
    console.print(f"[bold]goal: {goals}, beyond what rounding z - max once costs")
    console.print(f"met in {sum(c['goal'] == MET for c in cases)} of {len(cases)} cases")
    for c in cases:
        if c["goal"] != MET:
            excess = ", ".join(f"{what} {ulps(worst_of(c['answers'], f'{what} excess'))}" for what in GOALS)
            console.print(f"  {c['name']}: {c['goal']}; beyond: {excess} ulp")
    console.print("[bold]where a peer is better")
    for c in cases:
        for b in c["better"]:
            console.print(f"  {c['name']}: {better_line(b)}")
