"""What every test shares."""

import gc

import pytest

OF_THE_HOST = {"test_refusals", "test_refused_memory"}  # what is refused of NumPy's arrays; of others, SIMULATION
# Not promised there, where sums depend on a row's place in memory.
WORDWISE = {"test_a_row_has_its_bits_in_any_batch", "test_alignment_does_not_change_bits"}
# A minute each, and down to a third of one.
SLOWEST = ("targets", "cuda_code", "processes", "torture", "cuda", "tiles", "agreement", "same_bits", "accuracy")
SIMULATION = {"test_cuda_arrays", "test_cuda_frameworks", "test_cuda_host", "test_cuda_code"}  # of no use on a GPU


def pytest_addoption(parser):
    parser.addoption("--gpu", action="store_true", help="test the cuda backend on this machine's GPU, and only that")
    parser.addoption("--simulated", action="store_true", help="the same in the simulator, with what is small enough")


def only_cuda(config) -> bool:
    return config.getoption("--gpu") or config.getoption("--simulated")


def pytest_configure(config):
    """Without a GPU the CUDA backend is simulated; either way before anything imports it."""
    import gpu

    import fastsce

    if config.getoption("--gpu"):
        gpu.machine = gpu.Real
    else:
        import simulator
        import standins

        simulator.install()
        standins.install()
    if only_cuda(config):
        for name in gpu.MOVED:
            setattr(fastsce, name, gpu.moved(name))


def pytest_ignore_collect(collection_path, config):
    return True if config.getoption("--gpu") and collection_path.stem in SIMULATION else None


def pytest_generate_tests(metafunc):
    """`backend`: the name of each backend that works here. One that cannot be imported fails its tests."""
    own = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not own:
        names = ["cuda"] if only_cuda(metafunc.config) else ["reference", "cpu"]
        metafunc.parametrize("backend", names, scope="session")


def pytest_collection_modifyitems(config, items):
    """On a GPU, tests that name no backend have nothing to do, but for those of the CUDA backend.

    The slowest files come first, lest one of two processes wait for what the other begins last: 335 → 327 s.
    """
    names = [f"test_{name}" for name in SLOWEST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))
    if not only_cuda(config):
        return
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        of_cuda = parameters.get("backend") == "cuda" and item.path.stem not in OF_THE_HOST
        of_cuda = of_cuda and item.originalname not in WORDWISE
        if not of_cuda and item.path.stem != "test_cuda":
            item.add_marker(pytest.mark.skip(reason="not of the GPU"))


def pytest_collection_finish(session):
    """What libraries made at their import is looked through no more: 2068 tests took 63 s with it, 70 without."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def streams(monkeypatch):
    """Of every launch: the stream it is for, and whether it is waited for."""
    from fastsce.backends import cuda

    seen, launch = [], cuda.run

    def run(function, job, grid, block, home, *more):
        seen.append(home.stream())
        launch(function, job, grid, block, home, *more)

    for module in (cuda, cuda.chores):
        monkeypatch.setattr(module, "run", run)
    return seen
