"""The parts of a run, those that matter most first. Each yields row by row: what fails or comes too late is one row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from bench.goals import OURS
from bench.gpu import calls, cases
from bench.gpu.batches import Truth, batch
from bench.gpu.measure import ROUNDS, Ready, copies, free_memory, idle_memory, interleave, measured, rate, said, spread

LATE = "not measured: out of time"
COMPILES = 35  # seconds that compiling for a shape may take


class Clock:
    def __init__(self, end: float):
        self.end = end

    def left(self) -> float:
        return self.end - time.monotonic()


def roofs(clock: Clock) -> Iterator[dict]:
    idle_memory()
    yield from copies(min(cases.GIB, free_memory() // cases.SHARE))


def rows(clock: Clock) -> Iterator[dict]:
    for case in cases.wide(free_memory()):
        yield guarded(case, cases.EACH, clock)


def peers(clock: Clock) -> Iterator[dict]:
    for case in cases.compared(free_memory()):
        yield guarded(case, (OURS, *cases.PEERS), clock, COMPILES)


def layouts(clock: Clock) -> Iterator[dict]:
    for case in cases.layouts(free_memory()):
        yield guarded(case, cases.EACH, clock)


def guarded(case: cases.Case, names, clock: Clock, needs: float = 0) -> dict:
    """A row, even of what fails; `needs` says how many seconds there have to be left."""
    if clock.left() <= needs:
        return case.facts() | {"skipped": LATE}
    try:
        return measured(case, names)
    except Exception as error:
        return case.facts() | {"error": said(error)}
    finally:
        torch.cuda.empty_cache()


def sweep(clock: Clock) -> Iterator[dict]:
    """Neighbouring numbers of classes take turns."""
    for cluster in cases.CLUSTERS:
        for dtype in cases.SWEPT:
            several = [cases.shaped(c, dtype, free_memory(), 512 * cases.MIB) for c in cluster]
            if clock.left() <= 0:
                yield from (case.facts() | {"skipped": LATE} for case in several)
                continue
            try:
                yield from beside(several)
            except Exception as error:
                yield several[0].facts() | {"error": said(error)}


def beside(several: list[cases.Case]) -> Iterator[dict]:
    runs, tried = {}, {}
    for case in several:
        given = batch(case)
        tried[case] = found = Ready(given)
        found.try_out(OURS, Truth(given))
        if OURS in found.runs:
            runs[case] = found.runs[OURS]
    times = interleave(runs, ROUNDS)
    for case, found in tried.items():
        row = case.facts() | {"errors": found.errors, "failed": found.failed}
        if case in times:
            taken = spread(times[case])
            row |= {"seconds": {OURS: taken}, "GB/s": {OURS: rate(case, taken["median"])}}
        yield row


class Section(NamedTuple):
    name: str
    rows: Callable[[Clock], Iterator[dict]]
    always: bool = False  # even when the time is up: short, and the others' figures lean on it


SECTIONS = (
    Section("roofs", roofs, always=True),
    Section("rows", rows),
    Section("host", lambda clock: calls.host()),
    Section("graph", lambda clock: calls.graph()),
    Section("peers", peers),
    Section("sweep", sweep),
    Section("layouts", layouts),
    Section("roofs again", roofs, always=True),
    Section("bad labels", lambda clock: calls.bad_labels(), always=True),  # last: it may end the GPU's context
)


def run(section: Section, clock: Clock, found: dict[str, Any], tell: Callable[[dict], Any]) -> None:
    """Put into `found` a section's rows, how long it took, and why there are no more of them."""
    began = time.monotonic()
    found["rows"] = []
    if clock.left() <= 0 and not section.always:
        found["skipped"] = LATE
        return
    try:
        for row in section.rows(clock):
            found["rows"].append(row)
            tell(row)
    except Exception as error:
        found["error"] = said(error)
    found["took"] = round(time.monotonic() - began, 1)
