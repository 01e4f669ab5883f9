"""Ask everyone for every case."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack

from bench.accuracy.cases import BY_NAME, Case
from bench.accuracy.contestants import answer, installed
from bench.accuracy.judge import better, judge, verdict
from bench.accuracy.truth import Truth, truth


def measure(cases: list[Case], names: list[str], quick: bool):
    """Each library, and mpmath, in a process of its own: their thread pools disturb each other."""
    contestants = installed()
    with ExitStack() as stack:
        pools = {c: process(stack) for c in {contestants[name].library for name in names}}
        exact = process(stack)
        pending = [
            (
                case,
                exact.submit(true_answer, case.name, quick),
                {n: pools[contestants[n].library].submit(answer, n, case.name, quick) for n in names},
            )
            for case in cases
        ]
        while pending:  # answers are let go one by one
            case, expected, given = pending.pop(0)
            batch, expected = case.batch(quick), expected.result()
            answers = {n: judge(batch, expected, a.result()) for n, a in given.items() if a.result() is not None}
            yield {
                **{field: getattr(case, field) for field in ("name", "group", "why", "classes", "dtype")},
                "rows": len(batch.logits),
                "answers": answers,
                "goal": verdict(answers),
                "better": better(answers),
            }


def process(stack: ExitStack) -> ProcessPoolExecutor:
    pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    stack.callback(pool.shutdown, cancel_futures=True)
    return pool


def true_answer(case: str, quick: bool) -> Truth:
    return truth(BY_NAME[case].batch(quick))
