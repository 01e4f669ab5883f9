"""A contestant's line in a table, in words; the same in a terminal and in HTML."""

from __future__ import annotations

from bench import rates
from bench.goals import seconds

HEADINGS = (
    "cold",
    "warm",
    "±",
    "GB/s",
    "% of roof",
    "× copy",
    "× peer",
    "× peer, cold",
    "loss error",
    "gradient error",
    "memory",
)
LEGEND = {
    "cold, warm": "seconds of a call whose caches were emptied, and of the call right after it, medians; a cold call "
    "that allocates may also wait for pages that others have given back; short calls are timed many at a time, warm",
    "±": "how far off the warm median may be, 99.7 % of the time",
    "GB/s": "the bytes that the task must move, whoever does it, by the warm median",
    "% of roof": f"of the faster of copy and stream copy of the same batch, in GB/s (of the read, for what only "
    f"reads); {rates.ABOVE[0].lower()}{rates.ABOVE[1:-1]}",
    "× copy": "how many times the copy's time, warm",
    "× peer": "how many times as fast as the fastest peer, warm and cold; ≈: no difference beyond this case's noise",
    "errors": "against float64: of the loss, relative; the largest of the gradient (or the Hessian) in some 64 rows, "
    "as a share of the largest gradient that a row can have",
    "memory": "the worst moment of a call, beyond inputs and outputs that are given; not seen is what an allocator "
    "keeps from one call to the next, as XLA's may keep even results",
}


def cells(case: dict, name: str) -> list[str]:
    line = case["contestants"][name]
    warm, cold = line["warm"], line.get("cold")
    off = f"{warm['off']:.1%}" if warm["off"] < 1 else "> 100%"
    if "same code" not in case:  # a contest with nobody
        return ["", seconds(warm["median"]), off, *[""] * (len(HEADINGS) - 3)]
    errors = line["errors"]
    gradients = [errors[part] for part in ("gradient", "hessian") if errors.get(part) is not None]
    return [
        seconds(cold["median"]) if cold else "",
        seconds(warm["median"]),
        off,
        f"{warm['GB/s']:.1f}" if case["repeat"] == 1 else "",
        f"{warm['roof']:.0%}" if warm["roof"] else "",
        rates.times_copy(case, name, "warm"),
        rates.times_fastest_peer(case, name, "warm"),
        rates.times_fastest_peer(case, name, "cold"),
        error(errors.get("loss")),
        error(max(gradients, default=None)),
        size(line["peak"]),
    ]


def failure(line: dict) -> str:
    return f"{'refused' if line['wrong'] else 'failed'}: {line['failed']}"


def error(value: float | None) -> str:
    return "" if value is None else "0" if value == 0 else f"{value:.0e}"


def size(number: int | None) -> str:
    return "" if number is None else f"{number / 2**20:.1f} MiB" if number >= 2**20 else f"{number / 2**10:.0f} KiB"


def title(case: dict) -> str:
    about = f" ({case['about']})" if case.get("about") else ""
    cut = f"; {case['cut']}" if case.get("cut") else ""
    return f"{case['name']}{about}: {case['batch'].replace(' x ', ' × ')}; up to {case['rounds']} rounds{cut}"


def machine(content: dict) -> str:
    here = content["machine"]
    return f"{here['cpu']} ({here['model']}), {here['threads']} thread{'s' * (here['threads'] > 1)}"


def warnings(content: dict) -> list[str]:
    """What a reader must know before any figure."""
    said = ["It was ended before all cases were measured."] if content.get("interrupted") else []
    if cut := [case["name"] for case in content["cases"] if case.get("cut")]:
        said.append(f"Made smaller to fit the memory that was free, or allowed: {', '.join(cut)}.")
    drift = rates.drift(content)
    if drift > 1.2:
        said.append(f"The machine's own copy took {drift:.1f} times as long at one end of the run as at the other.")
    load = content["machine"].get("load")
    if load is not None and load > 0.5:
        said.append(
            f"The machine was not idle: a load of {load} before this began. Look at ± before you believe a ratio."
        )
    return said
