"""Labels that others overwrite while kernels read them: wrong numbers are allowed, reading or writing outside is not.

    python tests/scribble.py --seconds 60

A thread, then a process of its own, keeps writing good and bad labels into the array that a call was given, some at a
time and all at once; and labels are exchanged after they were checked, at each call, which takes no luck with the time.
Logits, weights and results lie between unreadable pages, among canaries.
"""

import argparse
import contextlib
import faulthandler
import itertools
import os
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from unittest import mock

import numpy as np
import scribbler
from cases import DTYPES, logits, probabilities
from fences import CANARIES, SIZES, Slot, lay, span, strides_of
from scribbler import patterns_for, write_for_ever

import fastsce
from fastsce.backends import cpu

SHAPES = {  # of the logits, and the axis of the classes; both kinds of kernel, one thread and several
    "rows": ((300, 320), -1),
    "rows, several threads": ((600, 257), -1),
    "long rows": ((24, 5000), -1),
    "short rows": ((3000, 10), -1),
    "columns": ((21, 2000), 0),
    "columns, several threads": ((4, 33, 2500), 1),
    "long columns": ((300, 400), 0),
    "bands": ((400, 300), 0),
}
# dtypes of logits and labels; int64 labels are read where they lie, others from a copy
LABELS = (("float32", "int64"), ("float64", "int64"), ("float16", "int16"), ("bfloat16", "uint64"))
CALLS = ("cross_entropy", "cross_entropy_value_and_grad", "cross_entropy_backward", "cross_entropy_grad_and_hess")


@contextlib.contextmanager
def exchanging(target, turn, classes):
    """Labels are good when they are checked, and others when they are used."""
    scan, (good, *bad) = cpu.scan_labels, patterns_for(target, classes)

    def scan_and_exchange(*args):
        target[...] = good
        found = scan(*args)
        target[...] = bad[turn[0] % len(bad)]
        turn[0] += 1
        return found

    with mock.patch.object(cpu, "scan_labels", scan_and_exchange):
        yield


@contextlib.contextmanager
def scribbling(target, turn, classes):
    """A thread that writes into the labels; it takes turns with the caller as often as Python lets it."""
    at_work, interval = threading.Event(), sys.getswitchinterval()
    at_work.set()
    args = (target, turn, patterns_for(target, classes), at_work.is_set)
    thread = threading.Thread(target=write_for_ever, args=args)
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        yield
    finally:
        at_work.clear()
        thread.join()
        sys.setswitchinterval(interval)


@contextlib.contextmanager
def scribbling_process(slot, count, turn, classes):
    """The same by a process of its own, without Python's lock between the two."""
    path = f"/proc/{os.getpid()}/fd/{slot.file}"
    process = subprocess.Popen([sys.executable, scribbler.__file__, path, str(count), str(classes)])
    try:
        while turn[0] == 0 and process.poll() is None:
            time.sleep(0.01)
        yield
        assert process.poll() is None, "the writing process ended by itself"
    finally:
        process.kill()
        process.wait()


class Board:
    """The arguments of calls on one batch, all in fenced memory."""

    def __init__(self, shape, axis, dtype, label_dtype="int64", labels=None):
        self.axis, self.classes = axis, shape[axis]
        rows = tuple(np.delete(shape, axis))
        self.slots = []
        self.x = self.fenced(np.moveaxis(logits((*rows, self.classes), dtype), -1, axis))
        self.out, self.hess = (self.fenced(np.zeros_like(self.x), gaps=(2,) * self.x.ndim) for _ in range(2))
        self.weight = self.fenced(0.5 + probabilities((self.classes,)), upper=False)
        self.share = self.fenced(np.ones(rows, np.float32))
        self.lse = np.full(rows, 9.0)
        self.target = self.fenced(np.zeros(rows, label_dtype)) if labels is None else labels.reshape(rows)

    def fenced(self, values, gaps=None, upper=True):
        strides = strides_of(values.shape, values.itemsize, range(values.ndim), gaps or (1,) * values.ndim, 0)
        slot = Slot(next(s for s in (*SIZES, 1 << 25) if span(values.shape, strides, values.itemsize) <= s))
        slot.memory.fill(CANARIES[-1])
        array = lay(slot.memory, values.shape, values.dtype, strides, 0, upper)
        array[...] = values
        self.slots.append((slot, slot.memory.copy(), array, values))
        return array

    def call(self, name, weighted, smoothing, reduction):
        own = None if reduction == "mean" else "cpu"  # small calls have a way of their own, unless a backend is named
        given = {"axis": self.axis, "backend": own, "reduction": reduction}
        if weighted:
            given |= {"weight": self.weight, "sample_weight": self.share, "label_smoothing": smoothing}
        if name == "cross_entropy_backward":
            given["lse"] = self.lse
        if name != "cross_entropy":
            given["out"] = (self.out, self.hess) if name.endswith("hess") else self.out
        return getattr(fastsce, name)(self.x, self.target, **given)

    def check(self):
        """Nothing but results and labels has changed."""
        for slot, kept, array, values in self.slots:
            if any(array is a for a in (self.out, self.hess, self.target)):
                array[...] = values
            assert np.array_equal(slot.memory, kept), "written outside the results"


def torment(board, turn, seconds) -> Counter:
    """Calls of every kind for so long."""
    options = ((False, 0.0), (True, 0.0), (True, 0.1))
    counts, kinds = Counter(), itertools.cycle(list(itertools.product(CALLS, options, ("none", "mean"))))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = int(turn[0])
        try:
            name, (weighted, smoothing), reduction = next(kinds)
            board.call(name, weighted, smoothing, reduction)
            outcome = "accepted"
        except IndexError:
            outcome = "refused"
        counts.update(["calls", f"{outcome}, labels {'left alone' if turn[0] == before else 'written to meanwhile'}"])
    return counts


def run(seconds) -> dict[str, Counter]:
    """All boards, in so many seconds, a third of them for each way to write."""
    found = {"exchanged": Counter(), "by a thread": Counter(), "by a process": Counter()}
    kinds = [(*shape, *dtypes) for shape in SHAPES.values() for dtypes in LABELS]
    for shape, axis, dtype, label in kinds:
        for way, write in (("exchanged", exchanging), ("by a thread", scribbling)):
            if way == "exchanged" and label != "int64":  # these are copied before they are checked
                continue
            board, turn = Board(shape, axis, dtype, label), np.zeros(1, np.int64)
            with write(board.target.reshape(-1), turn, board.classes):
                found[way] += torment(board, turn, seconds / len(kinds) / 3)
            board.check()
    for shape, axis in SHAPES.values():
        slot, count = Slot(SIZES[1], "r+"), int(np.delete(shape, axis).prod())
        numbers = slot.memory.view(np.int64)
        board, turn = Board(shape, axis, "float32", labels=numbers[-count:]), numbers[:1]
        with scribbling_process(slot, count, turn, board.classes):
            found["by a process"] += torment(board, turn, seconds / len(SHAPES) / 3)
        board.check()
    return found


def main() -> None:
    top = argparse.ArgumentParser(prog="python tests/scribble.py", description=__doc__.partition("\n")[0])
    top.add_argument("--seconds", type=float, default=60, help="without the time to compile")
    options = top.parse_args()
    warnings.simplefilter("error")
    faulthandler.enable()
    fastsce.warmup(DTYPES)
    for way, counts in run(options.seconds).items():
        for name, count in sorted(counts.items()):
            print(f"{count:>9}  {way}: {name}")


if __name__ == "__main__":
    main()
