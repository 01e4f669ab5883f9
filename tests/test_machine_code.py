"""The kernels' machine code: loops of whole registers, fused arithmetic, streaming stores, and no calls."""

import math
import re

import numba
import pytest
import targets

AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.fixture(scope="module", params=["host", "avx2", "baseline"])
def target(request):
    if reason := targets.why_not(request.param):
        pytest.skip(reason)
    return request.param


@pytest.fixture(scope="module", params=["rows", "columns"])
def part(request, target, tmp_path_factory):
    """What one thread runs."""
    return work((targets.made(tmp_path_factory.getbasetemp())[target] / f"{request.param}.s").read_text(), ".part")


@pytest.fixture
def register(target):
    """The letter of the widest register."""
    has = targets.host_features() if target == "host" else {"avx2"} if target == "avx2" else {"sse2"}
    if not has & {"sse2", "avx2", "avx512f"}:
        pytest.skip("not an x86 CPU")
    return "z" if has >= AVX512 else "y" if "avx2" in has else "x"


def work(code, ending) -> str:
    """The function whose name ends so."""
    start = re.search(rf'^"?\S*{re.escape(ending)}"?:.*$', code, re.MULTILINE).end()
    return code[start : code.index(".Lfunc_end", start)]


def inner_loops(code):
    """Blocks that jump back to their own beginning."""
    blocks = re.split(r"^(\.?L\w+):", code, flags=re.MULTILINE)
    for name, block in zip(blocks[1::2], blocks[2::2]):
        if re.search(rf"\bj\w+\s+{re.escape(name)}\b", block):
            yield block


def products(block) -> list[tuple[str, str, str]]:
    """(operation, whether packed or scalar, letter of its register) of all products of floats."""
    return re.findall(r"\bv?(fn?m(?:add|sub)|mul)\d*([ps])[sd]\s.*%([xyz])mm", block)


def hottest(code) -> list[tuple[str, str, str]]:
    return max(map(products, inner_loops(code)), key=len, default=[])


def test_the_hottest_loop_is_of_whole_registers(part, register):
    found = hottest(part)
    assert len(found) >= 40  # four exp side by side, ten products each
    assert {(packed, letter) for _, packed, letter in found} == {("p", register)}


def test_products_are_fused(part, target, register):
    if register == "x":
        pytest.skip("no instruction for it")
    found = hottest(part)
    assert sum(operation != "mul" for operation, *_ in found) >= 0.75 * len(found)


def test_whole_registers_are_written_past_the_caches(part, register):
    assert re.search(rf"\bv?movntp[sd]\s+%{register}mm", part)
    assert "sfence" in part


def test_a_part_calls_nothing(part):
    """No exp, log or fma of a library, and no part of numba or Python."""
    assert targets.outside(part) == set()
    assert not re.search(r"^\s+(callq?|bl|blr)\s", part, re.MULTILINE)


def test_these_tests_can_fail():
    @numba.njit
    def control(x):
        s = 0.0
        for v in x:
            s = s * v + math.exp(v)
        return s

    control.compile((numba.float64[:],))
    code = control.inspect_asm(control.signatures[-1])
    assert "exp" in targets.outside(code)
    assert {packed for _, packed, _ in hottest(code)} == {"s"}
