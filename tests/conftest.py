"""What every test shares."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--gpu", action="store_true", help="test the cuda backend on this machine's GPU, and only that")


def pytest_configure(config):
    """Without a GPU the CUDA backend is simulated; either way before anything imports it."""
    import gpu

    import fastsce

    if config.getoption("--gpu"):
        gpu.machine = gpu.Real
        for name in gpu.MOVED:
            setattr(fastsce, name, gpu.moved(name))
        return
    import simulator
    import standins

    simulator.install()
    standins.install()


def pytest_generate_tests(metafunc):
    """`backend`: the name of each backend that works here. One that cannot be imported fails its tests."""
    own = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not own:
        names = ["cuda"] if metafunc.config.getoption("--gpu") else ["reference", "cpu"]
        metafunc.parametrize("backend", names, scope="session")


def pytest_collection_modifyitems(config, items):
    """On a GPU, tests that name no backend have nothing to do, but for those of the CUDA backend."""
    if not config.getoption("--gpu"):
        return
    skipped = [i for i in items if "backend" not in getattr(i, "fixturenames", ()) and i.path.stem != "test_cuda"]
    for item in skipped:
        item.add_marker(pytest.mark.skip(reason="not of the GPU"))


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
