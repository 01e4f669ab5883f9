"""How kernels are compiled: the options, once; one compiled form per types of arguments; a cache on disk.

numba's cache notices a change in a kernel's own file only, so ours is stamped with all files a kernel is made from.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import inspect
import os
import pickle
from functools import partial
from pathlib import Path

import numba
import numpy as np
from numba import types
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_lock import global_compiler_lock
from numba.core.compiler_machinery import register_pass
from numba.core.typed_passes import InlineOverloads, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes
from numba.extending import register_jitable

from fastsce import interrupts

OPTIONS = {"nogil": True, "error_model": "numpy"}
LAWS = [Path(__file__).parents[2] / name for name in ("frame.py", "law.py", "logistic.py", "maths.py")]
SOURCES = [*LAWS, *sorted(Path(__file__).parent.glob("*.py"))]


def hold_compiler():
    """A child of a process that compiles would wait for the lock for ever. Ctrl-C would make the fork go on without."""
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            global_compiler_lock.acquire()
            return


if hasattr(os, "register_at_fork"):
    released = global_compiler_lock.release
    os.register_at_fork(before=hold_compiler, after_in_parent=released, after_in_child=released)


@contextlib.contextmanager
def garbage_left():
    """Little of what numba makes while it compiles is garbage, and to look for it would take a tenth of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Code(JITCodeLibrary):
    """LLVM code that only becomes part of a kernel: neither optimised nor compiled before."""

    def _optimize_final_module(self):
        pass

    def _finalize_final_module(self):
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class PartLowering(NativeLowering):
    """numba would optimise and compile each function with all that it calls, which takes longer than the kernel."""

    _name = "part_lowering"

    def run_pass(self, state):
        context = state.targetctx
        state.library = Code(context.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        super().run_pass(state)
        entry = [None].append  # stands for the compiled function: numba wants a built-in one, like no other
        state.cr = state.cr._replace(cfunc=entry)
        context.insert_user_function(entry, state.cr.fndesc, [state.library])
        return True


@register_pass(mutates_CFG=True, analysis_only=False)
class ApartLowering(PartLowering):
    _name = "apart_lowering"

    def run_pass(self, state):
        state.flags.forceinline = False  # only now: what parts call is compiled once for all whose flags are alike
        super().run_pass(state)
        name = state.cr.fndesc.llvm_func_name
        state.library._final_module.get_function(name).add_function_attribute("noinline")
        return True


NEEDLESS = {InlineClosureLikes, InlineOverloads, NopythonRewrites}  # no part has what they are for


def options_of_a_part(lowering):
    class PartCompiler(CompilerBase):
        def define_pipelines(self):
            pipeline = DefaultPassBuilder.define_nopython_pipeline(self.state)
            passes = [(p, text) for p, text in pipeline.passes if p not in NEEDLESS]
            pipeline.passes = [(lowering if p is NativeLowering else p, text) for p, text in passes]
            pipeline.finalize()
            return [pipeline]

    wrappers = {"no_cfunc_wrapper": True, "no_cpython_wrapper": True, "_nrt": False}
    return {"forceinline": True, "pipeline_class": PartCompiler, **wrappers}


PART_OPTIONS = options_of_a_part(PartLowering)
device = register_jitable(**PART_OPTIONS)
apart = register_jitable(**options_of_a_part(ApartLowering))  # a loop, or a tile: they need all registers
overload = partial(numba.extending.overload, jit_options=PART_OPTIONS)


class Kernel:
    """A compiled function, called past numba's dispatcher.

    Arrays of any layout, read-only ones too, share one compiled form: strides are read at run time, and a kernel
    writes nothing but its outputs.
    """

    def __init__(self, function):
        self.function = function
        parallel = "prange" in function.__code__.co_names  # what it costs to compile is for those who use it
        self.dispatcher = numba.njit(parallel=parallel, **OPTIONS)(function)
        self.cached = False
        self.entries = {}

    def __call__(self, *args):
        form = tuple([a.dtype.char + str(a.ndim) if type(a) is np.ndarray else type(a) for a in args])
        return self.entry(form, args)(*args)

    def entry(self, form, args):
        """The compiled form; `form` is anything short from which the types of all arguments follow."""
        return self.entries.get(form) or self.compile(form, args)

    def compile(self, form, args):
        with interrupts.held(), global_compiler_lock, garbage_left():  # a fork waits for the lock
            self.enable_cache()  # by one thread: another would compile what the cache has
            entry = self.entries[form] = self.dispatcher.compile(tuple(map(numba_type, args)))
        return entry

    def enable_cache(self):
        if not self.cached:
            with contextlib.suppress(RuntimeError):  # no place to write to: compiled code lives as long as the process
                self.dispatcher._cache = StampedCache(self.function)
            self.cached = True


class StampedCache(FunctionCache):
    def __init__(self, function):
        super().__init__(function)
        self._cache_file = FilesByKey(self._cache_path, self._impl.filename_base, source_stamp(function))

    def load_overload(self, sig, target_context):
        with contextlib.suppress(OSError):
            return super().load_overload(sig, target_context)

    def save_overload(self, sig, data):
        with contextlib.suppress(OSError):  # a full disk is no reason for a call to fail
            super().save_overload(sig, data)


class FilesByKey(IndexDataCacheFile):
    """Names a file of machine code after what is in it, and knows a damaged one by its checksum.

    numba counts: two processes that compile different forms at once may then take the same name, and one of them load
    the other's code. Here the worst that can happen is that a form is forgotten and compiled again.
    """

    def _load_index(self):
        try:
            return super()._load_index()
        except Exception:  # whatever reading a damaged pickle may raise
            return {}

    def _load_data(self, name):
        checksum, _, data = Path(self._data_path(name)).read_bytes().partition(b"\n")
        return pickle.loads(data) if checksum == digest(data) else None

    def _save_data(self, name, data):
        data = self._dump(data)
        with self._open_for_write(self._data_path(name)) as file:
            file.write(digest(data) + b"\n" + data)

    def save(self, key, data):
        name = f"{self._index_name}.{hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:24]}.nbc"
        self._save_data(name, data)
        self._save_index({**self._load_index(), key: name})


def digest(data) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def source_stamp(function) -> str:
    paths = [Path(inspect.getfile(function)), *SOURCES]
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def numba_type(value):
    if isinstance(value, np.ndarray):
        return types.Array(numba.from_dtype(value.dtype), value.ndim, "A")
    return numba.typeof(value)


kernel = Kernel
