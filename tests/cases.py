"""The catalogue of inputs that tests and benchmarks draw from. Everything is the same in every run."""

import zlib

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
IGNORE = -100

# Around every vector width, powers of two, odd vocabularies; at most about a million logits each.
SMALL = [(n, c) for c in (1, 2, 3, 4, 7, 10, 15, 16, 17, 31, 32, 33) for n in (0, 1, 2, 17)]
# Rows of 2 and of 3 classes are brought by shuffles; around 64 and 80 classes there have been other kernels.
FEW = [(1000, 2), (1000, 3), (77, 64), (77, 79), (77, 80)]
MIDDLE = [(1000, 10), (1000, 33), (1000, 100), (17, 100), (1000, 1000), (17, 1003), (2, 1003)]
LARGE = [(1, 8192), (17, 8192), (2, 50257), (7, 131072), (1, 1000003), (5, 200003)]


def rng(*key) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def logits(shape, dtype="float32", spread=3.0) -> np.ndarray:
    return (rng("logits", shape).standard_normal(shape) * spread).astype(DTYPES[dtype])


def labels(rows, classes, ignored=False) -> np.ndarray:
    """Class indices, one a row; with `ignored`, every fifth row is to be left out."""
    found = np.asarray(rng("labels", rows, classes).integers(0, classes, rows))
    if ignored:
        found.reshape(-1)[3::5] = IGNORE
    return found


def probabilities(shape, dtype="float64") -> np.ndarray:
    """Soft targets: not negative, a quarter of them 0, sums that are not 1."""
    draw = rng("probabilities", shape)
    share = draw.random(shape) * (draw.random(shape) > 0.25)
    return (share * 2 / shape[-1]).astype(DTYPES[dtype])


# ----------------------------------------------------------------------------------------------------- memory layouts


def class_first(a):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, -1, 0)), 0, -1)


def backwards(a):
    flip = tuple(slice(None, None, -1) for _ in a.shape)
    return np.ascontiguousarray(a[flip])[flip]


def padded_rows(a):
    wide = np.full((*a.shape[:-1], a.shape[-1] + 5), 77, a.dtype)
    wide[..., : a.shape[-1]] = a
    return wide[..., : a.shape[-1]]


def every_second_row(a):
    tall = np.full((2 * a.shape[0], *a.shape[1:]), 77, a.dtype)
    tall[::2] = a
    return tall[::2]


def every_second_class(a):
    wide = np.full((*a.shape[:-1], 2 * a.shape[-1]), 77, a.dtype)
    wide[..., ::2] = a
    return wide[..., ::2]


def unaligned(a):
    moved = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    moved[...] = a
    return moved


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def repeated_row(a):
    """The only layout that changes the values: every row is the first one, with stride 0."""
    return np.broadcast_to(a[:1], a.shape)


WRITABLE_LAYOUTS = {
    "C": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "class_first": class_first,
    "backwards": backwards,
    "padded_rows": padded_rows,
    "every_second_row": every_second_row,
    "every_second_class": every_second_class,
    "unaligned": unaligned,
}
LAYOUTS = {**WRITABLE_LAYOUTS, "read_only": read_only}

# ------------------------------------------------------------------------------------------------------------ options

OPTIONS = {
    "plain": {},
    "weight": {"weight": True},
    "sample_weight": {"sample_weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "full_smoothing": {"label_smoothing": 1.0},
    "z_loss": {"z_loss": 0.01},
    "softcap": {"softcap": 5.0},
    "scale": {"logit_scale": 0.7},
    "denominator": {"denominator": 37.5},
    "weight_and_smoothing": {"weight": True, "label_smoothing": 0.2},
    "everything_uncapped": {
        "weight": True,
        "sample_weight": True,
        "label_smoothing": 0.1,
        "z_loss": 0.01,
        "logit_scale": 0.7,
    },
    "everything": {
        "weight": True,
        "sample_weight": True,
        "label_smoothing": 0.1,
        "z_loss": 0.01,
        "softcap": 5.0,
        "logit_scale": 0.7,
    },
}


def options(name, rows, classes) -> dict:
    """Keyword arguments for logits of shape (*rows, classes)."""
    chosen = dict(OPTIONS[name])
    if "weight" in chosen:
        chosen["weight"] = rng("weight", classes).uniform(0.2, 2.0, classes)
    if "sample_weight" in chosen:
        chosen["sample_weight"] = rng("sample_weight", rows).uniform(0.0, 2.0, rows)
    return chosen


# ----------------------------------------------------------------------------------------------------------- extremes

INF, NAN = np.inf, np.nan


def confident(gaps):
    """One row for each gap between the target's logit and the others: losses near 4·exp(−gap)."""
    x = np.zeros((len(gaps), 5))
    x[:, 2] = gaps
    x[:, 4] = -1
    return x, np.full(len(gaps), 2)


def masked(count, start, stop):
    x = np.asarray(rng("masked", count).standard_normal((1, count)) * 3)
    x[:, start:stop] = -INF
    return x, np.array([stop % count])


EXTREMES = {
    "confident": lambda: confident([1, 5, 10, 20, 30, 40, 50, 60, 70, 80]),  # 70: a loss of 1.5e-30
    "confident_float64": lambda: confident([100, 300, 700]),
    "confidently_wrong": lambda: (np.array([[80.0, 0.0, -7.0], [0.0, 60.0, 60.0]]), np.array([1, 0])),
    "offset_1e6": lambda: (1e6 + np.array([[0.0, 0.0], [0.0, 1.0], [-9.0, 4.0]]), np.array([0, 0, 1])),
    "offset_2_24": lambda: (2.0**24 + np.array([[0.0, 0.0], [2.0, 0.0], [-40.0, 4.0]]), np.array([0, 0, 1])),
    "offset_1e30": lambda: (np.array([[1e30, 1e30], [-1e30, -1e30]]), np.array([0, 1])),
    "largest": lambda: (np.array([[3e38, -3e38], [3e38, 2e38], [-3e38, -3e38]]), np.array([0, 1, 0])),
    "subnormal": lambda: (np.array([[1e-40, -1e-40, 0.0], [3e-45, 1e-45, 0.0]]), np.array([0, 1])),
    "zeros": lambda: (np.array([[0.0, -0.0, 0.0, -0.0]]), np.array([1])),
    "masked_first": lambda: masked(33, 0, 1),
    "masked_all_but_one": lambda: (np.array([[-INF, -INF, 4.0, -INF]]), np.array([2])),
    "masked_leading_block": lambda: masked(8192, 0, 3000),
    "masked_trailing_block": lambda: masked(8192, 5000, 8192),
    "masked_middle": lambda: masked(1003, 16, 900),
}
POISON = {
    "nan": np.array([1.0, NAN, 2.0, 0.0]),
    "nan_first": np.array([NAN, 1.0, 2.0, 0.0]),
    "plus_inf": np.array([1.0, 2.0, INF, 0.0]),
    "plus_and_minus_inf": np.array([-INF, 2.0, INF, 0.0]),
    "all_minus_inf": np.array([-INF, -INF, -INF, -INF]),
}


def fits(values, dtype) -> bool:
    """Whether a dtype can hold the finite values without making them infinite."""
    with np.errstate(over="ignore"):
        return bool((np.isfinite(values.astype(DTYPES[dtype]).astype(np.float64)) == np.isfinite(values)).all())


EXTREME_CASES = [(name, dtype) for name in EXTREMES for dtype in DTYPES if fits(EXTREMES[name]()[0], dtype)]
