"""torch and JAX as contestants."""

from __future__ import annotations

import numba
import numpy as np


def torch_eager(given):
    import torch

    function, logits, target, scale, back = torch_form(given)
    logits.requires_grad_()

    def run():
        loss = function(logits, target)
        (grad,) = torch.autograd.grad(loss, logits, scale)
        return loss.detach(), back(grad)

    return run


def torch_compile(given):
    """Loss and gradient as one graph, never slower than a compiled loss whose gradient is left to autograd."""
    import torch

    function, logits, target, scale, back = torch_form(given)

    def scaled(logits, target):
        loss = function(logits, target)
        return loss if scale is None else loss * scale, loss

    torch._dynamo.reset()  # else it finds shapes of earlier cases and compiles for any shape
    step = torch.compile(torch.func.grad(scaled, has_aux=True))

    def run():
        grad, loss = step(logits, target)
        return loss, back(grad)

    return run


def torch_form(given):
    """What torch is called with in its best form, and the way back: classes that are not last are its second axis."""
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    torch.set_num_threads(numba.get_num_threads())
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


def jax_jit(given):
    import jax
    import jax.numpy as jnp

    def loss_of(logits, target):
        rows = jnp.arange(logits.shape[0])
        return -jax.nn.log_softmax(logits)[rows, target].mean()

    step = jax.jit(jax.value_and_grad(loss_of))
    logits, target = jnp.asarray(given.logits), jnp.asarray(given.target.astype(np.int32))
    return lambda: jax.block_until_ready(step(logits, target))
