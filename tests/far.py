"""Logits so large that, scaled, an ulp of them is no small number; what is right for them."""

import numpy as np
from cases import DTYPES
from law import Law

import fastsce

SCALES = [float(np.float32(0.7)), float(np.float32(14.3))]  # as every backend has them
LARGE = {
    "float32": (1e7, 1.5e8, 2e9, 3.1e9, 1e10, 1e20, 1e30, 3.3e38),
    "float64": (1e15, 1e17, 6e17, 1.3e19, 1e20, 1e30, 1e300),
    "bfloat16": (1e7, 1.5e8, 2e9, 3.1e9, 1e10, 1e20, 1e30, 3.3e38),
}
CLOSE = {"float64": (1e-10, 1e-12), "float32": (2e-5, 1e-6), "bfloat16": (2**-7, 1e-6)}


def rows(large, classes, dtype):
    """Nothing but masks; some masks; ties among them; neighbours; one largest; numbers of all sizes."""
    random = np.random.default_rng(0)
    x = random.standard_normal((7, classes))
    x[0] = -large
    x[1, random.random(classes) < 0.5] = -large
    x[2] = np.where(np.arange(classes) % 3 == 1, large, -large)
    x[3] = large
    x[4] = np.where(np.arange(classes) == classes - 1, 1.0, 0.5) * large
    x[5] *= large / 8
    x[6] = -large * np.linspace(0.5, 1, classes)
    x = x.astype(DTYPES[dtype])
    if dtype == "float32":  # a z of float64 is rounded
        x[3, ::2] = np.nextafter(x[3, ::2], x.dtype.type(0))
    return x


def check(dtype, classes, backend, sizes=None):
    """Nothing overflows, and no largest logit is lost."""
    y, q = np.arange(7) % classes, np.random.default_rng(1).random((7, classes))
    rtol, atol = CLOSE[dtype]
    for large in sizes or LARGE[dtype]:
        x = rows(large, classes, dtype)
        for scale in SCALES:
            close = {"rtol": rtol, "atol": atol * scale}
            for target, smoothing in ((y, 0.0), (y, 0.1), (q, 0.0)):
                given = {"logit_scale": scale, "reduction": "none", "label_smoothing": smoothing}
                law = Law(x.astype(np.float64), target, **given)
                got = fastsce.cross_entropy_value_and_grad(x, target, backend=backend, **given)
                np.testing.assert_allclose(got.lse, law.lse, rtol=1e-6)
                np.testing.assert_allclose(got.grad.astype(np.float64), law.grad, **close)
                if dtype == "float64" or large < 1e31 or (target is y and not smoothing):  # else Σ q·z overflows
                    loss = law.mass * np.log(law.e.sum(1)) + np.where(law.q == 0, 0, law.q * law.gap).sum(1)
                    with np.errstate(over="ignore"):
                        loss = loss.astype(got.loss.dtype)
                    np.testing.assert_allclose(got.loss, loss, rtol=2e-5, atol=1e-30)
                saved = fastsce.cross_entropy_backward(x, target, lse=law.lse, backend=backend, **given)
                pull = law.mass[:, None] * np.exp(law.z - law.lse[:, None]) - law.q
                np.testing.assert_allclose(saved.astype(np.float64), scale * pull, **close)
            law = Law(x.astype(np.float64), y, logit_scale=scale, reduction="none")
            given = {"logit_scale": scale, "reduction": "none", "backend": backend}
            grad, hess = fastsce.cross_entropy_grad_and_hess(x, y, **given)
            np.testing.assert_allclose(grad.astype(np.float64), law.grad, **close)
            np.testing.assert_allclose(hess.astype(np.float64), law.hess, rtol=rtol, atol=atol * scale**2)
