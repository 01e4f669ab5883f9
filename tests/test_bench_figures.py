"""The benchmark's figures: what it calls a difference, what it writes, and how it is called."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]

pytest.importorskip("rich")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from bench import command, compare, measure, noise, providers, rates, table, worker  # noqa: E402
from bench.case import Case  # noqa: E402
from bench.goals import (  # noqa: E402
    AGAIN,
    BARE,
    COMPILED,
    COPY,
    EAGER,
    FRESH,
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

GIB = 2**30


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
    assert news["compared"] == 0 and news["unseen"] is None


def test_what_cannot_be_compared_is_told(monkeypatch, tmp_path, capsys):
    alone = {OURS: 0.011, FRESH: 0.015}
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content_of(case_of(alone))))
    monkeypatch.setattr(command, "measure", lambda chosen, options, keep: content_of(case_of(alone)))
    assert command.main(["tiny", "--compare", str(old)]) == 2
    assert "nothing to divide by: llm/a" in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "threads", "code"), [(1.0, 2, 0), (2.0, 2, 1), (2.0, 4, 0)])
def test_a_regression_is_an_exit_code(monkeypatch, tmp_path, factor, threads, code):
    old = tmp_path / "old.json"
    old.write_text(json.dumps(content_of(case_of(PLAUSIBLE))))
    new = content_of(case_of(PLAUSIBLE | {OURS: factor * PLAUSIBLE[OURS]}), threads=threads)
    monkeypatch.setattr(command, "measure", lambda chosen, options, keep: new)
    assert command.main(["tiny", "--compare", str(old)]) == code


def test_ctrl_c_before_the_first_case(monkeypatch, tmp_path):
    """What there is, is written."""

    def interrupted(*what):
        raise KeyboardInterrupt

    monkeypatch.setattr(measure.Bench, "measure", interrupted)
    assert command.main(["images/10", "--out", str(tmp_path)]) == 130
    assert compare.read(tmp_path / "result.json")["roofs"] == {}
    assert "ended before" in (tmp_path / "report.html").read_text()


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


def test_goals_have_the_bare_loop_beside_them():
    """Judged is only what there is a goal for, and a loop of ours is no peer."""
    case = case_of({COPY: 0.010, BARE: 0.021, OURS: 0.011, EAGER: 0.1}, "short/2")
    assert table.goal_lines(case)[1] == "| `short/2` | bare loop | no goal; x copy | 2.10 | |"
    assert "## short: 1 of 1 met" in table.goals({"a.json": content_of(case)})
    assert rates.fastest_peer(case["contestants"], "warm") == EAGER


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
