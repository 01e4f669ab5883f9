"""The CUDA kernels' machine code: words of 128 bits, nothing in local memory, no double arithmetic for each class."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cuda_code
import pytest
from cuda_code import CAPPED, FORMS, LABELS, PLAIN, SOFT

from fastsce.backends.cuda.job import Pointer

pytestmark = pytest.mark.skipif(bool(cuda_code.why_not()), reason=cuda_code.why_not())
REGISTERS = 65536  # of a multiprocessor


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """Of every form, made by two processes."""
    processes = []
    for part in (0, 1):
        folder = tmp_path_factory.mktemp("code")
        numbers = ",".join(map(str, range(part, len(FORMS), 2)))
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        command = [sys.executable, cuda_code.__file__, str(folder), str(folder / "found.json"), numbers]
        processes.append((subprocess.Popen(command, env=environment), folder / "found.json"))
    found, has_row_stack = {}, []
    for process, file in processes:
        assert process.wait() == 0
        found |= json.loads(file.read_text())
        has_row_stack.append(found["row_stack"])
    return {**found, "row_stack": has_row_stack}


@pytest.fixture(params=FORMS, ids="-".join)
def form(request, code):
    return request.param, code[str(FORMS.index(request.param))]


def count(found, *beginnings) -> int:
    return sum(n for name, n in found["instructions"].items() if name.startswith(beginnings))


def words(found, kind) -> int:
    return sum(n for name, n in found["instructions"].items() if name.startswith(kind) and "128" in name.split("."))


DOUBLE = ("DADD", "DMUL", "DFMA", "F2F.F64")


def test_nothing_is_in_local_memory(form):
    _, found = form
    assert count(found, "LDL", "STL") == 0 and found["stack"] == 0


def test_registers_let_a_largest_block_run(form):
    _, found = form
    assert found["threads"] >= 256
    assert 32 < found["registers"] <= REGISTERS // found["threads"]


def test_rows_move_in_words(form):
    """Every slot of a row; single numbers are those of its ragged ends, the label's and what there is once a row."""
    (_, dtype, regime, kind), found = form
    loads, stores = words(found, "LDG"), words(found, "STG")
    if regime == "COLUMNS":
        assert loads == stores == 0
        return
    slots = found["slots"]
    assert loads >= slots and stores >= slots
    width = {"float64": 2, "float32": 4}.get(dtype, 8)
    if kind == LABELS:
        assert count(found, "LDG") - loads <= width + 14
        assert count(found, "STG") - stores <= width + 3


def test_terms_of_16_bits_take_the_hardware_s_exp(form):
    (_, dtype, _, kind), found = form
    if dtype in ("float16", "bfloat16") and kind != CAPPED:
        assert count(found, "MUFU.EX2") >= found["slots"] * 8
    elif kind != CAPPED:
        assert count(found, "MUFU.EX2") == 0


def test_an_exp_keeps_nan(form):
    """Its argument is held above a floor, by what would else be the number that is no NaN."""
    (_, dtype, _, kind), found = form
    if dtype == "float32" and kind != CAPPED:
        assert count(found, "FMNMX.NAN") >= 4 * found["slots"]


def test_nothing_is_called_but_the_compiler_s_own(form):
    """Slow paths of float64 divisions and of shuffles in older GPUs: no exp, no log."""
    _, found = form
    assert all(name.startswith(("__cuda_sm", ".L_")) for name in found["calls"])


def test_double_arithmetic_is_not_for_each_class(form, code):
    """What there is once a row is worked out in float64: it does not grow with the classes a thread has."""
    key, found = form
    if key[1] == "float64":
        assert count(found, "DFMA") > 100
        return
    assert found["in_loops"] == []
    if key[3] != SOFT:
        assert count(found, *DOUBLE) < 180
    if key in PLAIN and key[0] == "sm_90":
        fewer = code[f"{FORMS.index(key)} fewer"]
        assert abs(count(found, *DOUBLE) - count(fewer, *DOUBLE)) <= 4  # the compiler shares one more or less
        assert count(found, "FFMA", "MUFU") > count(fewer, "FFMA", "MUFU")


def test_a_class_takes_few_instructions(code):
    """An H200 has time for some 48 of float32 and 24 of 16 bits while its memory moves a class there and back."""
    for form in PLAIN:
        if form[0] == "sm_90" and form[2] == "ROWS":
            at, numbers = FORMS.index(form), 4 if form[1] == "float32" else 8
            many, few = code[str(at)], code[f"{at} fewer"]
            more = count(many, "") - count(few, "")
            assert 10 * numbers < more / (many["slots"] - few["slots"]) < (34 if numbers == 4 else 24) * numbers


def test_the_argument_is_laid_flat_as_the_launcher_does_it(form):
    """Eight bytes each: addresses and integers, or float64."""
    (_, dtype, _, kind), found = form

    def flat(value):
        if isinstance(value, Pointer):
            return ["u64"]
        if isinstance(value, tuple):
            return [kind for part in value for kind in flat(part)]
        return ["f64" if isinstance(value, float) else "u64"]

    given = cuda_code.arguments(cuda_code.DTYPES[dtype], kind == SOFT)
    assert [name.replace("b64", "u64") for name in found["parameters"]] == flat(given)


def test_kernels_are_made_without_row_stack_too(code):
    """NumPy 2.5 has it no more; it is not left behind either."""
    assert code["row_stack"] == [True, False]


def test_what_runs_is_what_was_read(code):
    """Neither is optimised once more when it is linked."""
    assert code["lto"] is False
