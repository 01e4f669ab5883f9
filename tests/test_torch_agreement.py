"""torch's meaning of every option it shares, and arrays of torch, JAX and DLPack given and returned."""

import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from cases import labels, logits, options, probabilities, rng
from numpy.testing import assert_allclose

import fastsce
from fastsce import arrays

torch = pytest.importorskip("torch")
F = torch.nn.functional

TIGHT = {"rtol": 1e-12, "atol": 1e-15}
SHARED = ["plain", "weight", "smoothing", "full_smoothing", "weight_and_smoothing"]
TORCH_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def tensor(a):
    if a.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(a.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(a.copy())


def torch_answer(x, target, weight=None, upstream=None, **given):
    """loss and autograd's gradient in float64."""
    leaf = tensor(x).requires_grad_()
    loss = F.cross_entropy(leaf, tensor(target), weight=None if weight is None else tensor(weight), **given)
    loss.backward(torch.ones_like(loss) if upstream is None else tensor(upstream))
    return loss.detach().numpy(), leaf.grad.numpy()


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("kind", ["index", "ignored", "soft"])
@pytest.mark.parametrize("name", SHARED)
def test_cross_entropy(backend, name, kind, reduction):
    x = logits((17, 10), "float64")
    target = probabilities((17, 10)) if kind == "soft" else labels(17, 10, ignored=kind == "ignored")
    chosen = {**options(name, 17, 10), "reduction": reduction}
    upstream = rng("upstream").standard_normal(17) if reduction == "none" else np.array(0.37)
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, grad_output=upstream, backend=backend, **chosen)
    true_loss, true_grad = torch_answer(x, target, upstream=upstream, **chosen)
    assert_allclose(loss, true_loss, **TIGHT)
    assert_allclose(grad, true_grad, **TIGHT)


@pytest.mark.parametrize("kind", ["index", "soft"])
@pytest.mark.parametrize("shape", [(4, 7, 5), (2, 3, 4, 5), (3, 10, 17)])
def test_classes_on_axis_1(backend, shape, kind):
    """(N, C, d1, …) as torch has it, all options on."""
    x = logits(shape, "float64")
    rows = (shape[0], *shape[2:])
    given = {"weight": options("weight", rows, shape[1])["weight"], "label_smoothing": 0.1}
    target = labels(rows, shape[1], ignored=True) if kind == "index" else probabilities(shape)
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, target, axis=1, backend=backend, **given)
    true_loss, true_grad = torch_answer(x, target, **given)
    assert lse.shape == rows
    assert_allclose(loss, true_loss, **TIGHT)
    assert_allclose(grad, true_grad, **TIGHT)


@pytest.mark.parametrize("ignore_index", [-100, -1, 3, 10**12])
def test_ignore_index(backend, ignore_index):
    x, target = logits((17, 10), "float64"), labels(17, 10)
    target[::4] = ignore_index
    given = {"ignore_index": ignore_index, "weight": options("weight", 17, 10)["weight"], "label_smoothing": 0.3}
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, backend=backend, **given)
    true_loss, true_grad = torch_answer(x, target, **given)
    assert_allclose(loss, true_loss, **TIGHT)
    assert_allclose(grad, true_grad, **TIGHT)


def test_one_row_without_a_batch(backend):
    x = logits((10,), "float64")
    for target in (np.array(3), probabilities((10,))):
        loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, target, reduction="none", backend=backend)
        true_loss, true_grad = torch_answer(x, target, reduction="none")
        assert loss.shape == lse.shape == ()
        assert_allclose(loss, true_loss, **TIGHT)
        assert_allclose(grad, true_grad, **TIGHT)


@pytest.mark.parametrize("all_ignored", [True, False], ids=["all_ignored", "no_rows"])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_nothing_to_count(backend, all_ignored, reduction):
    rows = 3 if all_ignored else 0
    x, target = logits((rows, 4), "float64"), np.full(rows, -100)
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(x, target, reduction=reduction, backend=backend)
    true_loss, _ = torch_answer(x, target, reduction=reduction)
    assert_allclose(loss, true_loss)
    assert not grad.any() and grad.shape == x.shape


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("weight", [None, (17, 10), (10,), (1,)])
@pytest.mark.parametrize("pos_weight", [None, (10,), (17, 10)])
def test_binary_cross_entropy(backend, weight, pos_weight, reduction):
    x, target = logits((17, 10), "float64", 5), rng("binary target").random((17, 10))
    w = None if weight is None else rng("w").uniform(0.1, 2, weight)
    pos = None if pos_weight is None else rng("pos").uniform(0.1, 4, pos_weight)
    upstream = rng("binary up").standard_normal((17, 10)) if reduction == "none" else np.array(0.37)
    loss, grad, lse = fastsce.binary_cross_entropy_value_and_grad(
        x, target, weight=w, pos_weight=pos, reduction=reduction, grad_output=upstream, backend=backend
    )
    leaf = tensor(x).requires_grad_()
    true = F.binary_cross_entropy_with_logits(
        leaf,
        tensor(target),
        weight=None if w is None else tensor(w),
        pos_weight=None if pos is None else tensor(pos),
        reduction=reduction,
    )
    true.backward(tensor(upstream))
    assert lse is None
    assert_allclose(loss, true.detach().numpy(), **TIGHT)
    assert_allclose(grad, leaf.grad.numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_softmax_family(backend, axis):
    x, v = logits((4, 5, 6), "float64"), rng("v").standard_normal((4, 5, 6))
    leaf = tensor(x).requires_grad_()
    p = torch.softmax(leaf, axis)
    p.backward(tensor(v))
    assert_allclose(fastsce.softmax(x, axis, backend=backend), p.detach(), **TIGHT)
    assert_allclose(fastsce.log_softmax(x, axis, backend=backend), torch.log_softmax(tensor(x), axis), **TIGHT)
    assert_allclose(fastsce.logsumexp(x, axis, backend=backend), torch.logsumexp(tensor(x), axis), **TIGHT)
    vjp = fastsce.softmax_vjp(p.detach().numpy(), v, axis, backend=backend)
    assert_allclose(vjp, leaf.grad, rtol=1e-12, atol=1e-14)


# ------------------------------------------------------------------------------------------- whose arrays come and go


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_torch_tensors(backend, dtype):
    """torch in, torch out, the same bits as for NumPy; the logits' own memory is read."""
    x, target = logits((17, 10), dtype), labels(17, 10, ignored=True)
    given = tensor(x)
    assert given.dtype == TORCH_DTYPES[dtype]
    assert arrays.view_of(given).ctypes.data == given.data_ptr()
    loss, grad, lse = fastsce.cross_entropy_value_and_grad(given, tensor(target), backend=backend)
    expected = fastsce.cross_entropy_value_and_grad(x, target, backend=backend)
    assert all(isinstance(answer, torch.Tensor) for answer in (loss, grad, lse))
    assert loss.dtype == (torch.float64 if dtype == "float64" else torch.float32) and lse.dtype == torch.float64
    assert grad.dtype == given.dtype and grad.shape == given.shape and loss.shape == ()
    assert loss.item() == expected.loss
    assert np.array_equal(arrays.view_of(grad), arrays.view_of(expected.grad))
    assert torch.equal(given, tensor(x))


def test_autograd_is_told_what_is_written(backend):
    """It would go on with what was there: exp keeps its result for its own gradient."""
    start = torch.zeros(1, 3, requires_grad=True)
    x = start.exp()
    grad = fastsce.cross_entropy_value_and_grad(x, torch.tensor([0]), out=x, backend=backend).grad
    assert grad is x
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        x.backward(torch.ones_like(x))
    pair = torch.empty(1, 3), torch.empty(1, 3)
    fastsce.cross_entropy_grad_and_hess(start, torch.tensor([0]), out=pair, backend=backend)
    assert all(a._version == 1 for a in pair)
    with torch.inference_mode():  # whose tensors have no version
        out = torch.empty(1, 3)
    assert fastsce.cross_entropy_value_and_grad(start, torch.tensor([0]), out=out, backend=backend).grad is out


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_subnormal_numbers_may_be_flushed(dtype):
    """As torch may tell the processor: logits far beyond a softcap are at the cap all the same."""
    x, y = np.array([[1.0, 2.0, -1e9, 3.0], [900.0, -1300.0, -1320.0, 0.0]], dtype), np.array([2, 1])
    expected = fastsce.cross_entropy(x, y, softcap=30.0, reduction="none")
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not")
    try:
        found = fastsce.cross_entropy(x, y, softcap=30.0, reduction="none")
    finally:
        torch.set_flush_denormal(False)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_torch_leaf_and_strides(backend):
    """A tensor that requires a gradient is read as it is; permuted tensors are not copied."""
    x = logits((4, 6, 5), "float32")
    given = tensor(x).permute(0, 2, 1).requires_grad_()
    view = arrays.view_of(given)
    assert view.ctypes.data == given.data_ptr() and view.shape == (4, 5, 6)
    grad = fastsce.cross_entropy_value_and_grad(given, torch.zeros(4, 5, dtype=torch.long), backend=backend).grad
    expected = fastsce.cross_entropy_value_and_grad(x, np.zeros((4, 5), int), axis=1, backend=backend).grad
    assert grad.shape == (4, 5, 6) and not grad.requires_grad
    assert_allclose(grad, expected.transpose(0, 2, 1), rtol=1e-6)


def test_torch_out_and_in_place(backend):
    x, target = logits((17, 10)), labels(17, 10)
    expected = fastsce.cross_entropy_value_and_grad(x, target, backend=backend).grad
    given, buffer = tensor(x), torch.empty(17, 10)
    assert fastsce.cross_entropy_value_and_grad(given, tensor(target), out=buffer, backend=backend).grad is buffer
    assert np.array_equal(buffer, expected)
    assert fastsce.cross_entropy_value_and_grad(given, tensor(target), out=given, backend=backend).grad is given
    assert np.array_equal(given, expected)


def test_torch_subclass(backend):
    """A Parameter is a tensor, and so is what a user derives from one."""

    class Own(torch.Tensor):
        pass

    for given in (torch.nn.Parameter(tensor(logits((3, 4)))), tensor(logits((3, 4))).as_subclass(Own)):
        assert isinstance(fastsce.cross_entropy(given, torch.tensor([0, 1, 2]), backend=backend), torch.Tensor)


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_torch_softmax_family(backend, name):
    x = logits((3, 4), "bfloat16")
    got = getattr(fastsce, name)(tensor(x), backend=backend)
    assert isinstance(got, torch.Tensor)
    assert got.dtype == (torch.float32 if name == "logsumexp" else torch.bfloat16)
    expected = getattr(fastsce, name)(x, backend=backend)
    assert np.array_equal(got.float().numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_jax_arrays(backend, dtype):
    jnp = pytest.importorskip("jax.numpy")
    x, target = logits((17, 10), dtype), labels(17, 10)
    given = jnp.asarray(x)
    assert given.dtype == x.dtype
    assert arrays.view_of(given).ctypes.data == given.unsafe_buffer_pointer()
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(given, jnp.asarray(target), backend=backend)
    expected = fastsce.cross_entropy_value_and_grad(x, target, backend=backend)
    assert type(loss) is type(grad) is type(given)
    assert grad.dtype == given.dtype and loss.dtype == np.float32
    assert float(loss) == expected.loss
    assert np.array_equal(np.asarray(grad).view("u1"), expected.grad.view("u1"))
    assert np.array_equal(np.asarray(given).view("u1"), x.view("u1"))


def test_jax_devices():
    """Results lie where the logits do, not on JAX's default device."""
    pytest.importorskip("jax")
    code = """
import jax, numpy as np, fastsce
first, second = jax.devices()
x, target = (jax.device_put(a, second) for a in (np.eye(3, dtype=np.float32), np.arange(3)))
result = fastsce.cross_entropy_value_and_grad(x, target, reduction="none", backend="reference")
assert [a.devices() for a in result] == [{second}] * 3, result
"""
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


class Lent:
    """An array that speaks DLPack and nothing else."""

    def __init__(self, a):
        self.a = a
        self.dtype, self.shape = a.dtype, a.shape

    def __dlpack__(self, **given):
        return self.a.__dlpack__(**given)

    def __dlpack_device__(self):
        return self.a.__dlpack_device__()


def test_dlpack_arrays(backend):
    """Anything with DLPack goes in; what comes back is NumPy's, or what its __array_namespace__ makes of it."""
    x, target = logits((17, 10)), labels(17, 10)
    expected = fastsce.cross_entropy_value_and_grad(x, target, backend=backend)
    assert arrays.view_of(Lent(x)).ctypes.data == x.ctypes.data
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(Lent(x), Lent(target), backend=backend)
    assert loss == expected.loss and np.array_equal(grad, expected.grad)

    class Namespaced(Lent):
        def __array_namespace__(self):
            return torch

    grad = fastsce.cross_entropy_value_and_grad(Namespaced(x), target, backend=backend).grad
    assert isinstance(grad, torch.Tensor) and np.array_equal(grad, expected.grad)


def test_dlpack_out(backend):
    x, target, buffer = logits((17, 10)), labels(17, 10), np.zeros((17, 10), np.float32)
    out = Lent(buffer)
    expected = fastsce.cross_entropy_value_and_grad(x, target, backend=backend).grad
    assert fastsce.cross_entropy_value_and_grad(Lent(x), target, out=out, backend=backend).grad is out
    assert np.array_equal(buffer, expected)


def test_mixed_libraries(backend):
    """The answer is of the logits' library, whatever the other arrays are."""
    jnp = pytest.importorskip("jax.numpy")
    x, target = logits((17, 10)), labels(17, 10)
    weight = options("weight", 17, 10)["weight"]
    share = options("sample_weight", 17, 10)["sample_weight"]
    expected = fastsce.cross_entropy_value_and_grad(x, target, weight=weight, sample_weight=share, backend=backend)
    loss, grad, _ = fastsce.cross_entropy_value_and_grad(
        tensor(x), jnp.asarray(target), weight=weight, sample_weight=tensor(share), backend=backend
    )
    assert isinstance(loss, torch.Tensor) and loss.item() == expected.loss
    assert np.array_equal(grad, expected.grad)
    loss = fastsce.cross_entropy(x, tensor(target), weight=weight.tolist(), sample_weight=share, backend=backend)
    assert isinstance(loss, np.float32) and loss == expected.loss


def test_lists_and_numbers(backend):
    """What NumPy makes an array of; logits must then be Python floats."""
    assert_allclose(fastsce.cross_entropy([[0.0, 0.0]], [1], backend=backend), np.log(2), rtol=1e-15)
    assert_allclose(fastsce.cross_entropy([0.0, 0.0], 1, backend=backend), np.log(2), rtol=1e-15)


def test_backend_for_names_the_device():
    assert fastsce.backend_for(torch.zeros(2)) == fastsce.backend_for(np.zeros(2)) == "cpu"
