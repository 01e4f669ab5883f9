"""Calls from many threads and from other processes: no end of the process, no deadlock, the same bits everywhere."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import programs
import pytest

PROGRAMS = Path(programs.__file__)
LIBRARIES = os.pathsep.join([f"{sys.prefix}/lib", os.environ.get("LD_LIBRARY_PATH", "")])  # where pip puts TBB
POSIX = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")


def environment(layer):
    return {**os.environ, "NUMBA_THREADING_LAYER": layer, "NUMBA_NUM_THREADS": "4", "LD_LIBRARY_PATH": LIBRARIES}


@pytest.fixture(scope="module", params=["omp", "tbb", "workqueue"])
def layer(request):
    code = "import numba; numba.get_num_threads(); assert numba.threading_layer() == " + repr(request.param)
    started = subprocess.run([sys.executable, "-c", code], env=environment(request.param), capture_output=True)
    if started.returncode:
        pytest.skip(f"numba has no layer {request.param} here")
    return request.param


@pytest.fixture(scope="module")
def expected():
    """The digest of answers that agree with the reference."""
    for found, true in zip(programs.results(), programs.results("reference")):
        np.testing.assert_allclose(found, true, rtol=2e-5, atol=1e-7)
    return programs.digest()


def digests(program, layer="default"):
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "told")
        command = [sys.executable, str(PROGRAMS), program, str(told)]
        done = subprocess.run(command, env=environment(layer), capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr
        return told.read_text().split()


def test_64_threads_at_once(layer, expected):
    found = digests("threads", layer)
    assert set(found) == {expected} and len(found) == 128


@POSIX
def test_forks_after_use(layer, expected):
    found = digests("fork", layer)
    assert set(found) == {expected} and len(found) == 25


@POSIX
def test_a_fork_after_other_code_of_numbas(expected):
    """Whose threads are the parent's, before fastsce has started any."""
    assert digests("fork_after_others", "omp") == [expected]


@POSIX
@pytest.mark.parametrize("what", ["compiling", "threads_start", "threads_are_counted"])
def test_a_fork_meanwhile(what, expected):
    found = digests(f"fork_while_{what}", "omp")
    assert set(found) == {expected} and len(found) == (3 if what == "threads_are_counted" else 2)


def test_spawned_processes(expected):
    found = digests("spawn")
    assert set(found) == {expected} and len(found) == 17


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_workers_of_a_data_loader(expected):
    found = digests("dataloader")
    assert set(found) == {expected} and len(found) == 9


def test_workers_of_joblib(expected):
    found = digests("in_joblib")
    assert set(found) == {expected} and len(found) == 13


def test_workers_of_dask(expected):
    found = digests("in_dask")
    assert set(found) == {expected} and len(found) == 17


@POSIX
def test_threads_of_the_system_do_the_work_where_numbas_cannot(monkeypatch, expected):
    from fastsce import forks
    from fastsce.backends.cpu import threads

    counts = []
    original = threads.call_by_system.entry
    monkeypatch.setattr(forks, "child", True)
    monkeypatch.setattr(threads, "thread_count", lambda: 3)
    monkeypatch.setattr(
        threads.call_by_system, "entry", lambda form, args: counts.append(args[5]) or original(form, args)
    )
    assert programs.digest() == expected
    assert max(counts) == 3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_threads_that_cannot_be_started(expected):
    """What no thread can be had for is done by the caller."""
    found = digests("without_threads")
    assert found == [expected, expected, "no", "more"]
