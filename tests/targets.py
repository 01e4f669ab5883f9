"""Kernels made anew for an instruction set, in processes of their own: what they compute, and their assembly."""

import functools
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from cases import labels, logits

# An empty list of features stands for those that belong to the name; without it numba adds the host's.
ENVIRONMENTS = {
    "host": {},
    "avx2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "baseline": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}
NEEDS = {"host": (), "avx2": ("avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"), "baseline": ("sse2",)}
SHAPES = [(1000, 33), (1000, 3), (5, 1), (17, 1003), (5, 8192)]
HALVES = np.arange(1 << 16, dtype=np.uint16)  # every float16


def host_features() -> set:
    from llvmlite import binding

    return {name for name, has in binding.get_host_cpu_features().items() if has}


def why_not(target) -> str:
    """Why this machine cannot run the target's code, or nothing."""
    if target != "host" and platform.machine() not in ("x86_64", "AMD64"):
        return "another kind of CPU"
    lacks = [name for name in NEEDS[target] if name not in host_features()]
    return f"this CPU lacks {', '.join(lacks)}" if lacks else ""


def batches() -> dict:
    """(logits, labels, axis) by name."""
    found = {f"{n} x {c}": (logits((n, c)), labels(n, c, ignored=True), -1) for n, c in SHAPES}
    found["class axis first"] = np.ascontiguousarray(logits((301, 40)).T), labels(301, 40), 0
    found["many classes first"] = np.ascontiguousarray(logits((301, 500)).T), labels(301, 500, ignored=True), 0
    rising = logits((301, 500)) + np.arange(500) // 32 * 9  # block by block
    found["many rising classes first"] = np.ascontiguousarray(rising.T, np.float32), labels(301, 500), 0
    confident = logits((40, 300)) * 20
    found["confident"] = confident, confident.argmax(-1), -1
    masked = logits((40, 2500))
    masked[:, :2100] = -np.inf
    masked[::2, 2450:] = -np.inf
    found["masked"] = masked, np.full(40, 2200), -1
    return found


def values() -> dict:
    """What the kernels of this process give for each batch."""
    import fastsce

    found = {}
    for name, (x, target, axis) in batches().items():
        result = fastsce.cross_entropy_value_and_grad(x, target, axis=axis, reduction="none", backend="cpu")
        found |= {f"{name}: {field}": value for field, value in result._asdict().items()}
    return found


def halves() -> dict:
    """Every float16, read; and numbers at and near them, written as float16."""
    wide = np.empty(HALVES.size, np.float32)
    copy_lines()(HALVES, wide)
    near = np.concatenate([wide, np.nextafter(wide, np.float32(0)), wide * np.float32(1 + 2.0**-11)])
    narrow = np.empty(near.size, np.uint16)
    copy_lines()(near, narrow)
    return {"from float16": wide, "to float16, of": near, "to float16": narrow}


@functools.cache
def copy_lines():
    import numba

    from fastsce.backends.cpu.memory import load, pointer, store

    @numba.njit
    def run(x, out):
        p, q = pointer(x), pointer(out)
        for j in range(0, x.size, 16):
            store(q, j, load(p, j, 16))

    return run


def assembly(kernel, forms=1) -> str:
    """Of a kernel's latest compiled form of so many, where this process compiled it."""
    *others, compiled = kernel.dispatcher.overloads.values()
    assert len(others) == forms - 1
    return compiled.library.get_asm_str()


def outside(code) -> set:
    """The functions of other libraries that assembly calls or takes the address of."""
    return set(re.findall(r"^\s+(?:movabsq[ \t]+\$|(?:callq?|jmp|bl)[ \t]+)([A-Za-z]\w*)", code, re.MULTILINE))


@functools.cache
def made(folder) -> dict:
    """Start the processes of all targets at once; the folder of each, when it is done."""
    processes = {}
    for target, environment in ENVIRONMENTS.items():
        if not why_not(target):
            place = folder / target
            place.mkdir()
            environment = {**os.environ, **environment, "NUMBA_CACHE_DIR": str(place / "cache")}
            processes[target] = subprocess.Popen([sys.executable, __file__, place], env=environment)
    for target, process in processes.items():
        assert process.wait() == 0, target
    return {target: folder / target for target in processes}


def main(place) -> None:
    import fastsce
    from fastsce.backends.cpu import bands, columns, few, rows

    np.savez(place / "values.npz", **values(), **halves())
    for kernel in (rows.rows, columns.columns, bands.bands, few.few):
        (place / f"{kernel.function.__name__}.s").write_text(assembly(kernel))
    fastsce.cross_entropy_value_and_grad(logits((40, 300)), labels(40, 300), softcap=5.0, backend="cpu")
    (place / "softcap.s").write_text(assembly(rows.rows, 2))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
