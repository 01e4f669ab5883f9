"""The benchmark: its catalogue, that it refuses what is wrong, what it calls a difference, and what it writes."""

import csv
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench is no part of the package

pytest.importorskip("rich")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from bench import caches, cases, command, compare, measure, noise, providers, rates, table, worker  # noqa: E402
from bench.batches import batch  # noqa: E402
from bench.case import HESSIAN, Case, fewer_rows  # noqa: E402
from bench.goals import (  # noqa: E402
    AGAIN,
    COMPILED,
    COPY,
    EAGER,
    FRESH,
    IN_PLACE,
    NUMPY,
    OURS,
    PEERS,
    READ,
    STREAM,
    AtMost,
    Faster,
    Steady,
    Within,
    judge,
)
from bench.shared import Arena  # noqa: E402
from bench.truth import Wrong, check, truth_of  # noqa: E402

GIB = 2**30


# --- the catalogue ----------------------------------------------------------------------------------------------------


def test_names_are_unique_and_known():
    catalogue = cases.catalogue()
    names = [case.name for case in catalogue]
    assert len(set(names)) == len(names)
    assert {case.group for case in catalogue} == set(cases.GROUPS)
    assert {name for case in catalogue for name in case.contestants} == set(providers.PROVIDERS)
    assert set(cases.QUICK) <= {case.name for case in cases.workloads()}


@pytest.mark.parametrize(
    ("globs", "found"),
    [
        (["llm/128256-bf16"], {"llm/128256-bf16"}),
        (["llm/32000-*"], {"llm/32000-f32", "llm/32000-bf16"}),
        (["tiny"], {"tiny/1x10", "tiny/32x10", "tiny/1x1000"}),
        (["sweep", "boosting/3"], {"sweep", "boosting/3"}),
    ],
)
def test_cases_are_chosen_by_name_group_and_glob(globs, found):
    assert {case.name for case in cases.select(globs)} == found


def test_without_names_the_workloads_are_chosen_and_a_wrong_name_is_refused(capsys):
    assert cases.select([]) == cases.workloads()
    with pytest.raises(SystemExit) as exit_:
        command.main(["llm/*", "imges/*"])
    assert exit_.value.code == 2
    assert "no case is called 'imges/*'" in capsys.readouterr().err


@pytest.mark.parametrize("case", cases.workloads(), ids=lambda case: case.name)
def test_cases_shrink_to_the_memory(case):
    small = cases.fitted(case, GIB // 4, 0.5)
    assert cases.footprint(small) <= GIB // 8 or small.shape[0] == 1
    assert small.classes == case.classes
    assert small.asked == (case.rows if small.rows < case.rows else 0)
    assert cases.fitted(case, 1024 * GIB, 0.5) == case


def test_bytes_are_those_that_must_be_moved():
    assert Case("a", (10, 100), ()).moved == 2 * 4000 + 80
    assert Case("a", (10, 100), (), computes=HESSIAN).moved == 3 * 4000 + 80
    assert Case("a", (10, 100), (), target="binary").moved == 3 * 4000
    assert fewer_rows(Case("a", (5, 40), (), axis=0), 0.5).shape == (5, 20)


# --- what is checked --------------------------------------------------------------------------------------------------

KINDS = {
    "labels": Case("a", (65, 24), ()),
    "strided": Case("a", (2, 5, 4, 3), (), axis=1),
    "binary": Case("a", (33, 8), (), target="binary"),
    "Hessian": Case("a", (65, 10), (), computes=HESSIAN),
    "bfloat16": Case("a", (65, 24), (), dtype="bfloat16"),
}
UNABLE = {("scikit-learn", "strided"), ("scikit-learn", "bfloat16"), ("NumPy", "bfloat16")}
UNABLE |= {(name, "Hessian") for name in (EAGER, "optax jit", IN_PLACE, "fastsce, loss only")}
UNABLE |= {("fastsce, loss only", "binary")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [p.name for p in providers.PROVIDERS.values() if not p.is_roof])
def test_contestants_are_right(name, kind):
    """As they are asked in the catalogue; those that compile need long and are checked in every run."""
    if name == "torch.compile" or (name, kind) in UNABLE or not providers.available([name]):
        pytest.skip("not there, or not asked for this")
    given = batch(KINDS[kind])
    if providers.PROVIDERS[name].in_place:
        np.copyto(given.out, given.logits)
    errors = check(name, given, truth_of(given), providers.PROVIDERS[name].make(given)())
    assert all(error < 0.02 for error in errors if error is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["first", "last", "nan"])
def test_a_wrong_gradient_is_refused(kind, where):
    given = batch(KINDS[kind])
    truth = truth_of(given)
    result = [np.array(a) for a in providers.PROVIDERS[OURS].make(given)()]
    grad = given.by_rows(result[0 if kind == "Hessian" else 1])
    at = {"first": 0, "last": -1, "nan": 0}[where]
    grad[at, ..., 1] = np.nan if where == "nan" else grad[at, ..., 1].astype(np.float64) + 0.1 * given.unit
    for name in (OURS, EAGER):
        with pytest.raises(Wrong, match="gradient at row"):
            check(name, given, truth, tuple(result))


@pytest.mark.parametrize("name", [OURS, EAGER])
@pytest.mark.parametrize("case", [Case("a", (5000, 24), ()), Case("a", (24, 5000), (), axis=0)], ids=["last", "first"])
def test_one_wrong_number_in_any_row_is_refused(name, case):
    given = batch(case)
    truth = truth_of(given)
    loss, grad = providers.PROVIDERS[OURS].make(given)()
    row = next(r for r in range(1000, case.rows) if r not in truth.rows)
    given.by_rows(grad)[row, 7] += 0.01 * given.unit
    with pytest.raises(Wrong, match=f"gradient at row {row}, multiplied by a known direction, is"):
        check(name, given, truth, (loss, grad))


def test_a_wrong_loss_and_a_wrong_shape_are_refused():
    given = batch(KINDS["labels"])
    truth = truth_of(given)
    loss, grad = providers.PROVIDERS[OURS].make(given)()
    for bad in (float(loss) * 1.001, math.nan):
        with pytest.raises(Wrong, match="loss"):
            check(EAGER, given, truth, (bad, grad))
    with pytest.raises(Wrong, match="of shape"):
        check(EAGER, given, truth, (loss, grad[:-1]))


def test_who_is_wrong_is_reported_and_not_timed(monkeypatch):
    from bench import ours

    monkeypatch.setattr(ours, "fresh", lambda given: lambda: (1.0, given.out))
    case = Case("llm/a", (64, 128), (OURS, FRESH))
    served, arena = worker.Served("fastsce"), Arena()
    given = batch(case, arena.empty)
    truth = truth_of(given)
    found = {n: worker.answer(served, "prepare", (n, n, given.sent(arena), truth)) for n in case.contestants}
    times = {OURS: dict(zip(("cold", "warm"), map(list, zip(*(served.turn(OURS, 1) for _ in range(3))))))}
    case_ = measure.result(case, measure.entered(case, given), found, times)
    assert case_["contestants"][FRESH]["failed"].startswith(f"{FRESH}: loss 1, in float64 ")
    assert case_["contestants"][FRESH]["wrong"]
    assert "warm" not in case_["contestants"][FRESH]
    assert case_["contestants"][OURS]["warm"]["GB/s"] > 0
    assert command.went_wrong({"cases": [case_]})
    served.drop()
    del given
    arena.close()


def test_arrays_are_shared_and_aligned():
    maker, opener = Arena(), Arena()
    made = maker.empty((3, 5), "bfloat16", "F")
    opened = opener.open(maker.describe(made))
    opened[1, 2] = 7
    assert made[1, 2] == 7 and opened.flags.f_contiguous
    assert made.ctypes.data % 64 == opened.ctypes.data % 64 == 0
    del made, opened
    opener.close(), maker.close()
    assert not maker.segments and not opener.segments


def test_roofs_take_any_number_of_bytes():
    given = batch(Case("a", (3, 77), (), dtype="bfloat16"))
    for name in (READ, COPY, STREAM):
        providers.PROVIDERS[name].make(given)()


def test_caches_are_emptied_by_more_than_they_hold():
    flush = caches.Flusher([0])
    assert flush.size >= caches.last_level()
    flush()
    assert all((part == 1).all() for _, part in flush.parts)
    flush.close()


# --- noise and comparison, on made-up numbers -------------------------------------------------------------------------


def case_of(seconds, name="llm/a", scatter=0.01, again=1.0, **more):
    """A case as it goes into a result, nine rounds around the given times."""
    case = Case(name, (512, 32000), tuple(seconds), (AtMost(1.5, COPY),), about="made up")._replace(**more)
    seconds = {**seconds, AGAIN: seconds[OURS] * again}
    entrants = [measure.Entrant(n, n, type("Given", (), {"case": case}), None) for n in seconds]
    ready = worker.Prepared(None, 0)
    rounds = [1 + scatter * x for x in (-1, -0.75, -0.5, -0.25, 0, 0.25, 0.5, 0.75, 1)]
    times = {n: {"cold": [1.1 * t * r for r in rounds], "warm": [t * r for r in rounds]} for n, t in seconds.items()}
    return measure.result(case, entrants, dict.fromkeys(seconds, ready), times)


PLAUSIBLE = {READ: 0.005, COPY: 0.010, STREAM: 0.008, OURS: 0.011, FRESH: 0.015, EAGER: 0.100, NUMPY: 0.2}


def content_of(*cases_, **machine):
    here = {
        "cpu": "A CPU",
        "model": "znver9",
        "threads": 2,
        "cpus": [0, 1],
        "last-level cache": 2**25,
        "memory": GIB,
        "load": 0.0,
    }
    roofs = case_of({READ: 0.01, COPY: 0.02, STREAM: 0.02, OURS: 1}, "roofs/256MiB")
    return json.loads(
        json.dumps(
            {
                "format": compare.FORMAT,
                "quick": False,
                "interrupted": False,
                "date": "2000-01-01T00:00:00+00:00",
                "commit": "abc",
                "machine": {**here, "system": "Nowhere", **machine},
                "versions": {"python": "0"},
                "effort": {"seconds": 1, "least": 9, "most": 9},
                "flushed": 2**26,
                "seconds": 1.0,
                "threads": {"fastsce": 2},
                "roofs": {"before": roofs, "after": roofs},
                "providers": {p.name: command.provider(p) for p in providers.PROVIDERS.values()},
                "absent": providers.ABSENT,
                "cases": list(cases_),
            }
        )
    )


def test_rates_are_held_against_the_faster_copy():
    lines = case_of(PLAUSIBLE)["contestants"]
    moved = 2 * 512 * 32000 * 4
    assert lines[COPY]["warm"]["GB/s"] == pytest.approx(moved / 0.010 / 1e9)
    assert lines[OURS]["warm"]["GB/s"] == pytest.approx((moved + 8 * 512) / 0.011 / 1e9)
    assert lines[OURS]["warm"]["roof"] == pytest.approx(0.008 / 0.011, rel=1e-3)
    assert lines[READ]["warm"]["roof"] == 1
    assert rates.fastest_peer(lines, "warm") == EAGER


@pytest.mark.parametrize(
    ("ratio", "scatter", "again", "difference"),
    [(1.1, 0.01, 1.0, True), (1.01, 0.001, 1.0, False), (1.1, 0.2, 1.0, False), (1.1, 0.01, 1.2, False)],
)
def test_a_ratio_within_noise_is_no_difference(ratio, scatter, again, difference):
    case = case_of({COPY: 0.01, OURS: 0.01 * ratio}, scatter=scatter, again=again)
    value, bound = rates.ratio(case, OURS, COPY, "warm")
    assert value == pytest.approx(ratio)
    assert noise.is_difference(value, bound) is difference
    assert rates.times_copy(case, OURS, "warm") == (f"{ratio:.2f}" if difference else f"≈ {ratio:.2f}")


def test_the_bound_holds_for_chance_alone():
    """Of two that are the same, a difference is seen hardly ever, with few rounds and with many."""
    random = np.random.default_rng(0)
    for rounds in (5, 15):
        seen = 0
        for _ in range(300):
            one, other = (noise.spread(list(random.lognormal(0, 0.1, rounds))) for _ in range(2))
            seen += noise.is_difference(one["median"] / other["median"], noise.of_ratio(one, other, 0))
        assert seen <= 6, rounds


def test_peers_far_behind_sit_out():
    warm = PLAUSIBLE | {OURS: 9, "JAX jit": 0.05, EAGER: 0.101, COMPILED: 0.2, NUMPY: 0.3}
    cold = warm | {"JAX jit": 0.5, COMPILED: 0.9}
    fit = [measure.Entrant(n, n, None, None) for n in warm]
    times = {n: {"cold": [cold[n]], "warm": [t] * 3} for n, t in warm.items()}
    left = {e.label for e in measure.in_contention(fit, times)}
    # eager is the fastest when cold; ours, roofs and NumPy stay whatever they take
    assert left == set(warm) - {COMPILED}
    assert measure.in_contention(fit[:4], times) == fit[:4]


def test_goals_of_who_failed_are_not_judged():
    neighbours = Steady(0.8, "C = 2", ("C = 1", "C = 3"))
    medians = {"copy": 1.0, EAGER: 1.0, "C = 1": 1.0, "C = 2": 1.0}
    assert judge([AtMost(1.5, COPY), Faster(5), Within(1), neighbours], medians) == []


def test_effort_is_bounded():
    effort = measure.Effort(seconds=8, least=5, most=31)
    assert [effort.rounds(one) for one in (0.01, 1, 100)] == [31, 13, 5]


def test_one_round_knows_nothing():
    assert noise.off([1.0]) == noise.MOST
    assert noise.three_sigma(1000) == pytest.approx(3, abs=0.01)
    assert noise.three_sigma(4) == pytest.approx(6.6, abs=0.3)  # Student's quantile


@pytest.mark.parametrize(("factor", "slower", "faster"), [(1.0, 0, 0), (1.05, 0, 0), (1.5, 2, 0), (0.5, 0, 2)])
def test_a_change_beyond_noise_is_told(factor, slower, faster):
    old = content_of(case_of(PLAUSIBLE))
    new = content_of(case_of(PLAUSIBLE | {FRESH: factor * PLAUSIBLE[FRESH]}))
    news = compare.compare(old, new)
    assert (len(news["slower"]), len(news["faster"])) == (slower, faster)
    assert {c["who"] for c in news["slower"] + news["faster"]} <= {FRESH}


def test_a_slower_machine_is_no_slower_program():
    old, new = content_of(case_of(PLAUSIBLE)), content_of(case_of({n: 3 * t for n, t in PLAUSIBLE.items()}))
    news = compare.compare(old, new)
    assert news["same machine"] and not news["slower"] and not news["faster"]


def test_what_one_run_lacks_is_told():
    old = content_of(case_of(PLAUSIBLE), case_of(PLAUSIBLE, "llm/b"))
    new = content_of(case_of(PLAUSIBLE, shape=(256, 32000)), case_of(PLAUSIBLE, "llm/c"), threads=4)
    news = compare.compare(old, new)
    assert not news["same machine"]
    assert (news["only old"], news["only new"], news["other batch"]) == (["llm/b"], ["llm/c"], ["llm/a"])
    assert news["compared"] == 0


@pytest.mark.parametrize(("factor", "threads", "code"), [(1.0, 2, 0), (2.0, 2, 1), (2.0, 4, 0)])
def test_a_regression_is_an_exit_code(monkeypatch, tmp_path, factor, threads, code):
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content_of(case_of(PLAUSIBLE))))
    new = content_of(case_of(PLAUSIBLE | {OURS: factor * PLAUSIBLE[OURS]}), threads=threads)
    monkeypatch.setattr(command, "measure", lambda chosen, options, keep: new)
    assert command.main(["tiny", "--compare", str(old)]) == code


def test_a_file_that_is_no_result_is_refused(tmp_path, capsys):
    other = tmp_path / "other.json"
    for text in ("{", "[]", '{"format": 1}', '{"format": 2}'):
        other.write_text(text)
        with pytest.raises(SystemExit):
            command.main(["tiny", "--compare", str(other)])
        assert "other.json is no" in capsys.readouterr().err


# --- what is written --------------------------------------------------------------------------------------------------


def test_json_csv_and_html_are_written(tmp_path):
    from bench import report

    failed = case_of(PLAUSIBLE, "tiny/b")
    failed["contestants"][EAGER] = {"provider": EAGER, "failed": "<no> compiler", "wrong": False}
    content = content_of(case_of(PLAUSIBLE), case_of(PLAUSIBLE, "llm/b", shape=(256, 64000), asked=512), failed)
    content["compared"] = compare.compare(content, content_of(case_of(PLAUSIBLE | {OURS: 1.0})))
    report.write(content, tmp_path)
    assert json.loads((tmp_path / "result.json").read_text()) == content
    with (tmp_path / "result.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 3 * (len(PLAUSIBLE) + 1)
    assert float(lines[0]["warm median [s]"]) == pytest.approx(PLAUSIBLE[READ])
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)  # nothing is fetched
    assert "256 of 512 rows" in page and "&lt;no&gt; compiler" in page and "slower" in page
    for name in ("overview", "throughput", "group-llm", "memory"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_readme_and_pages_are_those_of_the_committed_results():
    """Edit bench/table.py and run it; figures are not edited by hand."""
    readme = table.README.read_text(encoding="utf-8")
    (source,) = re.findall(r"From `(.*)`\.", readme.split(table.START)[1].split(table.END)[0])
    assert readme == table.between(readme, table.figures(compare.read(ROOT / source), source), table.START, table.END)
    assert (ROOT / source).with_suffix(".png").is_file()
    assert (table.RESULTS / "contestants.md").read_text(encoding="utf-8") == table.contestants()
    goals = (table.RESULTS / "goals.md").read_text(encoding="utf-8")
    sources = re.findall(r"From `(.*)`\.", goals)
    assert goals == table.goals({name: compare.read(ROOT / name) for name in sources})


# --- as users run it --------------------------------------------------------------------------------------------------


def run(*arguments, cwd=ROOT):
    command_ = [sys.executable, "-m", "fastsce", "bench", *arguments]
    return subprocess.run(command_, cwd=cwd, capture_output=True, text=True)


def test_a_run_from_end_to_end(tmp_path):
    options = ["images/1000", "tiny/1x10", "--quick", "--no-peers", "--rounds", "1", "--out", str(tmp_path)]
    done = run(*options)
    assert done.returncode == 0, done.stderr
    content = compare.read(tmp_path / "result.json")
    assert content["quick"] and content["threads"] == {"fastsce": content["machine"]["threads"]}
    wide, tiny = content["cases"]
    assert {"cold", "warm"} <= wide["contestants"][OURS].keys()
    assert "cold" not in tiny["contestants"][OURS]
    assert not set(wide["contestants"]) & {*PEERS, NUMPY}
    for case in content["cases"]:
        assert not any("failed" in line for line in case["contestants"].values())
    assert OURS in done.stdout and (tmp_path / "report.html").is_file()


def test_pytest_benchmark_saves_draws_and_compares(tmp_path):
    suite = [sys.executable, "-m", "pytest", "-q", "bench/", "-k", "tiny/1x10- and NumPy"]
    suite += ["-p", "no:xdist", f"--benchmark-storage={tmp_path}", f"--benchmark-histogram={tmp_path}/plot"]
    alone = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}  # else it measures not
    for more in ("--benchmark-autosave", "--benchmark-compare"):
        done = subprocess.run([*suite, more], cwd=ROOT, capture_output=True, text=True, env=alone)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "benchmark 'tiny/1x10': 2 tests" in done.stdout  # the one before and this one
    assert list(tmp_path.glob("plot*.svg"))


def test_the_benchmark_of_a_gpu_is_asked_for_with_an_option():
    done = run("--gpu", "--help")
    assert done.returncode == 0 and "bench.gpu" in done.stdout


def test_list_names_cases_and_contestants():
    done = run("--list")
    assert done.returncode == 0, done.stderr
    for name in ("llm/128256-bf16", "rows/64MiB-1024", "sweep", OURS, "XGBoost"):
        assert name in done.stdout


def test_without_a_checkout_it_says_what_to_do(tmp_path):
    shutil.copytree(ROOT / "fastsce", tmp_path / "fastsce")
    done = run("--quick", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "fastsce bench: the benchmark is in the repository, not in the package: run this in a checkout of it\n"
    )


def test_without_the_extra_it_says_what_to_install(tmp_path):
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'rich'\")")
    code = "import sys; sys.path.insert(0, sys.argv[1]); from fastsce.__main__ import main; sys.exit(main(['bench']))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install -e '.[bench]'" in done.stderr and "Traceback" not in done.stderr
