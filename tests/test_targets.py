"""Kernels compiled for this machine's instruction set and for others: right, with the same bits, and in machine code
that is loops of whole registers, fused arithmetic, streaming stores, and no calls.
"""

import math
import re

import numba
import numpy as np
import pytest
import targets
from expect import same_bits
from law import Law, stored
from ulp import assert_within

import fastsce

AVX512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl"}


@pytest.fixture(scope="module", params=["avx2", "baseline"])
def found(request, tmp_path_factory):
    """What a target's kernels gave, by name."""
    if reason := targets.why_not(request.param):
        pytest.skip(reason)
    return np.load(targets.made(tmp_path_factory.getbasetemp())[request.param] / "values.npz")


@pytest.mark.parametrize("name", targets.batches())
def test_agreement_with_the_reference(found, name):
    x, target, axis = targets.batches()[name]
    options = {"axis": axis, "reduction": "none", "backend": "reference"}
    truth = fastsce.cross_entropy_value_and_grad(x.astype(np.float64), target, **options)
    law = Law(np.moveaxis(x, axis, -1).astype(np.float64), target, reduction="none")
    assert_within(found[f"{name}: loss"], truth.loss, law.loss_bound("float32"), "loss")
    bound = np.moveaxis(law.grad_bound("float32"), -1, axis)
    assert_within(found[f"{name}: grad"], truth.grad, stored(bound, truth.grad, "float32"), "grad")
    # log S and the largest logit may nearly cancel where classes are few
    np.testing.assert_allclose(found[f"{name}: lse"], truth.lse, rtol=1e-6, atol=2e-7)


def test_the_bits_of_this_process(found):
    """Without an instruction for fma one result in 2^29 may differ; none of these does."""
    for name, value in targets.values().items():
        assert same_bits(found[name], value), name


def test_float16_is_read_and_written(found):
    np.testing.assert_array_equal(found["from float16"], targets.HALVES.view(np.float16).astype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = found["to float16, of"].astype(np.float16)
    np.testing.assert_array_equal(found["to float16"].view(np.float16), expected)


# ------------------------------------------------------------------------------------------------------ machine code


@pytest.fixture(scope="module", params=["host", "avx2", "baseline"])
def target(request):
    if reason := targets.why_not(request.param):
        pytest.skip(reason)
    return request.param


APART = (  # functions compiled apart
    r"_ZN7fastsce8backends3cpu"
    r"(?:5terms|6passes|6behind|5plain10plain_tile|7columns10noted_tile|5tiles12send_classes|5tiles10send_edges"
    r"|5bands(?!5bands)|8exchange)\w+"
)
PARTIAL = r"fastsce_(?:load|store)_v\d+[fi]\d+"  # a function of partial.py


@pytest.fixture(scope="module", params=["rows", "columns", "bands"])
def part(request, target, tmp_path_factory):
    """What one thread runs: what it begins with, and what this calls: functions compiled apart, and of partial.py."""
    code = (targets.made(tmp_path_factory.getbasetemp())[target] / f"{request.param}.s").read_text()
    apart = re.findall(rf"^({APART}):", code, re.MULTILINE)
    assert len(apart) == {"rows": 16 + 2 * has_two_steps("rows", target), "columns": 4, "bands": 8}[request.param]
    partial = re.findall(rf"^({PARTIAL}):", code, re.MULTILINE)
    return "\n".join([work(code, ".parts"), *(work(code, name) for name in [*apart, *partial])])


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


def inner_loops(code, others=1):
    """Blocks that lead back to their own beginning, through so many others at most."""
    parts = re.split(r"^(\.?L\w+):", code, flags=re.MULTILINE)
    blocks = dict(zip(parts[1::2], parts[2::2]))
    after = dict(zip(parts[1::2], parts[3::2]))
    leads = {name: set(re.findall(r"\bj\w+\s+(\.?L\w+)", block)) & set(blocks) for name, block in blocks.items()}
    for name, block in blocks.items():
        if name in after and not re.search(r"\b(jmp|ret)\w*\b[^\n]*\s*$", block):
            leads[name].add(after[name])
    for name, block in blocks.items():
        near = leads[name]
        for _ in range(others):
            near = near.union(*(leads[n] for n in near))
        if name in near:
            yield block


def products(block) -> list[tuple[str, str, str]]:
    """(operation, whether packed or scalar, letter of its register) of all products of floats."""
    return re.findall(r"\bv?(fn?m(?:add|sub)|mul)\d*([ps])[sd]\s.*%([xyz])mm", block)


SHIFT = r"\bv?pslld\s+\$23,"


DIVIDE = r"\bv?div[ps][sd]\s"


def hot_loops(code):
    """Of the inner loops, those that raise: an exponent is shifted into its place. Strips bring and send some between.
    One that divides too settles samples, once each; of bands, one that raises less begins a strip.
    """
    strips, bands = "send_classes" in code, "send_edges_of" in code
    found = [b for b in inner_loops(code, 3 if strips or bands else 2) if re.search(SHIFT, b)]
    most = max((len(re.findall(SHIFT, b)) for b in found), default=0) if bands else 0
    return [b for b in found if not re.search(DIVIDE, b) and len(re.findall(SHIFT, b)) >= most]


@pytest.fixture
def in_two_steps(request, target):
    return has_two_steps(request.node.callspec.params["part"], target)


def has_two_steps(part, target):
    """Whether there are too few registers for terms of rows in one."""
    wide = target == "host" and "avx512f" in targets.host_features()
    return not wide and part == "rows"


def test_the_hot_loops_are_of_whole_registers(part, register, in_two_steps):
    assert hot_loops(part)
    for block in hot_loops(part):
        found = products(block)
        assert len(found) >= (4 if in_two_steps else 10) * len(re.findall(SHIFT, block))  # an exp has ten in all
        assert {(packed, letter) for _, packed, letter in found} == {("p", register)}


def test_the_second_step_is_of_whole_registers(part, register, in_two_steps):
    """Beside streaming, and without; with the largest in a stretch, and without. An exp has seven of its products
    there, for each register.
    """
    if not in_two_steps:
        pytest.skip("terms are worked out in one step")
    steps = [b for b in inner_loops(part) if len(products(b)) >= 14 and not re.search(SHIFT, b)]
    assert len(steps) >= 4
    for block in steps:
        assert {(packed, letter) for _, packed, letter in products(block)} == {("p", register)}


def test_the_loops_of_a_softcap_are_of_whole_registers(target, register, tmp_path_factory):
    """What tanh is made with; tanh, which divides, and what exp is made with; and, elsewhere, exp."""
    code = (targets.made(tmp_path_factory.getbasetemp())[target] / "softcap.s").read_text()
    begins = [work(code, name) for name in re.findall(rf"^({APART}):", code, re.MULTILINE) if "begin_terms" in name]
    assert begins
    for begin in begins:
        loops = [block for block in inner_loops(begin, 2) if re.search(SHIFT, block)]
        assert {bool(re.search(DIVIDE, block)) for block in loops} == {False, True}
        for block in loops:
            assert {(packed, letter) for _, packed, letter in products(block)} == {("p", register)}
            assert not targets.outside(block)


def test_the_last_line_of_a_row_is_asked_for(target, register, tmp_path_factory):
    """Memory is asked for once a step, and behind the loop for the classes that fill none."""
    code = (targets.made(tmp_path_factory.getbasetemp())[target] / "rows.s").read_text()
    stretches = [work(code, name) for name in re.findall(rf"^({APART}):", code, re.MULTILINE) if "add_stretch" in name]
    assert stretches
    for stretch in stretches:
        within = sum(block.count("prefetcht1") for block in inner_loops(stretch, 3))
        assert stretch.count("prefetcht1") > within > 0


def test_steps_of_bands_store_without_masks(target, tmp_path_factory):
    """Without AVX-512 such a store takes as long as a term."""
    code = (targets.made(tmp_path_factory.getbasetemp())[target] / "bands.s").read_text()
    steps = [name for name in re.findall(rf"^({APART}):", code, re.MULTILINE) if "add_block" in name]
    assert len(steps) == 1
    assert not re.search(r"vp?maskmov\w+\s+%\wmm\d+, %\wmm\d+, ", work(code, steps[0]))


def test_products_are_fused(part, register):
    if register == "x":
        pytest.skip("no instruction for it")
    for block in hot_loops(part):
        found = products(block)
        assert sum(operation != "mul" for operation, *_ in found) >= 0.75 * len(found)


def test_whole_registers_are_written_past_the_caches(part, register):
    assert re.search(rf"\bv?movntp[sd]\s+%{register}mm", part)
    assert "sfence" in part


def test_a_part_calls_nothing_else(part):
    """Nor, where there are no masks, but functions of partial.py: no exp, log or fma of a library, and no part of numba
    or Python.
    """
    assert all(re.fullmatch(PARTIAL, name) for name in targets.outside(part))
    taken = re.findall(rf"^\s+(?:movabsq\s+\$|leaq\s+|callq?\s+)(_\w+|{PARTIAL})", part, re.MULTILINE)
    assert all(re.fullmatch(f"{APART}|{PARTIAL}", name) for name in taken)
    assert len(re.findall(r"^\s+(?:callq?|bl|blr)\s", part, re.MULTILINE)) <= 2 * len(taken)


@pytest.fixture(scope="module")
def sheets(target, tmp_path_factory):
    """What one thread runs for few classes, and what this calls."""
    code = (targets.made(tmp_path_factory.getbasetemp())[target] / "few.s").read_text()
    partial = re.findall(rf"^({PARTIAL}):", code, re.MULTILINE)
    return "\n".join([work(code, ".parts"), *(work(code, name) for name in partial)])


def test_sheets_are_of_whole_registers(sheets, register):
    """But for the scale that all rows share."""
    found = products(sheets)
    others = [one for one in found if one[1:] != ("p", register)]
    assert len(re.findall(SHIFT, sheets)) >= 3
    assert len(found) >= 3 * 10
    assert {one[1:] for one in others} <= {("s", "x")}
    assert len(others) <= 4


def test_sheets_call_nothing_else(sheets):
    """But what copies rows that fill none."""
    assert all(re.fullmatch(PARTIAL, name) for name in targets.outside(sheets))
    taken = re.findall(rf"^\s+(?:movabsq\s+\$|leaq\s+|callq?\s+)(_\w+|{PARTIAL})", sheets, re.MULTILINE)
    others = {name for name in taken if not re.fullmatch(PARTIAL, name)}
    assert len(others) == 1
    assert re.fullmatch(r"_ZN7fastsce8backends3cpu3few4copy\w+", others.pop())


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
    assert {packed for block in inner_loops(code) for _, packed, _ in products(block)} == {"s"}
