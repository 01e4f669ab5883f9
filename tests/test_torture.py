"""Hostile calls in fenced memory; what the torture would say of a broken library; labels that change; huge batches."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

if not sys.platform.startswith("linux"):
    pytest.skip("the fences are Linux's", allow_module_level=True)

import broken
import calls
import faults
import hostile
import huge
import scribble
import torture
from fences import Yard

CALLS = 100_000
# Every kind of hostility that has to be met, by the beginning of its name or in full.
KINDS = [
    *(f"fault: {name}" for name in faults.FAULTS),
    *(f"layout: {name}" for name in ("gaps", "negative strides", "stride 0", "strides of odd bytes", "unaligned")),
    *(f"memory: {name}" for name in ("file mapped r", "file mapped r+", "read-only")),
    *(f"object: {name}" for name in ("subclass", "interface", "converts", "capsule", "list", *hostile.PEERS)),
    *(f"logits: {name}" for name in ("huge", "tiny", "masked", "poisoned", "confident", "offset", "wide", "zero")),
    *(f"labels: {name}" for name in (*hostile.INTEGERS, ">i2", ">i4", ">i8", ">u2", ">u4", ">u8", "ignored rows")),
    *(f"shape: {name}" for name in ("empty", "an axis of one", "many classes", "many threads")),
    *(f"out: {name}" for name in ("fresh", "own", "in place", "between the logits")),
    *(f"refused: {name}" for name in ("IndexError", "ValueError", "TypeError", "RuntimeError")),
    *("fence: lower", "fence: upper", "lse: of more classes", "sample_weight: none for ignored rows"),
]


def run(*options):
    return subprocess.run([sys.executable, torture.__file__, *options], capture_output=True, text=True, timeout=900)


def counts_of(lines) -> dict:
    found = (re.fullmatch(r" *([\d,]+)  (.+)", line) for line in lines)
    return {match[2]: int(match[1].replace(",", "")) for match in found if match}


def test_no_call_does_harm():
    """100,000 calls, every kind of hostility: no crash, nothing written outside, refused or right as they should be."""
    done = run("--calls", str(CALLS), "--processes", "2")
    assert done.returncode == 0, done.stderr[-4000:]
    *lines, last = done.stdout.splitlines()
    counts = counts_of(lines)
    assert f" {CALLS} calls " in last and last.endswith(", 0 failures"), last
    assert counts["calls"] == CALLS
    assert [kind for kind in KINDS if counts.get(kind, 0) < 10] == []
    refused = sum(count for name, count in counts.items() if name.startswith("refused: "))
    assert 0.25 * CALLS < refused < 0.5 * CALLS
    assert counts["accepted"] == CALLS - refused
    assert counts["numbers compared"] > 100 * CALLS
    assert sum(count for name, count in counts.items() if name.startswith("known: ")) < 0.03 * CALLS
    for function in calls.FUNCTIONS:
        assert min(counts[f"{function}: {outcome}"] for outcome in ("accepted", "refused")) > 100, function


@pytest.mark.parametrize("way", broken.WAYS)
def test_a_broken_library_is_found_out(way):
    yard = Yard()
    with broken.library(way), pytest.raises(torture.Wrong):
        for number in range(5000):
            torture.torture(3, number, yard)


TOUCH = """
import ctypes
from fences import SIZES, Slot
slot = Slot(SIZES[0])
byte = ctypes.c_uint8.from_address(slot.memory.ctypes.data + {place})
{act}
"""


@pytest.mark.parametrize("act", ["byte.value = 1", "print(byte.value)"])
@pytest.mark.parametrize(("place", "alive"), [("0", True), ("SIZES[0] - 1", True), ("-1", False), ("SIZES[0]", False)])
def test_nobody_passes_a_fence(place, act, alive):
    """A process that writes or reads one byte too far dies of it."""
    program = [sys.executable, "-c", TOUCH.format(place=place, act=act)]
    done = subprocess.run(program, cwd=Path(torture.__file__).parent)
    assert done.returncode == (0 if alive else -signal.SIGSEGV)


def test_a_process_that_dies_is_told_with_its_call():
    """Seed and number, from which one command makes that call again."""
    done = run("--calls", "100", "--processes", "2", "--die-at", "41")
    assert done.returncode == 1
    assert "a process died of SIGSEGV at call 41" in done.stderr
    assert "again: python tests/torture.py --seed 1 --only 41" in done.stderr


def test_a_call_is_the_same_again():
    assert torture.torture(1, 7, Yard()) == torture.torture(1, 7, Yard())
    shown = run("--only", "7")
    assert shown.returncode == 0 and "right: " in shown.stdout


@pytest.mark.parametrize("case", huge.CASES)
def test_huge(case):
    huge.CASES[case]()


def test_labels_that_change():
    """During thousands of calls; the process lives, and nothing but results is written."""
    program = [sys.executable, scribble.__file__, "--seconds", "10"]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    counts = counts_of(done.stdout.splitlines())
    assert counts["exchanged: accepted, labels written to meanwhile"] > 500
    assert counts["by a thread: calls"] + counts["by a process: calls"] > 2000
    for way in ("by a thread", "by a process"):
        assert counts[f"{way}: accepted, labels written to meanwhile"] > 10
