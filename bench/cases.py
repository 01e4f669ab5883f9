"""The catalogue: workloads that people run, by name, and beside them the groups that goals are set for (goal_cases.py).

Rows are as many as a training step has, or fewer where the batch would take the minutes of a whole run; classes are
those of the models that are named.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from bench import goal_cases
from bench.case import HESSIAN, MIB, Case, fewer_rows
from bench.goals import (
    AGAIN,
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
    READ,
    SKLEARN,
    STREAM,
)

ROOFS = (READ, COPY, STREAM)
OURS_ALL = (OURS, AGAIN, FRESH, IN_PLACE)
COMPILERS = (EAGER, COMPILED, JAX, OPTAX)
ROWS = (*ROOFS, *OURS_ALL, LOSS, *COMPILERS, SKLEARN, NUMPY)  # classes last, float32
STRIDED = (*ROOFS, *OURS_ALL, LOSS, *COMPILERS, NUMPY)  # scikit-learn takes classes last only
HALVES = (*ROOFS, *OURS_ALL, LOSS, *COMPILERS)  # scikit-learn and NumPy have no bfloat16
BOOSTING = (*ROOFS, OURS, AGAIN, FRESH, EAGER, COMPILED, JAX, SKLEARN, NUMPY)
MULTILABEL = (*ROOFS, COPY_BOTH, *OURS_ALL, *COMPILERS, SKLEARN, NUMPY)
TINY = (OURS, AGAIN, FRESH, EAGER, COMPILED, JAX, OPTAX, SKLEARN, NUMPY)

# classes, tokens in a step, whose vocabulary
VOCABULARIES = [
    (32000, 8192, "Llama 2, Mistral"),
    (50257, 2048, "GPT-2, GPT-3"),
    (128256, 1024, "Llama 3"),
    (152064, 1024, "Qwen 2.5"),
    (262144, 1024, "Gemma 3"),
]
IMAGES = [  # classes, images, whose
    (10, 65536, "CIFAR-10, MNIST"),
    (100, 16384, "CIFAR-100"),
    (1000, 8192, "ImageNet"),
    (21841, 1024, "ImageNet-21k"),
]


GROUPS = {
    "llm": "Language models: as many classes as the vocabulary has words, tokens of a step as rows.",
    "images": "Image classification: a large batch of images.",
    "segmentation": "A label for each pixel; the class axis is the second, as image models have it.",
    "boosting": "Gradient boosting: gradient and the Hessian's diagonal of all rows, once for each round of boosting.",
    "extreme": "Extreme classification: as many classes as a shop has products.",
    "multilabel": "Sigmoids: every class true or not, with binary cross-entropy; targets are as large as the logits.",
    "tiny": "So small that it is the call itself that takes the time. Many calls in a turn; warm only.",
    "rows": "Goals for long rows.",
    "sweep": "Goal: no number of classes is much slower than its neighbours.",
    "short": "Goals for few classes.",
    "strided": "Goals for classes that are not last.",
    "dtypes": "Goals for 16 and for 64 bits.",
    "options": "Goals for options of the loss.",
    "fresh": "Goals for gradients without `out=`, and for the loss alone.",
    "latency": "Goals for the smallest calls.",
    "start": "Goals for what a new process waits for.",
    "targets": "Goals for lesser CPUs of this kind.",
}


def llm() -> list[Case]:
    return [
        Case(f"llm/{classes}-{short}", (tokens, classes), contestants, dtype=dtype, about=about)
        for dtype, short, contestants in (("float32", "f32", ROWS), ("bfloat16", "bf16", HALVES))
        for classes, tokens, about in VOCABULARIES
    ]


def images() -> list[Case]:
    return [Case(f"images/{c}", (rows, c), ROWS, about=about) for c, rows, about in IMAGES]


def segmentation() -> list[Case]:
    return [
        Case("segmentation/21x512x512", (8, 21, 512, 512), STRIDED, axis=1, about="Pascal VOC"),
        Case("segmentation/150x128x128", (8, 150, 128, 128), STRIDED, axis=1, about="ADE20K at a quarter"),
    ]


def boosting() -> list[Case]:
    return [
        Case(f"boosting/{c}", (1_000_000, c), BOOSTING, computes=HESSIAN, about="a million rows, one boosting round")
        for c in (3, 10, 50)
    ]


def extreme() -> list[Case]:
    return [Case("extreme/670091", (64, 670091), ROWS, about="Amazon-670K")]


def multilabel() -> list[Case]:
    return [
        Case("multilabel/80", (65536, 80), MULTILABEL, target="binary", about="COCO's objects"),
        Case("multilabel/10000", (1024, 10000), MULTILABEL, target="binary", about="tags"),
    ]


def tiny() -> list[Case]:
    shapes = [(1, 10), (32, 10), (1, 1000)]
    return [Case(f"tiny/{n}x{c}", (n, c), TINY, repeat=200, about="one call's own time") for n, c in shapes]


def machine_roofs(quick: bool = False) -> Case:
    """What the machine can do, measured before and after all cases."""
    size = (64 if quick else 256) * MIB
    return Case(f"roofs/{size // MIB}MiB", goal_cases.shaped(8192, size), ROOFS, about="the machine")


def workloads() -> list[Case]:
    return [case for group in (llm, images, segmentation, boosting, extreme, multilabel, tiny) for case in group()]


def catalogue() -> list[Case]:
    """All there is; names are unique."""
    return [*workloads(), *goal_cases.all_groups()]


# --quick: one of each kind of kernel, so many rows
QUICK = {
    "llm/32000-bf16": 128,
    "images/1000": 2048,
    "segmentation/21x512x512": 1,
    "boosting/10": 100_000,
    "multilabel/80": 16384,
    "tiny/1x10": 1,
}
SLOW = (COMPILED, OPTAX)  # compile for 5 to 17 s in a first run, whose kernels of ours take 18: not within a minute
COMPILED_ONCE = "llm/32000-f32"  # of the smaller cases


def quick(selected: Iterable[Case]) -> list[Case]:
    """Of the selected cases those that --quick has, smaller; all of them, smaller, if it has none."""
    selected = list(selected)
    chosen = [case for case in selected if case.name in QUICK] or selected
    return [without(smaller(case), SLOW) for case in chosen]


def without(case: Case, names: tuple[str, ...]) -> Case:
    return case._replace(contestants=tuple(name for name in case.contestants if name not in names))


def smaller(case: Case) -> Case:
    case = case if case.name == COMPILED_ONCE else without(case, (COMPILED,))
    rows = QUICK.get(case.name)
    share = rows / case.shape[0] if rows else 32 * MIB / case.bytes
    return fewer_rows(case, share)._replace(asked=0) if share < 1 else case


class NoSuchCase(ValueError):
    """A glob that fits no name."""


def select(globs: Iterable[str]) -> list[Case]:
    """The cases whose name, or whose group, fits one of the globs, in the catalogue's order; the workloads if none is
    given.
    """
    globs = list(globs)
    if not globs:
        return workloads()
    everything = catalogue()
    for glob in globs:
        if not any(fits(case, glob) for case in everything):
            groups = ", ".join(dict.fromkeys(case.group for case in everything))
            raise NoSuchCase(f"no case is called {glob!r}; the groups are {groups}, and --list names all cases")
    return [case for case in everything if any(fits(case, glob) for glob in globs)]


def fits(case: Case, glob: str) -> bool:
    return fnmatchcase(case.name, glob) or fnmatchcase(case.group, glob)


def fitted(case: Case, memory: int, share: float) -> Case:
    """The case with as many rows as fit: inputs and outputs of all contestants at once in a share of the memory."""
    allowed, needed = share * memory, footprint(case)
    return case if needed <= allowed else fewer_rows(case, allowed / needed)


def footprint(case: Case) -> int:
    """Bytes: logits, JAX's and optax's copies of them, target, given outputs, and what the hungriest contestant makes,
    in float32 at least: torch's log-probabilities, gradient and one temporary. Only one runs at a time.
    """
    if case.group == "sweep":
        return (len(goal_cases.SWEEP) + 1) * case.bytes  # all batches at once, and one gradient
    given = case.bytes * (5 if case.computes == HESSIAN else 4) + case.target_bytes
    return given + 3 * max(case.bytes, 4 * case.rows * case.classes)
