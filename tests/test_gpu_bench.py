"""The benchmark of the CUDA backend, as far as it can be tested without a GPU: what it makes of figures."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

from bench.goals import COMPILED, EAGER, OURS  # noqa: E402
from bench.gpu import cases, goals, machine, plot  # noqa: E402
from bench.gpu.__main__ import main  # noqa: E402
from bench.gpu.goals import MET, MISSED, UNKNOWN  # noqa: E402

ROOF = 3000.0
FREE = 70 * cases.GIB


def row(case, speeds):
    seconds = {name: {"median": 2e-9 * case.bytes / speed} for name, speed in speeds.items()}
    return case.facts() | {"GB/s": speeds, "seconds": seconds, "failed": {}}


def synthetic(compiled=900.0, host=5e-6, wide=None, swept=None):
    """A result that meets the goals of all but an absent contestant; `wide`, `swept`: other shares of the roof."""
    wide, swept = {256: 0.7} | (wide or {}), swept or {}
    beside = [cases.shaped(c, dtype, FREE) for dtype in cases.SWEPT for cluster in cases.CLUSTERS for c in cluster]
    content = {
        "synthetic": True,
        "machine": {"gpu": "NVIDIA Nothing 80GB", "driver": "0"},
        "versions": {"python": "0"},
        "date": "2000-01-01",
        "commit": None,
        "sections": {
            "roofs": {
                "rows": [{"name": "copy_", "GB/s": ROOF - 100}, {"name": "memcpy", "failed": {"memcpy": "refused"}}]
            },
            "roofs again": {"rows": [{"name": "copy_", "GB/s": ROOF}]},
            "rows": {"rows": [row(c, {OURS: ROOF * wide.get(c.classes, 0.95)}) for c in cases.wide(FREE)]},
            "peers": {
                "rows": [row(c, {OURS: 2850.0, EAGER: 300.0, COMPILED: compiled}) for c in cases.compared(FREE)],
            },
            "host": {"rows": [{"name": OURS, "seconds": {"median": host}}]},
            "sweep": {"rows": [row(c, {OURS: ROOF * swept.get(c.classes, 0.95)}) for c in beside]},
            "graph": {"rows": [{"same bits": True}]},
            "bad labels": {"rows": [{"bad rows": 1}]},
        },
    }
    goals.finish(content)
    return content


def judged(content, start):
    (found,) = [goal for goal in content["goals"] if goal["goal"].startswith(start)]
    return found


def test_good_figures_meet_every_goal_that_is_measured():
    content = synthetic()
    assert content["roof"] == ROOF
    verdicts = {goal["goal"]: goal["verdict"] for goal in content["goals"]}
    assert {goal for goal, said in verdicts.items() if said == UNKNOWN} == {">= 2 x as fast as Liger"}
    assert set(verdicts.values()) == {MET, UNKNOWN}
    assert len(verdicts) == 3 * len(cases.ITEMSIZE) + 6


@pytest.mark.parametrize(
    ("changes", "goal", "measured", "at"),
    [
        ({"wide": {16384: 0.89}}, "float16, 1024 <= C <= 152064", 0.89, "C = 16384"),
        ({"wide": {256: 0.59}}, "bfloat16, C = 256:", 0.59, "C = 256"),
        ({"wide": {262144: 0.84}}, "float32, C = 262144", 0.84, "C = 262144"),
        ({"compiled": 951.0}, ">= 3 x as fast", 2850 / 951, None),
        ({"host": 10.1e-6}, "host", 10.1e-6, None),
        ({"swept": {33: 0.7}}, "no cliff", 0.7 / 0.95, "bfloat16, C = 33"),
        ({"swept": {2048: 0.7}}, "no cliff", 0.7 / 0.95, "bfloat16, C = 2048"),
    ],
)
def test_one_figure_too_small_misses_its_goal(changes, goal, measured, at):
    content = synthetic(**changes)
    found = judged(content, goal)
    assert found["verdict"] == MISSED
    assert found["measured"] == pytest.approx(measured)
    assert at is None or found["at"] == at
    missed = {goal["goal"].partition(", ")[2] for goal in content["goals"] if goal["verdict"] == MISSED}
    assert missed == {found["goal"].partition(", ")[2]}


def test_a_goal_is_not_met_by_what_was_not_measured():
    content = synthetic()
    rows = content["sections"]["rows"]["rows"]
    lost = next(row for row in rows if row["dtype"] == "bfloat16" and row["classes"] == 65536)
    del lost["GB/s"]
    content["sections"]["host"] = {"rows": [], "skipped": "out of time"}
    content["sections"]["peers"]["rows"][0]["seconds"].pop(COMPILED)
    content["sections"]["sweep"]["rows"].pop()
    content["sections"]["bad labels"] = {"rows": [], "error": "the context is gone"}
    goals.finish(content)
    wide = judged(content, "bfloat16, 1024")
    assert (wide["verdict"], wide["missing"]) == (UNKNOWN, ["C = 65536"])
    assert judged(content, "float32, 1024")["verdict"] == MET
    assert judged(content, "host")["verdict"] == UNKNOWN
    assert judged(content, ">= 3 x")["verdict"] == UNKNOWN
    assert judged(content, "no cliff")["verdict"] == UNKNOWN
    assert judged(content, "a million")["verdict"] == MISSED


def test_a_run_goes_wrong_by_our_failures_alone():
    content = synthetic()
    assert not goals.went_wrong(content)
    content["sections"]["peers"]["rows"][0]["failed"] = {COMPILED: "no compiler"}
    assert not goals.went_wrong(content)
    content["sections"]["peers"]["rows"][0]["failed"] = {OURS: "wrong"}
    assert goals.went_wrong(content)


@pytest.mark.parametrize("free", [cases.GIB, 8 * cases.GIB, 80 * 10**9, 140 * 10**9])
def test_batches_fit_the_memory(free):
    for case in (*cases.wide(free), *cases.compared(free), *cases.layouts(free)):
        assert case.bytes <= min(cases.GIB, free / cases.SHARE)
    if free > 16 * cases.GIB:
        assert all(case.bytes > 0.99 * cases.GIB for case in cases.wide(free))


def test_a_file_is_named_after_the_gpu():
    assert machine.slug("NVIDIA H100 80GB HBM3") == "h100-80gb-hbm3"


def test_the_picture_shows_every_dtype_and_peer(tmp_path):
    pytest.importorskip("matplotlib")
    from matplotlib import colors, image

    figures, picture = tmp_path / "figures.json", tmp_path / "picture.png"
    figures.write_text(json.dumps(synthetic()))
    assert main(["--plot", str(figures), str(picture)]) == 0
    pixels = (image.imread(picture)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    packed = set((pixels @ [65536, 256, 1]).tolist())
    shown = [*(colour for colour, _, _ in plot.LINES.values()), plot.BARS[EAGER]]
    assert {int(colors.to_hex(c)[1:], 16) for c in shown} <= packed
    assert int(plot.BARS[cases.LIGER][1:], 16) not in packed


def test_a_run_that_measured_nothing_has_a_picture_too(tmp_path):
    pytest.importorskip("matplotlib")
    content = synthetic()
    content["sections"] = {}
    goals.finish(content)
    plot.draw(content, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_gpu_one_line_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "bench.gpu"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("bench.gpu: ")
    assert done.stderr.count("\n") == 1
