"""What importing the package brings with it, and which module may know which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastsce

ROOT = Path(fastsce.__file__).parent
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}
FRONT = {"arrays", "check", "problem", "spec"}
# What backends may know.
BESIDE = {"forks", "frame", "host", "interrupts", "law", "layout", "logistic", "maths", "scratch", "spec"}
PUBLIC = {"api", "binary", "dispatch", "probabilities", "system"}

# Who may import whom, by the longest name that fits; a package's modules may import each other.
ARROWS = {
    "spec": set(),
    "maths": set(),
    "frame": {"maths"},
    "law": {"frame"},
    "logistic": {"maths"},
    "scratch": set(),
    "forks": set(),
    "interrupts": set(),
    "layout": {"spec"},
    "results": {"layout", "scratch"},
    "device": {"layout", "spec"},
    "host": {"layout", "results", "scratch", "spec"},
    "check": {"spec"},
    "arrays": {"device", "spec"},
    "dispatch": {"arrays", "forks", "interrupts"},
    "small": {"arrays", "check", "dispatch", "spec"},
    "problem": {"arrays", "check", "dispatch", "spec"},
    "api": FRONT | {"small"},
    "probabilities": FRONT,
    "binary": FRONT | {"api"},
    "system": PUBLIC | {"", "arrays", "backends.cpu"},
    "__init__": PUBLIC | {"results"},
    "__main__": PUBLIC | {"", "demo"},
    "demo": PUBLIC | {"", "backends.cpu"},
    "backends": set(),
    "backends.reference": {"host", "spec"},
    "backends.cpu": BESIDE,
    "backends.cuda": BESIDE | {"device"},
}


def is_module(name):
    path = ROOT.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(path):
    """Our own modules that a file imports anywhere in it; '' is the package itself."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively; write the whole name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if is_module(name) else node.module for name in inner]
        else:
            continue
        yield from (name.removeprefix("fastsce").removeprefix(".") for name in names if name.split(".")[0] == "fastsce")


def rule(module):
    """The longest name in the table that is the module or a package around it."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((name for name in names if name in ARROWS), None)


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module):
    own = rule(module)
    assert own is not None, f"{module} has no rule: say in this test what it may import"
    for name in imported(MODULES[module]):
        sibling = own.count(".") and (name == own or name.startswith(own + "."))
        allowed = any(name == other or (other and name.startswith(other + ".")) for other in ARROWS[own])
        assert sibling or allowed, f"{module} imports {name or 'fastsce'}"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("then", ["", "; fastsce.cross_entropy([[0.0, 1.0]], [0], backend='reference')"])
def test_import_brings_no_compiler_and_no_framework(then):
    """Neither does a call of the reference."""
    code = f"import fastsce, sys{then}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    loaded = set(run(code))
    assert "numpy" in loaded
    assert not loaded & {"numba", "llvmlite", "torch", "jax", "jaxlib", "ml_dtypes", "cupy", "scipy", "sklearn"}


def test_public_names():
    """Everything in __all__ exists and is documented, and nothing else is public but the modules."""
    for name in fastsce.__all__:
        assert getattr(fastsce, name).__doc__, name
    others = {name for name in vars(fastsce) if not name.startswith("_")} - set(fastsce.__all__)
    assert others <= {name.split(".")[0] for name in MODULES}
