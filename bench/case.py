"""One workload as data: shapes and options, who takes part, what is to be reached, and the bytes it must move."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np

from bench.goals import Goal

MIB = 2**20
GRADIENT, HESSIAN = "loss + gradient", "gradient + Hessian"
LABEL_BYTES = 8  # int64, as torch has them


class Case(NamedTuple):
    name: str  # group/what, chosen by globs
    shape: tuple[int, ...]
    contestants: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    axis: int = -1
    dtype: str = "float32"
    order: str = "C"
    target: str = "labels"  # or "probabilities", or "binary": probabilities of a sigmoid
    computes: str = GRADIENT
    options: tuple[tuple[str, Any], ...] = ()
    weighted: bool = False  # weights for classes and samples, and some labels to ignore
    repeat: int = 1  # calls in one turn; more than one only where a call is too short for the clock
    environment: tuple[tuple[str, str], ...] = ()  # of the worker processes: another instruction set
    about: str = ""  # who runs this
    asked: int = 0  # rows before they were cut to fit the memory; 0 if they were not

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    @property
    def rows(self) -> int:
        return math.prod(self.shape) // self.classes

    @property
    def bytes(self) -> int:
        """Of the logits."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def target_bytes(self) -> int:
        return LABEL_BYTES * self.rows if self.target == "labels" else self.bytes

    @property
    def moved(self) -> int:
        """Read: logits and target. Written: the gradient, and the Hessian's diagonal where that is asked for."""
        return self.bytes + self.target_bytes + self.bytes * (2 if self.computes == HESSIAN else 1)

    @property
    def formula(self) -> str:
        """`moved` in words."""
        read = "logits + labels" if self.target == "labels" else "2 x logits"
        return f"read {read}, write {'2 x' if self.computes == HESSIAN else '1 x'} logits"

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        layout = f", axis {self.axis}" if self.axis != -1 else ", Fortran order" if self.order == "F" else ""
        size = f"{self.bytes / MIB:.4g} MiB" if self.bytes >= MIB else f"{self.bytes:,} bytes"
        return f"{shape} {self.dtype}{layout}, {size} of logits"


def fewer_rows(case: Case, share: float) -> Case:
    """About so much of the batch: whole samples, at least one; its memory order stays."""
    place = case.axis % len(case.shape)
    samples = next(i for i in range(len(case.shape)) if i != place)
    cut = list(case.shape)
    cut[samples] = max(1, int(cut[samples] * share))
    return case._replace(shape=tuple(cut), asked=case.asked or case.rows)
