"""The host's side of a call on a GPU: it looks at no number there, launches little, and waits for nothing unasked."""

import copy
import functools
import itertools
import json
import operator
import pickle
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import simulator
import standins
from cases import DTYPES, labels, logits

import fastsce

# ------------------------------------------------------------------- memory that nobody may look at, in another process

CHILD = """
import test_cuda_host
test_cuda_host.hide()
{}
"""


def child(code):
    """Run it where the memory of GPU arrays can be neither read nor written."""
    command = [sys.executable, "-W", "error", "-c", CHILD.format(code)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)


def hide():
    """In the child: every allocation is a part of pages without any access, and launches are only written down."""
    import mmap

    pages = mmap.mmap(-1, 1 << 28, prot=0)
    start = np.frombuffer(pages, np.uint8).__array_interface__["data"][0]
    places = itertools.cycle(range(start, start + (1 << 28), 1 << 20))

    def allocate(size):
        data = (next(places), False)
        interface = {"version": 3, "data": data, "shape": (size,), "typestr": "|u1"}
        return np.asarray(SimpleNamespace(__array_interface__=interface, pages=pages))

    standins.allocate, standins.release = allocate, lambda address: None
    simulator.launcher.run, simulator.launcher.read = run, read
    simulator.install()
    standins.install()


def run(function, job, grid, block, home, *more):
    home.stream()
    simulator.launcher.launched.append(function.__name__)


def read(pointer, home):
    """No label is bad."""
    simulator.launcher.launched.append("read")
    return -1.0


def hidden(shape, dtype="float32", layout=np.asarray):
    return standins.empty_like(layout(np.zeros(shape, DTYPES.get(dtype, dtype))))


LAYOUTS = {
    "C": np.asarray,
    "F": np.asfortranarray,
    "backwards": lambda a: a[(slice(None, None, -1),) * a.ndim],
    "repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "spread": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
}
SHAPES = [((4, 5), -1), ((4, 5), 0), ((2, 3, 4, 300), -1), ((2, 3, 4, 5), 1), ((5,), 0), ((0, 5), -1)]
INTEGERS = [kind + bits for kind in ("int", "uint") for bits in ("8", "16", "32", "64")]
FACTORS = ["float32", "bfloat16", "int8", "bool"]
REDUCTIONS = [{}, {"reduction": "sum"}, {"reduction": "none"}, {"denominator": 3.0}]


def everything():
    """Every public function with every option, dtype and layout; prints how often each was called."""
    done = Counter()
    for (shape, axis), layout, dtype in itertools.product(SHAPES, LAYOUTS.values(), DTYPES):
        if layout is not np.asarray and dtype in ("float64", "float16"):
            continue  # a size more and a size again would only take longer
        x = hidden(shape, dtype, layout if shape[0] else np.asarray)
        for call, *args, given in (*softmaxes(x, axis), *losses(x, axis, layout), *binaries(x, layout)):
            del simulator.launcher.launched[:]
            repr(call(*args, **given))
            assert ("read" in simulator.launcher.launched) <= ("check_targets" in given), (call, given)
            done[call.__name__] += 1
    print(json.dumps(done))


def softmaxes(x, axis):
    for call in (fastsce.softmax, fastsce.log_softmax, fastsce.logsumexp):
        yield call, x, {"axis": axis}
    yield fastsce.softmax_vjp, x, hidden(x.shape, x.dtype), {"axis": axis}
    if x.ndim == 1:
        yield fastsce.softmax_jacobian, x, {}


def losses(x, axis, layout):
    rows = x.shape[:axis] + x.shape[axis % x.ndim + 1 :]
    layout = layout if rows and rows[0] else np.asarray
    targets = [hidden(rows, kind, layout) for kind in INTEGERS]
    targets += [hidden(x.shape, kind) for kind in (*DTYPES, "int8", "bool")]
    each = hidden(rows, "float32", layout)
    for target, reduction in itertools.product(targets, REDUCTIONS):
        yield fastsce.cross_entropy_value_and_grad, x, target, {"axis": axis, **reduction}
    labels, soft = targets[0], targets[-1]
    factors = [{"weight": hidden(x.shape[axis], kind), "sample_weight": hidden(rows, kind, layout)} for kind in FACTORS]
    laws = [{"label_smoothing": 0.1}, {"z_loss": 0.1, "logit_scale": 2.0}, {"softcap": 5.0}, {"check_targets": True}]
    ups = [{"grad_output": 2.0}, {"grad_output": hidden(())}, {"grad_output": each, "reduction": "none"}]
    for target, given in itertools.product((labels, soft), (*factors, *laws, *ups)):
        given = {"axis": axis, **given}
        lse = hidden(rows, "float64", layout)
        yield fastsce.cross_entropy_value_and_grad, x, target, {"out": hidden(x.shape, x.dtype), **given}
        yield fastsce.cross_entropy_backward, x, target, lse, given
        upstream = given.pop("grad_output", None)
        yield fastsce.cross_entropy, x, target, given
        if not {"z_loss", "softcap"} & given.keys():
            yield fastsce.cross_entropy_grad_and_hess, x, target, {"grad_output": upstream, **given}


def binaries(x, layout):
    layout = layout if x.shape[0] else np.asarray
    calls = fastsce.binary_cross_entropy_value_and_grad, fastsce.binary_cross_entropy_grad_and_hess
    for kind in (*DTYPES, "int8", "bool"):
        target = hidden(x.shape, kind, layout)
        for reduction in REDUCTIONS:
            yield fastsce.binary_cross_entropy, x, target, reduction
    for kind, call in itertools.product(FACTORS, calls):
        factors = {
            "weight": hidden(x.shape, kind, layout),
            "pos_weight": hidden(x.shape[-1:], kind),
            "sample_weight": hidden(x.shape[:1], kind),
        }
        each = {"grad_output": hidden(x.shape, kind, layout), "reduction": "none"}
        for given in (factors, {"grad_output": 2.0, "weight": 0.5}, {"grad_output": hidden((), kind)}, each):
            yield call, x, target, given


def refusals():
    """The messages of refused calls; none may hold a number of an array."""
    x, y, p = hidden((4, 5)), hidden((4,), "int64"), hidden((4, 5))
    bad = [
        (x, hidden((3,), "int64"), {}),
        (x, hidden((4,)), {}),
        (hidden((4, 5), "int32"), y, {}),
        (hidden(()), y, {}),
        (x, y, {"weight": hidden((4,))}),
        (x, y, {"sample_weight": hidden((5,))}),
        (x, y, {"sample_weight": hidden((4,), "complex64")}),
        (x, y, {"grad_output": hidden((4,))}),
        (x, y, {"grad_output": np.ones(4)}),
        (x, y, {"out": hidden((5, 4))}),
        (x, y, {"out": hidden((4, 5), "bfloat16")}),
        (x, y, {"out": x[::-1]}),
        (x, p, {"out": p}),
        (x, p, {"ignore_index": 3}),
        (x, y, {"label_smoothing": p}),
        (x, y, {"axis": p}),
        (x, y, {"ignore_index": p}),
    ]
    messages = []
    for logits_, target, given in bad:
        try:
            fastsce.cross_entropy_value_and_grad(logits_, target, **given)
        except (TypeError, ValueError) as error:
            messages.append(str(error))
    a = fastsce.arrays.view_of(hidden((4, 5), "bfloat16"))
    messages += [f"{a}", f"{a[0, ..., 0]!s}", repr(a[:1])]
    print(json.dumps(messages))


@pytest.mark.skipif(sys.platform == "win32", reason="pages without access are made in another way there")
def test_no_number_is_looked_at():
    """A look at one ends the process."""
    crash = child("test_cuda_host.hidden((3,)).host.sum()")
    assert crash.returncode == -signal.SIGSEGV or crash.returncode == -signal.SIGBUS, crash.stderr
    found = child("test_cuda_host.everything()")
    assert found.returncode == 0, found.stderr
    names = {name for name in fastsce.__all__ if "cross_entropy" in name or "softmax" in name or name == "logsumexp"}
    done = json.loads(found.stdout)
    assert done.keys() == names and min(done.values()) >= 12


@pytest.mark.skipif(sys.platform == "win32", reason="pages without access are made in another way there")
def test_no_message_holds_a_number_of_the_gpu():
    found = child("test_cuda_host.refusals()")
    assert found.returncode == 0, found.stderr
    messages = json.loads(found.stdout)
    assert len(messages) == 20
    assert messages[-3:] == [
        "<bfloat16 array of shape (4, 5) on GPU 0>",
        "<bfloat16 array of shape () on GPU 0>",
        "<bfloat16 array of shape (1, 5) on GPU 0>",
    ]


READINGS = [
    float,
    bool,
    list,
    copy.copy,
    copy.deepcopy,
    pickle.dumps,
    np.copy,
    np.sum,
    lambda a: np.concatenate([a, a]),
    lambda a: operator.setitem(a, 0, 1.0),
    lambda a: a == a,
    lambda a: a + 1,
    lambda a: 1 in a,
    lambda a: np.array_equal(a, a),
    lambda a: a.astype(float),
    lambda a: a.item(),
    lambda a: a.tolist(),
    lambda a: a.copy(),
    lambda a: a.max(),
    lambda a: a.flatten(),
]


@pytest.mark.parametrize("reading", READINGS)
def test_views_are_not_read(reading):
    """What NumPy would do with their numbers is an error."""
    kept = standins.to_device(X[0, :1])
    with pytest.raises(TypeError, match=r"the memory of a GPU cannot be read|does not support ufuncs"):
        reading(fastsce.arrays.view_of(kept))


# ------------------------------------------------------------------------------------------- what a call launches


X, Y = logits((4, 5)), labels((4,), 5)
LAUNCHES = [
    (fastsce.cross_entropy_value_and_grad, {}, ["scan", "kernel", "sum_up"]),
    (fastsce.cross_entropy, {}, ["scan", "kernel", "sum_up"]),
    (fastsce.cross_entropy_value_and_grad, {"denominator": 4.0}, ["kernel", "sum_up"]),
    (fastsce.cross_entropy_value_and_grad, {"reduction": "sum"}, ["kernel", "sum_up"]),
    (fastsce.cross_entropy_value_and_grad, {"reduction": "none"}, ["kernel", "convert"]),
    (fastsce.cross_entropy_grad_and_hess, {"reduction": "sum"}, ["kernel"]),
    (fastsce.cross_entropy, {"check_targets": True}, ["scan", "read", "kernel", "sum_up"]),
    (
        fastsce.cross_entropy,
        {"check_targets": True, "denominator": 4.0},
        ["scan", "read", "kernel", "sum_up"],
    ),
]


@pytest.fixture
def launched(monkeypatch):
    """The kernels of the calls so far, and `read`, which waits."""
    from fastsce.backends import cuda

    seen = []
    for module, name in itertools.product((cuda, cuda.chores), ("run", "read")):
        real = getattr(module, name)

        def noted(first, *rest, real=real, name=name):
            seen.append(name if name == "read" else first.__name__)
            return real(first, *rest)

        monkeypatch.setattr(module, name, noted)
    return seen


@pytest.mark.parametrize(("call", "given", "names"), LAUNCHES)
def test_launches(launched, call, given, names):
    call(standins.to_device(X), standins.to_device(Y), **given)
    assert launched == names


def test_launches_of_others(launched):
    x, p = standins.to_device(X), standins.to_device(abs(X))
    for call, args, names in (
        (fastsce.softmax, [x], ["kernel"]),
        (fastsce.log_softmax, [x], ["kernel"]),
        (fastsce.logsumexp, [x], ["kernel", "mend", "convert"]),
        (fastsce.softmax_vjp, [x, x], ["softmax_vjp"]),
        (fastsce.cross_entropy_value_and_grad, [x, p], ["kernel", "sum_up"]),
        (fastsce.binary_cross_entropy_value_and_grad, [x, p], ["binary", "sum_up"]),
    ):
        launched.clear()
        call(*args)
        assert launched == names, call


# --------------------------------------------------------------------------------------------------------- bad labels


reference = functools.partial(fastsce.cross_entropy, backend="reference")


def text(call, *args, **given):
    with pytest.raises(IndexError) as caught:
        call(*args, **given)
    return str(caught.value)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_bad_labels_are_told_as_on_a_cpu(dtype):
    """If they are to be checked; the first bad row, its label exactly, the range. Nothing is written."""
    limits = np.iinfo(dtype)
    for value in (5, 100, limits.max, limits.max - 2, limits.min, -1):
        if 0 <= value < 5 or not limits.min <= value <= limits.max:
            continue
        y = np.array([0, 4, value, value], dtype)
        x, out = standins.to_device(X), standins.to_device(X * 0)
        for target in (y, y[::-1], np.repeat(y, 2)[::2]):
            given = {"out": out, "check_targets": True}
            found = text(fastsce.cross_entropy_value_and_grad, x, standins.to_device(target), **given)
            assert found == text(reference, X, target)
        assert not standins.to_host(out).any()
    assert np.isfinite(standins.to_host(fastsce.cross_entropy(x, standins.to_device(y * 0), check_targets=True)))


def test_bad_labels_in_more_axes():
    x, y = logits((2, 5, 3)), labels((2, 3), 5)
    y[1, 2] = -7
    x_, y_ = standins.to_device(x), standins.to_device(y)
    found = text(fastsce.cross_entropy, x_, y_, axis=1, ignore_index=-1, check_targets=True)
    assert found == text(reference, x, y, axis=1, ignore_index=-1)
    assert "target[1, 2] is -7" in found
    ok = fastsce.cross_entropy(x_, y_, axis=1, ignore_index=-7, check_targets=True)
    np.testing.assert_allclose(standins.to_host(ok), reference(x, y, axis=1, ignore_index=-7), 1e-6)


def test_bad_labels_unchecked():
    """Their rows say so."""
    got = fastsce.cross_entropy_value_and_grad(
        standins.to_device(X), standins.to_device(np.array([0, 5, -1, 4])), reduction="none"
    )
    assert np.isnan(standins.to_host(got.loss)).tolist() == [False, True, True, False]
    assert standins.to_host(got.grad).any(1).tolist() == [True, False, False, True]
