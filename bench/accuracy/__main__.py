"""Largest errors in ulp of loss and gradient on hard cases, fastsce's beside its peers', against mpmath."""

from __future__ import annotations

import argparse
import datetime
import json
from pathlib import Path

import mpmath

from bench.accuracy.cases import CASES
from bench.accuracy.contestants import PEERS, installed
from bench.accuracy.measure import measure
from bench.accuracy.show import show, summary
from bench.machine import commit, versions
from bench.show import console
from fastsce.system import cpu_name


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help="words in the names of cases or groups; all by default"
    )
    parser.add_argument("--quick", action="store_true", help="an eighth of the rows")
    parser.add_argument("--no-peers", action="store_true", help="only fastsce")
    parser.add_argument(
        "--json", type=Path, help="also write the figures there; bench.accuracy.page makes a page of it"
    )
    options = parser.parse_args()
    cases = [c for c in CASES if not options.cases or any(w in f"{c.group}: {c.name}" for w in options.cases)]
    names = [n for n, c in installed().items() if c.family not in PEERS or not options.no_peers]
    content = {
        "machine": {"cpu": cpu_name()},
        "versions": versions() | {"mpmath": mpmath.__version__},
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "quick": options.quick,
        "cases": [],
    }
    console.print(content["machine"]["cpu"], "-", *(f"{k} {v}" for k, v in content["versions"].items()))
    for found in measure(cases, names, options.quick):
        content["cases"].append(found)
        show(found)
    summary(content["cases"])
    if options.json:
        named = json.loads(json.dumps(content), parse_constant=lambda infinite: "wrong")
        options.json.write_text(json.dumps(named, indent=1) + "\n")
        console.print(f"written: {options.json}")


if __name__ == "__main__":
    main()
