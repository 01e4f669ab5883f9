"""What is bad is refused before anything is written, in words that say what is wrong, where, and what to do."""

import numpy as np
import pytest
from cases import DTYPES, logits
from expect import refused

import fastsce

NAN, INF = np.nan, np.inf
X, Y, P = logits((4, 3)), np.array([0, 1, 2, 0]), np.full((4, 3), 0.25, np.float32)
CALLS = [
    fastsce.cross_entropy,
    fastsce.cross_entropy_value_and_grad,
    fastsce.cross_entropy_grad_and_hess,
    lambda x, y, **given: fastsce.cross_entropy_backward(x, y, np.zeros(np.shape(y)[:1]), **given),
]


def value_and_grad(backend, *args, **given):
    return fastsce.cross_entropy_value_and_grad(*args, backend=backend, **given)


# ------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("place", [0, 2, 3])
@pytest.mark.parametrize("label", [3, -1, -99, 2**31, 2**32, -(2**63), 2**63 - 1])
def test_label_out_of_range(backend, label, place):
    """The first bad row, its label and the valid range; not a byte of `out` is written."""
    target, out = Y.copy(), np.full_like(X, 7)
    target[place:] = label
    message = f"target[{place}] is {label}, but class indices run from 0 to 2 (3 classes)"
    for call in CALLS:
        refused(IndexError, message, call, X, target, backend=backend)
    refused(IndexError, message, value_and_grad, backend, X, target, out=out)
    assert (out == 7).all()
    kept = X.copy()
    refused(
        IndexError, "mark rows to leave out with ignore_index=-100", value_and_grad, backend, kept, target, out=kept
    )
    assert np.array_equal(kept, X)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_label_equal_to_the_number_of_classes(backend, dtype):
    refused(IndexError, "target[3] is 3,", value_and_grad, backend, X, np.array([0, 1, 2, 3], dtype))


@pytest.mark.parametrize(("dtype", "label"), [("int8", 127), ("uint8", 255), ("uint16", 65535), ("uint32", 2**32 - 1)])
def test_largest_label_of_a_dtype(backend, dtype, label):
    refused(IndexError, f"target[1] is {label},", value_and_grad, backend, X, np.array([0, label, 0, 0], dtype))


@pytest.mark.parametrize("dtype", ["<u8", ">u8"])
@pytest.mark.parametrize("label", [2**63, 2**64 - 100, 2**64 - 1])
def test_huge_uint64_label(backend, label, dtype):
    """2⁶⁴ − 100 is not ignore_index = −100 in disguise."""
    target = np.array([0, label, 0, 0], dtype)
    refused(IndexError, f"target[1] is {label}, which no class index can be", value_and_grad, backend, X, target)


def test_bad_label_in_a_batch_of_any_shape(backend):
    x, target = logits((2, 3, 4)), np.zeros((2, 4), int)
    target[1, 2] = 9
    refused(IndexError, "target[1, 2] is 9", value_and_grad, backend, x, target, axis=1)
    refused(IndexError, "target[()] is 9", value_and_grad, backend, X[0], 9)
    refused(IndexError, "target[0] is -100", value_and_grad, backend, X[:1], [-100], ignore_index=-1)


def test_bad_label_in_a_later_block(backend):
    """The first of two, far into a batch that many threads share."""
    x, target = np.zeros((100_000, 2), np.float32), np.zeros(100_000, int)
    target[[70_001, 99_999]] = 2
    refused(IndexError, "target[70001] is 2", value_and_grad, backend, x, target)


# ------------------------------------------------------------------------------------------------------------ options

BAD_OPTIONS = [
    ({"ignore_index": 1.5}, TypeError, "ignore_index must be an integer, got 1.5"),
    ({"ignore_index": None}, TypeError, "ignore_index must be an integer, got None"),
    ({"label_smoothing": -0.1}, ValueError, "label_smoothing must lie in [0, 1], got -0.1"),
    ({"label_smoothing": 1.1}, ValueError, "label_smoothing must lie in [0, 1], got 1.1"),
    ({"label_smoothing": NAN}, ValueError, "label_smoothing must lie in [0, 1], got nan"),
    ({"label_smoothing": "a"}, TypeError, "label_smoothing must be a number, got 'a'"),
    ({"label_smoothing": True}, TypeError, "label_smoothing must be a number, got True"),
    ({"label_smoothing": np.zeros(2)}, TypeError, "label_smoothing must be a number, got array([0., 0.])"),
    ({"label_smoothing": np.bool_(True)}, TypeError, "label_smoothing must be a number, got"),
    ({"label_smoothing": np.array("0.5")}, TypeError, "label_smoothing must be a number, got array('0.5'"),
    ({"z_loss": 10**400}, ValueError, "z_loss must fit a float, and is larger"),
    ({"z_loss": -1}, ValueError, "z_loss must be finite and not negative, got -1.0"),
    ({"z_loss": INF}, ValueError, "z_loss must be finite and not negative, got inf"),
    ({"z_loss": None}, TypeError, "z_loss must be a number, got None"),
    ({"softcap": 0}, ValueError, "softcap must be finite and positive, or None for no cap, got 0.0"),
    ({"softcap": INF}, ValueError, "softcap must be finite and positive, or None for no cap, got inf"),
    ({"softcap": 1j}, TypeError, "softcap must be a number, got 1j"),
    ({"softcap": np.complex64(1)}, TypeError, "softcap must be a number, got"),
    ({"logit_scale": 0}, ValueError, "logit_scale must be finite and positive, got 0.0"),
    ({"logit_scale": -1.5}, ValueError, "logit_scale must be finite and positive, got -1.5"),
    ({"logit_scale": NAN}, ValueError, "logit_scale must be finite and positive, got nan"),
    (
        {"logit_scale": 1e-46},
        ValueError,
        "logit_scale = 1e-46 is out of the range of float32, in which float32 logits are",
    ),
    ({"reduction": "avg"}, ValueError, "reduction must be one of 'none', 'mean', 'sum', got 'avg'"),
    ({"reduction": None}, ValueError, "reduction must be one of 'none', 'mean', 'sum', got None"),
    ({"denominator": 0}, ValueError, "denominator must be finite and positive, got 0.0"),
    ({"denominator": NAN}, ValueError, "denominator must be finite and positive, got nan"),
    ({"denominator": 2, "reduction": "sum"}, ValueError, "denominator goes with reduction='mean', got reduction='sum'"),
    ({"axis": 1.0}, TypeError, "axis must be an integer, got 1.0"),
    ({"axis": 2}, ValueError, "axis 2 is out of range for logits with 2 axes; use -2 to 1"),
    ({"axis": -3}, ValueError, "axis -3 is out of range for logits with 2 axes; use -2 to 1"),
    ({"backend": "gpu"}, ValueError, "backend must be None or one of 'cpu', 'reference', 'cuda', got 'gpu'"),
    ({"backend": "cuda"}, TypeError, "backend 'cuda' works on cuda arrays, but the logits are on cpu"),
]


@pytest.mark.parametrize(("given", "error", "message"), BAD_OPTIONS)
def test_bad_option(backend, given, error, message):
    for call in CALLS:
        refused(error, message, call, X, Y, **{"backend": backend, **given})


def test_softcaps_beyond_float32(backend):
    """Where logits are worked on in it."""
    for softcap, scale, name in (
        (1e39, 1.0, "softcap = 1e+39"),
        (1e-46, 1.0, "softcap = 1e-46"),
        (0.25, 1e38, "logit_scale / softcap = 4e+38"),
        (32.0, 1e-45, "logit_scale / softcap = 3.125e-47"),
    ):
        given = {"softcap": softcap, "logit_scale": scale}
        for dtype in ("float32", "float16"):
            message = (
                f"{name} is out of the range of float32, in which {dtype} logits are computed: 1.18e-38 to 3.4e+38"
            )
            refused(ValueError, message, value_and_grad, backend, np.ones((1, 3), dtype), np.array([0]), **given)
        assert np.isclose(fastsce.cross_entropy(np.ones((1, 3)), np.array([0]), **given, backend=backend), np.log(3))


def test_options_are_told_apart_by_their_types(backend):
    """Numbers that are equal and are not the same: what is refused stays refused after its twin was taken."""
    for good, bad in ((1.0, True), (0, False), (np.array(0.5), np.array([0.5]))):
        value_and_grad(backend, X, Y, label_smoothing=good)
        refused(TypeError, "label_smoothing must be a number", value_and_grad, backend, X, Y, label_smoothing=bad)
    value_and_grad(backend, X, Y, ignore_index=-1)
    refused(TypeError, "ignore_index must be an integer", value_and_grad, backend, X, Y, ignore_index=-1.0)


def test_an_option_that_changes(backend):
    """A zero-dimensional array is read at each call."""
    smoothing = np.array(0.0)
    plain = value_and_grad(backend, X, Y, label_smoothing=smoothing)
    smoothing[()] = 0.5
    found = value_and_grad(backend, X, Y, label_smoothing=smoothing)
    assert found.loss == value_and_grad(backend, X, Y, label_smoothing=0.5).loss != plain.loss
    assert value_and_grad(backend, X, Y, label_smoothing=-0.0, z_loss=-0.0).loss == plain.loss


def test_options_of_the_hessian(backend):
    message = "the Hessian's diagonal is defined for z_loss=0 and softcap=None only; leave both out"
    for given in ({"z_loss": 0.1}, {"softcap": 5}):
        refused(ValueError, message, fastsce.cross_entropy_grad_and_hess, X, Y, backend=backend, **given)


def test_binary_options(backend):
    for given, error, message in BAD_OPTIONS:
        if given.keys() <= {"reduction", "denominator", "backend"}:
            refused(error, message, fastsce.binary_cross_entropy, X, P, **{"backend": backend, **given})


# --------------------------------------------------------------------------------------------------- shapes and dtypes

FITS_NEITHER = "fits neither class indices, shape (4,), nor class probabilities, shape (4, 3)"
BAD_ARRAYS = [
    ((X, Y[:3]), {}, ValueError, f"target of shape (3,) {FITS_NEITHER}"),
    ((X, P.T), {}, ValueError, f"target of shape (3, 4) {FITS_NEITHER}, for logits of shape (4, 3)"),
    ((X, P[:, :1]), {}, ValueError, "target of shape (4, 1)"),
    ((X, Y.astype(float)), {}, TypeError, "class indices must be integers, got a target of dtype float64; cast it to"),
    ((X, Y.astype(bool)), {}, TypeError, "class indices must be integers, got a target of dtype bool"),
    ((X, Y.astype(DTYPES["bfloat16"])), {}, TypeError, "got a target of dtype bfloat16; cast it to int64"),
    ((X, P.astype(complex)), {}, TypeError, "target of dtype complex128 cannot be used; convert it with .astype"),
    ((X, P.astype(np.longdouble)), {}, TypeError, f"target of dtype {np.dtype(np.longdouble)} cannot be used"),
    ((X, P.astype(">f4")), {}, TypeError, "target of dtype >f4 cannot be used"),
    ((X, P), {"ignore_index": 0}, ValueError, "ignore_index=0 has no meaning for class probabilities"),
    (
        (X.astype(int), Y),
        {},
        TypeError,
        "logits must be float32, float64, float16 or bfloat16, got int64; convert it to float32",
    ),
    ((X.astype(complex), Y), {}, TypeError, "logits must be float32, float64, float16 or bfloat16, got complex128"),
    ((X.astype(">f4"), Y), {}, TypeError, "logits must be float32, float64, float16 or bfloat16, got >f4"),
    ((X.astype(np.longdouble), Y), {}, TypeError, f"got {np.dtype(np.longdouble)}"),
    ((np.array([["a"]]), [0]), {}, TypeError, "logits must be float32, float64, float16 or bfloat16, got <U1"),
    ((np.float32(1), 0), {}, ValueError, "logits must have a class axis, got a single number of shape ()"),
    ((X[:, :0], Y), {}, ValueError, "logits must have classes, but axis 1 of shape (4, 0) is empty"),
    ((X, Y), {"weight": np.ones(4)}, ValueError, "weight must have shape (3,), one value for each class, got (4,)"),
    ((X, Y), {"weight": 2.0}, ValueError, "weight must have shape (3,), one value for each class, got ()"),
    ((X, Y), {"weight": np.ones(3, complex)}, TypeError, "weight of dtype complex128 cannot be used"),
    ((X, Y), {"weight": np.ones(3, ">f8")}, TypeError, "weight of dtype >f8 cannot be used"),
    (
        (X, Y),
        {"sample_weight": np.ones(3)},
        ValueError,
        "sample_weight must have shape (4,), one value for each row, got",
    ),
    ((X, Y), {"sample_weight": np.array(["a"] * 4)}, TypeError, "sample_weight of dtype <U1 cannot be used"),
    ((np.ma.masked_array(X), Y), {}, TypeError, "masked arrays are not supported; pass the plain array, with -inf"),
]


@pytest.mark.parametrize(("arrays", "given", "error", "message"), BAD_ARRAYS)
def test_bad_array(backend, arrays, given, error, message):
    for call in CALLS:
        refused(error, message, call, *arrays, backend=backend, **given)


def test_bad_upstream_and_lse(backend):
    given = {"backend": backend, "reduction": "none"}
    for call in (fastsce.cross_entropy_value_and_grad, fastsce.cross_entropy_grad_and_hess):
        refused(
            ValueError,
            "grad_output must have shape (4,), one value for each loss, got (3,)",
            call,
            X,
            Y,
            grad_output=np.ones(3),
            **given,
        )
        refused(
            ValueError,
            "grad_output must be a number with reduction='mean', got shape (4,)",
            call,
            X,
            Y,
            grad_output=np.ones(4),
            backend=backend,
        )
        refused(TypeError, "grad_output of dtype complex128 cannot be used", call, X, Y, grad_output=1j, **given)
    back = fastsce.cross_entropy_backward
    refused(
        ValueError,
        "lse must have shape (4,), one value for each row, got (4, 1)",
        back,
        X,
        Y,
        np.zeros((4, 1)),
        backend=backend,
    )
    refused(TypeError, "lse of dtype complex128 cannot be used", back, X, Y, np.zeros(4, complex), backend=backend)


@pytest.mark.parametrize("call", [fastsce.binary_cross_entropy, fastsce.binary_cross_entropy_grad_and_hess])
def test_bad_binary(backend, call):
    def no(error, message, *args, **given):
        refused(error, message, call, *args, backend=backend, **given)

    no(ValueError, "target must have shape (4, 3), one value for each logit, got (4,)", X, Y)
    no(TypeError, "target of dtype complex128 cannot be used", X, P.astype(complex))
    no(TypeError, "logits must be float32, float64, float16 or bfloat16, got int64", X.astype(int), P)
    no(ValueError, "weight of shape (4,) does not broadcast to the logits' shape (4, 3)", X, P, weight=np.ones(4))
    no(ValueError, "pos_weight of shape (2, 4, 3) does not broadcast", X, P, pos_weight=np.ones((2, 4, 3)))
    no(
        ValueError,
        "sample_weight of shape (3,) does not match the first axes of the logits' shape (4, 3)",
        X,
        P,
        sample_weight=np.ones(3),
    )


def test_bad_softmax_family(backend):
    for call in (fastsce.softmax, fastsce.log_softmax, fastsce.logsumexp):
        refused(TypeError, "x must be float32, float64, float16 or bfloat16, got int64", call, Y, backend=backend)
        refused(ValueError, "axis 5 is out of range for x with 2 axes", call, X, 5, backend=backend)
        refused(ValueError, "x must have classes, but axis 1 of shape (4, 0) is empty", call, X[:, :0], backend=backend)
    vjp = fastsce.softmax_vjp
    refused(
        ValueError, "v must have shape (4, 3), one value for each probability, got (3,)", vjp, P, P[0], backend=backend
    )
    refused(TypeError, "v of dtype float64 must have p's dtype float32", vjp, P, P.astype(float), backend=backend)
    refused(TypeError, "p must be float32", vjp, Y, Y, backend=backend)
    refused(
        ValueError,
        "p must be one row, shape (C,), got shape (4, 3); use softmax_vjp for batches",
        fastsce.softmax_jacobian,
        P,
        backend=backend,
    )
