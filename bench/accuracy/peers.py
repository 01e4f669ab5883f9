"""torch, JAX and scikit-learn, each as people call it; asked only for what it offers.

A logit_scale or a softcap, which none of them has, is put before the loss, as people do.
"""

from __future__ import annotations

import numpy as np

from bench.accuracy.cases import Batch

BEFORE = {"logit_scale", "softcap"}
TORCH = BEFORE | {"reduction", "weight", "label_smoothing", "ignore_index", "pos_weight", "grad_output"}
JAX = BEFORE | {"reduction", "grad_output"}


def offered(batch: Batch, options: set[str]) -> bool:
    return set(batch.options) <= options


def ignores(batch: Batch) -> bool:
    return batch.labelled and bool((batch.target < 0).any())


# --- torch ------------------------------------------------------------------------------------------------------------


def torch_loss(batch: Batch, upcast: bool = False):
    import torch
    from torch.nn import functional

    if not offered(batch, TORCH):
        return None
    options = dict(batch.options)
    x = tensor(batch.logits).requires_grad_()
    z = x.float() if upcast else x
    scale, cap = options.pop("logit_scale", None), options.pop("softcap", None)
    z = z if scale is None else scale * z
    z = z if cap is None else cap * torch.tanh(z / cap)
    for name in {"weight", "pos_weight"} & set(options):
        options[name] = torch.as_tensor(options[name], dtype=z.dtype)
    upstream = torch.as_tensor(options.pop("grad_output", 1.0))
    target = tensor(batch.target)
    target = target if target.dtype == torch.int64 else target.to(z.dtype)
    function = functional.binary_cross_entropy_with_logits if batch.binary else functional.cross_entropy
    loss = function(z, target, **options)
    (grad,) = torch.autograd.grad(loss, x, upstream.to(loss.dtype).expand(loss.shape))
    return array(loss.detach()), array(grad)


def torch_upcast(batch: Batch):
    """16-bit logits made float32 first, whose gradient comes back rounded."""
    return torch_loss(batch, upcast=True) if batch.logits.dtype.itemsize == 2 else None


def tensor(a: np.ndarray):
    import torch

    return torch.from_numpy(a.view(np.int16)).view(torch.bfloat16) if a.dtype == "bfloat16" else torch.from_numpy(a)


def array(t) -> np.ndarray:
    import torch

    return t.view(torch.int16).numpy().view("bfloat16") if t.dtype == torch.bfloat16 else t.numpy()


# --- JAX --------------------------------------------------------------------------------------------------------------


def jax_loss(batch: Batch, losses=None):
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # only what is float64 already becomes so
    if not offered(batch, JAX) or ignores(batch):
        return None
    scale, cap = batch.options.get("logit_scale"), batch.options.get("softcap")
    mean = batch.options["reduction"] == "mean"
    upstream = jnp.asarray(batch.options.get("grad_output", 1.0), batch.working)
    losses = losses or (sigmoid_losses if batch.binary else log_softmax_losses)

    def total(x):
        z = x if scale is None else scale * x
        z = z if cap is None else cap * jnp.tanh(z / cap)
        each = losses(z, batch.target)
        loss = each.mean() if mean else each
        return (loss * upstream.astype(loss.dtype)).sum(), loss

    (_, loss), grad = jax.jit(jax.value_and_grad(total, has_aux=True))(jnp.asarray(batch.logits))
    return np.asarray(loss), np.asarray(grad)


def jax_logsumexp(batch: Batch):
    """optax's form."""
    return None if batch.binary else jax_loss(batch, logsumexp_losses)


def log_softmax_losses(z, target):
    import jax
    import jax.numpy as jnp

    log_p = jax.nn.log_softmax(z)
    if target.ndim == 1:
        return -jnp.take_along_axis(log_p, target[:, None], -1)[:, 0]
    return -(target * log_p).sum(-1)


def logsumexp_losses(z, target):
    import jax
    import jax.numpy as jnp

    lse = jax.nn.logsumexp(z, -1)
    if target.ndim == 1:
        return lse - jnp.take_along_axis(z, target[:, None], -1)[:, 0]
    return target.sum(-1) * lse - (target * z).sum(-1)


def sigmoid_losses(z, target):
    import jax

    return -target * jax.nn.log_sigmoid(z) - (1 - target) * jax.nn.log_sigmoid(-z)


# --- scikit-learn -----------------------------------------------------------------------------------------------------


def scikit_learn(batch: Batch):
    """Losses and gradients of rows with labels; of single sigmoids."""
    from sklearn._loss.loss import HalfBinomialLoss, HalfMultinomialLoss

    takes = batch.labelled != batch.binary and batch.logits.dtype.itemsize > 2 and not ignores(batch)
    if not takes or not offered(batch, {"reduction", "sample_weight"}) or batch.options["reduction"] != "none":
        return None
    x = np.ascontiguousarray(batch.logits)
    if batch.binary:
        loss, grad = HalfBinomialLoss().loss_gradient(batch.target.ravel(), x.ravel())
        return loss.reshape(x.shape), grad.reshape(x.shape)
    function = HalfMultinomialLoss(n_classes=x.shape[1])
    return function.loss_gradient(batch.target.astype(x.dtype), x, batch.options.get("sample_weight"))
