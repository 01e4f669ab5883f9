"""torch as a contestant, as `ours.py` has them."""

from __future__ import annotations

import numpy as np

from bench.case import HESSIAN


def torch_eager(given):
    import torch

    function, logits, target, scale, back = torch_form(given)
    if given.case.computes == HESSIAN:
        return lambda: grad_and_hess(logits, target)
    logits.requires_grad_()

    def run():
        loss = function(logits, target)
        (grad,) = torch.autograd.grad(loss, logits, scale)
        return loss.detach(), back(grad)

    return run


def torch_compile(given):
    """Loss and gradient as one graph, never slower than a compiled loss whose gradient is left to autograd."""
    import torch

    torch._dynamo.reset()  # else it finds shapes of earlier cases and compiles for any shape
    function, logits, target, scale, back = torch_form(given)
    if given.case.computes == HESSIAN:
        step = torch.compile(grad_and_hess)
        return lambda: step(logits, target)

    def scaled(logits, target):
        loss = function(logits, target)
        return loss if scale is None else loss * scale, loss

    step = torch.compile(torch.func.grad(scaled, has_aux=True))

    def run():
        grad, loss = step(logits, target)
        return loss, back(grad)

    return run


def grad_and_hess(logits, target):
    import torch

    p = torch.softmax(logits, 1)
    return p - torch.nn.functional.one_hot(target, logits.shape[1]), p * (1 - p)


def torch_form(given):
    """What torch is called with in its best form, and the way back: classes that are not last are its second axis."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    function = binary_cross_entropy_with_logits if given.case.target == "binary" else cross_entropy
    if np.dtype(given.case.dtype).itemsize == 2:  # its own mean sums in 16 bits, and overflows in float16
        function = mean_in_float32
    logits, target = as_tensor(given.logits), torch.from_numpy(given.target)
    scale = None if given.scale is None else torch.tensor(given.scale)
    if given.case.order == "F":
        return function, logits.T[None], target[None], scale, lambda grad: grad[0].T
    if given.case.axis == 0:
        return function, logits[None], target[None], scale, lambda grad: grad[0]
    return function, logits, target, scale, lambda grad: grad


def mean_in_float32(logits, target):
    from torch.nn.functional import cross_entropy

    return cross_entropy(logits, target, reduction="none").float().mean()


def as_tensor(a):
    import torch

    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype == "bfloat16" else torch.from_numpy(a)
