"""Who overwrites labels while others read them: in a thread, or as a process that shares their memory.

python tests/scribbler.py FILE COUNT CLASSES    # the last COUNT numbers of the file are labels, its first counts
"""

import os
import sys

import numpy as np
from cases import IGNORE

PATTERNS = ("good", "C", "-1", "ignored", "smallest", "largest", "any", "far")


def pattern(name, count, classes, dtype):
    """Labels to write, wrapped around where they do not fit."""
    limits, random = np.iinfo(dtype), np.random.default_rng(len(name))
    edges = {"C": classes, "-1": -1, "ignored": IGNORE, "smallest": limits.min, "largest": limits.max}
    far = [*edges.values(), 2**31, -(2**31), 2**40, -(2**40), 2**62, 0, 1, classes - 1]
    if name == "good":
        return random.integers(0, min(classes, int(limits.max)), count, dtype)
    if name == "any":
        return random.integers(limits.min, limits.max, count, dtype)
    chosen = random.choice(len(far), count) if name == "far" else [far.index(edges[name])] * count
    return np.array([far[i] % 2**64 for i in chosen], np.uint64).astype(dtype)


def write_for_ever(target, turn, patterns, more) -> None:
    """Half of the time the labels are good, or a call would seldom get past the scan. `turn` counts what is written."""
    good, *bad = patterns
    while more():
        other, some = bad[turn[0] % len(bad)], slice(turn[0] % target.size, None, 7)
        for place, labels in (
            (some, other),
            (-1, other),
            (slice(None), good),
            (slice(None), other),
            (slice(None), good),
        ):
            target[place] = labels[place]
            turn[0] += 1


def patterns_for(target, classes):
    return [pattern(name, target.size, classes, target.dtype) for name in PATTERNS]


def main(path, count, classes) -> None:
    numbers = np.memmap(path, np.int64, "r+")
    target, reader = numbers[-count:], os.getppid()
    write_for_ever(target, numbers[:1], patterns_for(target, classes), lambda: os.getppid() == reader)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
