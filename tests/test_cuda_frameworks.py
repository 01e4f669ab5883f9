"""PyTorch's tensors and JAX's arrays on a GPU, by stand-ins: zero copy, the right stream, answers of their own kind."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest
from answers import TOLERANCE, P, X, Y, agrees, value_and_grad
from cases import DTYPES, labels, logits
from expect import refused
from simulator import allocate, release
from standins import BFLOAT16, empty, to_device, to_host

import fastsce
from fastsce import arrays

# ------------------------------------------------------------------------------------------------------------- PyTorch


@pytest.fixture
def torch(monkeypatch):
    """torch with two GPUs, and what of it the tests ask for; `made` are the tensors that the package asked for."""
    lib = pytest.importorskip("torch")
    memories = []

    class First(lib.Tensor):
        index = 0

        @property
        def device(self):
            return lib.device("cuda", self.index)

    class Second(First):
        index = 1

    def new(shape, *, dtype, device):
        assert device.type == "cuda"
        memories.append(allocate(int(np.prod(shape)) * dtype.itemsize))
        raw = np.ndarray(shape, f"i{dtype.itemsize}", memories[-1])
        return lib.from_numpy(raw).view(dtype).as_subclass([First, Second][device.index])

    def to(a, index=0):
        plain = lib.from_numpy(np.ascontiguousarray(a).view(np.int16 if a.dtype == BFLOAT16 else a.dtype))
        plain = plain.view(lib.bfloat16) if a.dtype == BFLOAT16 else plain
        made = new(a.shape, dtype=plain.dtype, device=lib.device("cuda", index))
        made.as_subclass(lib.Tensor).copy_(plain)
        return made

    def empty(*args, **given):
        made.append(new(*args, **given))
        return made[-1]

    def read(t):
        assert isinstance(t, First)
        return t.detach().as_subclass(lib.Tensor).double().numpy()

    made = []
    monkeypatch.setattr(lib, "empty", empty)
    monkeypatch.setattr(lib.cuda, "current_stream", lambda index: SimpleNamespace(cuda_stream=40 + index))
    yield SimpleNamespace(lib=lib, to=to, read=read, made=made)
    for memory in memories:
        release(memory.ctypes.data)


@pytest.mark.parametrize("dtype", DTYPES)
def test_torch_answers(torch, dtype):
    """Each is a tensor on the memory that a kernel wrote, and there is one of the logits' size."""
    x = logits((4, 5), dtype)
    given = torch.to(x)
    got = value_and_grad(given, torch.to(Y))
    assert got.grad.dtype == given.dtype and got.lse.dtype == torch.lib.float64
    assert got.loss.dtype == (torch.lib.float64 if dtype == "float64" else torch.lib.float32)
    places = [t.data_ptr() for t in torch.made]
    assert {one.data_ptr() for one in got} <= set(places)
    assert [t.data_ptr() for t in torch.made if t.shape == given.shape] == [got.grad.data_ptr()]
    agrees(got, x, read=torch.read)
    again = fastsce.cross_entropy_backward(given, torch.to(Y), got.lse)
    np.testing.assert_allclose(torch.read(again), torch.read(got.grad), TOLERANCE[dtype], TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_out(torch, dtype):
    x = logits((4, 5), dtype)
    for given in (torch.to(x), torch.to(x).requires_grad_(), torch.lib.nn.Parameter(torch.to(x))):
        for out in (torch.to(x * 0), given):
            got = value_and_grad(given, torch.to(Y), out=out)
            assert got.grad is out
            agrees(got, x, read=torch.read)
    assert not [t for t in torch.made if t.shape == x.shape]


def test_torch_layouts(torch):
    for x in (torch.to(X.T).t(), torch.to(X[:1]).expand(4, 5), torch.to(X[:, :1]).expand(4, 5)):
        host = torch.read(x).astype(np.float32)
        agrees(value_and_grad(x, torch.to(Y)), host, read=torch.read)
    x, y = torch.to(logits((2, 3, 5))), torch.to(np.repeat(labels((2, 3), 5), 2, axis=1))
    got = value_and_grad(x.permute(0, 2, 1), y[:, ::2], axis=1)
    assert got.grad.stride() == x.permute(0, 2, 1).stride()
    agrees(got, np.moveaxis(logits((2, 3, 5)), 2, 1), labels((2, 3), 5), axis=1, read=torch.read)


def test_torch_stream(torch, streams):
    """The caller's current one, of the GPU that the logits are on."""
    for index in (0, 1):
        streams.clear()
        got = value_and_grad(torch.to(X, index), torch.to(Y, index))
        assert set(streams) == {(40 + index, False)}
        assert {arrays.device_of(one) for one in got} == {f"cuda:{index}"}
    streams.clear()
    got = value_and_grad(torch.to(X), to_device(Y.astype(np.int32)), weight=to_device(np.ones(5)))
    assert set(streams) == {(40, False)}  # whatever library the other arrays are of
    agrees(got, X, read=torch.read)


def test_torch_refusals(torch):
    x, y = torch.to(X), torch.to(Y)
    message = "target is on cuda:1, but the logits are on cuda:0; move one of them"
    refused(TypeError, message, value_and_grad, x, torch.to(Y, 1))
    refused(TypeError, "target is on cpu, but the logits are on cuda:0", value_and_grad, x, torch.lib.from_numpy(Y))
    locked = torch.to(X[:1]).expand(4, 5)
    refused(ValueError, "out of strides (0, 4) overlaps itself", value_and_grad, x, y, out=locked)
    refused(TypeError, "got complex64; convert it to float32", fastsce.softmax, torch.to(X.astype(np.complex64)))
    small = torch.to(X).to(torch.lib.float8_e4m3fn)
    refused(TypeError, "arrays of float8_e4m3fn are not supported; convert to float32", fastsce.softmax, small)
    negated = torch.to(X.astype(np.complex64)).conj().imag
    refused(TypeError, "call .resolve_neg()", fastsce.softmax, negated)


# ----------------------------------------------------------------------------------------------------------------- JAX


class Gpu(NamedTuple):
    local_hardware_id: int
    platform: str = "gpu"


class JaxArray:
    """Stands in for a JAX array on a GPU."""

    def __init__(self, array, gpus=1):
        assert array.host.flags.c_contiguous  # as all of JAX's are
        self.array, self.shape, self.dtype, self.gpus = array, array.shape, array.dtype, gpus
        self.ready = 0  # how often somebody has waited for it

    def devices(self):
        return {Gpu(self.array.device.id + i) for i in range(self.gpus)}

    def unsafe_buffer_pointer(self):
        assert self.ready
        return self.array.data.ptr

    def block_until_ready(self):
        self.ready += 1
        return self


JaxArray.__module__ = "jaxlib._jax"


@pytest.fixture
def jax(monkeypatch):
    jax = pytest.importorskip("jax")

    def make(shape, dtype, *, device):
        assert device.platform == "gpu"
        assert jax.dtypes.canonicalize_dtype(dtype) == dtype  # else JAX warns, and gives another
        return JaxArray(empty(shape, dtype))

    monkeypatch.setattr("jax.numpy.empty", make)
    return jax


def read_jax(a):
    assert isinstance(a, JaxArray)
    return to_host(a.array)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_jax_answers(jax, streams, dtype):
    """Without x64 lse is float32, and so is all else that JAX would narrow; every launch is waited for."""
    x = logits((4, 5), dtype)
    given, target = JaxArray(to_device(x)), JaxArray(to_device(Y.astype(np.int32)))
    got = value_and_grad(given, target)
    assert [one.dtype for one in got] == [np.float32, x.dtype, np.float32]
    assert set(streams) == {(arrays.OWN_STREAM, True)}
    agrees(got, x, read=read_jax)
    grad = fastsce.cross_entropy_backward(given, target, got.lse)
    np.testing.assert_allclose(read_jax(grad).astype(float), read_jax(got.grad).astype(float), TOLERANCE[dtype], 1e-6)
    each = value_and_grad(given, target, sample_weight=JaxArray(to_device(P[:, 0].copy())), reduction="none")
    agrees(each, x, read=read_jax, sample_weight=P[:, 0], reduction="none")
    assert fastsce.logsumexp(given).dtype == np.float32


def test_jax_with_x64(jax):
    with jax.enable_x64(True):
        for dtype in ("float32", "float64"):
            x = logits((4, 5), dtype)
            got = value_and_grad(JaxArray(to_device(x)), JaxArray(to_device(Y)))
            assert [one.dtype for one in got] == [x.dtype, x.dtype, np.float64]
            agrees(got, x, read=read_jax)


def test_jax_refusals(jax):
    x, y = JaxArray(to_device(X)), JaxArray(to_device(Y))
    refused(TypeError, "out of type JaxArray cannot be written into; leave out out", value_and_grad, x, y, out=x)
    message = "spread over several GPUs are not supported; pass each GPU its part"
    refused(TypeError, message, value_and_grad, JaxArray(to_device(X), gpus=2), y)
