"""A picture of a result: throughput against the number of classes, and beside others."""

from __future__ import annotations

from pathlib import Path

from bench.goals import COMPILED, EAGER, OURS
from bench.gpu.cases import COMPARED, ITEMSIZE, LIGER
from bench.gpu.goals import roof, rows

# Okabe and Ito's colours, which the colour-blind can tell apart
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#555555"
LINES = {"bfloat16": (BLUE, "o", "-"), "float16": (GREEN, "s", "--"), "float32": (ORANGE, "^", "-")}
BARS = {OURS: BLUE, EAGER: GREY, COMPILED: ORANGE, LIGER: PURPLE}


def draw(content: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(15, 6.2), width_ratios=(1.15, 1), layout="constrained")
    figure.suptitle(f"fastsce on {content['machine']['gpu']}: cross-entropy loss + gradient, one call", fontsize=14)
    by_classes(left, content)
    by_peer(right, content)
    figure.supxlabel(caption(content), fontsize=8, color=GREY)
    if content.get("synthetic"):
        figure.text(0.5, 0.5, "SYNTHETIC DATA", fontsize=60, color="red", alpha=0.25, ha="center", va="center")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def by_classes(axes, content: dict) -> None:
    ticks = set()
    for dtype in ITEMSIZE:
        points = sorted(
            (row["classes"], row["GB/s"][OURS])
            for row in rows(content, "rows")
            if row["dtype"] == dtype and OURS in row.get("GB/s", {})
        )
        if points:
            colour, marker, style = LINES[dtype]
            axes.plot(*zip(*points), color=colour, marker=marker, linestyle=style, label=dtype)
            ticks |= {c for c, _ in points}
    if best := roof(content):
        axes.axhline(best, color="black", linewidth=1.2, label=f"device copy, {best:.0f} GB/s")
        axes.axhline(0.9 * best, color="black", linewidth=0.8, linestyle=":", label="90 % of it")
    if ticks:
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(ticks), [f"{c:,}" for c in sorted(ticks)], rotation=90)
        axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set(xlabel="classes", ylabel="GB/s (2 × the bytes of the logits ÷ time)")
    axes.set_title("about 1 GiB of logits, gradient into given memory")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right")


def by_peer(axes, content: dict) -> None:
    """Bars of the batches that peers were timed on, with how many times as fast we are above theirs."""
    found = {(row["classes"], row["dtype"]): row for row in rows(content, "peers") if row.get("GB/s")}
    found = found or {
        (row["classes"], row["dtype"]): row
        for row in rows(content, "rows")
        if row["classes"] in COMPARED and row.get("GB/s")
    }
    axes.set_title("beside others; above their bars: time ÷ that of fastsce")
    axes.set(ylabel="GB/s (2 × the bytes of the logits ÷ time)")
    if not found:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center")
        return
    keys = sorted(found)
    names = [name for name in BARS if any(name in row["GB/s"] for row in found.values())]
    width = 0.8 / len(names)
    for n, name in enumerate(names):
        have = [(i, found[key]["GB/s"]) for i, key in enumerate(keys) if name in found[key]["GB/s"]]
        places = [i + (n - (len(names) - 1) / 2) * width for i, _ in have]
        axes.bar(places, [speed[name] for _, speed in have], width * 0.92, color=BARS[name], label=name)
        for place, (_, speed) in zip(places, have):
            if name != OURS and OURS in speed:
                said = f" {speed[OURS] / speed[name]:.1f}×"
                axes.text(place, speed[name], said, ha="center", va="bottom", fontsize=8, rotation=90)
    best = roof(content) or 0
    if best:
        axes.axhline(best, color="black", linewidth=1.2)
    axes.set_xticks(range(len(keys)), [f"{c:,}\n{dtype}" for c, dtype in keys])
    axes.set_xlabel("classes, dtype")
    axes.set_ylim(0, 1.2 * max(best, *(speed for row in found.values() for speed in row["GB/s"].values())))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.legend(loc="upper center", ncols=len(names))


def caption(content: dict) -> str:
    versions = {"driver": content["machine"]["driver"]} | content["versions"]
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{content['date'][:10]}, {content['commit'] or 'commit unknown'}; {installed}"
