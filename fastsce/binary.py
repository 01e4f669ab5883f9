"""Binary (sigmoid) cross-entropy, element by element: loss = softplus(x) − t·x, gradient σ(x) − t, Hessian σ(1 − σ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fastsce import check
from fastsce.api import GradAndHess, ValueAndGrad
from fastsce.problem import NUMBERS, Call, locate, number_of


def binary_cross_entropy(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
    denominator: float | None = None,
    backend: str | None = None,
) -> Any:
    """Binary cross-entropy of logits x and targets t: −w·(pos_weight·t·log σ(x) + (1 − t)·log(1 − σ(x))).

    Parameters
    ----------
    logits : array, any shape, float32, float64, float16 or bfloat16
        log(p / (1 − p)) of the positive class, in nats.
    target : array, the logits' shape
        Probabilities of the positive class: floating, integer or bool.
    weight : array, optional
        A factor for each element; broadcasts to the logits' shape.
    pos_weight : array, optional
        A factor for the positive part; broadcasts to the logits' shape.
    sample_weight : array, optional
        A factor for each sample: its shape is that of the logits' first axis, or first axes.
    reduction : {"mean", "sum", "none"}
        "mean" divides the sum by `denominator` if given, else by the number of elements.
    denominator : float, positive, optional
        What the mean divides by.
    backend : {None, "cpu", "reference", "cuda"}
        None picks by the logits' device.

    Returns
    -------
    array
        float32 (float64 for float64 logits), of the logits' library: shape (), or the logits' with reduction="none".

    Raises
    ------
    ValueError, TypeError
        For shapes, options, dtypes or devices that do not fit.
    RuntimeError
        If no backend is available for the device.

    References
    ----------
    Semantics follow torch.nn.functional.binary_cross_entropy_with_logits.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(fastsce.binary_cross_entropy(np.array([0.0, 0.0]), np.array([1, 0])))
    0.6931471805599453
    """
    problem = prepare(logits, target, weight, pos_weight, sample_weight, reduction, denominator, backend)
    return problem.run(None)


def binary_cross_entropy_value_and_grad(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
    denominator: float | None = None,
    backend: str | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> ValueAndGrad:
    """Binary cross-entropy and its gradient with respect to the logits, in one pass.

    Parameters
    ----------
    logits, target, weight, pos_weight, sample_weight, reduction, denominator, backend
        As for `binary_cross_entropy`.
    grad_output : number or array, optional
        Multiplies the gradient, not the loss: one number, or with reduction="none" one an element.
    out : array, the logits' shape and dtype, optional
        Where to write the gradient. `out=logits` overwrites the logits.

    Returns
    -------
    ValueAndGrad
        loss; grad, of the logits' shape and dtype; lse is None.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `binary_cross_entropy`; also if `out` does not fit, or lies on another input, or on the logits in part.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(fastsce.binary_cross_entropy_value_and_grad(np.array([0.0]), np.array([1.0])).grad)
    [-0.5]
    """
    problem = prepare(logits, target, weight, pos_weight, sample_weight, reduction, denominator, backend)
    grad = problem.gradient_buffer("out", out)
    return ValueAndGrad(problem.run(grad_output, grad=grad), problem.wrap(grad, out), None)


def binary_cross_entropy_grad_and_hess(
    logits: Any,
    target: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    sample_weight: Any = None,
    reduction: str = "mean",
    denominator: float | None = None,
    backend: str | None = None,
    grad_output: Any = None,
    out: Any = None,
) -> GradAndHess:
    """The gradient of `binary_cross_entropy` and the diagonal of its Hessian.

    Parameters
    ----------
    logits, target, weight, pos_weight, sample_weight, reduction, denominator, backend, grad_output
        As for `binary_cross_entropy_value_and_grad`; boosting libraries sum: reduction="sum".
    out : pair of arrays, optional
        Where to write the gradient and the Hessian's diagonal.

    Returns
    -------
    GradAndHess
        grad and hess, each of the logits' shape and dtype.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As `binary_cross_entropy_value_and_grad`.

    Examples
    --------
    >>> import numpy as np, fastsce
    >>> print(*fastsce.binary_cross_entropy_grad_and_hess(np.array([0.0]), np.array([1.0])))
    [-0.5] [0.25]
    """
    problem = prepare(logits, target, weight, pos_weight, sample_weight, reduction, denominator, backend)
    outs = check.pair("out", out)
    grad, hess = problem.gradient_buffer("out[0]", outs[0]), problem.gradient_buffer("out[1]", outs[1])
    check.apart(grad, hess)
    problem.run(grad_output, grad=grad, hess=hess)
    return GradAndHess(problem.wrap(grad, outs[0]), problem.wrap(hess, outs[1]))


@dataclass
class BinaryProblem(Call):
    """A binary cross-entropy; every factor is a view of the logits' shape."""

    target: np.ndarray
    weight: np.ndarray | float
    sample_weight: np.ndarray | float
    pos_weight: np.ndarray | float
    reduction: str
    normaliser: float

    def gradient_buffer(self, name: str, out: Any) -> np.ndarray:
        factors = {"weight": self.weight, "sample_weight": self.sample_weight, "pos_weight": self.pos_weight}
        arrays = {n: a for n, a in factors.items() if isinstance(a, np.ndarray)}
        return self.buffer(name, out, target=self.target, **arrays)

    def run(self, grad_output: Any, **results: np.ndarray) -> Any:
        """Run the backend on the results asked for; the loss, reduced."""
        up = self.backend.chores.scale(self.upstream(grad_output, self.reduction, self.x.shape), self.normaliser, None)
        each = self.backend.chores.empty(self.x, self.x.shape, self.loss_dtype) if self.reduction == "none" else None
        factors = (self.weight, self.sample_weight, self.pos_weight, up)
        sums = self.backend.binary(self.x, self.target, *factors, loss=each, **results)
        return self.wrap(each) if each is not None else self.wrap_sum(sums, self.normaliser)


def prepare(logits, target, weight, pos_weight, sample_weight, reduction, denominator, backend) -> BinaryProblem:
    """Check everything about one call."""
    reduction, denominator = check.reducing(reduction, denominator)
    call = Call(*locate(logits, backend))
    shape = call.x.shape
    t = check.same_shape("target", call.view("target", target), shape, "for each logit")
    normaliser = 1.0
    if reduction == "mean":
        normaliser = float(call.x.size) if denominator is None else denominator

    def factor(name, argument, fit):
        if isinstance(argument, NUMBERS):
            return fit(name, number_of(name, argument), shape)
        return 1.0 if argument is None else fit(name, call.real(name, argument), shape)

    return BinaryProblem(
        **vars(call),
        target=check.probabilities("target", t),
        weight=factor("weight", weight, check.factor),
        sample_weight=factor("sample_weight", sample_weight, check.per_sample),
        pos_weight=factor("pos_weight", pos_weight, check.factor),
        reduction=reduction,
        normaliser=normaliser,
    )
