"""The workloads as suites of pytest-benchmark, a group for each: pytest bench/ [-k 'llm or tiny'].

All its options work: --benchmark-autosave, --benchmark-compare, --benchmark-histogram. Batches are those of --quick, or
as small, for all libraries work in one process here and one after the other, so that their pools of threads can disturb
each other; `python -m bench` separates and interleaves them, and is what ratios are to be taken from. Each result is
checked against float64 before it is timed.
"""

import pytest

from bench import cases, threads
from bench.batches import batch
from bench.goals import AGAIN
from bench.ours import logits_again
from bench.providers import PROVIDERS, available
from bench.truth import check, truth_of

pytestmark = pytest.mark.filterwarnings("ignore")  # peers warn about themselves
WORKLOADS = [cases.smaller(case) for case in cases.workloads()]
CONTESTS = [(case, name) for case in WORKLOADS for name in case.contestants if name != AGAIN]


@pytest.fixture(scope="module", autouse=True)
def equal_threads():
    """For what starts its threads when it is first called; those of libraries loaded before are as they were."""
    with threads.environment(threads.settings(threads.count())):
        yield


@pytest.fixture(scope="module")
def workload(request):
    given = batch(request.param)
    return given, truth_of(given)


@pytest.mark.parametrize(
    ("workload", "name"),
    CONTESTS,
    ids=[f"{case.name}-{name}" for case, name in CONTESTS],
    indirect=["workload"],
    scope="module",
)
def test_workload(benchmark, workload, name):
    given, truth = workload
    provider = PROVIDERS[name]
    if name not in available([name]):
        pytest.skip(f"{provider.module} is not installed")

    def refresh():
        if provider.in_place:
            logits_again(given)

    run = provider.make(given)
    refresh()
    result = run()
    if provider.has_result:
        check(name, given, truth, result)
    benchmark.group = given.case.name
    benchmark.extra_info.update(batch=str(given.case), bytes=provider.moved(given.case))
    benchmark.pedantic(run, setup=refresh, rounds=11 if given.case.repeat == 1 else 200, warmup_rounds=2)
