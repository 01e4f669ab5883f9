"""JAX and optax as contestants, as `ours.py` has them. Logits are put into JAX's own memory first."""

from __future__ import annotations

import numpy as np

from bench.case import HESSIAN


def jax_jit(given):
    """Loss and gradient as one compiled program; faster than through jax.nn.log_softmax."""
    import jax
    import jax.numpy as jnp

    axis = given.case.axis
    if given.case.computes == HESSIAN:
        return jax_hessian(given)

    def softmax_loss(logits, target):
        at_label = jnp.take_along_axis(logits, jnp.expand_dims(target, axis), axis)
        return (jax.nn.logsumexp(logits, axis, keepdims=True) - at_label).mean()

    def sigmoid_loss(logits, target):
        return (jax.nn.softplus(logits) - target * logits).mean()

    return compiled(given, sigmoid_loss if given.case.target == "binary" else softmax_loss)


def optax_jit(given):
    import optax

    axis = given.case.axis

    def softmax_loss(logits, target):
        return optax.softmax_cross_entropy_with_integer_labels(logits, target, axis=axis).mean()

    def sigmoid_loss(logits, target):
        return optax.sigmoid_binary_cross_entropy(logits, target).mean()

    return compiled(given, sigmoid_loss if given.case.target == "binary" else softmax_loss)


def compiled(given, loss_of):
    """16-bit logits are computed in float32, and their gradient is scaled, as everybody's."""
    import jax
    import jax.numpy as jnp

    scale = given.scale

    def scaled(logits, target):
        loss = loss_of(logits.astype(jnp.float32), target)
        return (loss if scale is None else loss * scale), loss

    step = jax.jit(jax.value_and_grad(scaled, has_aux=True))
    arrays = in_jax(given)

    def run():
        (_, loss), grad = jax.block_until_ready(step(*arrays))
        return loss, grad

    return run


def jax_hessian(given):
    import jax

    def grad_and_hess(logits, target):
        p = jax.nn.softmax(logits)
        return p - jax.nn.one_hot(target, logits.shape[1], dtype=p.dtype), p * (1 - p)

    step, arrays = jax.jit(grad_and_hess), in_jax(given)
    return lambda: jax.block_until_ready(step(*arrays))


def in_jax(given):
    import jax.numpy as jnp

    target = given.target.astype(np.int32) if given.case.target == "labels" else given.target
    return jnp.array(given.logits), jnp.array(target)
