"""Softmax cross-entropy: loss, gradient and Hessian diagonal."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastsce import check, small
from fastsce.problem import prepare


class ValueAndGrad(NamedTuple):
    """What `cross_entropy_value_and_grad` returns."""

    loss: Any  #: () or, with reduction="none", one a row
    grad: Any  #: the logits' shape and dtype
    lse: Any  #: float64 (float32 in JAX without x64), one a row: log Σ exp z, which `cross_entropy_backward` takes


class GradAndHess(NamedTuple):
    """What `cross_entropy_grad_and_hess` returns."""

    grad: Any  #: the logits' shape and dtype
    hess: Any  #: the diagonal of the Hessian, likewise


def cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    reduction: str = "mean",
    denominator: float | None = None,
    axis: int = -1,
    backend: str | None = None,
    check_targets: bool | None = None,
) -> Any:
    """Softmax cross-entropy loss.

    With z = logit_scale·logits and p = softmax(z), the loss of a row is −Σ_c q_c log p_c + z_loss·lse², where q is
    the one-hot or given target after weighting and smoothing (the law stands whole in `fastsce.spec.Spec`).

    Parameters
    ----------
    logits : array, shape (..., C, ...), float32, float64, float16 or bfloat16
        Unnormalised log-probabilities, in nats; −inf masks a class. Of any supported library, any strides.
    target : array
        Class indices (any integer dtype, the logits' shape without the class axis) or class probabilities
        (floating, or one-hot integers, of the logits' shape; a row's sum need not be 1).
    weight : array, shape (C,), optional
        A factor for each class. Without label smoothing it may be ∞ for classes that no label names, as 1 ÷ counts are.
    sample_weight : array, the logits' shape without the class axis, optional
        A factor for each row.
    ignore_index : int
        Rows with this label have loss and gradient 0 and do not count in the mean.
    label_smoothing : float in [0, 1]
        ε: the target becomes (1−ε)·target + ε/C.
    z_loss : float, not negative
        ζ: adds ζ·lse² to the loss of a row.
    softcap : float, positive, optional
        Replaces z by softcap·tanh(z/softcap).
    logit_scale : float, positive
        The inverse temperature s: z = s·logits, which must not overflow the working precision: float64 for float64
        logits, else float32. There s, or softcap and s/softcap, must be normal numbers.
    reduction : {"mean", "sum", "none"}
        "mean" divides the sum by `denominator` if given, else by Σ w_y·sample_weight over the rows not ignored
        (class indices) or by the number of rows (probabilities).
    denominator : float, positive, optional
        What the mean divides by, such as the number of tokens of all accumulated batches.
    axis : int
        The class axis.
    backend : {None, "cpu", "reference", "cuda"}
        None picks by the logits' device.
    check_targets : bool, optional
        Whether to refuse bad labels, which has to wait for a GPU to look at them. None stands for True on a CPU, where
        they are always looked at, and for False on a GPU. There, a label that is not checked and out of range gives its
        row a loss of NaN and a gradient of 0.

    Returns
    -------
    array
        float32 (float64 for float64 logits), of the logits' library: shape (), or one a row with reduction="none".

    Raises
    ------
    IndexError
        For a label outside 0 … C−1 that is not ignore_index, where labels are checked: names the first such row.
    ValueError, TypeError
        For shapes, options, dtypes or devices that do not fit.
    RuntimeError
        If no backend is available for the device.

    References
    ----------
    Label smoothing: Szegedy et al., arXiv:1512.00567. z-loss: Chowdhery et al., arXiv:2204.02311.
    Semantics follow torch.nn.functional.cross_entropy where it has the option.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> scores = np.array([[-2.85, 0.86, 0.28]])
    >>> print(f"{fastsce.cross_entropy(scores, np.array([2])):.8f}")
    1.04019057
    """
    options = (ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, denominator)
    if backend is None and (found := small.attempt(False, logits, target, None, weight, sample_weight, options, axis)):
        return found[0]
    spec = check.spec(*options)
    problem = prepare(spec, logits, target, weight, sample_weight, axis, backend, check_targets)
    loss, _ = problem.forward_backward(problem.row_scale(), loss=not problem.reduced, lse=False)
    return problem.reduce(loss)


def cross_entropy_value_and_grad(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    reduction: str = "mean",
    denominator: float | None = None,
    axis: int = -1,
    backend: str | None = None,
    check_targets: bool | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> ValueAndGrad:
    """Softmax cross-entropy loss and its gradient with respect to the logits, in one pass.

    Parameters
    ----------
    logits, target, weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, \
denominator, axis, backend, check_targets
        As for `cross_entropy`.
    grad_output : number or array, optional
        Multiplies the gradient, not the loss: one number, or with reduction="none" one a row.
    out : array, the logits' shape and dtype, optional
        Where to write the gradient, any strides. `out=logits` overwrites the logits.

    Returns
    -------
    ValueAndGrad
        loss, as from `cross_entropy`; grad, of the logits' shape and dtype (`out` itself if given);
        lse, float64, one a row (0 for ignored rows).

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As `cross_entropy`, before anything is written; also if `out` does not fit, or lies on the target or on the
        logits in part.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> scores = np.array([[-2.85, 0.86, 0.28]])
    >>> loss, grad, lse = fastsce.cross_entropy_value_and_grad(scores, np.array([2]))
    >>> print(np.round(grad, 6))
    [[ 0.015449  0.631163 -0.646613]]
    """
    options = (ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, denominator)
    found = None
    if backend is None and grad_output is None:
        found = small.attempt(True, logits, target, out, weight, sample_weight, options, axis)
    if found:
        return ValueAndGrad(*found)
    spec = check.spec(*options)
    problem = prepare(spec, logits, target, weight, sample_weight, axis, backend, check_targets)
    row_scale = problem.row_scale(grad_output)
    grad = problem.gradient_buffer("out", out)
    loss, lse = problem.forward_backward(row_scale, grad, loss=not problem.reduced, lse=True)
    return ValueAndGrad(problem.reduce(loss), problem.wrap(grad, out), problem.wrap(lse))


def cross_entropy_backward(
    logits: Any,
    target: Any,
    lse: Any,
    grad_output: Any = None,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    reduction: str = "mean",
    denominator: float | None = None,
    axis: int = -1,
    backend: str | None = None,
    check_targets: bool | None = None,
    out: Any = None,
) -> Any:
    """The gradient of `cross_entropy` from a saved lse, as an autograd system asks for it later.

    A float64 lse cannot tell a row's loss from 0 below some |lse|·1e-16; there the target's gradient is 0, where the
    fused `cross_entropy_value_and_grad` still has it. JAX arrays cannot hold float64 unless x64 is enabled: their lse
    is rounded to float32, and what follows from it is no better.

    Parameters
    ----------
    logits, target, weight, sample_weight, ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, \
denominator, axis, backend, check_targets, out
        As for `cross_entropy_value_and_grad`, and the same as in the call that gave `lse`.
    lse : array, the logits' shape without the class axis
        log Σ exp z of every row of these logits: at least as large as the largest z.
    grad_output : number or array, optional
        The gradient of what follows: one number, or with reduction="none" one a row.

    Returns
    -------
    array
        The gradient, of the logits' shape and dtype (`out` itself if given).

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As `cross_entropy_value_and_grad`.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> x, y = np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([0, 0])
    >>> loss, grad, lse = fastsce.cross_entropy_value_and_grad(x, y, reduction="none")
    >>> np.allclose(fastsce.cross_entropy_backward(x, y, lse, np.ones(2), reduction="none"), grad)
    True
    """
    spec = check.spec(ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, denominator)
    problem = prepare(spec, logits, target, weight, sample_weight, axis, backend, check_targets)
    row_scale = problem.row_scale(grad_output)
    saved = check.same_shape("lse", problem.real("lse", lse), problem.rows, "for each row")
    grad = problem.gradient_buffer("out", out)
    if grad.size:
        problem.backend.backward(
            spec,
            problem.logits,
            problem.target,
            problem.weight,
            row_scale,
            lse=problem.backend.chores.numbers(saved),
            grad=problem.classes_last(grad),
        )
    return problem.wrap(grad, out)


def cross_entropy_grad_and_hess(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    softcap: float | None = None,
    logit_scale: float = 1.0,
    reduction: str = "mean",
    denominator: float | None = None,
    axis: int = -1,
    backend: str | None = None,
    check_targets: bool | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> GradAndHess:
    """The gradient of `cross_entropy` and the diagonal of its Hessian, mass·p·(1 − p)·s², as boosting asks for them.

    Parameters
    ----------
    logits, target, weight, sample_weight, ignore_index, label_smoothing, logit_scale, reduction, denominator, axis, \
backend, check_targets, grad_output
        As for `cross_entropy_value_and_grad`; boosting libraries sum, so reduction="sum" gives what they expect.
    z_loss, softcap
        Must be left out: the diagonal is defined for the plain loss.
    out : pair of arrays, optional
        Where to write the gradient and the Hessian's diagonal; one of them may be the logits.

    Returns
    -------
    GradAndHess
        grad and hess, each of the logits' shape and dtype.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As `cross_entropy_value_and_grad`; ValueError if z_loss or softcap is given.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> grad, hess = fastsce.cross_entropy_grad_and_hess(np.zeros((1, 2)), np.array([1]), reduction="sum")
    >>> print(grad, hess)
    [[ 0.5 -0.5]] [[0.25 0.25]]
    """
    spec = check.spec(ignore_index, label_smoothing, z_loss, softcap, logit_scale, reduction, denominator)
    if spec.z_loss or spec.softcap is not None:
        raise ValueError("the Hessian's diagonal is defined for z_loss=0 and softcap=None only; leave both out")
    problem = prepare(spec, logits, target, weight, sample_weight, axis, backend, check_targets)
    row_scale = problem.row_scale(grad_output)
    outs = check.pair("out", out)
    grad, hess = (problem.gradient_buffer(f"out[{i}]", given) for i, given in enumerate(outs))
    check.apart(grad, hess)
    problem.forward_backward(row_scale, grad, hess, loss=False, lse=False)
    return GradAndHess(problem.wrap(grad, outs[0]), problem.wrap(hess, outs[1]))
