"""Kernels compiled for other instruction sets than this machine's: right, and with the same bits."""

import numpy as np
import pytest
import targets
from expect import same_bits
from law import Law, stored
from ulp import assert_within

import fastsce


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
    np.testing.assert_allclose(found[f"{name}: lse"], truth.lse, rtol=1e-6)


def test_the_bits_of_this_process(found):
    """Without an instruction for fma one result in 2^29 may differ; none of these does."""
    for name, value in targets.values().items():
        assert same_bits(found[name], value), name


def test_float16_is_read_and_written(found):
    np.testing.assert_array_equal(found["from float16"], targets.HALVES.view(np.float16).astype(np.float32))
    with np.errstate(over="ignore", invalid="ignore"):
        expected = found["to float16, of"].astype(np.float16)
    np.testing.assert_array_equal(found["to float16"].view(np.float16), expected)
