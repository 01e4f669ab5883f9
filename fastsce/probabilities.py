"""Softmax and its relatives: the law without a target."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastsce import check
from fastsce.problem import Call, locate, untargeted


def softmax(x: Any, axis: int = -1, *, backend: str | None = None) -> Any:
    """exp(x) / Σ exp(x): the gradient of `logsumexp`.

    Parameters
    ----------
    x : array, shape (..., C, ...), float32, float64, float16 or bfloat16
        Unnormalised log-probabilities, in nats; −inf gives 0.
    axis : int
        The class axis.
    backend : {None, "cpu", "reference", "cuda"}
        None picks by the array's device.

    Returns
    -------
    array
        Probabilities, of x's library, shape and dtype.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        For an axis, shape, dtype or device that does not fit.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(fastsce.softmax(np.array([-2.85, 0.86, 0.28])))
    [0.01544932 0.63116335 0.35338733]
    """
    problem = untargeted(x, axis, backend)
    p = problem.backend.chores.empty_like(problem.x)
    problem.forward_backward(problem.row_scale(), p, loss=False, lse=False)
    return problem.wrap(p)


def log_softmax(x: Any, axis: int = -1, *, backend: str | None = None) -> Any:
    """x − log Σ exp(x).

    Parameters
    ----------
    x, axis, backend
        As for `softmax`.

    Returns
    -------
    array
        Log-probabilities in nats, of x's library, shape and dtype.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `softmax`.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(fastsce.log_softmax(np.array([0.0, 0.0])))
    [-0.69314718 -0.69314718]
    """
    problem = untargeted(x, axis, backend)
    out = problem.backend.chores.empty_like(problem.x)
    if out.size:
        problem.backend.log_softmax(problem.logits, out=problem.classes_last(out))
    return problem.wrap(out)


def logsumexp(x: Any, axis: int = -1, *, backend: str | None = None) -> Any:
    """log Σ exp(x), one a row.

    Parameters
    ----------
    x, axis, backend
        As for `softmax`.

    Returns
    -------
    array
        float32 (float64 for float64 x), x's shape without the class axis.
        −inf for a row of −inf, +inf for a row that holds +inf.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `softmax`.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(fastsce.logsumexp(np.array([1000.0, 1000.0])))
    1000.6931471805599
    """
    problem = untargeted(x, axis, backend)
    _, lse = problem.forward_backward(problem.row_scale(), loss=False, lse=True)
    problem.backend.chores.mend(problem.logits, lse)
    return problem.wrap_loss(lse)


def softmax_vjp(p: Any, v: Any, axis: int = -1, *, backend: str | None = None) -> Any:
    """vᵀJ for the Jacobian J = diag(p) − ppᵀ of softmax at p, without forming it: p·(v − ⟨p, v⟩).

    Parameters
    ----------
    p : array, shape (..., C, ...), float32, float64, float16 or bfloat16
        Probabilities, as from `softmax`.
    v : array, p's shape and dtype
        The gradient with respect to p.
    axis, backend
        As for `softmax`.

    Returns
    -------
    array
        The gradient with respect to the logits, of p's library, shape and dtype.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `softmax`; also if v's shape or dtype is not p's.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> p, v = np.array([0.25, 0.75]), np.array([1.0, 0.0])
    >>> print(fastsce.softmax_vjp(p, v), v @ fastsce.softmax_jacobian(p))
    [ 0.1875 -0.1875] [ 0.1875 -0.1875]
    """
    problem = untargeted(p, axis, backend, "p")
    other = check.same_shape("v", problem.view("v", v), problem.x.shape, "for each probability")
    check.same_dtype("v", other, problem.x, "p")
    out = problem.backend.chores.empty_like(problem.x)
    if out.size:
        problem.backend.softmax_vjp(problem.logits, problem.classes_last(other), out=problem.classes_last(out))
    return problem.wrap(out)


def softmax_jacobian(p: Any, *, backend: str | None = None) -> Any:
    """The Jacobian of softmax at one row of probabilities: ∂p_i/∂x_j = p_i·([i = j] − p_j).

    Parameters
    ----------
    p : array, shape (C,), float32, float64, float16 or bfloat16
        Probabilities, as from `softmax`.
    backend : {None, "cpu", "reference", "cuda"}
        None picks by the array's device.

    Returns
    -------
    array, shape (C, C)
        Of p's library and dtype.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `softmax`; also if p is not one row.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(fastsce.softmax_jacobian(np.array([0.25, 0.75])))
    [[ 0.1875 -0.1875]
     [-0.1875  0.1875]]
    """
    call = Call(*locate(p, backend, "p"))
    row = call.x
    if row.ndim != 1:
        raise ValueError(f"p must be one row, shape (C,), got shape {row.shape}; use softmax_vjp for batches")
    out = call.backend.chores.identity(row, row.size)
    call.backend.softmax_vjp(
        np.broadcast_to(row, out.shape, subok=True), out, out=out
    )  # row i of the Jacobian is e_iᵀJ
    return call.wrap(out)
