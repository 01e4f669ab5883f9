"""Measures fastsce beside others on workloads that people run.

Each library works in a process of its own, on the same CPUs with as many threads; they take turns. Every result is
checked against float64 before it is timed. Without names: the workloads; the groups with goals only if they are named.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import math
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import cases, compare, machine, memory, show, threads
from bench.case import Case
from bench.measure import Bench, Effort
from bench.providers import ABSENT, PROVIDERS, available, without_peers
from bench.special import SPECIAL

INTERRUPTED = 130  # the exit code, as shells have it
SHARE = 0.5  # of the available memory, for the inputs and outputs of a case
QUICK = Effort(seconds=0.5, least=3, most=5)


def parser(prog: str) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog=prog,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Exit code: 0; 1 if fastsce was wrong or failed, or with --compare is slower; 2 for bad options, or if\n"
        "nothing could be compared.",
    )
    top.add_argument("--gpu", action="store_true", help="the benchmark of a GPU; see --gpu --help")
    top.add_argument("names", nargs="*", metavar="NAME", help="of cases or groups, or globs such as 'llm/*-bf16'")
    top.add_argument("--list", action="store_true", help="only name the cases and the contestants")
    top.add_argument("--quick", action="store_true", help="one case of each kind, small, a few rounds: under a minute")
    top.add_argument("--out", type=Path, metavar="DIR", help="write result.json, result.csv, report.html, plots there")
    top.add_argument("--compare", type=Path, metavar="OLD.json", help="say what is slower or faster than there")
    top.add_argument("--no-peers", action="store_true", help="only fastsce and what the machine can do")
    top.add_argument("--threads", type=count, metavar="N", help="for everyone; as many CPUs are used (default: all)")
    top.add_argument(
        "--seconds",
        type=duration,
        metavar="S",
        help=f"for each case, after rounds with everyone (default: {Effort().seconds:g})",
    )
    top.add_argument("--rounds", type=count, metavar="N", help="just so many for each case")
    top.add_argument(
        "--memory",
        type=share,
        default=SHARE,
        metavar="SHARE",
        help="of what is free, for a case (default: %(default)s)",
    )
    return top


def count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {value}")
    return value


def duration(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be finite and not negative, got {value:g}")
    return value


def share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be more than 0 and at most 1, got {value:g}")
    return value


def main(arguments: Sequence[str] | None = None, prog: str = "python -m bench") -> int:
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--gpu" in arguments:  # with cases and options of its own
        from bench.gpu.__main__ import main as gpu

        return gpu([argument for argument in arguments if argument != "--gpu"])
    top = parser(prog)
    options = top.parse_args(arguments)
    try:
        chosen = selected(options)
        old = compare.read(options.compare) if options.compare else None
    except (OSError, ValueError) as error:
        top.error(str(error))
    if options.list:
        show.catalogue(chosen if options.names else cases.catalogue())
        show.providers()
        return 0
    if options.out:
        from bench import report  # with matplotlib and jinja2, which only files need: now, for they may be missing

        keep = partial(report.write_json, folder=options.out)
    else:
        keep = no_file
    content = measure(chosen, options, keep)
    show.summary(content["cases"])
    code = int(went_wrong(content))
    if old is not None:
        news = compare.compare(old, content)
        compare.show(news)
        content["compared"] = news
        code = code or int(bool(news["slower"]) and news["same machine"]) or 2 * (not news["compared"])
    if options.out:
        report.write(content, options.out)
        show.console.print(f"written to {options.out}")
    return INTERRUPTED if content["interrupted"] else code


def no_file(content: dict) -> None:
    """Where nothing is to be written."""


def selected(options: argparse.Namespace) -> list[Case]:
    found = cases.select(options.names)
    found = cases.quick(found) if options.quick else found
    keep = without_peers if options.no_peers else list
    return [case._replace(contestants=tuple(available(keep(case.contestants)))) for case in found]


def effort(options: argparse.Namespace) -> Effort:
    chosen = QUICK if options.quick else Effort()
    if options.seconds is not None:
        chosen = chosen._replace(seconds=options.seconds)
    return chosen._replace(least=options.rounds, most=options.rounds) if options.rounds else chosen


def measure(chosen: list[Case], options: argparse.Namespace, keep: Callable[[dict], None]) -> dict:
    """All cases, the machine's roofs before and after them, and what a reader must know of the run. It is kept after
    each case, so that a run that is ended leaves its figures; Ctrl-C ends it between two answers of a worker.
    """
    began, cpus = time.monotonic(), threads.cpus()[: options.threads]
    threads.pin(cpus)
    how = effort(options)
    content = {
        "format": compare.FORMAT,
        "quick": options.quick,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "machine": machine.describe(cpus),
        "versions": machine.versions(),
        "effort": how._asdict(),
        "providers": {p.name: provider(p) for p in PROVIDERS.values()},
        "absent": ABSENT,
        "interrupted": True,
        "roofs": {},
        "cases": [],
    }
    show.head(content)
    with Bench(cpus) as bench, show.progress_bar() as bar:
        content["flushed"] = bench.flush.size
        one = partial(run, bench, how, options.memory, bar, bar.add_task("", total=len(chosen) + 2))
        roof = cases.machine_roofs(options.quick)
        with contextlib.suppress(KeyboardInterrupt):
            content["roofs"]["before"] = one(0, roof)
            for number, case in enumerate(chosen, 1):
                content["cases"].append(one(number, case))
                content["threads"] = bench.crew.threads()
                content["seconds"] = round(time.monotonic() - began, 1)
                keep(content)
            content["roofs"]["after"] = one(len(chosen) + 1, roof)
            content["interrupted"] = False
    content["seconds"] = round(time.monotonic() - began, 1)
    return content


def provider(one) -> dict:
    return {key: getattr(one, key) for key in ("library", "computes", "allocates", "in_place")}


def run(bench: Bench, how: Effort, part: float, bar, task, number: int, case: Case) -> dict:
    """One case, shown while it runs and when it is done."""
    free = memory.available()
    case = cases.fitted(case, free, part) if free else case

    def progress(who: str, round_: int, rounds: int) -> None:
        at = f"round {round_} of {rounds}" if rounds else ""
        done = number + (0.3 + 0.7 * (round_ - 1) / rounds if rounds else 0)
        bar.update(task, completed=done, description=f"[bold]{case.name}[/] {who} {at}")

    found = SPECIAL.get(case.group, Bench.measure)(bench, case, how, progress)
    bar.update(task, completed=number + 1)
    show.show(found)
    return found


def went_wrong(content: dict) -> bool:
    """fastsce, or a roof, gave something that is not the truth, or nothing."""
    lines = [line for case in content["cases"] for line in case["contestants"].values()]
    return any("failed" in line and not PROVIDERS[line["provider"]].is_peer for line in lines)
