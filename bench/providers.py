"""Who takes part, each in its best form: what it computes, what it allocates, how many bytes its task must move.

A provider's function takes a batch and returns a function of no arguments, which is timed and gives (loss, gradient),
or (gradient, Hessian) for boosting. What is converted, compiled or allocated beforehand is not timed; what it allocates
itself, and gives back, is. Nothing here imports a library: functions are found by name, in the process that runs them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

from bench.case import Case
from bench.goals import (
    AGAIN,
    BARE,
    COMPILED,
    COPY,
    COPY_BOTH,
    EAGER,
    FRESH,
    IN_PLACE,
    JAX,
    LOSS,
    NUMPY,
    OPTAX,
    OURS,
    PLAIN,
    READ,
    SKLEARN,
    STREAM,
)


class Provider(NamedTuple):
    name: str
    library: str  # whose process runs it
    module: str  # what must be importable
    function: str  # module of bench, and name
    computes: str
    allocates: str
    in_place: bool = False
    moved: Callable[[Case], int] = lambda case: case.moved
    formula: Callable[[Case], str] = lambda case: case.formula

    @property
    def has_result(self) -> bool:
        return self.name not in COPIES

    @property
    def is_roof(self) -> bool:
        return self.name in (*COPIES, BARE)

    @property
    def is_ours(self) -> bool:
        return self.name.startswith("fastsce")

    @property
    def is_peer(self) -> bool:
        return not self.is_roof and not self.is_ours

    def make(self, given) -> Callable[[], tuple]:
        module, _, name = self.function.partition(".")
        return getattr(importlib.import_module(f"bench.{module}"), name)(given)


def two(case: Case) -> int:
    return 2 * case.bytes


BOTH = "loss and gradient; in boosting cases gradient and Hessian's diagonal"
NOTHING = "nothing: outputs are given"
GIVEN = "a few numbers a row; the gradient's memory is given"
FASTSCE, ROOF = ("fastsce", "numba"), "nothing: the logits' bytes only"
PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(OURS, *FASTSCE, "ours.into_out", BOTH, GIVEN),
        Provider(AGAIN, *FASTSCE, "ours.into_out", "the same once more: what differs is noise (A/A)", GIVEN),
        Provider(FRESH, *FASTSCE, "ours.fresh", BOTH, "the gradient, and a few numbers a row"),
        Provider(
            IN_PLACE,
            *FASTSCE,
            "ours.in_place",
            "loss and gradient; the logits are copied in again before each turn, outside the clock",
            "a few numbers a row; the logits' own memory becomes the gradient",
            in_place=True,
        ),
        Provider(
            LOSS,
            *FASTSCE,
            "ours.loss_only",
            "the loss",
            "a few numbers a row",
            moved=lambda case: case.bytes + case.target_bytes,
            formula=lambda case: "read logits + labels",
        ),
        Provider(PLAIN, *FASTSCE, "ours.into_out", "loss and gradient without the case's options", GIVEN),
        Provider(
            READ,
            *FASTSCE,
            "roofs.reading",
            ROOF,
            NOTHING,
            moved=lambda case: case.bytes,
            formula=lambda case: "read logits",
        ),
        Provider(
            COPY,
            *FASTSCE,
            "roofs.copying",
            ROOF,
            NOTHING,
            moved=two,
            formula=lambda case: "read logits, write as many bytes, ordinary stores",
        ),
        Provider(
            STREAM,
            *FASTSCE,
            "roofs.copying_past_caches",
            ROOF,
            NOTHING,
            moved=two,
            formula=lambda case: "read logits, write as many bytes past the caches",
        ),
        Provider(
            COPY_BOTH,
            *FASTSCE,
            "roofs.copying_with_targets",
            "nothing: the bytes of logits and targets only",
            NOTHING,
            moved=lambda case: 3 * case.bytes,
            formula=lambda case: "read 2 x logits, write as many bytes as one",
        ),
        Provider(
            BARE,
            *FASTSCE,
            "bare.loop",
            "loss and gradient of logits laid out classes first; labels are not checked, rows not ignored, no logit is "
            "NaN or infinite; exp, log and sums in float32",
            NOTHING,
        ),
        Provider(
            EAGER,
            "torch",
            "torch",
            "peers.torch_eager",
            f"{BOTH}; autograd's gradient after the loss; 16 bits: the mean in float32",
            "log-probabilities, the gradient, and temporaries of the logits' size",
        ),
        Provider(
            COMPILED,
            "torch",
            "torch",
            "peers.torch_compile",
            f"{BOTH}; one graph, compiled for this shape",
            "the gradient, and whatever the graph keeps",
        ),
        Provider(
            JAX,
            "jax",
            "jax",
            "jax_peers.jax_jit",
            f"{BOTH}; value_and_grad of logsumexp(x) - x_y under jit; 16 bits in float32",
            "the gradient, and whatever XLA keeps",
        ),
        Provider(
            OPTAX,
            "jax",
            "optax",
            "jax_peers.optax_jit",
            "loss and gradient; value_and_grad of softmax_cross_entropy_with_integer_labels, or of "
            "sigmoid_binary_cross_entropy, under jit; 16 bits in float32",
            "the gradient, and whatever XLA keeps",
        ),
        Provider(
            SKLEARN,
            "scikit-learn",
            "sklearn",
            "numpy_peers.scikit_learn",
            f"{BOTH}; HalfMultinomialLoss and HalfBinomialLoss, threaded by OpenMP",
            "a row a thread; outputs are given",
        ),
        Provider(
            NUMPY,
            "NumPy",
            "numpy",
            "numpy_peers.numpy_best",
            f"{BOTH}; in pieces, on all threads",
            "a few numbers a row; for sigmoids two temporaries of a piece",
        ),
    )
}
COPIES = (READ, COPY, STREAM, COPY_BOTH)

# Not timed here, and why; so that nobody has to ask.
ABSENT = {
    "XGBoost": "its objectives run inside XGBoosterUpdateOneIter and no function of its C or Python interface returns "
    "their gradients (dmlc/xgboost#4818); its Hessian is 2 p (1 - p), another quantity",
    "LightGBM": "its objectives run inside LGBM_BoosterUpdateOneIter; a wrapper of ObjectiveFunction is asked for and "
    "not merged (lightgbm-org/LightGBM#6585, #6586); its Hessian is scaled by K / (K - 1)",
    "Liger": "its kernel is Triton's and needs a GPU: python -m fastsce bench --gpu times it there",
    "CuPy": "needs a GPU, where it is a library of arrays and has no such loss: fastsce takes its arrays",
}


def available(names) -> list[str]:
    """Those whose library is installed."""
    return [name for name in names if importlib.util.find_spec(PROVIDERS[name].module)]


def without_peers(names) -> list[str]:
    return [name for name in names if not PROVIDERS[name].is_peer]
