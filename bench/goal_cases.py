"""The cases that goals are set for, a group for each kind of speed."""

from __future__ import annotations

import platform

from bench.case import MIB, Case
from bench.goals import (
    BARE,
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
    Within,
)

WIDE = [256, 1024, 4096, 8192, 32768, 65536, 131072, 262144]
SHORT = [2, 3, 5, 10, 16, 32, 64, 100, 200, 255]
SWEEP = [256, 257, 383, 511, 512, 513, 767, 1000, 1021, 1023, 1024, 1025, 1531, 2047, 2048, 2049, 3001, 4095, 4096]
SWEEP += [4097, 6007, 8191, 8192, 8193, 10007, 16383, 16384, 16385, 32003, 32768, 50257, 65535, 65536, 65537, 100003]
SWEEP += [131072, 131073, 200003, 262144]
ROOFS = (COPY, STREAM)
AVX2 = (("NUMBA_CPU_NAME", "haswell"), ("NUMBA_CPU_FEATURES", ""))  # a name alone leaves this CPU's own features
LESSER_CPUS = {  # environment, and what is to be reached there
    "AVX2": (AVX2, (Faster(3, (EAGER,)),)),
    "AVX2-torch-too": ((*AVX2, ("ATEN_CPU_CAPABILITY", "avx2")), (Faster(3, (EAGER,)),)),
    "x86-64": ((("NUMBA_CPU_NAME", "x86-64"), ("NUMBA_CPU_FEATURES", "")), ()),
}


def shaped(classes: int, size: int, itemsize: int = 4) -> tuple[int, int]:
    return size // itemsize // classes, classes


def all_groups() -> list[Case]:
    groups = (rows, sweep, short, strided, dtypes, options, fresh, latency, start, targets)
    return [case for group in groups for case in group()]


def rows() -> list[Case]:
    large = (AtMost(1.0, COPY), AtMost(2.2, STREAM))
    small = (AtMost(1.5, COPY), AtMost(2.2, STREAM))
    compared = (1024, 8192, 131072)
    beside = (OURS, FRESH, *ROOFS, *PEERS, NUMPY)
    return [
        *(Case(f"rows/256MiB-{c}", shaped(c, 256 * MIB), (OURS, *ROOFS), large) for c in WIDE),
        *(Case(f"rows/64MiB-{c}", shaped(c, 64 * MIB), (OURS, *ROOFS), small) for c in WIDE if c not in compared),
        *(Case(f"rows/64MiB-{c}", shaped(c, 64 * MIB), beside, (*small, Faster(5))) for c in compared),
    ]


def sweep() -> list[Case]:
    """One number of classes against the next, see special.py: odd, prime and power-of-two ones, most of whose rows
    start within a cache line.
    """
    return [Case("sweep", shaped(256, 64 * MIB), (OURS, COPY))]


def short() -> list[Case]:
    """The bare loop, whose classes lie a whole array apart, stands beside up to 32 of them only."""
    goals, beside = (AtMost(2, COPY), Faster(6)), (OURS, *ROOFS, *PEERS)
    return [
        *(Case(f"short/{c}", shaped(c, 20 * MIB), (*beside, BARE) if c <= 32 else beside, goals) for c in SHORT),
        Case("short/digits", (65536, 10), (*beside, BARE, NUMPY), goals),
    ]


def strided() -> list[Case]:
    contestants, goals = (OURS, *ROOFS, *TORCH), (AtMost(1.3, COPY), Faster(5, TORCH))
    return [
        Case("strided/segmentation", (16, 21, 512, 512), contestants, goals, axis=1),
        Case("strided/segmentation-few-images", (4, 21, 512, 512), contestants, goals, axis=1),
        Case("strided/classes-first", (1000, 65536), contestants, goals, axis=0),
        Case("strided/fortran-order", (65536, 1000), contestants, goals, order="F"),
    ]


def dtypes() -> list[Case]:
    halves = (OURS, *ROOFS, *TORCH), (AtMost(1.5, COPY), Faster(5, TORCH))
    doubles = (OURS, *ROOFS), (AtMost(1.3, COPY),)
    return [
        *(
            Case(f"dtypes/{dtype}-{c}", shaped(c, 64 * MIB, 2), *halves, dtype=dtype)
            for dtype in ("bfloat16", "float16")
            for c in (1024, 32768)
        ),
        *(Case(f"dtypes/float64-{c}", shaped(c, 128 * MIB, 8), *doubles, dtype="float64") for c in (1024, 32768)),
    ]


def options() -> list[Case]:
    numbers = (("label_smoothing", 0.1), ("z_loss", 1e-4), ("logit_scale", 0.7))
    wide, few = shaped(1024, 64 * MIB), shaped(10, 16 * MIB)
    beside_plain, roofs = (OURS, PLAIN, COPY), (OURS, COPY, COPY_BOTH)
    return [
        *(
            Case(f"options/all-{s[1]}", s, beside_plain, (AtMost(1.15, PLAIN),), options=numbers, weighted=True)
            for s in (wide, few)
        ),
        *(
            Case(f"options/softcap-{s[1]}", s, beside_plain, (AtMost(2, PLAIN),), options=(("softcap", 30.0),))
            for s in (wide, few)
        ),
        Case("options/probabilities", wide, roofs, (AtMost(1.2, COPY_BOTH),), target="probabilities"),
        Case("options/binary", wide, (*roofs, *TORCH), (AtMost(1.3, COPY), Faster(4, TORCH)), target="binary"),
    ]


def fresh() -> list[Case]:
    goals = (Faster(4, who=FRESH), AtMost(1.2, READ, who=LOSS))
    return [
        Case(f"fresh/{size}MiB-{c}", shaped(c, size * MIB), (FRESH, LOSS, COPY, READ, *PEERS), goals)
        for size in (64, 256)
        for c in (1024, 32768)
    ]


def latency() -> list[Case]:
    contestants = (OURS, FRESH, EAGER, JAX, SKLEARN, NUMPY)
    goals = (Within(10e-6), Within(10e-6, who=FRESH))
    return [Case(f"latency/{n}x10", (n, 10), contestants, goals, repeat=1000) for n in (1, 32)]


def start() -> list[Case]:
    """What a new process waits for, see special.py."""
    return [Case("start", (64, 1000), ())]


def targets() -> list[Case]:
    """Wide rows for lesser CPUs of this kind; numba's cache keeps their kernels apart by itself."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return []
    return [
        Case(f"targets/{cpu}-{c}", shaped(c, 64 * MIB), (OURS, *ROOFS, EAGER), goals, environment=environment)
        for cpu, (environment, goals) in LESSER_CPUS.items()
        for c in (256, 1024, 8192, 131072)
    ]
