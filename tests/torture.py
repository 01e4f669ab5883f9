"""Random calls of the whole public surface with hostile arguments, in memory fenced by unreadable pages.

    python tests/torture.py                             # a minute; --seconds, --calls, --seed, --processes
    python tests/torture.py --calls 1000000             # as many as one likes
    python tests/torture.py --seed 1 --only 12345       # one call again, from its two numbers

Each call runs on the cpu backend and on the reference. No byte beside the results may change, and none at all by a
refusal; refusals are the same on both, one of the documented errors, and come if and only if something is wrong with
the call; answers are right within bounds that rounding explains. The last lines count what was called, refused and
compared.
"""

import argparse
import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import bad_arguments  # noqa: F401  # fills faults.FAULTS, as does the next
import bad_outs  # noqa: F401
import calls
import faults
import numpy as np
from cases import DTYPES
from fences import Yard, trespass
from hostile import seen
from verdict import Truth

import fastsce

DOCUMENTED = (IndexError, ValueError, TypeError, RuntimeError)
FAULTY = 0.4  # of the calls have something wrong with them
SHOWN = 20  # failures of a process that are told one by one


class Wrong(Exception):
    """What the library did and should not have done."""


# ------------------------------------------------------------------------------------------------------------ one call


def make(seed, number, yard) -> calls.Call:
    maker, call = calls.make(seed, number, yard)
    if maker.chance(FAULTY):
        faults.put_into(maker, call)
    return call


def torture(seed, number, yard) -> Counter:
    """Make one call and judge it: what is to be counted, or Wrong."""
    call = make(seed, number, yard)
    truth = Truth(call) if "logits" in call.values else None
    yard.remember()
    own = None if number % 2 and not call.errors else "cpu"  # small calls have their own way if no backend is named
    fast, exact = (attempt(call, yard, backend) for backend in (own, "reference"))
    if isinstance(fast, Exception) or isinstance(exact, Exception):
        refusals(call, fast, exact)
        return counted(call, f"refused: {type(fast).__name__}")
    if call.errors:
        raise Wrong(f"accepted what has to be refused with {names(call.errors)}")
    if truth is None:
        return counted(call, "accepted")
    shapes(truth, fast)
    try:
        truth.compare(*({name: a.astype(np.float64) for name, a in found.items()} for found in (fast, exact)))
    except AssertionError as error:
        raise Wrong(str(error)) from error
    numbers = {"numbers compared": sum(a.size for name, a in fast.items() if name not in truth.known)}
    found = counted(call, "accepted")
    found.update(numbers)
    found.update(set(truth.known.values()))
    return found


def counted(call, outcome) -> Counter:
    return Counter([*call.traits, outcome, f"{call.function}: {outcome.partition(':')[0]}", "calls"])


def attempt(call, yard, backend):
    """The results, or the exception. The memory of the results gets back what was in it."""
    more = {} if "backend" in call.given or call.function in calls.SMALL else {"backend": backend}
    kept = [out.copy() for out in call.outs]
    try:
        found = call.run(**more)
    except Exception as error:
        unchanged(yard, f"refused with {error!r} after it had written")
        return error
    results = fields(call, found)
    for name, out in zip(("grad", "hess"), given_outs(call)):
        if out is not None and results[name] is not out:
            raise Wrong("the result is not `out`")
    results = {name: np.array(seen(result)) for name, result in results.items()}
    for out, before in zip(call.outs, kept):
        out[...] = before
    unchanged(yard, "written outside the results")
    return results


def unchanged(yard, what) -> None:
    changed = yard.disturbed()
    if changed:
        raise Wrong(f"{what}: {', '.join(changed)}")


def given_outs(call):
    out = call.given.get("out")
    return [] if out is None else out if isinstance(out, (tuple, list)) else [out]


def fields(call, found) -> dict:
    """The results by name."""
    single = "loss" if call.function.endswith("entropy") else "grad" if call.function.endswith("backward") else "result"
    found = found._asdict() if hasattr(found, "_asdict") else {single: found}
    return {name: value for name, value in found.items() if value is not None}


def refusals(call, fast, exact) -> None:
    """Both refuse, for one of the reasons that there are, and in the same words."""
    for error in (fast, exact):
        if isinstance(error, Exception) and not isinstance(error, DOCUMENTED):
            raise Wrong(f"not a documented error: {error!r}") from error
    if not (isinstance(fast, Exception) and isinstance(exact, Exception)):
        raise Wrong(f"only one backend refuses: cpu {fast!r}, reference {exact!r}")
    if repr(fast) != repr(exact).replace("'reference' works", "'cpu' works"):
        raise Wrong(f"refusals differ: {fast!r} and {exact!r}")
    if type(fast) not in call.errors | call.may:
        raise Wrong(f"refused with {fast!r} instead of {names(call.errors) or 'an answer'}") from fast


def names(errors) -> str:
    return " or ".join(sorted(e.__name__ for e in errors))


def shapes(truth, results) -> None:
    """Every result has its shape and dtype; JAX has no float64 unless it is told so."""
    call, x, same = truth.call, truth.call.shape, truth.dtype
    each = x if call.axis is None else call.rows
    expected = {"loss": (each if not truth.reduced else (), truth.answer), "lse": (each, "float64")}
    expected |= {"grad": (x, same), "hess": (x, same), "result": (x, same)}
    if call.function == "logsumexp":
        expected["result"] = each, truth.answer
    if call.function == "softmax_jacobian":
        expected["result"] = x * 2, same
    for name, a in results.items():
        narrower = "object: jax" in call.traits and (a.dtype.name, expected[name][1]) == ("float32", "float64")
        if a.shape != expected[name][0] or (a.dtype.name != expected[name][1] and not narrower):
            raise Wrong(f"{name} is {a.dtype.name} of shape {a.shape}, should be {expected[name]}")


# ---------------------------------------------------------------------------------------------------------- many calls


def work(options) -> Counter:
    """The calls of one process: every `processes`-th number. Its last number outlives it in a file."""
    note = np.memmap(options.note, np.int64, "r+", shape=(1,))
    yard, counts, told = Yard(), Counter(), 0
    end = time.monotonic() + options.seconds
    for number in range(options.first, options.calls, options.processes):
        if time.monotonic() > end:
            break
        note[0] = number
        if number == options.die_at:
            trespass()
        try:
            counts.update(torture(options.seed, number, yard))
        except Wrong as error:
            counts["failures"] += 1
            told += 1
            if told <= SHOWN:
                print(f"call {number}: {error}\n    {again(options.seed, number)}", file=sys.stderr, flush=True)
    return counts


def again(seed, number) -> str:
    return f"again: python tests/torture.py --seed {seed} --only {number}"


def only(seed, number) -> int:
    """One call, with its arguments."""
    call = make(seed, number, Yard())
    print(call.function, *(f"    {name} = {described(value)}" for name, value in call.given.items()), sep="\n")
    print("traits:", ", ".join(sorted(call.traits)), flush=True)
    try:
        torture(seed, number, Yard())
    except Wrong as error:
        print(f"wrong: {error}", flush=True)
        return 1
    print("right:", "refused with " + names(call.errors) if call.errors else "accepted")
    return 0


def described(value) -> str:
    a = seen(value) if not isinstance(value, (list, tuple, dict)) else np.zeros(())
    kind = type(value).__name__
    if a.size and (a.ndim == 0 or a.dtype == object):
        return f"{kind} {value!r}"
    return f"{kind} of {a.dtype}, shape {a.shape}, strides {a.strides}: {np.array2string(a, threshold=12, edgeitems=3)}"


def drive(options) -> tuple[Counter, bool]:
    """Several processes at work; what they counted, and whether all of them lived."""
    counts, lived = Counter(), True
    with tempfile.TemporaryDirectory() as folder:
        processes = []
        for first in range(options.processes):
            note = Path(folder, str(first))
            np.array([-1], np.int64).tofile(note)
            own = ["--first", first, "--note", note]
            shared = [
                f"--{n.replace('_', '-')}={getattr(options, n)}"
                for n in ("seed", "calls", "seconds", "processes", "die_at")
            ]
            command = [sys.executable, __file__, *shared, *map(str, own)]
            environment = {"OMP_WAIT_POLICY": "passive", **os.environ}  # the processes share their cores
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            processes.append((process, note))
        for process, note in processes:
            told, _ = process.communicate()
            if process.returncode == 0:
                counts += Counter(json.loads(told))
                continue
            lived = False
            end, number = process.returncode, int(np.fromfile(note, np.int64)[0])
            how = f"died of {signal.Signals(-end).name}" if end < 0 else f"ended with {end}"
            print(f"a process {how} at call {number}\n    {again(options.seed, number)}", file=sys.stderr)
    return counts, lived


def report(counts, options, seconds) -> None:
    for name in sorted(counts):
        print(f"{counts[name]:>12,}  {name}")
    refused = sum(n for name, n in counts.items() if name.startswith("refused: "))
    print(
        f"seed {options.seed}: {counts['calls'] + counts['failures']} calls in {seconds:.0f} s by {options.processes} "
        f"processes, {counts['accepted']} accepted and right, {refused} refused, {counts['failures']} failures"
    )


def parser():
    top = argparse.ArgumentParser(prog="python tests/torture.py", description=__doc__.partition("\n")[0])
    top.add_argument("--seed", type=int, default=1, help="of all calls")
    top.add_argument("--calls", type=int, help="how many; else as many as there is time for")
    top.add_argument("--seconds", type=float, default=60, help="how long, if not --calls; compiling is not counted")
    top.add_argument("--processes", type=int, default=2, help="side by side")
    top.add_argument("--only", type=int, metavar="NUMBER", help="make this call alone, and show it")
    top.add_argument(
        "--die-at", type=int, metavar="NUMBER", default=-1, help="pass a fence at this call, to see that it is told"
    )
    top.add_argument("--first", type=int, help=argparse.SUPPRESS)  # of a process: its first number,
    top.add_argument("--note", help=argparse.SUPPRESS)  # and the file for its last
    return top


def main() -> int:
    options = parser().parse_args()
    if options.calls is not None:
        options.seconds = float("inf")
    options.calls = options.calls or 2**62
    warnings.simplefilter("error")
    faulthandler.enable()
    if options.only is not None:
        return only(options.seed, options.only)
    if options.note:
        fastsce.warmup(DTYPES)
        print(json.dumps(work(options)))
        return 0
    start = time.monotonic()
    counts, lived = drive(options)
    report(counts, options, time.monotonic() - start)
    return int(not lived or counts["failures"] > 0)


if __name__ == "__main__":
    sys.exit(main())
