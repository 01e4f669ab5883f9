"""The command line, run as a user runs it."""

import os
import subprocess
import sys

import numpy as np
import pytest


def run(*arguments, env=None):
    command = [sys.executable, "-W", "error", "-m", "fastsce", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **(env or {})})


def output(*arguments, env=None):
    done = run(*arguments, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def test_info_names_versions_cpu_threads_cache_and_backends():
    import numba

    lines = {line.split()[0]: line for line in output("info").splitlines()}
    assert {"fastsce", "Python", "numpy", "numba", "system", "CPU", "vectors", "threads", "cache"} <= lines.keys()
    assert numba.__version__ in lines["numba"]
    assert "threading layer" in lines["threads"]


def test_info_says_why_a_backend_is_missing():
    backends = [line.split(None, 2)[1:] for line in output("info").splitlines() if line.startswith("backend")]
    said = {name.rstrip(":"): reason for name, reason in backends}
    assert said.keys() == {"cpu", "reference", "cuda"}
    assert "ready" in said["cpu"] and "ready" in said["reference"]
    assert any(words in said["cuda"] for words in ("ready", "pip install", "no GPU can be used"))


def test_info_names_the_cache_in_use(tmp_path):
    where = str(tmp_path / "kernels")
    assert where in output("info", env={"NUMBA_CACHE_DIR": where})


def test_demo_trains_measures_and_checks():
    text = output("demo", "--steps", "20", "--vocab", "8192", "--batch", "512")
    losses = [float(line.split("loss ")[1].split()[0]) for line in text.splitlines() if line.startswith("  step")]
    assert losses[0] == pytest.approx(9.0109, abs=1e-3)  # ln 8192
    assert losses[-1] < losses[0] - 1
    (row,) = [line for line in text.splitlines() if line.startswith("fastsce, out=")]
    loss_error, gradient_error = (float(number) for number in row.split("   ")[-1].split(", "))
    assert 0 < loss_error < 1e-5
    assert 0 < gradient_error < 1e-4


def test_demo_runs_on_the_reference_too():
    assert "NumPy" in output("demo", "--steps", "1", "--vocab", "8192", "--batch", "16", "--backend", "reference")


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_warmup_tells_what_it_compiles(backend):
    lines = output("warmup", "float32", "--classes", "3", "--backend", backend).splitlines()
    assert lines[0] == "float32: many classes, labels"
    assert any("softcap" in line for line in lines)
    assert "float32: classes: 3" in lines


@pytest.mark.parametrize("backend", [None, "cpu"])
def test_warmup_compiles_what_small_calls_take(backend, monkeypatch):
    """Which take their short way only if no backend is named."""
    from fastsce import small, system

    taken, attempt = [], small.attempt
    monkeypatch.setattr(small, "attempt", lambda *args: taken.append(attempt(*args)) or taken[-1])
    for what, call in system.calls(np.dtype(np.float32), (), backend):
        if what.startswith("few rows"):
            call()
    assert len(taken) == 8
    assert all(found is not None for found in taken)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: command"),
        (["frobnicate"], 2, "invalid choice: 'frobnicate'"),
        (["demo", "--steps", "0"], 2, "must be at least 1, got 0"),
        (["demo", "--vocab", "100"], 1, "fastsce demo: the vocabulary must have 8192 to 32768 words, got 100"),
        (["warmup", "float8"], 1, "fastsce warmup: dtype must be one of"),
        (["warmup", "--classes", "0"], 2, "must be at least 1, got 0"),
    ],
)
def test_bad_commands_say_what_is_wrong(arguments, status, message):
    done = run(*arguments)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("command", [[], ["demo"], ["info"], ["warmup"]])
def test_help_is_there(command):
    assert output(*command, "--help").startswith("usage: python -m fastsce")
