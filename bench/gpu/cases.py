"""What is measured on a GPU: shapes, contestants and the order of sections. No library is imported here."""

from __future__ import annotations

import math
from typing import NamedTuple

from bench.goals import COMPILED, COPY, EAGER, FRESH, OURS

MIB, GIB = 2**20, 2**30
LIGER = "Liger"
FORMULA = "2 x the bytes of the logits: each is read once, each number of the gradient is written once"
ITEMSIZE = {"bfloat16": 2, "float32": 4, "float16": 2}
CLASSES = (256, 1024, 4096, 8192, 16384, 32768, 50257, 65536, 128256, 152064, 262144)
SWEPT = ("bfloat16", "float32")
COMPARED = (32768, 128256, 1024)  # each is compiled for by itself, which takes some seconds
EACH = (OURS, FRESH, COPY, EAGER)
PEERS = (EAGER, COMPILED, LIGER)
SHARE = 12  # of free memory that logits may have: eager torch needs five times theirs, the truth a few blocks more

# Numbers of classes side by side. Between them a kernel changes its ways, or a row its place in a word.
CLUSTERS = (
    (31, 32, 33),
    (63, 64, 65),
    (127, 128, 129),
    (255, 256, 257),
    (1021, 1024, 1031),
    (2047, 2048, 2049),
    (4095, 4096, 4097),
    (9216, 9280, 9344),
    (10007, 10008, 10009),
    (16383, 16384, 16385),
    (32767, 32768, 32769),
    (65521, 65536, 65537),
    (131071, 131072, 131073),
    (152063, 152064, 152065),
)


class Case(NamedTuple):
    shape: tuple[int, ...]
    dtype: str
    axis: int = -1

    @property
    def classes(self) -> int:
        return self.shape[self.axis]

    @property
    def rows(self) -> int:
        return math.prod(self.shape) // self.classes

    @property
    def bytes(self) -> int:
        """Of the logits."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]

    def facts(self) -> dict:
        """As a result has them."""
        return {"dtype": self.dtype, "classes": self.classes, "rows": self.rows, "shape": list(self.shape)} | {
            "axis": self.axis,
            "bytes": self.bytes,
        }

    def __str__(self) -> str:
        shape = " x ".join(map(str, self.shape))
        return f"{shape} {self.dtype}" + (f", axis {self.axis}" if self.axis != -1 else "")


def shaped(classes: int, dtype: str, free: int, size: int = GIB) -> Case:
    """So many rows that the logits have about `size` bytes, fewer where no more than `free` bytes of memory are."""
    rows = min(size, free // SHARE) // (classes * ITEMSIZE[dtype])
    return Case((max(1, rows), classes), dtype)


def wide(free: int) -> list[Case]:
    return [shaped(c, dtype, free) for dtype in ITEMSIZE for c in CLASSES]


def compared(free: int) -> list[Case]:
    return [shaped(c, dtype, free) for c in COMPARED for dtype in SWEPT]


def layouts(free: int) -> list[Case]:
    """Images, classes first, and rows of a few bytes."""
    fixed = [((8, 21, 512, 512), 1), ((1000, 65536), 0)]
    cases = [Case(shape, dtype, axis) for shape, axis in fixed for dtype in ("float32", "bfloat16")]
    short = [shaped(c, "float32", free, 256 * MIB) for c in (10, 100)]
    return [case for case in cases if case.bytes <= free // SHARE] + short
