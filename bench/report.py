"""A result as files: JSON, CSV, plots, and a page of HTML that holds all of it and needs nothing else."""

from __future__ import annotations

import base64
import json
import math
import statistics
from itertools import groupby
from pathlib import Path

import jinja2

from bench import csvfile, lines, plots, rates
from bench.cases import GROUPS
from bench.goals import FRESH, OURS
from bench.measure import BEHIND
from bench.noise import is_difference
from bench.providers import PROVIDERS

TEMPLATE = "report.html.jinja"


def write(content: dict, folder: Path) -> None:
    write_json(content, folder)
    csvfile.write(content, folder / "result.csv")
    pictures = draw(content)
    for name, png in pictures.items():
        (folder / f"{name}.png").write_bytes(png)
    (folder / "report.html").write_text(page(content, pictures), encoding="utf-8")


def method(content: dict) -> list[str]:
    least = content["effort"]["least"]
    return [
        "Every library works in a process of its own, all on the same CPUs with as many threads, only one at a time, "
        "on the same arrays in shared memory (JAX on copies of its own). What is compiled, converted or warmed up "
        "beforehand is not timed. All ask for huge pages, as NumPy does.",
        "Before it is timed, each result is compared with float64: the loss, each row's gradient in one random "
        "direction, each number of some rows. Who is wrong is refused, and says so in the table.",
        "In every round each contestant has one turn, in a new order; roofs (read, copy, stream copy of the same "
        "bytes) take part too. A turn empties the caches of all CPUs, then times a call (cold) and the next (warm).",
        f"After {least} rounds, peers that take more than {BEHIND} times as long as the fastest one sit out; the "
        "others and fastsce go on while time allows.",
        "Medians are shown. How far off they may be is found from the rounds, and fastsce, entered twice, shows how "
        "far the same code differs from itself; a ratio within that is marked ≈ and is no difference.",
        "A peer is given its best form; the fastest of them is what fastsce is held against.",
    ]


def write_json(content: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps(content, indent=1) + "\n")


def draw(content: dict) -> dict[str, bytes]:
    """Pictures by name; those that there are no figures for are left out."""
    drawn = {"overview": plots.overview(content["cases"]), "throughput": plots.throughput(content["cases"])}
    drawn |= {f"group-{name}": plots.bars(cases) for name, cases in by_group(content)}
    drawn["memory"] = plots.memory(content["cases"])
    return {name: png for name, png in drawn.items() if png}


def by_group(content: dict) -> list[tuple[str, list[dict]]]:
    return [(name, list(cases)) for name, cases in groupby(content["cases"], key=lambda case: case["group"])]


def page(content: dict, pictures: dict[str, bytes]) -> str:
    embedded = {name: f"data:image/png;base64,{base64.b64encode(png).decode()}" for name, png in pictures.items()}
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(TEMPLATE)
    return template.render(
        content=content,
        machine=lines.machine(content),
        warnings=lines.warnings(content),
        cards=cards(content["cases"]),
        method=method(content),
        legend=lines.LEGEND,
        headings=lines.HEADINGS,
        compared=content.get("compared"),
        groups=[group(name, cases, embedded) for name, cases in by_group(content)],
        facts=facts(content),
        **{name: embedded.get(name) for name in ("overview", "throughput", "memory")},
    )


def group(name: str, cases: list[dict], embedded: dict[str, str]) -> dict:
    return {
        "name": name,
        "about": GROUPS.get(name, ""),
        "plot": embedded.get(f"group-{name}"),
        "cases": [shown(case) for case in cases],
    }


def shown(case: dict) -> dict:
    """A case in words."""
    ours = case["contestants"].get(OURS, {})
    same = case.get("same code", {}).get("warm")
    return {
        "title": lines.title(case),
        "formula": ours.get("formula"),
        "bytes": f"{ours.get('bytes', 0) / 1e6:,.4g} MB",
        "noise": f"{math.expm1(same):.1%}" if same else "",
        "rows": [row(case, name) for name in case["contestants"]],
        "goals": case["goals"],
    }


def row(case: dict, name: str) -> dict:
    line = case["contestants"][name]
    provider = PROVIDERS[line["provider"]]
    if "failed" in line:
        return {"name": name, "kind": "failed", "failure": lines.failure(line)}
    kind = "ours" if provider.is_ours else "roof" if provider.is_roof else ""
    return {"name": name, "kind": kind, "formula": formula(line), "cells": lines.cells(case, name)}


def cards(cases: list[dict]) -> list[dict]:
    """What a reader wants to know first, the worst included."""
    ratios = {}
    for case in cases:
        best = rates.fastest_peer(case["contestants"], "warm")
        if best and "warm" in case["contestants"].get(OURS, {}):
            ratios[case["name"]] = rates.ratio(case, best, OURS, "warm")
    if not ratios:
        return []
    faster = [r for r, noise in ratios.values() if r > 1 and is_difference(r, noise)]
    slower = [r for r, noise in ratios.values() if r < 1 and is_difference(r, noise)]
    shares = {c["name"]: c["contestants"].get(OURS, {}).get("warm", {}).get("roof") for c in cases}
    shares = {name: share for name, share in shares.items() if share}
    worst = min(ratios, key=lambda name: ratios[name][0])
    new = [fresh_ratio(case) for case in cases]
    new = [ratio for ratio in new if ratio]
    found = [
        (f"{len(faster)} of {len(ratios)}", "cases where fastsce, out= is faster than its fastest peer"),
        (f"{len(slower)}", f"where it is slower; {len(ratios) - len(faster) - len(slower)} without a difference"),
        (
            f"{statistics.geometric_mean(r for r, _ in ratios.values()):.1f}×",
            "as fast, the geometric mean of all cases",
        ),
        (f"{ratios[worst][0]:.2g}×", f"as fast at worst: {worst}"),
    ]
    if new:
        found.append((f"{statistics.geometric_mean(new):.1f}×", "as fast with its gradient in new memory, likewise"))
    if shares:
        lowest = min(shares, key=lambda name: shares[name])
        words = f"of the throughput of a copy, the median; {shares[lowest]:.0%} at worst: {lowest}"
        found.append((f"{statistics.median(shares.values()):.0%}", words))
    return [{"figure": figure, "says": says} for figure, says in found]


def formula(line: dict) -> str:
    return f"{line['formula']} = {line['bytes'] / 1e6:,.4g} MB" if "formula" in line else ""


def fresh_ratio(case: dict) -> float | None:
    """How many times as fast as the fastest peer, where the gradient is new memory each time."""
    best = rates.fastest_peer(case["contestants"], "warm")
    if best is None or "warm" not in case["contestants"].get(FRESH, {}):
        return None
    return rates.ratio(case, best, FRESH, "warm")[0]


def facts(content: dict) -> dict[str, str]:
    here = content["machine"]
    unknown = "unknown"
    roofs = [
        f"{name}, {when}: {line['warm']['GB/s']:.1f} GB/s"
        for when, roof in content["roofs"].items()
        for name, line in roof["contestants"].items()
        if "warm" in line
    ]
    return {
        "CPU": here["cpu"],
        "threads": f"{here['threads']}, on CPUs {', '.join(map(str, here['cpus']))}; each library's, as it says: "
        + ", ".join(f"{library} {number}" for library, number in content.get("threads", {}).items()),
        "last-level cache": f"{here['last-level cache'] / 2**20:.0f} MiB; {content['flushed'] / 2**20:.0f} MiB are "
        "rewritten to empty it",
        "memory": f"{here['memory'] / 2**30:.1f} GiB" if here["memory"] else unknown,
        "load before": unknown if here["load"] is None else f"{here['load']}",
        "system": here["system"],
        f"{next((roof['name'] for roof in content['roofs'].values()), 'roofs')}, warm": "; ".join(roofs) or unknown,
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "rounds": f"{content['effort']['least']} with everyone, up to {content['effort']['most']} in all for those in "
        f"contention, as many as {content['effort']['seconds']:g} s allow",
    }
