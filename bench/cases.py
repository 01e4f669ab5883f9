"""The workloads as data, a group for each kind of speed, with the contestants and the goals of each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  teaches NumPy the name bfloat16
import numpy as np

from bench.goals import (
    COPY,
    COPY_BOTH,
    EAGER,
    FRESH,
    JAX,
    LOSS,
    NUMPY,
    OURS,
    PEERS,
    PLAIN,
    READ,
    SKLEARN,
    STREAM,
    TORCH,
    AtMost,
    Faster,
    Goal,
    Within,
)

MIB = 2**20


class Case(NamedTuple):
    name: str
    shape: tuple[int, ...]
    contestants: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    axis: int = -1
    dtype: str = "float32"
    order: str = "C"
    target: str = "labels"  # or "probabilities", or "binary": probabilities of a sigmoid
    options: tuple[tuple[str, Any], ...] = ()
    weighted: bool = False  # weights for classes and samples, and some labels to ignore
    repeat: int = 1  # calls in one measurement

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    @property
    def rows(self) -> int:
        return math.prod(self.shape) // self.classes

    @property
    def bytes(self) -> int:
        """Of the logits: the floor is to read and to write as many."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        layout = f", axis {self.axis}" if self.axis != -1 else ", Fortran order" if self.order == "F" else ""
        size = f"{self.bytes / MIB:.4g} MiB" if self.bytes >= MIB else f"{self.bytes} bytes"
        return f"{shape} {self.dtype}{layout}, {size} of logits"


WIDE = [256, 1024, 4096, 8192, 32768, 65536, 131072, 262144]
SHORT = [2, 3, 5, 10, 16, 32, 64, 100, 200, 255]
SWEEP = [256, 257, 383, 511, 512, 513, 767, 1000, 1021, 1023, 1024, 1025, 1531, 2047, 2048, 2049, 3001, 4095, 4096]
SWEEP += [4097, 6007, 8191, 8192, 8193, 10007, 16383, 16384, 16385, 32003, 32768, 50257, 65535, 65536, 65537, 100003]
SWEEP += [131072, 131073, 200003, 262144]
ROOFS = (COPY, STREAM)


def shaped(classes: int, size: int, itemsize: int = 4) -> tuple[int, int]:
    return size // itemsize // classes, classes


def rows() -> list[Case]:
    large = (AtMost(1.0, COPY), AtMost(2.2, STREAM))
    small = (AtMost(1.5, COPY), AtMost(2.2, STREAM))
    compared = (1024, 8192, 131072)
    return [
        *(Case(f"256 MiB, C = {c}", shaped(c, 256 * MIB), (OURS, *ROOFS), large) for c in WIDE),
        *(Case(f"64 MiB, C = {c}", shaped(c, 64 * MIB), (OURS, *ROOFS), small) for c in WIDE if c not in compared),
        *(
            Case(f"64 MiB, C = {c}", shaped(c, 64 * MIB), (OURS, FRESH, *ROOFS, *PEERS, NUMPY), (*small, Faster(5)))
            for c in compared
        ),
    ]


def sweep() -> list[Case]:
    """Odd, prime and power-of-two numbers of classes: most rows start within a cache line."""
    return [Case(f"C = {c}", shaped(c, 64 * MIB), (OURS,)) for c in SWEEP]


def short() -> list[Case]:
    goals = (AtMost(2, COPY), Faster(6))
    return [
        *(Case(f"C = {c}", shaped(c, 16 * MIB), (OURS, *ROOFS, *PEERS), goals) for c in SHORT),
        Case("digits", (65536, 10), (OURS, *ROOFS, *PEERS, NUMPY), goals),
    ]


def strided() -> list[Case]:
    contestants, goals = (OURS, *ROOFS, *TORCH), (AtMost(1.3, COPY), Faster(5, TORCH))
    return [
        Case("segmentation", (16, 21, 512, 512), contestants, goals, axis=1),
        Case("segmentation, few images", (4, 21, 512, 512), contestants, goals, axis=1),
        Case("classes first", (1000, 65536), contestants, goals, axis=0),
        Case("Fortran order", (65536, 1000), contestants, goals, order="F"),
    ]


def dtypes() -> list[Case]:
    return [
        *(
            Case(
                f"{dtype}, C = {c}",
                shaped(c, 64 * MIB, 2),
                (OURS, *ROOFS, *TORCH),
                (AtMost(1.5, COPY), Faster(5, TORCH)),
                dtype=dtype,
            )
            for dtype in ("bfloat16", "float16")
            for c in (1024, 32768)
        ),
        *(
            Case(f"float64, C = {c}", shaped(c, 128 * MIB, 8), (OURS, *ROOFS), (AtMost(1.3, COPY),), dtype="float64")
            for c in (1024, 32768)
        ),
    ]


def options() -> list[Case]:
    numbers = (("label_smoothing", 0.1), ("z_loss", 1e-4), ("logit_scale", 0.7))
    wide, few = shaped(1024, 64 * MIB), shaped(10, 16 * MIB)
    beside_plain, roofs = (OURS, PLAIN, COPY), (OURS, COPY, COPY_BOTH)
    return [
        *(
            Case(f"all, C = {s[1]}", s, beside_plain, (AtMost(1.15, PLAIN),), options=numbers, weighted=True)
            for s in (wide, few)
        ),
        *(
            Case(f"softcap, C = {s[1]}", s, beside_plain, (AtMost(2, PLAIN),), options=(("softcap", 30.0),))
            for s in (wide, few)
        ),
        Case("probabilities", wide, roofs, (AtMost(1.2, COPY_BOTH),), target="probabilities"),
        Case("binary", wide, (*roofs, *TORCH), (AtMost(1.3, COPY), Faster(4, TORCH)), target="binary"),
    ]


def fresh() -> list[Case]:
    goals = (Faster(4, who=FRESH), AtMost(1.2, READ, who=LOSS))
    return [
        Case(f"{size} MiB, C = {c}", shaped(c, size * MIB), (FRESH, LOSS, COPY, READ, *PEERS), goals)
        for size in (64, 256)
        for c in (1024, 32768)
    ]


def latency() -> list[Case]:
    contestants = (OURS, FRESH, EAGER, JAX, SKLEARN, NUMPY)
    goals = (Within(10e-6), Within(10e-6, who=FRESH))
    return [Case(f"N = {n}", (n, 10), contestants, goals, repeat=1000) for n in (1, 32)]


def targets() -> list[Case]:
    """What is measured again for other instruction sets."""
    return [Case(f"C = {c}", shaped(c, 64 * MIB), (OURS, *ROOFS, EAGER)) for c in (256, 1024, 8192, 131072)]


MAIN = [case for case in (*short(), *rows()) if NUMPY in case.contestants]  # those of pytest bench/
