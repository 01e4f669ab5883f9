"""Interleaved medians, their ratios, and which goals they meet."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import providers

providers.pin_threads()

import numba  # noqa: E402  after the threads are pinned

from bench import cases, processes  # noqa: E402
from bench.measure import each, sweep  # noqa: E402
from bench.show import console, show, summary  # noqa: E402
from fastsce.system import cpu_name  # noqa: E402

GROUPS = {
    "rows": each(cases.rows),
    "sweep": sweep,
    "short": each(cases.short),
    "strided": each(cases.strided),
    "dtypes": each(cases.dtypes),
    "options": each(cases.options),
    "fresh": each(cases.fresh),
    "latency": each(cases.latency),
    "start": processes.start,
    "targets": processes.targets,
}
PACKAGES = ("numpy", "numba", "torch", "jax", "scikit-learn")


def versions() -> dict:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def alone(group: str, options: argparse.Namespace) -> list[dict]:
    """One group in a process of its own, so that the memory another leaves behind does not slow it."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "figures.json")
        command = [sys.executable, "-m", "bench", group, "--rounds", str(options.rounds), "--json", str(found)]
        subprocess.run([*command, *(["--no-peers"] if options.no_peers else [])], check=True)
        return json.loads(found.read_text())["groups"][group]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--no-peers", action="store_true", help="only fastsce and what the machine can do")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(GROUPS):
        parser.error(f"no group is called {', '.join(unknown)}; there are {', '.join(GROUPS)}")
    machine = {"cpu": cpu_name(), "threads": numba.get_num_threads()}
    console.print(machine["cpu"], "-", machine["threads"], "threads -", *(f"{k} {v}" for k, v in versions().items()))
    groups = options.groups or list(GROUPS)
    results: dict[str, list[dict]] = {}
    for group in groups:
        results[group] = []
        if len(groups) > 1:
            results[group] = alone(group, options)
            continue
        for result in GROUPS[group](options.rounds, not options.no_peers):
            results[group].append(result)
            show(result)
    summary(results)
    if options.json:
        content = {"machine": machine, "versions": versions(), "rounds": options.rounds, "groups": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
