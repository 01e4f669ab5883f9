"""What a call costs the host, and what it must bear: a CUDA graph, and labels that are none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

import fastsce
from bench.goals import EAGER, FRESH, OURS
from bench.gpu.batches import Truth, Wrong, batch, law
from bench.gpu.cases import Case
from bench.gpu.contestants import PROVIDERS
from bench.gpu.measure import spread

BURST, BURSTS = 100, 41  # calls in a row, few enough that the GPU's queue is never full
SMALL = Case((1, 1000), "float32")
MILLION = 1_000_000
LAUNCH, LAUNCHES = "fastsce, the loss's launch alone", "fastsce, all launches of a call"


# --- the host ---------------------------------------------------------------------------------------------------------


def host() -> Iterator[dict]:
    """Seconds of the host for a call on a tiny batch; nobody waits for the GPU meanwhile."""
    given = batch(SMALL)
    calls = {name: PROVIDERS[name][0](given)[0] for name in (OURS, FRESH, EAGER)}
    result = calls[OURS]()
    Truth(given).check(OURS, *result, given.scale)
    x, target, out = given.logits, given.target, given.out
    calls["fastsce, out=, sum"] = lambda: fastsce.cross_entropy_value_and_grad(x, target, reduction="sum", out=out)
    calls["torch eager, loss only"] = lambda: torch.nn.functional.cross_entropy(x, target)
    for name, run in calls.items():
        yield {"name": name, "seconds": burst(run)}
    yield from launches(calls[OURS])


def burst(run: Callable[[], Any]) -> dict[str, float]:
    for _ in range(BURST):
        run()
    times = []
    for _ in range(BURSTS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(BURST):
            run()
        times.append((time.perf_counter() - began) / BURST)
    torch.cuda.synchronize()
    return spread(times)


def launches(call: Callable[[], Any]) -> Iterator[dict]:
    """The launcher's part: what it was given in a call, given to it again."""
    from fastsce.backends.cuda.job import Job
    from fastsce.backends.cuda.launch import run

    given, kept = asked_of(run, call)
    loss = [arguments for arguments in given if any(isinstance(a, Job) for a in arguments.values())]
    if not loss:
        raise RuntimeError("a call was made without a launch that could be seen")
    yield {"name": LAUNCH, "seconds": burst(lambda: run(**loss[-1]))}
    yield {"name": LAUNCHES, "launches": len(given), "seconds": burst(lambda: [run(**a) for a in given])}
    del kept


def asked_of(function: Any, call: Callable[[], Any]) -> tuple[list[dict], list]:
    """The arguments that a function gets during a call, and all that its callers hold, which keeps the memory alive."""
    given, kept = [], []

    def watch(frame, event, argument):
        if event == "call" and frame.f_code is function.__code__:
            given.append(dict(frame.f_locals))
            while (frame := frame.f_back) is not None and frame.f_code is not asked_of.__code__:
                kept.append(dict(frame.f_locals))

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        kept.append(call())
    finally:
        sys.setprofile(before)
    return given, kept


# --- a CUDA graph -----------------------------------------------------------------------------------------------------


def graph() -> Iterator[dict]:
    """One call captured, and replayed on other logits: the bits of a call made at once."""
    for shape, dtype in (((512, 32768), "bfloat16"), ((64, 1000), "float32"), ((64, 200003), "float32")):
        case = Case(shape, dtype)
        given, other = batch(case, 1), batch(case, 2)

        def call(given=given, scale=given.scale):
            return fastsce.cross_entropy_value_and_grad(given.logits, given.target, grad_output=scale, out=given.out)

        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            call()
        torch.cuda.current_stream().wait_stream(aside)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded):
            captured = call()
        given.logits.copy_(other.logits)
        given.target.copy_(other.target)
        given.out.fill_(torch.nan)
        recorded.replay()
        torch.cuda.synchronize()
        errors = Truth(other).check(OURS, captured.loss, captured.grad, given.scale)
        loss, grad, lse = call(other)
        same = all(map(torch.equal, (loss, grad, lse), (captured.loss, captured.grad, captured.lse)))
        if not same:
            raise Wrong(f"{case}: a replayed graph gives other bits than a call")
        yield case.facts() | {"same bits": same, "errors": errors, "host seconds": burst(recorded.replay)}


# --- labels that are none ---------------------------------------------------------------------------------------------


def bad_labels() -> Iterator[dict]:
    """A million labels out of range: their rows have a loss of NaN and a gradient of 0, the others are right, and the
    GPU goes on.
    """
    case = Case((MILLION + MILLION // 16, 128), "bfloat16")
    given = batch(case)
    x, target, out = given.logits, given.target.clone(), given.out
    bad = torch.arange(case.rows, device=x.device) % 17 != 0
    wrong = torch.tensor([128, 129, -1, -99, -101, 2**31, -(2**31), 2**32 + 5, 2**62, -(2**63)], device=x.device)
    target[bad] = wrong[torch.arange(int(bad.sum()), device=x.device) % len(wrong)]
    out.fill_(torch.nan)
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, reduction="none", out=out)
    torch.cuda.synchronize()
    good, truth = ~bad, law(x[~bad], target[~bad])
    found = {
        "bad rows": int(bad.sum()),
        "their losses are NaN": bool(loss[bad].isnan().all()),
        "their gradients are 0": not bool(grad[bad].any()),
        "error of the other losses": (loss[good].double() / truth[0] - 1).abs().max().item(),
        "error of the other gradients": (grad[good].double() - truth[1]).abs().max().item(),
    }
    errors = [found["error of the other losses"] <= 1e-4, found["error of the other gradients"] <= 2**-8]
    if not (found["their losses are NaN"] and found["their gradients are 0"] and all(errors)):
        raise Wrong(f"bad labels: {found}")
    again, _, _ = fastsce.cross_entropy_value_and_grad(x, given.target, reduction="none", out=out)
    after = again[::1024].double().mean().item()
    expected = law(x[::1024], given.target[::1024])[0].mean().item()
    if not abs(after / expected - 1) <= 1e-4:
        raise Wrong(f"after bad labels a mean loss is {after}, and {expected} is right")
    yield found | {"a call after it is right": True}
