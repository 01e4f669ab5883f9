"""Arrays of every library on a simulated GPU: whose memory is used, on which stream, and what is refused."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from answers import TOLERANCE, P, X, Y, agrees, value_and_grad
from cases import DTYPES, labels, logits
from expect import refused
from simulator import allocate, release
from standins import BFLOAT16, Device, Interface, empty, ndarray, to_device, to_host

import fastsce
from fastsce import arrays, device

# --------------------------------------------------------------------------------------------------------------- CuPy


def test_cupy_fresh_gradient_has_the_logits_order():
    for order in ("C", "F"):
        given = np.array(X, order=order)
        got = value_and_grad(to_device(given), to_device(Y))
        assert isinstance(got.grad, ndarray) and got.grad.strides == given.strides
        agrees(got, X)
    deep = np.moveaxis(logits((2, 3, 5)), -1, 0)
    got = value_and_grad(to_device(deep), to_device(labels((2, 3), 5)), axis=0)
    assert got.grad.strides == deep.strides
    agrees(got, deep, labels((2, 3), 5), axis=0)


def test_cupy_negative_strides():
    x, y = X[::-1, ::-1], Y[::-1]
    got = value_and_grad(to_device(x), to_device(y), reduction="sum")
    assert min(to_device(x).strides) < 0
    agrees(got, x, y, reduction="sum")


@pytest.mark.parametrize("dtype", DTYPES)
def test_cupy_dtypes(dtype):
    x = logits((4, 5), dtype)
    got = value_and_grad(to_device(x), to_device(P.astype(x.dtype)))
    assert got.grad.dtype == x.dtype and got.lse.dtype == np.float64
    assert got.loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    agrees(got, x, P.astype(x.dtype).astype(float))
    p = fastsce.softmax(to_device(x))
    assert p.dtype == x.dtype
    np.testing.assert_allclose(to_host(p).astype(float).sum(1), 1, 5 * TOLERANCE[dtype])
    assert fastsce.softmax_jacobian(to_device(x[0])).dtype == x.dtype


def test_cupy_empty_batch():
    x, y = to_device(X[:0]), to_device(Y[:0])
    for reduction, loss in (("mean", np.nan), ("sum", 0.0), ("none", np.empty(0))):
        got = value_and_grad(x, y, reduction=reduction)
        np.testing.assert_array_equal(to_host(got.loss), loss)
        assert got.grad.shape == (0, 5) and got.lse.shape == (0,)
    assert fastsce.softmax(x).shape == fastsce.softmax_vjp(x, x).shape == (0, 5)
    assert fastsce.logsumexp(x).shape == (0,)
    assert to_host(fastsce.binary_cross_entropy(x, x, reduction="sum")) == 0


def test_cupy_stream_and_memory_of_its_gpu(streams):
    """Of the GPU that the logits are on, whichever is the current one."""
    with Device(1):
        x, y = to_device(X), to_device(Y)
    got = value_and_grad(x, y)
    assert set(streams) == {(8, False)} and Device.current == 0
    assert {one.device.id for one in got} == {1}
    agrees(got, X)


# --------------------------------------------------------------------------------------------------------- an interface


class NumbaArray(Interface):
    """Stands in for numba's device array."""

    def __init__(self, array, **more):
        super().__init__(array, **more)
        self.gpu_data = SimpleNamespace(context=SimpleNamespace(device=array.device))


NumbaArray.__module__ = "numba.cuda.cudadrv.devicearray"


@pytest.fixture
def numba_arrays(monkeypatch):
    """numba makes arrays on its current GPU; the driver knows whose memory every address is."""
    made = SimpleNamespace(
        device_array=lambda shape, dtype, stream: NumbaArray(empty(shape, dtype), stream=stream or None),
        external_stream=int,
        gpus=[Device(0), Device(1)],
    )
    monkeypatch.setattr("numba.cuda", made, raising=False)
    monkeypatch.setattr(device, "index_of", lambda address: 0)


def read_interface(a):
    assert isinstance(a, NumbaArray)
    return to_host(a.array)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [2, 3])
def test_interface(numba_arrays, version, order):
    """What only has one is answered in numba's arrays."""
    x, y = (Interface(to_device(a), version, read_only=True) for a in (np.array(X, order=order), Y))
    assert (x.__cuda_array_interface__["strides"] is None) == (order == "C")
    agrees(value_and_grad(x, y), X, read=read_interface)


@pytest.mark.parametrize("dtype", DTYPES)
def test_numba_arrays(numba_arrays, dtype):
    """Of the GPU that they say, in place too."""
    x = logits((4, 5), dtype)
    with Device(1):
        given, target = NumbaArray(to_device(x)), NumbaArray(to_device(Y))
    got = value_and_grad(given, target)
    assert {arrays.device_of(one) for one in got} == {"cuda:1"}
    agrees(got, x, read=read_interface)
    got = value_and_grad(given, target, out=given)
    assert got.grad is given
    agrees(got, x, read=read_interface)


@pytest.mark.parametrize(("named", "stream"), [({"stream": 5}, 5), ({"stream": 1}, 1), ({"stream": None}, 0), ({}, 0)])
def test_interface_stream(numba_arrays, streams, named, stream):
    """The logits' own serves the whole call, and the answers name it."""
    x, y, w = Interface(to_device(X), **named), Interface(to_device(Y), stream=9), to_device(np.ones(5))
    got = value_and_grad(x, y, weight=w)
    assert set(streams) == {(stream, False)}
    assert {one.__cuda_array_interface__["stream"] or 0 for one in got} == {stream}


def test_interface_refusals(numba_arrays, monkeypatch):
    x, y = Interface(to_device(X)), Interface(to_device(Y))
    locked = Interface(to_device(X), read_only=True)
    refused(ValueError, "out is read-only; pass a writable array", value_and_grad, x, y, out=locked)
    masked = Interface(to_device(X), mask=x)
    refused(TypeError, "masked arrays are not supported", value_and_grad, masked, y)
    monkeypatch.setattr(device, "index_of", lambda address: int(address == y.array.data.ptr))
    message = "target is on cuda:1, but the logits are on cuda:0; move one of them"
    refused(TypeError, message, value_and_grad, x, y)


# ------------------------------------------------------------------------------------- what fits together, and what not


def test_two_gpus():
    with Device(1):
        far = to_device(Y), to_device(X)
    message = "is on cuda:1, but the logits are on cuda:0; move one of them"
    refused(TypeError, f"target {message}", value_and_grad, to_device(X), far[0])
    refused(TypeError, f"out {message}", value_and_grad, to_device(X), to_device(Y), out=far[1])
    refused(TypeError, f"v {message}", fastsce.softmax_vjp, to_device(X), far[1])


def test_arrays_of_the_cpu():
    x, y = to_device(X), to_device(Y)
    message = "is on cpu, but the logits are on cuda:0; move one of them"
    refused(TypeError, f"target {message}", value_and_grad, x, Y)
    refused(TypeError, f"weight {message}", value_and_grad, x, y, weight=np.ones(5))
    refused(TypeError, f"lse {message}", fastsce.cross_entropy_backward, x, y, [0.0] * 4)
    refused(TypeError, f"out {message}", value_and_grad, x, y, out=X.copy())
    refused(TypeError, "target is on cuda:0, but the logits are on cpu", value_and_grad, X, y)
    for backend in ("cpu", "reference"):
        message = f"backend {backend!r} works on cpu arrays, but the logits are on cuda:0"
        refused(TypeError, message, value_and_grad, x, y, backend=backend)
        refused(TypeError, message, fastsce.binary_cross_entropy, x, x, backend=backend)
    refused(TypeError, "backend 'cuda' works on cuda arrays", value_and_grad, X, Y, backend="cuda")


@pytest.mark.parametrize("two", [2, 2.0, np.float32(2), np.int8(2)])
def test_numbers_go_anywhere(two):
    x, y, p = to_device(X), to_device(Y), to_device(P)
    got = value_and_grad(x, y, grad_output=two, z_loss=two, logit_scale=two, denominator=two)
    agrees(got, X, grad_output=2.0, z_loss=2.0, logit_scale=2.0, denominator=2.0)
    every = {"weight": two, "pos_weight": two, "sample_weight": two, "grad_output": two}
    got = fastsce.binary_cross_entropy_value_and_grad(x, p, **every)
    truth = fastsce.binary_cross_entropy_value_and_grad(X, P, backend="reference", **dict.fromkeys(every, 2.0))
    np.testing.assert_allclose(to_host(got.loss), truth.loss, 1e-6)
    np.testing.assert_allclose(to_host(got.grad), truth.grad, 2e-6, 2e-6)


def test_a_number_on_the_gpu():
    x, y, two = to_device(X), to_device(Y), to_device(np.float32(2))
    agrees(value_and_grad(x, y, grad_output=two), X, grad_output=2.0)
    got = fastsce.binary_cross_entropy_value_and_grad(x, to_device(P), weight=two, grad_output=two)
    truth = fastsce.binary_cross_entropy_value_and_grad(X, P, backend="reference", weight=2.0, grad_output=2.0)
    np.testing.assert_allclose(to_host(got.grad), truth.grad, 2e-6, 2e-6)


def test_misaligned(numba_arrays):
    """Addresses and strides that are no multiple of the numbers' size."""
    x, y = to_device(X), to_device(Y)
    memory = ndarray(np.ndarray((4, 4), np.float32, allocate(68), 1))
    message = f"an array of float32 at address {memory.data.ptr:#x} is not aligned to its numbers; pass a copy of it"
    refused(ValueError, message, fastsce.softmax, memory)
    refused(ValueError, message, fastsce.softmax, Interface(memory))
    refused(ValueError, "is not aligned to its numbers", value_and_grad, x, y, out=memory)
    odd = ndarray(np.ndarray((4, 5), BFLOAT16, allocate(64), 0, (11, 2)))
    refused(ValueError, "an array of bfloat16 at address", value_and_grad, odd, y)
    release(memory.data.ptr - 1)
    release(odd.data.ptr)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (lambda a: a, "arrays of float8_e4m3fn are not supported; convert to float32"),
        (Interface, "logits must be float32, float64, float16 or bfloat16, got |V1"),
    ],
    ids=["CuPy", "interface"],
)
def test_unsupported_dtypes(numba_arrays, kind, message):
    x, y, p = kind(to_device(X)), kind(to_device(Y)), kind(to_device(P))
    small = kind(to_device(X.astype(ml_dtypes.float8_e4m3fn)))
    swapped = [kind(to_device(a.astype(a.dtype.newbyteorder()))) for a in (X, Y, P)]
    wave = kind(to_device(X.astype(np.complex64)))
    whole = kind(to_device(np.ones((4, 5), np.int32)))
    for call, other in ((value_and_grad, y), (fastsce.binary_cross_entropy, p)):
        refused(TypeError, message, call, small, other)
        refused(TypeError, "logits must be float32, float64, float16 or bfloat16, got complex64", call, wave, other)
        refused(TypeError, "logits must be float32, float64, float16 or bfloat16, got int32", call, whole, other)
        refused(TypeError, "of the other byte order, are not supported; convert to float32", call, swapped[0], other)
    refused(TypeError, "of the other byte order, are not supported; convert to int64", value_and_grad, x, swapped[1])
    refused(TypeError, "of the other byte order, are not supported; convert to float32", value_and_grad, x, swapped[2])
    refused(TypeError, "target of dtype complex64 cannot be used; convert it", value_and_grad, x, wave)
    flags = kind(to_device(np.ones(4, bool)))
    refused(TypeError, "class indices must be integers, got a target of dtype bool", value_and_grad, x, flags)


# -------------------------------------------------------------------------------------------------------------- `out`


@pytest.mark.parametrize("x", [X, np.asfortranarray(X), X[::-1, ::-1]], ids=["C", "F", "backwards"])
def test_in_place(x):
    """On the logits exactly, also through another array on the same memory."""
    for view in (lambda a: a, lambda a: a[:]):
        given = to_device(x)
        out = view(given)
        got = value_and_grad(given, to_device(Y), out=out)
        assert got.grad is out
        agrees(got, x)
        given = to_device(x)
        out = view(given)
        fastsce.binary_cross_entropy_value_and_grad(given, to_device(P), out=out)
        truth = fastsce.binary_cross_entropy_value_and_grad(x, P, backend="reference").grad
        np.testing.assert_allclose(to_host(out), truth, 1e-5)


def test_out_on_an_input():
    """In part on the logits, or on another input at all: refused with nothing written."""
    whole = to_device(np.arange(60, dtype=np.float32).reshape(12, 5))
    x, soft, y = whole[:4], whole[6:10], to_device(Y)
    kept = to_host(whole)
    part = "out overlaps the logits in part; pass the logits themselves, or memory apart from them"
    for out in (whole[1:5], x[::-1], whole[3:7]):
        refused(ValueError, part, value_and_grad, x, y, out=out)
        refused(ValueError, part, fastsce.binary_cross_entropy_value_and_grad, x, soft, out=out)
    for out in (soft, whole[7:11]):
        refused(ValueError, "out overlaps target, which would be overwritten", value_and_grad, x, soft, out=out)
    for name in ("weight", "pos_weight", "sample_weight"):
        message = f"out overlaps {name}, which would be overwritten"
        call = fastsce.binary_cross_entropy_value_and_grad
        refused(ValueError, message, call, x, whole[:4], out=soft, **{name: soft})
    pair = fastsce.cross_entropy_grad_and_hess
    refused(ValueError, "the two arrays of out overlap; pass memory apart", pair, x, y, out=(soft, soft))
    refused(ValueError, "out of shape (5, 5) must have the logits' shape", value_and_grad, x, y, out=whole[5:10])
    assert np.array_equal(to_host(whole), kept)
    agrees(value_and_grad(x, y, out=soft), kept[:4])


def test_weights_may_be_overwritten():
    """The class weights are copied before anything is written, so `out` may lie on them."""
    whole = to_device(np.vstack([X, X]))
    x, out = whole[:4], whole[4:]
    weight = np.abs(to_host(whole)[4])
    whole.host[4] = weight
    agrees(value_and_grad(x, to_device(Y), weight=whole[4], out=out), X, weight=weight.astype(float))
