"""A result for spreadsheets: a line for each contestant of each case, plain numbers, units in the headings."""

from __future__ import annotations

import csv
from pathlib import Path

from bench.rates import STATES

FACTS = ("name", "group", "batch", "computes", "dtype", "classes")
TIMES = {
    "median": "median [s]",
    "low": "1st quartile [s]",
    "high": "3rd quartile [s]",
    "off": "median off by",
    "rounds": "rounds",
}
RATES = {"GB/s": "throughput [GB/s]", "roof": "share of roof"}
ERRORS = ("loss", "gradient", "hessian")


def write(content: dict, path: Path) -> None:
    lines = [flat(case, who, line) for case in content["cases"] for who, line in case["contestants"].items()]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, headings())
        writer.writeheader()
        writer.writerows(lines)


def headings() -> list[str]:
    by_state = [f"{state} {words}" for state in STATES for words in (TIMES | RATES).values()]
    errors = [f"{part} error" for part in ERRORS]
    return [*FACTS, "contestant", "bytes moved", "formula", *by_state, *errors, "peak memory [bytes]", "failed"]


def flat(case: dict, who: str, line: dict) -> dict:
    found = {fact: case[fact] for fact in FACTS if fact in case}
    found |= {"contestant": who, "bytes moved": line.get("bytes"), "formula": line.get("formula")}
    for state in STATES:
        times = line.get(state, {})
        found |= {f"{state} {words}": times.get(key) for key, words in (TIMES | RATES).items()}
    errors = line.get("errors") or {}
    found |= {f"{part} error": errors.get(part) for part in ERRORS}
    return found | {"peak memory [bytes]": line.get("peak"), "failed": line.get("failed")}
