"""Mean loss and its gradient on a GPU, by us and by others in their best form.

A provider takes a batch and returns a function of no arguments that gives (loss, gradient), and what the gradient is
multiplied by. What is converted or compiled beforehand is not timed.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch.nn.functional import cross_entropy

import fastsce
from bench.goals import COMPILED, COPY, EAGER, FRESH, OURS
from bench.gpu.cases import LIGER
from bench.peers import mean_in_float32


def ours(given):
    """The gradient into memory that the caller keeps, as a training loop does."""
    return value_and_grad(given, given.out)


def ours_fresh(given):
    return value_and_grad(given, None)


def value_and_grad(given, out):
    logits, target, axis = given.logits, given.target, given.case.axis
    upstream = None if given.scale == 1 else given.scale

    def run():
        result = fastsce.cross_entropy_value_and_grad(logits, target, axis=axis, grad_output=upstream, out=out)
        return result.loss, result.grad

    return run, given.scale


def copy(given):
    return lambda: (None, given.out.copy_(given.logits)), None


def torch_eager(given):
    function, logits, target, back = torch_form(given)
    logits.requires_grad_()
    scale = torch.tensor(given.scale, device=logits.device)

    def run():
        loss = function(logits, target)
        (grad,) = torch.autograd.grad(loss, logits, scale)
        return loss.detach(), back(grad)

    return run, given.scale


def torch_compile(given):
    """Loss and gradient as one graph, compiled for this shape alone."""
    function, logits, target, back = torch_form(given)
    scale = given.scale

    def scaled(logits, target):
        loss = function(logits, target)
        return loss * scale, loss

    torch._dynamo.reset()  # else it finds shapes of earlier cases
    step = torch.compile(torch.func.grad(scaled, has_aux=True), dynamic=False)

    def run():
        grad, loss = step(logits, target)
        return loss, back(grad)

    return run, scale


def torch_form(given) -> tuple[Any, Any, Any, Any]:
    """What torch is called with, and the way back: classes that are not last are its second axis."""
    function = mean_in_float32 if given.logits.itemsize == 2 else cross_entropy
    logits, target = given.logits.detach(), given.target
    if given.case.axis == 0:
        return function, logits[None].detach(), target[None], lambda grad: grad[0]
    return function, logits, target, lambda grad: grad


def liger(given):
    """Its kernel writes the gradient over the logits, so it has its own; a scale would cost it one more pass."""
    from liger_kernel.ops.cross_entropy import LigerCrossEntropyFunction

    logits = given.logits.clone().requires_grad_()

    def run():
        found = LigerCrossEntropyFunction.apply(logits, given.target, None)
        loss = found[0] if isinstance(found, tuple) else found
        (grad,) = torch.autograd.grad(loss, logits)
        return loss.detach(), grad

    return run, 1.0


PROVIDERS = {
    OURS: (ours, "numba_cuda"),
    FRESH: (ours_fresh, "numba_cuda"),
    COPY: (copy, "torch"),
    EAGER: (torch_eager, "torch"),
    COMPILED: (torch_compile, "triton"),
    LIGER: (liger, "liger_kernel"),
}


def absent(names) -> list[str]:
    """Those whose library is not installed."""
    return [name for name in names if importlib.util.find_spec(PROVIDERS[name][1]) is None]
