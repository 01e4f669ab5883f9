"""Loss + gradient, a group for each workload: pytest bench/ --benchmark-group-by=group.

Each result is checked against float64 before it is timed. Contestants run one after the other here; `python -m bench`
interleaves them and gives the ratios.
"""

import pytest

from bench import providers
from bench.cases import CASES, batch

pytestmark = pytest.mark.filterwarnings("ignore")  # peers warn about themselves


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def workload(request):
    return request.param, batch(request.param)


@pytest.mark.parametrize("name", providers.available())
def test_loss_and_gradient(benchmark, workload, name):
    case, given = workload
    run = providers.runner(name, given)
    result = run()
    if name not in providers.ROOFS:
        providers.check(name, result, given)
    benchmark.group = f"{case.name}: {case.rows} x {case.classes} float32"
    benchmark.extra_info["bytes"] = case.bytes
    benchmark.pedantic(run, rounds=11, warmup_rounds=2)
