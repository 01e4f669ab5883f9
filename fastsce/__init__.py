"""Softmax cross-entropy loss and gradient, fused, at the speed of memory."""

from fastsce.api import (
    GradAndHess,
    ValueAndGrad,
    cross_entropy,
    cross_entropy_backward,
    cross_entropy_grad_and_hess,
    cross_entropy_value_and_grad,
)
from fastsce.binary import (
    binary_cross_entropy,
    binary_cross_entropy_grad_and_hess,
    binary_cross_entropy_value_and_grad,
)
from fastsce.dispatch import backend_for
from fastsce.probabilities import log_softmax, logsumexp, softmax, softmax_jacobian, softmax_vjp
from fastsce.results import empty_cache
from fastsce.system import show_versions, warmup

__version__ = "0.1.0"

__all__ = [
    "GradAndHess",
    "ValueAndGrad",
    "backend_for",
    "binary_cross_entropy",
    "binary_cross_entropy_grad_and_hess",
    "binary_cross_entropy_value_and_grad",
    "cross_entropy",
    "cross_entropy_backward",
    "cross_entropy_grad_and_hess",
    "cross_entropy_value_and_grad",
    "empty_cache",
    "log_softmax",
    "logsumexp",
    "show_versions",
    "softmax",
    "softmax_jacobian",
    "softmax_vjp",
    "warmup",
]
