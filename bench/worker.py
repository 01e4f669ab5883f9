"""A process in which one library works, and nothing but it: no pool of threads and no allocator of another disturbs.

It does what it is asked to through a pipe: prepare a contestant (compile, warm up, check against the truth), give it a
turn, drop them all. It imports nothing before its CPUs are set.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

WARM_UP = 2  # calls before the first that is timed


class Prepared(NamedTuple):
    errors: Any  # of the result, see truth.Errors
    peak: int | None  # bytes in a call beyond inputs and outputs that are given


class Failed(NamedTuple):
    reason: str
    wrong: bool = False  # it ran, and what it gave was not the truth


class Served:
    """What the other end of the pipe may ask for."""

    def __init__(self, library: str):
        from bench.shared import Arena

        self.library, self.arena = library, Arena()
        self.runners: dict[str, Any] = {}
        self.refresh: dict[str, Any] = {}

    def prepare(self, label: str, name: str, sent, truth) -> Prepared:
        from bench import memory, ours, providers
        from bench.truth import check
        from fastsce import empty_cache

        provider, given = providers.PROVIDERS[name], sent.received(self.arena)
        run = provider.make(given)
        refresh = (lambda: ours.logits_again(given)) if provider.in_place else (lambda: None)
        errors = None
        for _ in range(WARM_UP):
            refresh()
            result = run()
            if provider.has_result:
                errors = check(name, given, truth, result)
            del result
        refresh()
        if self.library == "fastsce":
            empty_cache()  # what it keeps of earlier calls is a need of this one
        times = 2 if self.library == "jax" else 1  # XLA may still hold the result before, which then hides this one
        rest = memory.LONG_REST if self.library == "jax" else 0
        used = max((memory.peak(run, rest) for _ in range(times)), key=lambda peak: peak or 0)
        self.runners[label], self.refresh[label] = run, refresh
        return Prepared(errors, used)

    def ready(self, label: str) -> None:
        """What a turn needs and is no part of it."""
        self.refresh[label]()

    def turn(self, label: str, repeat: int) -> tuple[float | None, float]:
        """Seconds of a call with the caches as they are found, and of the one after it; of many, only of each."""
        run = self.runners[label]
        first = timed(run, 1) if repeat == 1 else None
        self.refresh[label]()
        return first, timed(run, repeat)

    def drop(self) -> None:
        self.runners.clear()
        self.refresh.clear()
        self.arena.close()

    def threads(self) -> int:
        from bench.threads import in_use

        return in_use(self.library)


def timed(run, repeat: int) -> float:
    """Seconds a call. A result is given back within them, as in a loop that has no further use for it."""
    began = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - began) / repeat


def serve(pipe: Connection, library: str, cpus: list[int]) -> None:
    """Until the pipe ends."""
    from bench.threads import pin

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the other end, which then ends the pipe
    pin(cpus)
    quiet()
    served = Served(library)
    while True:
        try:
            order, arguments = pipe.recv()
        except EOFError:
            return
        pipe.send(answer(served, order, arguments))


def answer(served: Served, order: str, arguments: tuple) -> Any:
    from bench.truth import Wrong

    try:
        return getattr(served, order)(*arguments)
    except Wrong as error:
        return Failed(str(error), wrong=True)
    except Exception as error:
        lines = traceback.format_exception_only(error)[-1].strip().splitlines() or [type(error).__name__]
        return Failed(lines[0])


def quiet() -> None:
    """What libraries say about themselves would cross the progress bar."""
    warnings.simplefilter("ignore")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
