"""What the CUDA backend is to reach, judged by the figures of one run alone."""

from __future__ import annotations

from typing import Any

from bench.goals import COMPILED, OURS, seconds
from bench.gpu.cases import CLASSES, CLUSTERS, ITEMSIZE, LIGER, SWEPT, Case

MET, MISSED, UNKNOWN = "met", "not met", "not measured"
HOST = 10e-6  # seconds
CLIFF = 0.8  # of the throughput of the better neighbour


def roof(content: dict) -> float | None:
    """GB/s of the fastest copy."""
    copies = rows(content, "roofs") + rows(content, "roofs again")
    return max((row["GB/s"] for row in copies if "GB/s" in row), default=None)


def rows(content: dict, section: str) -> list[dict]:
    return content["sections"].get(section, {}).get("rows", [])


def finish(content: dict) -> None:
    """Put into a result what follows from its figures: shares of the roof, cliffs, and which goals are met."""
    best = roof(content)
    content["roof"] = best
    for section in ("rows", "peers", "layouts", "sweep"):
        for row in rows(content, section):
            if best and "GB/s" in row:
                row["of the roof"] = {name: speed / best for name, speed in row["GB/s"].items()}
    content["cliffs"] = cliffs(rows(content, "sweep"))
    content["goals"] = judge(content)


def cliffs(swept: list[dict]) -> list[dict]:
    """Of each number of classes, its throughput over that of the better of its neighbours; the worst first."""
    speed = {(row["dtype"], row["classes"]): row["GB/s"][OURS] for row in swept if OURS in row.get("GB/s", {})}
    found = []
    for dtype in SWEPT:
        for cluster in CLUSTERS:
            for i, c in enumerate(cluster):
                beside = [(dtype, d) for d in (*cluster[max(i - 1, 0) : i], *cluster[i + 1 : i + 2])]
                if all(key in speed for key in [(dtype, c), *beside]):
                    ratio = speed[dtype, c] / max(speed[key] for key in beside)
                    found.append({"dtype": dtype, "classes": c, "ratio": ratio})
    return sorted(found, key=lambda cliff: cliff["ratio"])


def judge(content: dict) -> list[dict]:
    best = roof(content)
    shares = {
        (row["dtype"], row["classes"]): row["GB/s"][OURS] / best
        for row in rows(content, "rows")
        if best and OURS in row.get("GB/s", {})
    }
    found = []
    for least, low, high in ((0.9, 1024, 152064), (0.6, 256, 256), (0.85, 262144, 262144)):
        span = f"C = {low}" if low == high else f"{low} <= C <= {high}"
        for dtype in ITEMSIZE:
            wanted = [(dtype, c) for c in CLASSES if low <= c <= high]
            goal = f"{dtype}, {span}: >= {least:.0%} of a copy"
            found.append(at_least(goal, least, {f"C = {k[1]}": shares.get(k) for k in wanted}))
    for peer, factor in ((COMPILED, 3), (LIGER, 2)):
        found.append(at_least(f">= {factor} x as fast as {peer}", factor, faster(content, peer)))
    times = {row["name"]: row["seconds"]["median"] for row in rows(content, "host") if "seconds" in row}
    spent = times.get(OURS)
    found.append(verdict(f"host: <= {seconds(HOST)} a call", spent, spent is not None and spent <= HOST, "(1, 1000)"))
    ratios = {(c["dtype"], c["classes"]): c["ratio"] for c in content.get("cliffs", [])}
    swept = {f"{dtype}, C = {c}": ratios.get((dtype, c)) for dtype in SWEPT for cluster in CLUSTERS for c in cluster}
    found.append(at_least(f"no cliff: >= {CLIFF:g} x its better neighbour", CLIFF, swept))
    for section, goal in (("graph", "a CUDA graph replays the same bits"), ("bad labels", "a million bad labels")):
        found.append(kept(content, section, goal))
    return found


def faster(content: dict, peer: str) -> dict[str, float | None]:
    """How many times as fast we are, by batch; None where the peer has no time."""
    found: dict[str, float | None] = {}
    for row in rows(content, "peers"):
        times = {name: taken["median"] for name, taken in row.get("seconds", {}).items()}
        both = peer in times and OURS in times
        found[str(Case(tuple(row["shape"]), row["dtype"], row["axis"]))] = times[peer] / times[OURS] if both else None
    return found


def at_least(goal: str, least: float, figures: dict[str, float | None]) -> dict:
    """Missed as soon as one figure is too small; met only if there are all."""
    known = {where: figure for where, figure in figures.items() if figure is not None}
    if not known:
        return verdict(goal, None, False, "")
    where = min(known, key=known.__getitem__)
    found = verdict(goal, known[where], known[where] >= least, where)
    missing = [where for where in figures if where not in known]
    if missing and found["verdict"] == MET:
        found["verdict"] = UNKNOWN
    return found | ({"missing": missing} if missing else {})


def kept(content: dict, section: str, goal: str) -> dict:
    """A promise that holds if its section ran through."""
    found = content["sections"].get(section, {})
    ran = bool(found.get("rows")) or "error" in found
    held = ran and "error" not in found
    return verdict(goal, held if ran else None, held, found.get("error", ""))


def verdict(goal: str, measured: float | None, met: bool, where: str) -> dict[str, Any]:
    said = UNKNOWN if measured is None else MET if met else MISSED
    return {"goal": goal, "measured": measured, "at": where, "verdict": said}


def went_wrong(content: dict) -> bool:
    """Whether anything of ours failed; a peer that does, or a goal that is missed, is a figure."""
    for section in content["sections"].values():
        if "error" in section:
            return True
        for row in section.get("rows", []):
            if "error" in row or any(name.startswith("fastsce") for name in row.get("failed", {})):
                return True
    return False
