"""Interleaved medians and their ratios: python -m bench [--rounds N] [--json FILE]."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
import statistics
import time
from pathlib import Path

from bench import providers

providers.pin_threads()

import numba  # noqa: E402  after the threads are pinned

from bench.cases import CASES, batch  # noqa: E402
from fastsce.system import cpu_name  # noqa: E402

PACKAGES = ("numpy", "numba", "torch", "jax", "scikit-learn")


def measure(case, rounds: int) -> dict:
    """Median, quartiles and peak memory of each contestant; they take turns, so that a slow minute hits all."""
    given = batch(case)
    runners = {}
    for name in providers.available():
        runners[name] = providers.runner(name, given)
        result = runners[name]()
        if name not in providers.ROOFS:
            providers.check(name, result, given)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            time.sleep(0.01)  # threads of the one before may still be spinning
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {
        name: dict(zip(("low", "median", "high"), statistics.quantiles(t, n=4), strict=True))
        | {"peak": peak(runners[name])}
        for name, t in times.items()
    }


def peak(run) -> int | None:
    """Bytes of memory in use during a call beyond what was in use before it; Linux only."""
    reset = Path("/proc/self/clear_refs")
    try:
        reset.write_text("5")
    except OSError:
        return None
    before = status("VmRSS")
    result = run()
    used = status("VmHWM") - before
    del result
    return max(used, 0)


def status(key: str) -> int:
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(key))
    return int(line.split()[1]) * 1024


def show(case, found: dict) -> None:
    copy = found["copy"]["median"]
    print(f"\n{case.name}: {case.rows} x {case.classes} float32, {case.bytes / 2e6:.0f} MB of logits")
    print(f"{'':16}{'median':>10}{'quartiles':>18}{'x copy':>9}{'GB/s':>8}{'peak memory':>13}")
    for name, f in found.items():
        quartiles = f"{f['low'] * 1e3:.2f} - {f['high'] * 1e3:.2f}"
        memory = "" if f["peak"] is None else f"{f['peak'] / 2**20:8.1f} MiB"
        t = f["median"]
        print(f"{name:16}{t * 1e3:7.2f} ms{quartiles:>18}{t / copy:9.2f}{case.bytes / t / 1e9:8.1f}{memory:>13}")
    peers = {name: found[name]["median"] for name in providers.PEERS if name in found}
    if peers:
        best = min(peers, key=peers.__getitem__)
        ratio = peers[best] / found["fastsce, out="]["median"]
        print(f"fastsce with out= is {ratio:.1f} x as fast as the fastest peer, {best}")


def versions() -> dict:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found | {"python": platform.python_version()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    options = parser.parse_args()
    machine = {"cpu": cpu_name(), "threads": numba.get_num_threads()}
    print(machine["cpu"], "-", machine["threads"], "threads -", versions())
    results = {}
    for case in CASES:
        results[case.name] = measure(case, options.rounds)
        show(case, results[case.name])
    if options.json:
        content = {"machine": machine, "versions": versions(), "rounds": options.rounds, "seconds": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
