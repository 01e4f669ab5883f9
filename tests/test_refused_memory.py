"""Memory that cannot take a gradient, devices without a backend, arrays that cannot be read: nothing is written."""

import numpy as np
import pytest
from cases import logits
from expect import refused

import fastsce
from fastsce import dispatch

X, Y, P = logits((4, 3)), np.array([0, 1, 2, 0]), np.full((4, 3), 0.25, np.float32)


def value_and_grad(backend, *args, **given):
    return fastsce.cross_entropy_value_and_grad(*args, backend=backend, **given)


class Elsewhere:
    """Stands in for an array on a device; nothing but its device may be asked for."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return (self.kind, 0)


# -------------------------------------------------------------------------------------------------------------- `out`


def locked(a):
    a = a.copy()
    a.flags.writeable = False
    return a


WIDE = np.zeros((4, 6), np.float32)
BAD_OUTS = [
    (np.zeros((3, 4), np.float32), ValueError, "out of shape (3, 4) must have the logits' shape (4, 3)"),
    (np.zeros((4, 3)), TypeError, "out of dtype float64 must have the logits' dtype float32"),
    (locked(X), ValueError, "out is read-only; pass a writable array"),
    (np.lib.stride_tricks.as_strided(WIDE, (4, 3), (0, 4)), ValueError, "overlaps itself; pass a dense array"),
    (np.lib.stride_tricks.as_strided(WIDE, (4, 3), (4, 4)), ValueError, "strides (4, 4) overlaps itself"),
    ([[0.0] * 3] * 4, TypeError, "out of type list cannot be written into; leave out out"),
    (5, TypeError, "out of type int cannot be written into"),
]


@pytest.mark.parametrize(("out", "error", "message"), BAD_OUTS)
def test_bad_out(backend, out, error, message):
    refused(error, message, value_and_grad, backend, X, Y, out=out)
    refused(error, message, fastsce.cross_entropy_backward, X, Y, np.zeros(4), out=out, backend=backend)
    refused(error, message, fastsce.binary_cross_entropy_value_and_grad, X, P, out=out, backend=backend)
    pair = message.replace("out ", "out[1] ", 1) if message.startswith("out") else message
    for call, target in ((fastsce.cross_entropy_grad_and_hess, Y), (fastsce.binary_cross_entropy_grad_and_hess, P)):
        pair = pair.replace("leave out out", "leave out[1] out")
        refused(error, pair, call, X, target, out=(np.zeros_like(X), out), backend=backend)


class Copied:
    """Has a dtype as an array has, but what NumPy makes of it is a copy."""

    dtype = np.dtype(np.float32)

    def __array__(self, dtype=None, copy=None):
        return np.zeros((4, 3), np.float32)


def test_out_of_which_numpy_makes_a_copy(backend):
    """The gradient would be lost in it."""
    call = fastsce.binary_cross_entropy_value_and_grad
    message = "out of type float32 cannot be written into; leave out out"
    refused(TypeError, message, call, np.float32(1), np.float32(1), out=np.float32(0), backend=backend)
    refused(TypeError, "out of type Copied cannot be written into", value_and_grad, backend, X, Y, out=Copied())


def test_out_on_an_input(backend):
    """Exactly on the logits is the in-place form; in part, or on a target, is refused with nothing written."""
    memory = np.arange(30, dtype=np.float32)
    x = memory[:12].reshape(4, 3)
    kept = memory.copy()
    for out in (memory[3:15].reshape(4, 3), memory[:12].reshape(3, 4).T, x[::-1]):
        refused(
            ValueError,
            "out overlaps the logits in part; pass the logits themselves, or",
            value_and_grad,
            backend,
            x,
            Y,
            out=out,
        )
    soft = memory[15:27].reshape(4, 3)
    refused(ValueError, "out overlaps target, which would be overwritten", value_and_grad, backend, x, soft, out=soft)
    binary = fastsce.binary_cross_entropy_value_and_grad
    for name in ("weight", "pos_weight", "sample_weight"):
        message = f"out overlaps {name}, which would be overwritten"
        refused(ValueError, message, binary, x, P, out=soft, backend=backend, **{name: soft})
    refused(ValueError, "out overlaps target, which", binary, x, soft, out=soft, backend=backend)
    assert np.array_equal(memory, kept)


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "i8"])
def test_out_on_labels(backend, dtype):
    """Of which a copy may be used: they would be lost all the same."""
    memory = np.zeros(48, np.uint8)
    y = memory[: 4 * np.dtype(dtype).itemsize].view(dtype)
    y[:] = Y
    kept, out = memory.copy(), memory.view(np.float32).reshape(4, 3)
    for named in {backend, None if backend == "cpu" else backend}:
        refused(ValueError, "out overlaps target, which would be overwritten", value_and_grad, named, X, y, out=out)
    assert np.array_equal(memory, kept)


def test_bad_pairs(backend):
    for call, target in ((fastsce.cross_entropy_grad_and_hess, Y), (fastsce.binary_cross_entropy_grad_and_hess, P)):
        out = np.zeros_like(X)
        refused(
            TypeError,
            "out must be a pair of arrays (grad, hess), got ndarray",
            call,
            X,
            target,
            out=out,
            backend=backend,
        )
        refused(
            TypeError,
            "out must be a pair of arrays (grad, hess), got tuple",
            call,
            X,
            target,
            out=(out,),
            backend=backend,
        )
        refused(
            ValueError,
            "the two arrays of out overlap; pass memory apart",
            call,
            X,
            target,
            out=(out, out),
            backend=backend,
        )
        assert not out.any()


# ------------------------------------------------------------------------------------------------ devices and libraries


def test_what_cuda_arrays_lack_is_told(monkeypatch):
    """What the cuda backend is built on; or an interface that tells where their memory is."""
    given = Elsewhere(2)
    refused(TypeError, "on a GPU has no __cuda_array_interface__", fastsce.cross_entropy, given, Y)
    entry = dispatch.BACKENDS["cuda"]._replace(module="fastsce.backends.nowhere", needs="not_a_module")
    monkeypatch.setitem(dispatch.BACKENDS, "cuda", entry)
    reason = "backend 'cuda' needs not_a_module, which is not installed: pip install 'fastsce[cuda13]' (or cuda12)"
    refused(RuntimeError, reason, fastsce.backend_for, given)
    for call in (fastsce.cross_entropy, fastsce.cross_entropy_value_and_grad, fastsce.binary_cross_entropy):
        refused(RuntimeError, reason, call, given, Y)
    refused(
        TypeError,
        "backend 'cpu' works on cpu arrays, but the logits are on cuda:0",
        fastsce.softmax,
        given,
        backend="cpu",
    )


@pytest.mark.parametrize(("kind", "device"), [(10, "rocm"), (3, "cuda-pinned"), (99, "DLPack device 99")])
def test_devices_without_a_backend(kind, device):
    message = f"no backend serves arrays on {device!r}; move them to one of: cpu, cuda"
    refused(RuntimeError, message, fastsce.cross_entropy, Elsewhere(kind), Y)
    refused(RuntimeError, message, fastsce.backend_for, Elsewhere(kind))


@pytest.mark.parametrize("name", ["target", "weight", "sample_weight", "grad_output"])
def test_two_devices(backend, name):
    given = {"target": Y, name: Elsewhere(2)}
    refused(
        TypeError,
        f"{name} is on cuda:0, but the logits are on cpu; move one of them",
        value_and_grad,
        backend,
        X,
        **given,
    )


def test_a_backend_that_cannot_be_imported(monkeypatch):
    """An error of its own; another backend never takes its place."""
    entry = dispatch.Backend("cpu", "fastsce.backends.nowhere", "numba", "pip install numba")
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", entry)
    refused(RuntimeError, "backend 'cpu' cannot be imported: No module named", fastsce.cross_entropy, X, Y)
    entry = dispatch.Backend("cpu", "fastsce.backends.reference", "not_a_module", "pip install not-a-module")
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", entry)
    refused(
        RuntimeError, "needs not_a_module, which is not installed: pip install not-a-module", fastsce.backend_for, X
    )


def test_dlpack_that_fails(backend):
    class Unwilling(Elsewhere):
        def __dlpack__(self, **given):
            raise BufferError("its memory is not for lending")

    message = "NumPy cannot view this Unwilling through DLPack: its memory is not for lending"
    refused(TypeError, message, fastsce.softmax, Unwilling(1), backend=backend)


def test_torch_tensors_that_cannot_be_viewed(backend):
    torch = pytest.importorskip("torch")
    sparse = torch.eye(3).to_sparse()
    message = "tensors of layout torch.sparse_coo are not supported; call .to_dense()"
    refused(TypeError, message, fastsce.softmax, sparse, backend=backend)
    refused(RuntimeError, "no backend serves arrays on 'meta'", fastsce.softmax, torch.empty(3, device="meta"))


def test_traced_and_immutable_jax_arrays(backend):
    jax = pytest.importorskip("jax")
    message = "this JAX array is being traced; fastsce works on values, so call it outside jit, grad and vmap"
    refused(TypeError, message, jax.jit(lambda x: fastsce.softmax(x, backend=backend)), X)
    x = jax.numpy.asarray(X)
    refused(TypeError, "cannot be written into; leave out out", value_and_grad, backend, x, Y, out=x)
