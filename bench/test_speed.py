"""Loss + gradient, a group for each workload: pytest bench/ --benchmark-group-by=group.

Each result is checked against float64 before it is timed. Contestants run one after the other here; `python -m bench`
interleaves them and gives the ratios.
"""

import pytest

from bench import providers
from bench.batches import batch
from bench.cases import MAIN
from bench.measure import checked

pytestmark = pytest.mark.filterwarnings("ignore")  # peers warn about themselves


@pytest.fixture(scope="module", params=MAIN, ids=lambda case: case.name)
def workload(request):
    return batch(request.param)


@pytest.mark.parametrize("name", MAIN[0].contestants)
def test_loss_and_gradient(benchmark, workload, name):
    if name not in providers.available(workload.case):
        pytest.skip(f"{name} is not installed")
    run = checked(workload, [name])[name]
    benchmark.group = str(workload.case)
    benchmark.extra_info["bytes"] = 2 * workload.case.bytes
    benchmark.pedantic(run, rounds=11, warmup_rounds=2)
