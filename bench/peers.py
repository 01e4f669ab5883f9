"""torch and JAX as contestants."""

from __future__ import annotations

import numba
import numpy as np


def torch_eager(given):
    return torch_run(given, lambda function: function)


def torch_compile(given):
    import torch

    torch._dynamo.reset()  # else compiled for shapes of earlier cases, it would come to compile for any shape
    return torch_run(given, torch.compile)


def torch_run(given, make):
    import torch
    from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

    torch.set_num_threads(numba.get_num_threads())
    logits, target, back = torch_form(given)
    logits.requires_grad_()
    loss_of = make(binary_cross_entropy_with_logits if given.case.target == "binary" else cross_entropy)
    scale = None if given.scale is None else torch.tensor(given.scale, dtype=logits.dtype)

    def run():
        loss = loss_of(logits, target)
        (grad,) = torch.autograd.grad(loss, logits, scale)
        return loss.detach(), back(grad)

    return run


def torch_form(given):
    """Logits and target as torch likes them best, and the way back: classes not last are its second axis."""
    import torch

    logits, target = as_tensor(given.logits), torch.from_numpy(given.target)
    if given.case.order == "F":
        return logits.T[None], target[None], lambda grad: grad[0].T
    if given.case.axis == 0:
        return logits[None], target[None], lambda grad: grad[0]
    return logits, target, lambda grad: grad


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
