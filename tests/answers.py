"""Small calls, and what their answers on a simulated GPU are held against."""

import numpy as np
from cases import labels, logits, probabilities
from standins import to_host

import fastsce

X, Y, P = logits((4, 5)), labels((4,), 5, ignored=True), probabilities((4, 5), "float32")
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 2e-3, "bfloat16": 1e-2}

value_and_grad = fastsce.cross_entropy_value_and_grad


def agrees(got, x, y=Y, *, read=to_host, **given):
    """Loss, gradient and lse, read back, are those of the reference."""
    truth = value_and_grad(np.asarray(x, np.float64), y, backend="reference", **given)
    rtol = TOLERANCE[np.dtype(x.dtype).name]
    for name, one in zip(got._fields, got):
        loose = rtol if name == "grad" else min(rtol, 2e-6)  # only the gradient is of the logits' dtype
        found = np.asarray(read(one), np.float64)
        np.testing.assert_allclose(found, getattr(truth, name), loose, loose, err_msg=name)
