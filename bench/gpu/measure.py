"""Interleaved times of contestants on a GPU, each result checked first; and how fast the GPU copies."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

import fastsce
from bench.goals import COPY, OURS
from bench.gpu.batches import DEVICE, Truth, Wrong, batch
from bench.gpu.cases import GIB, SHARE, Case
from bench.gpu.contestants import PROVIDERS, absent

ROUNDS = 21


def measured(case: Case, names, rounds: int = ROUNDS) -> dict:
    """One case. A contestant that fails or is wrong is not timed, and the result says why."""
    given = batch(case)
    truth, found = Truth(given), Ready(given)
    missing = absent(names)
    for name in [name for name in names if name not in missing]:
        found.try_out(name, truth)
    result = case.facts() | {"errors": found.errors, "first call": found.first, "absent": missing}
    result["failed"] = found.failed
    times = interleave(found.runs, rounds)
    result["seconds"] = {name: spread(taken) for name, taken in times.items()}
    result["GB/s"] = {name: rate(case, f["median"]) for name, f in result["seconds"].items()}
    return result


class Ready:
    """The contestants that have come up with the right result."""

    def __init__(self, given):
        self.given = given
        self.runs: dict[str, Callable[[], Any]] = {}
        self.errors: dict[str, dict[str, float]] = {}
        self.first: dict[str, float] = {}
        self.failed: dict[str, str] = {}

    def try_out(self, name: str, truth: Truth) -> None:
        self.given.out.fill_(torch.nan)  # so that a number that is never written shows
        torch.cuda.synchronize()
        began = time.perf_counter()
        try:
            run, scale = PROVIDERS[name][0](self.given)
            loss, grad = run()
            torch.cuda.synchronize()
            self.first[name] = time.perf_counter() - began
            if name != COPY:
                self.errors[name] = truth.check(name, loss, grad, scale)
            if name == OURS:
                self.errors[name] |= rows_checked(self.given, truth)
            run()
        except Exception as error:
            self.failed[name] = said(error)
        else:
            self.runs[name] = run


def rows_checked(given, truth: Truth) -> dict[str, float]:
    result = fastsce.cross_entropy_value_and_grad(
        given.logits, given.target, axis=given.case.axis, reduction="none", out=given.out
    )
    return truth.check_rows(result.loss, result.lse)


def said(error: BaseException) -> str:
    """What an exception says, not its whole history."""
    return f"{type(error).__name__}: {error}"[:600]


# --- time -------------------------------------------------------------------------------------------------------------


def interleave(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, by the GPU's own clock. All take turns, in a new order each round.

    Before each, a GiB is read: the L2 cache then holds nothing of the batch, and while that lasts the host is ahead, so
    that what it takes to make the call is not in the figure.
    """
    order, shuffle = list(runs), random.Random(0).shuffle
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        shuffle(order)
        spans = []
        for name in order:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            pass_time()
            start.record()
            runs[name]()
            end.record()
            spans.append((name, start, end))
        torch.cuda.synchronize()
        for name, start, end in spans:
            times[name].append(start.elapsed_time(end) / 1e3)
    return times


def pass_time() -> None:
    torch.sum(idle_memory(), 0)


@cache
def idle_memory() -> Any:
    return torch.zeros(min(GIB, free_memory() // SHARE) // 4, device=DEVICE)


def free_memory() -> int:
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info()[0]


def spread(times: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive") if len(times) > 1 else times * 3
    return {"low": low, "median": median, "high": high, "rounds": len(times)}


def rate(case: Case, seconds: float) -> float:
    """GB/s by the bytes that have to move."""
    return 2 * case.bytes / seconds / 1e9


# --- the roof ---------------------------------------------------------------------------------------------------------


def copies(size: int) -> list[dict]:
    """Device memory into device memory, by the driver and by a kernel of torch's."""
    source = torch.empty(size // 4, device=DEVICE).normal_()
    target = torch.empty_like(source)
    forms = {
        "copy_": lambda: target.copy_(source),
        "memcpy": lambda: memcpy(target, source),
        "kernel": lambda: torch.neg(source, out=target),
    }
    found, runs = [], {}
    for name, run in forms.items():
        try:
            target.zero_()
            run()
            if not torch.equal(target, -source if name == "kernel" else source):
                raise Wrong(f"{name} did not copy")
            runs[name] = run
        except Exception as error:
            found.append({"name": name, "failed": {name: said(error)}})
    for name, times in interleave(runs, ROUNDS).items():
        seconds = spread(times)
        found.append({"name": name, "bytes": size, "seconds": seconds, "GB/s": 2 * size / seconds["median"] / 1e9})
    return found


def memcpy(target, source) -> None:
    from cuda.bindings import driver

    stream = torch.cuda.current_stream().cuda_stream
    size = source.numel() * source.element_size()
    (status,) = driver.cuMemcpyDtoDAsync(target.data_ptr(), source.data_ptr(), size, stream)
    if status != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"the driver refused to copy: {status}")
