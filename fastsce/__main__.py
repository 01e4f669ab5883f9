"""The command line: python -m fastsce demo | info | warmup | bench."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fastsce import __version__, dispatch, system


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="python -m fastsce",
        description="Softmax cross-entropy loss and gradient, fused, at the speed of memory.",
    )
    top.add_argument("--version", action="version", version=f"fastsce {__version__}")
    commands = top.add_subparsers(dest="command", metavar="command", required=True)

    demo = commands.add_parser(
        "demo",
        help="train a small language model and measure",
        description="Train a next-word model on the sources of Python's standard library, then measure loss + gradient "
        "of one of its batches beside NumPy and a plain copy, and check both against float64.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--steps", type=count, default=60, help="training steps")
    demo.add_argument("--vocab", type=count, default=16384, help="words the model knows, the classes of the loss")
    demo.add_argument("--batch", type=count, default=4096, help="words predicted in one step, the rows of the loss")
    demo.add_argument("--seed", type=int, default=0, help="of the initial weights and the batches")
    backend_option(demo)
    demo.set_defaults(run=run_demo)

    info = commands.add_parser(
        "info",
        help="print versions, CPU features, threads, cache and backends",
        description="Print what a bug report should say: versions, CPU features, threads and threading layer, where "
        "compiled kernels are kept, and the backends, with the reason where one is missing.",
    )
    info.set_defaults(run=lambda options: system.show_versions())

    warmup = commands.add_parser(
        "warmup",
        help="compile the kernels into the cache",
        description="Compile the kernels into the cache, so that the first call of a later process does not wait.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    warmup.add_argument(
        "dtypes", nargs="*", default=["float32"], metavar="dtype", help=f"of the logits: {', '.join(system.DTYPES)}"
    )
    warmup.add_argument(
        "--classes", type=count, nargs="+", default=[], metavar="N", help="few classes have a kernel for each number"
    )
    backend_option(warmup)
    warmup.set_defaults(run=run_warmup)

    commands.add_parser(  # its options are the benchmark's own, which is no part of the package
        "bench", help="measure beside other libraries; needs a checkout", add_help=False
    ).set_defaults(run=run_bench)
    return top


def backend_option(command: argparse.ArgumentParser) -> None:
    on_cpu = [name for name, backend in dispatch.BACKENDS.items() if backend.device == "cpu"]
    command.add_argument("--backend", choices=on_cpu, default="cpu", help="who computes")


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def run_demo(options: argparse.Namespace) -> None:
    from fastsce import demo  # only here, so that the other commands do not read it

    demo.main(options.steps, options.vocab, options.batch, options.seed, options.backend)


def run_warmup(options: argparse.Namespace) -> None:
    system.warmup(
        options.dtypes, classes=options.classes, backend=options.backend, progress=lambda line: print(line, flush=True)
    )


def run_bench(options: argparse.Namespace) -> int:
    root = Path(__file__).parents[1]
    if not (root / "bench" / "command.py").is_file():
        raise RuntimeError("the benchmark is in the repository, not in the package: run this in a checkout of it")
    sys.path.insert(0, str(root))
    try:
        from bench import command
    except ImportError as error:
        raise ImportError(f"{error}; pip install -e '.[bench]', with '.[bench,peers]' for torch and JAX too") from error
    return command.main(options.rest, prog="python -m fastsce bench")


def main(arguments: Sequence[str] | None = None) -> int:
    top = parser()
    options, rest = top.parse_known_args(arguments)
    if rest and options.command != "bench":
        top.error(f"unrecognized arguments: {' '.join(rest)}")
    options.rest = rest
    try:
        return options.run(options) or 0
    except (ImportError, RuntimeError, ValueError) as error:
        print(f"fastsce {options.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
