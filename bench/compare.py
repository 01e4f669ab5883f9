"""Two results of this benchmark: what of fastsce's is slower or faster.

Times of two runs mean nothing beside each other: another minute, another neighbour. So each time is divided by that of
the copy (NumPy's, for calls too short to have one) in the same rounds, and the ratios are compared. A change must
exceed what both ratios can be off by, together, and `FLOOR`, which is for what the rounds of one run cannot see: where
memory came to lie, and what the rest of the machine did meanwhile.

Of another machine, or another number of threads, ratios are shown all the same, but nothing fails: they are other
facts, not a slower program.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

from bench import lines, noise, rates
from bench.machine import SAME
from bench.providers import PROVIDERS

FORMAT = 3  # of results that can be compared
FLOOR = 0.10
MANY = 4 / 3  # some 250 ratios are looked at: what 3 standard errors are for one, 4 are for all of them


def read(path: Path) -> dict:
    """A result of this benchmark.

    Raises
    ------
    OSError, ValueError
        If there is none.
    """
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is no result of this benchmark, or one of an older kind")
    return content


def compare(old: dict, new: dict) -> dict:
    before, after = by_name(old), by_name(new)
    shared = [name for name in after if name in before]
    by_case = {name: changes_of(before[name], after[name]) for name in shared}
    changes = [change for found in by_case.values() for change in found]
    unseen = [c["unseen"] for c in changes]
    return {
        "same machine": all(old["machine"][key] == new["machine"][key] for key in SAME),
        "machines": [{key: content["machine"][key] for key in SAME} for content in (old, new)],
        "commits": [old["commit"], new["commit"]],
        "versions": differing(old["versions"], new["versions"]),
        "compared": len(changes),
        "unseen": {"median": statistics.median(unseen), "most": max(unseen)} if changes else None,
        "slower": [c for c in changes if c["change"] > 1 and noise.is_difference(c["change"], c["noise"])],
        "faster": [c for c in changes if c["change"] < 1 and noise.is_difference(c["change"], c["noise"])],
        "other batch": [name for name in shared if before[name]["batch"] != after[name]["batch"]],
        "nothing to divide by": [
            name for name in shared if not by_case[name] and before[name]["batch"] == after[name]["batch"]
        ],
        "only old": [name for name in before if name not in after],
        "only new": [name for name in after if name not in before],
        "gone wrong": [
            f"{name}: {who}"
            for name in shared
            for who, line in after[name]["contestants"].items()
            if is_ours(line) and "failed" in line and "failed" not in before[name]["contestants"].get(who, line)
        ],
    }


def by_name(content: dict) -> dict[str, dict]:
    return {case["name"]: case for case in content["cases"]}


def is_ours(line: dict) -> bool:
    return line["provider"] in PROVIDERS and PROVIDERS[line["provider"]].is_ours


def differing(old: dict, new: dict) -> dict[str, list]:
    names = dict.fromkeys([*old, *new])
    return {name: [old.get(name), new.get(name)] for name in names if old.get(name) != new.get(name)}


def changes_of(old: dict, new: dict) -> list[dict]:
    """fastsce's ratios in both, of the same batch only."""
    by = rates.yardstick(new["contestants"])
    if by is None or by != rates.yardstick(old["contestants"]) or old["batch"] != new["batch"]:
        return []
    found = []
    for who, line in new["contestants"].items():
        for state in rates.STATES if is_ours(line) else ():
            if all(state in case["contestants"].get(name, {}) for case in (old, new) for name in (who, by)):
                found.append(change(old, new, who, by, state))
    return found


def change(old: dict, new: dict, who: str, by: str, state: str) -> dict:
    (before, one), (after, other) = (rates.ratio(case, who, by, state) for case in (old, new))
    off = max(MANY * math.hypot(one, other), FLOOR)
    return {
        "case": new["name"],
        "who": who,
        "state": state,
        "by": by,
        "old": before,
        "new": after,
        "change": after / before,
        "noise": off,  # a logarithm
        "unseen": math.expm1(off),  # slower by less
    }


def show(news: dict) -> None:
    from bench.show import console

    if not news["same machine"]:
        machines = " and ".join(lines.machine({"machine": m}) for m in news["machines"])
        console.print(f"[bold red]TWO DIFFERENT MACHINES[/]: {machines}. Ratios only, and nothing fails by them.")
    for name, (old, new) in news["versions"].items():
        console.print(f"[yellow]{name} {old} before, {new} now")
    for what, colour in (("slower", "red"), ("faster", "green")):
        for c in news[what]:
            console.print(
                f"[{colour}]{what}[/]: {c['case']}, {c['who']}, {c['state']}: {c['old']:.2f} -> {c['new']:.2f} "
                f"x {c['by']}, {c['change'] - 1:+.0%} (noise {c['unseen']:.0%})",
                soft_wrap=True,
            )
    for what in ("gone wrong", "other batch", "nothing to divide by", "only old", "only new"):
        if news[what]:
            console.print(f"{what}: {', '.join(news[what])}", soft_wrap=True)
    console.print(
        f"{news['compared']} ratios of fastsce compared with the old run: {len(news['slower'])} slower, "
        f"{len(news['faster'])} faster, the others the same but for noise"
    )
    if unseen := news["unseen"]:
        console.print(
            f"what is slower by less than {unseen['median']:.0%} was not seen in half of them, by less than "
            f"{unseen['most']:.0%} in the noisiest"
        )
