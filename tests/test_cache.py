"""Compiled kernels on disk: kept where that is possible, and never the reason that a call fails."""

import gc
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numba
import pytest

import fastsce
from fastsce.backends.cpu import jit
from fastsce.backends.cpu.jit import Kernel

CALL = "import fastsce; print(fastsce.softmax_vjp([0.25, 0.75], [1.0, 0.0], backend='cpu').tolist())"
RIGHT = "[0.1875, -0.1875]\n"


def double(x):
    return 2 * x


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def called_anew():
    """How often a kernel in a new process would have been found on disk, when it has given the right answer."""
    kernel = Kernel(double)
    assert kernel(21.0) == 42.0
    return sum(kernel.dispatcher.stats.cache_hits.values())


def files(cache, ending) -> list[Path]:
    return sorted(cache.rglob(f"*.{ending}"))


def test_a_change_of_any_formula_is_noticed():
    home = Path(fastsce.__file__).parent
    laws = ["law.py", *(path.name for path in home.glob("*.py") if "FORMULAS" in path.read_text())]
    for source in ("cpu/jit.py", "cuda/compile.py"):
        (line,) = re.findall(r"^LAWS = .*$", (home / "backends" / source).read_text(), re.MULTILINE)
        assert re.findall(r'"(\w+\.py)"', line) == sorted(laws)


def test_a_kernel_is_compiled_once(cache):
    assert [called_anew(), called_anew()] == [0, 1]
    assert len(files(cache, "nbi")) == len(files(cache, "nbc")) == 1


def test_threads_that_come_first_at_once_find_what_is_on_disk(cache, monkeypatch):
    called_anew()
    kernel, stamp = Kernel(double), jit.source_stamp
    monkeypatch.setattr(jit, "source_stamp", lambda function: time.sleep(0.2) or stamp(function))
    threads = [threading.Thread(target=kernel, args=(21.0,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(kernel.dispatcher.stats.cache_hits.values()) == 1 and not kernel.dispatcher.stats.cache_misses


@pytest.mark.parametrize("wanted", [True, False])
def test_garbage_is_left_only_while_a_kernel_is_compiled(cache, monkeypatch, wanted):
    kernel, seen = Kernel(double), []
    monkeypatch.setattr(kernel.dispatcher, "compile", lambda *_: seen.append(gc.isenabled()) or max)
    before = gc.isenabled()
    try:
        (gc.enable if wanted else gc.disable)()
        kernel(21.0, 0.0)
        assert seen == [False] and gc.isenabled() is wanted
    finally:
        (gc.enable if before else gc.disable)()


DAMAGES = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "overwritten": lambda content: b"\0" * len(content),
    "one bit": lambda content: content[:-99] + bytes([content[-99] ^ 1]) + content[-98:],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("ending", ["nbi", "nbc"])
def test_damaged_files_are_replaced(cache, ending, damage):
    called_anew()
    (file,) = files(cache, ending)
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    assert [called_anew(), called_anew()] == [0, 1]


@pytest.mark.parametrize("when", ["before it is read", "before it is written"])
def test_a_directory_that_is_lost(cache, when):
    if when == "before it is read":
        called_anew()
    kernel = Kernel(double)
    kernel.enable_cache()
    shutil.rmtree(cache)
    cache.write_text("a file where the directory was")
    assert kernel(21.0) == 42.0


def run(*arguments, **environment):
    kept = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    command = [sys.executable, "-W", "error", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**kept, **environment}, cwd="/"
    ).stdout


def test_a_full_disk(tmp_path):
    """Files of no more than 100 bytes stand for one."""
    resource = pytest.importorskip("resource")
    limit = f"import resource; resource.setrlimit({resource.RLIMIT_FSIZE}, (100, 100))"
    root = str(Path(fastsce.__file__).parents[1])
    assert run("-c", f"{limit}; {CALL}", NUMBA_CACHE_DIR=str(tmp_path), PYTHONPATH=root) == RIGHT
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]


def test_no_place_to_write_to(tmp_path):
    """An installation and a home that are read-only, even to root: files stand where directories would be made."""
    file = tmp_path / "file"
    file.touch()
    copy = tmp_path / "installed" / "fastsce"
    shutil.copytree(Path(fastsce.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in {module.parent for module in copy.rglob("*.py")}:
        (folder / "__pycache__").touch()
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), str(file / "home"))
    environment = {**nowhere, "PYTHONPATH": str(copy.parent)}
    assert run("-c", CALL, **environment) == RIGHT
    (line,) = [line for line in run("-m", "fastsce", "info", **environment).splitlines() if line.startswith("cache")]
    assert line.split()[1] == "none:" and "NUMBA_CACHE_DIR" in line
    assert run("-c", CALL, **environment, NUMBA_CACHE_DIR=str(file)) == RIGHT
    kept = tmp_path / "kept"
    assert str(kept) in run("-m", "fastsce", "info", **environment, NUMBA_CACHE_DIR=str(kept))
