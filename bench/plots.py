"""Pictures of a result. Colours are Okabe and Ito's, which the colour-blind can tell apart; names stand beside them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import matplotlib

from bench import rates
from bench.case import GRADIENT
from bench.goals import (
    COMPILED,
    COPY,
    EAGER,
    FRESH,
    IN_PLACE,
    JAX,
    NUMPY,
    OPTAX,
    OURS,
    SKLEARN,
    STREAM,
    seconds,
)

matplotlib.use("Agg")
from matplotlib import pyplot

BLUE, SKY, ORANGE, GREEN, PURPLE, RED, YELLOW, GREY = (
    *("#0072B2", "#56B4E9", "#E69F00", "#009E73"),
    *("#CC79A7", "#D55E00", "#F0E442", "#777777"),
)
COLOURS = {
    OURS: BLUE,
    FRESH: SKY,
    IN_PLACE: "#003A5C",
    COMPILED: ORANGE,
    JAX: GREEN,
    OPTAX: PURPLE,
    EAGER: GREY,
    SKLEARN: RED,
    NUMPY: YELLOW,
}
MARKERS = dict(zip(COLOURS, "osD^v<>Ph"))
WIDE = 12.0  # inches
STYLE = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "figure.dpi": 130,
    "font.size": 9,
    "grid.alpha": 0.25,
    "legend.frameon": False,
}


def png(figure) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    pyplot.close(figure)
    return file.getvalue()


def throughput(cases: list[dict]) -> bytes | None:
    """GB/s against the number of classes, with both copies; classes last, loss and gradient of labels."""
    fitting = [c for c in cases if is_plain(c)]
    dtypes = [d for d in ("float32", "bfloat16") if len({c["classes"] for c in fitting if c["dtype"] == d}) > 1]
    if not dtypes:
        return None
    with pyplot.rc_context(STYLE):
        size = (WIDE, 4.8)
        figure, all_axes = pyplot.subplots(1, len(dtypes), figsize=size, layout="constrained", squeeze=False)
        for axes, dtype in zip(all_axes[0], dtypes):
            by_classes(axes, [c for c in fitting if c["dtype"] == dtype])
            axes.set_title(f"{dtype} logits, loss + gradient")
        handles = {label: h for axes in all_axes[0] for h, label in zip(*axes.get_legend_handles_labels())}
        figure.legend(handles.values(), handles, loc="outside lower center", ncols=6)
        return png(figure)


def is_plain(case: dict) -> bool:
    return (
        case.get("computes") == GRADIENT
        and case.get("repeat") == 1
        and len(case["shape"]) == 2
        and case["group"] in ("llm", "images", "extreme")
        and "warm" in case["contestants"].get(COPY, {})
    )


def by_classes(axes, cases: list[dict]) -> None:
    cases = sorted(cases, key=lambda c: c["classes"])
    for name, colour in COLOURS.items():
        points = [(c["classes"], c["contestants"][name]["warm"]["GB/s"]) for c in cases if has(c, name)]
        if points:
            line = "-" if name in (OURS, IN_PLACE, FRESH) else "--"
            axes.plot(*zip(*points), line, color=colour, marker=MARKERS[name], markersize=5, label=name, **edge(name))
    for name, style in ((COPY, "-"), (STREAM, ":")):
        points = [(c["classes"], c["contestants"][name]["warm"]["GB/s"]) for c in cases if has(c, name)]
        axes.plot(*zip(*points), style, color="black", linewidth=1.6, label=f"roof: {name}")
    axes.set_xscale("log")
    ticks = apart([c["classes"] for c in cases])
    axes.set_xticks(ticks, [short(c) for c in ticks], rotation=45, ha="right")
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(xlabel="classes C", ylabel="GB/s of the bytes that must be moved, warm")


def apart(classes: list[int]) -> list[int]:
    """Those that can be written side by side on a logarithmic axis."""
    least = (classes[-1] / classes[0]) ** (1 / 16)
    kept = classes[:1]
    for c in classes[1:]:
        if c > kept[-1] * least:
            kept.append(c)
    return kept


def has(case: dict, name: str) -> bool:
    return "warm" in case["contestants"].get(name, {})


def edge(name: str) -> dict:
    """Yellow is hard to see on white."""
    return {"markeredgecolor": "#555555", "markeredgewidth": 0.6} if name == NUMPY else {}


def short(number: int) -> str:
    return f"{number / 1000:.0f}K" if number >= 10000 else str(number)


def bars(cases: list[dict]) -> bytes | None:
    """Of every case of a group: who moves how many GB/s, the roof across them; microseconds for short calls."""
    cases = [c for c in cases if any(has(c, name) for name in COLOURS)]
    if not cases:
        return None
    most = max(sum(has(c, name) for name in COLOURS) for c in cases)
    return panels(contest, cases, 1.0 + 0.27 * most)


def panels(draw: Callable, cases: list[dict], height: float) -> bytes:
    """A panel for each case, three in a line of so many inches."""
    columns = min(3, len(cases))
    lines = math.ceil(len(cases) / columns)
    with pyplot.rc_context(STYLE):
        size = (WIDE, lines * height)
        figure, grid = pyplot.subplots(lines, columns, figsize=size, layout="constrained", squeeze=False)
        for axes, case in zip(grid.flat, cases):
            draw(axes, case)
        for axes in list(grid.flat)[len(cases) :]:
            axes.set_axis_off()
        return png(figure)


def contest(axes, case: dict) -> None:
    """Bars of medians, whiskers of quartiles."""
    names = [name for name in COLOURS if has(case, name)][::-1]
    moving = case["repeat"] == 1
    lengths = [length(case, name, "median", moving) for name in names]
    ends = [[length(case, name, end, moving) for end in ("low", "high")] for name in names]
    whiskers = [[x - min(e) for x, e in zip(lengths, ends)], [max(e) - x for x, e in zip(lengths, ends)]]
    axes.barh(names, lengths, xerr=whiskers, color=[COLOURS[name] for name in names], **BAR)
    longest = max(map(max, ends))
    if moving and (roof := rates.roof_of(case["contestants"], OURS, "warm")):
        axes.axvline(roof, color="black", linewidth=1.4)
        axes.text(roof, len(names) - 0.4, f"roof {roof:.0f} ", ha="right", va="bottom", fontsize=8)
        longest = max(longest, roof)
    for place, (name, pair) in enumerate(zip(names, ends)):
        words = seconds(case["contestants"][name]["warm"]["median"])
        axes.text(max(pair) + 0.015 * longest, place, words, va="center", fontsize=8, **HALO)
    axes.set_xlim(0, 1.22 * longest)
    axes.set_ylim(-0.6, len(names) + 0.15)
    axes.set_xlabel("GB/s, warm; longer is faster" if moving else "µs a call; shorter is faster", fontsize=8)
    axes.set_title(case["name"])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def length(case: dict, name: str, which: str, moving: bool) -> float:
    """Of a bar: GB/s, or microseconds."""
    line = case["contestants"][name]
    seconds_ = line["warm"][which]
    return line["bytes"] / seconds_ / 1e9 if moving else 1e6 * seconds_


BAR = {
    "edgecolor": "#444444",
    "linewidth": 0.4,
    "height": 0.75,
    "error_kw": {"elinewidth": 0.9, "ecolor": "#222222", "capsize": 1.5},
}
HALO = {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8}}


def memory(cases: list[dict]) -> bytes | None:
    """Of the largest case of each group: the worst moment of a call, in batches of logits."""
    largest: dict[str, dict] = {}
    for case in cases:
        if case.get("repeat") == 1 and case["logits"] > largest.get(case["group"], {"logits": 2**20})["logits"]:
            largest[case["group"]] = case
    drawn = [c for c in largest.values() if any(peak(c, name) is not None for name in COLOURS)]
    return panels(needed, drawn, 3.2) if drawn else None


def peak(case: dict, name: str) -> int | None:
    return case["contestants"].get(name, {}).get("peak")


def needed(axes, case: dict) -> None:
    names = [name for name in COLOURS if peak(case, name) is not None][::-1]
    sizes = [peak(case, name) / case["logits"] for name in names]
    axes.barh(names, sizes, color=[COLOURS[name] for name in names], **BAR)
    longest = max(1.0, *sizes)
    for place, size in enumerate(sizes):
        axes.text(size + 0.012 * longest, place, f"{size:.2f}", va="center", fontsize=8, **HALO)
    axes.set_xlim(0, 1.15 * longest)
    axes.set_xlabel(f"× the logits' {case['logits'] / 2**20:,.0f} MiB", fontsize=8)
    axes.set_title(case["name"])
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)


def overview(cases: list[dict]) -> bytes | None:
    """Every workload on one picture: fastsce and its fastest peer, in shares of the roof."""
    drawn = [c for c in cases if has(c, OURS) and c.get("repeat") == 1 and rates.fastest_peer(c["contestants"], "warm")]
    drawn = [c for c in drawn if rates.roof_of(c["contestants"], OURS, "warm")]
    if not drawn:
        return None
    with pyplot.rc_context(STYLE):
        figure, axes = pyplot.subplots(figsize=(WIDE, 1.3 + 0.33 * len(drawn)), layout="constrained")
        longest = max(100 * c["contestants"][OURS]["warm"]["roof"] for c in drawn)
        furthest = min(FURTHEST, max(108, 1.25 * longest))
        for place, case in enumerate(reversed(drawn)):
            pair(axes, place, case, 0.8 * furthest)
        axes.axvline(100, color="black", linewidth=1.4, label="roof: the faster copy")
        axes.set_yticks(range(len(drawn)), [c["name"] for c in reversed(drawn)])
        axes.set_ylim(-0.7, len(drawn) - 0.3)
        axes.set_xlim(0, furthest)
        axes.set_xlabel("% of the throughput of a copy of the same bytes, warm; longer is faster")
        axes.grid(axis="y", visible=False)
        figure.legend(loc="outside upper center", ncols=3)
        return png(figure)


FURTHEST = 180  # %: what is longer, as it can be in caches, would make all others short


def pair(axes, place: int, case: dict, most: float) -> None:
    best = rates.fastest_peer(case["contestants"], "warm")
    for shift, name, colour, label in ((0.2, OURS, BLUE, OURS), (-0.2, best, ORANGE, "its fastest peer")):
        share = 100 * case["contestants"][name]["warm"]["roof"]
        drawn = min(share, most)
        axes.barh(place + shift, drawn, 0.38, color=colour, label=label if place == 0 else None)
        said = rates.said(case, best, OURS, "warm")
        words = f"{said}× as fast" if name == OURS else best
        if drawn < share:
            words = f"→ {share:.0f} %, {words}"
        axes.text(drawn + 1.2, place + shift, words, va="center", fontsize=7.5, **HALO)
