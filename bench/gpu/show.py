"""A run as lines in a terminal."""

from __future__ import annotations

from bench.goals import OURS, seconds
from bench.gpu.cases import Case
from bench.gpu.goals import CLIFF, UNKNOWN


def head(content: dict) -> None:
    for part in ("machine", "versions"):
        print(", ".join(f"{name} {value}" for name, value in content[part].items()))


def begin(name: str) -> None:
    print(f"\n== {name}", flush=True)


def end(found: dict) -> None:
    for key in ("skipped", "error"):
        if key in found:
            print(f"  {key}: {found[key]}")
    print(f"  took {found.get('took', 0)} s", flush=True)


def line(row: dict) -> None:
    name = str(Case(tuple(row["shape"]), row["dtype"], row["axis"])) if "shape" in row else row.get("name", "")
    parts = [f"{key}: {row[key]}" for key in ("skipped", "error") if key in row]
    speed, taken = row.get("GB/s"), row.get("seconds", {})
    if isinstance(speed, dict):
        parts += [f"{who} {seconds(taken[who]['median'])}, {speed[who]:.0f} GB/s" for who in speed]
        parts += [f"{who} {what:.2g} off" for who, what in row.get("errors", {}).get(OURS, {}).items()]
    elif "median" in taken:
        parts.append(seconds(taken["median"]) + ("" if speed is None else f", {speed:.0f} GB/s"))
    elif "shape" not in row:
        parts += [f"{key}: {value}" for key, value in row.items() if key not in ("name", "failed")]
    else:
        parts += [f"{key}: {row[key]}" for key in ("same bits",) if key in row]
    parts += [f"failed: {text}" for text in row.get("failed", {}).values()]
    print(f"  {name or '-'}: {'; '.join(parts)}", flush=True)


def summary(content: dict) -> None:
    """The roof, the worst cliffs, and every goal."""
    roof, cliffs = content["roof"], content["cliffs"]
    print("\n== goals" + (f", of a copy at {roof:.0f} GB/s" if roof else ""))
    if cliffs:
        worst = cliffs[0]
        said = "a cliff" if worst["ratio"] < CLIFF else "no cliff"
        print(f"  steepest: {worst['dtype']}, C = {worst['classes']}, {worst['ratio']:.2f} of its neighbour, {said}")
    for goal in content["goals"]:
        print(f"  {goal['verdict'].upper():12} {goal['goal']}{found(goal)}", flush=True)


def found(goal: dict) -> str:
    measured = goal["measured"]
    if measured is None or isinstance(measured, bool):
        return f": {goal['at']}" if goal["at"] and measured is not None else ""
    figure = seconds(measured) if goal["goal"].startswith("host") else f"{measured:.3g}"
    missing = f"; {len(goal['missing'])} not measured" if goal["verdict"] == UNKNOWN else ""
    return f": {figure} at {goal['at']}{missing}"
