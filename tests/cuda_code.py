"""Machine code of the CUDA kernels, made without a GPU in a process of its own: what it needs, and what is in it."""

import gc
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

GPUS = {"sm_80": (8, 0), "sm_90": (9, 0), "sm_100": (10, 0)}
DTYPES = {"float32": "f4", "float64": "f8", "float16": "f2", "bfloat16": "V2"}
LABELS, SMOOTHED, SOFT, CAPPED, HESSIAN = "labels", "smoothed", "probabilities", "softcap", "Hessian"
BOTH = ("float32", "bfloat16")
PLAIN = [(gpu, dtype, regime, LABELS) for gpu in GPUS for dtype in BOTH for regime in ("ROWS", "LONG")]
OTHERS = [
    ("sm_90", "float32", "COLUMNS", LABELS),
    ("sm_90", "bfloat16", "COLUMNS", LABELS),
    ("sm_90", "float16", "ROWS", LABELS),
    ("sm_90", "float64", "ROWS", LABELS),
    ("sm_90", "float64", "LONG", LABELS),
    ("sm_90", "float64", "COLUMNS", LABELS),
    *[("sm_90", dtype, "ROWS", kind) for dtype in BOTH for kind in (SMOOTHED, SOFT, CAPPED, HESSIAN)],
]
FORMS = PLAIN + OTHERS


def tools() -> Path | None:
    """The folder of cuobjdump and nvdisasm."""
    found = importlib.util.find_spec("nvidia")
    places = list(found.submodule_search_locations) if found is not None else []
    return next((p for place in places for p in Path(place).glob("cu*/bin") if (p / "nvdisasm").exists()), None)


def why_not() -> str:
    """Why no machine code can be made here, or nothing."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed"
    return "" if tools() else "nvdisasm is not installed"


def arguments(dtype, soft):
    from fastsce.backends.cuda.job import Job, Line, Plan, Pointer, View
    from fastsce.law import Law

    def pointer(kind):
        return Pointer(0, np.dtype(kind))

    view, line = View(pointer(dtype), 0, 0, 0), Line(pointer("f8"), 0)
    target = View(pointer("f4" if soft else dtype), 0, 0, 0)
    weight = pointer("f8" if dtype == "f8" else "f4")
    numbers = pointer("i8"), weight, line, 1.0, line, line, line, pointer("f8"), pointer("f8")
    law, plan = Law(*[1.0] * len(Law._fields)), Plan(*[1] * len(Plan._fields))._replace(per_inner=1.0)
    return Job(view, view, view, target, *numbers, law, plan)


def describe(gpu, dtype, regime, kind, fewer=False) -> dict:
    """Registers, and how often each instruction occurs; `fewer`: with half as many words in registers."""
    from numba.cuda import dispatcher

    from fastsce.backends.cuda import geometry, job
    from fastsce.backends.cuda.compile import type_of

    capability, code = GPUS[gpu], DTYPES[dtype]
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=capability)  # there is none to ask
    write = job.HESSIAN if kind == HESSIAN else job.GRADIENT
    regime = getattr(job, regime)
    slots = geometry.slots_of(regime, np.dtype(code).itemsize, kind in (CAPPED, HESSIAN))
    precise = dtype in ("float32", "float64")
    shared, soft, capped = kind in (SMOOTHED, SOFT), kind == SOFT, kind == CAPPED
    threads = geometry.most_threads(geometry.threads_of(capability), np.dtype(code).itemsize, shared, capped)
    form = regime, slots // 2 if fewer else slots, shared, soft, capped, write, precise
    library = lowered(form, type_of(arguments(code, kind == SOFT)), threads)
    place = Path(sys.argv[1]) / "kernel.cubin"
    place.write_bytes(library.get_cubin(cc=capability).code)
    usage = output("cuobjdump", "-res-usage", place)
    text = output("nvdisasm", "-c", place)
    kernel = text[text.rindex("\n.text.") :]
    return {
        "slots": slots // 2 if fewer else slots,
        "parameters": re.findall(r"\.param \.(\w+) .*_param_\d+,?$", library.get_asm_str(cc=capability), re.MULTILINE),
        "threads": threads,
        "registers": max(map(int, re.findall(r"REG:(\d+)", usage))),
        "stack": max(map(int, re.findall(r"STACK:(\d+)", usage))),
        "instructions": Counter(re.findall(r"^\s+/\*\w+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", text, re.MULTILINE)),
        "calls": sorted(set(re.findall(r"CALL\S*\s+`\(([^)]*)\)", text))),
        "in_loops": sorted(set(double_in_loops(kernel))),
    }


@cache
def lowered(form, argument, threads):
    """LLVM's code of a kernel, which is the same for every GPU."""
    from numba.cuda import types
    from numba.cuda.compiler import _compile_pyfunc_with_fixup

    from fastsce.backends.cuda import geometry

    library, _ = _compile_pyfunc_with_fixup(
        geometry.kernel(*form), types.void(argument), debug=False, lineinfo=False, device=False,
        fastmath=False, cc=GPUS["sm_80"], opt=True, abi="numba", abi_info=None, forceinline=False,
        launch_bounds=(threads, 1), lto=False,
    )  # fmt: skip
    return library


def output(tool, *args) -> str:
    done = subprocess.run([tools() / tool, *args], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def double_in_loops(text) -> list[str]:
    """Double arithmetic between a label and a jump back to it, where words are loaded: in loops over classes."""
    lines = text.splitlines()
    labels = {m[1]: n for n, line in enumerate(lines) if (m := re.match(r"^\.?(\S+):", line.lstrip(".")))}
    found = []
    for n, line in enumerate(lines):
        jump = re.search(r"BRA\S*\s+(?:\S+,\s*)?`\(\.?(\S+)\)", line)
        start = labels.get(jump[1], n) if jump else n
        body = "\n".join(lines[start:n])
        if start < n and n - start < 1500 and re.search(r"LD[GS]\S*\.128", body) and "EXIT" not in body:
            found += re.findall(r"\b(D(?:ADD|MUL|FMA)\S*|F2F\.F64\S*)", body)
    return found


def main():
    """The forms whose numbers are given, as JSON; the odd ones without what NumPy 2.5 has no more."""
    if int(sys.argv[3].split(",")[0]) % 2:
        vars(np).pop("row_stack", None)
        np.__all__ = [name for name in np.__all__ if name != "row_stack"]
    from fastsce.backends.cuda import compile

    gc.disable()  # little is garbage of what numba makes, and there is much to look through
    forms = {n: FORMS[n] for n in map(int, sys.argv[3].split(","))}
    found = {str(n): describe(*form) for n, form in forms.items()}
    compared = {n: form for n, form in forms.items() if form in PLAIN and form[0] == "sm_90"}
    found |= {f"{n} fewer": describe(*form, fewer=True) for n, form in compared.items()}
    found["lto"] = compile.dispatcher_of(lambda job: None, 256).targetoptions["lto"]
    found["row_stack"] = hasattr(np, "row_stack")
    Path(sys.argv[2]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
