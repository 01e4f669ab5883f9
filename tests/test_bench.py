"""The benchmark: its catalogue, and that it refuses what is wrong."""

import math

import numpy as np
import pytest

pytest.importorskip("rich")
pytest.importorskip("jinja2")
pytest.importorskip("matplotlib")

from bench import caches, cases, command, goal_cases, measure, providers, threads, worker
from bench.batches import batch
from bench.case import HESSIAN, Case, fewer_rows
from bench.goals import (
    COPY,
    EAGER,
    FRESH,
    IN_PLACE,
    OURS,
    READ,
    STREAM,
)
from bench.shared import Arena
from bench.special import SPECIAL
from bench.truth import Wrong, check, truth_of

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


def test_batches_of_the_sweep_fit_its_buffer(monkeypatch):
    """Far smaller ones, from the first to the last."""
    (case,) = cases.select(["sweep"])
    monkeypatch.setattr(goal_cases, "SWEEP", goal_cases.SWEEP[:7])
    with measure.Bench(threads.cpus()[:1]) as bench:
        small = case._replace(shape=(1024, case.classes))
        found = SPECIAL["sweep"](bench, small, measure.Effort(0, 2, 2), lambda *what: None)
    assert not any("failed" in line for line in found["contestants"].values())
    assert len(found["goals"]) == 7


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
UNABLE |= {("bare loop", kind) for kind in KINDS if kind != "labels"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [p.name for p in providers.PROVIDERS.values() if p.has_result])
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
