"""Statistics and tables of runs that are written by hand; the picture as pixels."""

import json

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.reporting.comparison import Spread, compare_runs
from protoseg_deploy.reporting.curves import COLORS, draw_curves
from protoseg_deploy.training import Run
from protoseg_deploy.training.sweep import PlannedRun

LAST = {"supervised": [40.0, 43.0, 47.5], "fixmatch": [50.0, 52.0, 49.0], "broken": [None, None, None]}
STEPS = 8


def write_run(recipe, folder, seed, last):
    """A finished run whose best evaluation is 1.5 points above its last; without a figure one that stopped early."""
    run = Run(folder)
    run.keep_recipe(recipe)
    for step in (2, 4, 6, 8) if last is not None else (2,):
        run.append_metrics({"kind": "train", "step": step, "loss": 1.0})
        miou = (last or 9) * step / STEPS
        run.append_metrics({"kind": "evaluation", "step": step, "miou_percent": miou, "iou_percent": {}})
    if last is not None:
        summary = {
            "steps": STEPS,
            "best_miou_percent": last + 1.5,
            "last_miou_percent": last,
            "last_iou_percent": {"ground": last + seed, "red": None if seed == 1 else 2 * seed, "blue": None},
            "train_seconds": 10.0 + seed,
            "peak_memory_mib": 100.0 * (1 + seed),
        }
        run.write_summary(summary)


@pytest.fixture
def planned(tiny_recipe, tmp_path):
    runs = []
    for seed in range(3):
        for variant, figures in LAST.items():
            folder = tmp_path / variant / f"seed-{seed}"
            folder.mkdir(parents=True)
            if variant != "broken" or seed == 0:
                write_run(tiny_recipe, folder, seed, figures[seed])
            runs.append(PlannedRun(variant, seed, tiny_recipe, Run(folder)))
    return runs


def test_means_and_sample_deviations(planned):
    comparison = compare_runs(planned)
    for name in ("supervised", "fixmatch"):
        result = comparison.variants[name]
        assert result.finished == 3
        assert result.last_miou_percent == Spread(
            pytest.approx(np.mean(LAST[name])), pytest.approx(np.std(LAST[name], ddof=1)), 3
        )
        assert result.best_miou_percent.mean == pytest.approx(np.mean(LAST[name]) + 1.5)
        assert result.train_seconds == Spread(11.0, 1.0, 3)
        assert result.peak_memory_mib == Spread(200.0, 100.0, 3)
        assert result.last_iou_percent["red"] == Spread(2.0, pytest.approx(np.std([0, 4], ddof=1)), 2)
        assert result.last_iou_percent["blue"] is None, "a class that occurs nowhere"


def test_differences_are_of_the_same_seed(planned):
    pairs = np.subtract(LAST["fixmatch"], LAST["supervised"])
    comparison = compare_runs(planned)
    assert comparison.against == "supervised"
    expected = Spread(pytest.approx(pairs.mean()), pytest.approx(pairs.std(ddof=1)), 3)
    assert comparison.variants["fixmatch"].last_difference == expected
    assert comparison.variants["fixmatch"].best_difference == expected
    assert comparison.variants["supervised"].last_difference is None
    # Seed 1 of the first is missing: two pairs are left, although the other variant has three runs.
    planned[3].run.summary_path.unlink()
    fewer = compare_runs(planned).variants["fixmatch"]
    assert fewer.last_difference == Spread(
        pytest.approx(pairs[[0, 2]].mean()), pytest.approx(pairs[[0, 2]].std(ddof=1)), 2
    )
    assert fewer.last_miou_percent.n == 3


def test_what_is_not_finished_is_said_and_not_counted(planned):
    comparison = compare_runs(planned, failed=["broken/seed-2"])
    broken = comparison.variants["broken"]
    assert [run.state for run in broken.runs] == ["unfinished", "not started", "failed"]
    assert (broken.finished, broken.last_miou_percent, broken.last_difference) == (0, None, None)
    assert comparison.curves["broken"] == []
    assert comparison.unfinished() == [
        "broken/seed-0: unfinished at step 2 of 8",
        "broken/seed-1: not started",
        "broken/seed-2: failed",
    ]
    assert "broken/seed-0: unfinished at step 2 of 8" in comparison.markdown()


def test_one_run_has_no_deviation():
    assert Spread.of([3.0, None]) == Spread(3.0, None, 1)
    assert Spread.of([None]) is None


def test_tables_show_signs_and_gaps(planned):
    overview, differences, classes = compare_runs(planned).tables()
    assert overview.rows[0] == ("supervised", "3/3", "45.00 ± 3.77", "43.50 ± 3.77", "11", "200")
    assert overview.rows[2] == ("broken", "0/3", "–", "–", "–", "–")
    assert [row[:2] for row in differences.rows] == [("fixmatch", "3"), ("broken", "0")]
    assert differences.rows[0][3].startswith("+6.83 ± ")
    assert classes.rows == (("ground", "44.50", "51.33", "–"), ("red", "2.00", "2.00", "–"), ("blue", "–", "–", "–"))


def test_files(planned, tmp_path):
    comparison = compare_runs(planned)
    written = comparison.write(tmp_path / "out")
    assert [path.name for path in written] == ["comparison.json", "comparison.md", "miou.png"]
    assert json.loads(written[0].read_text()) == json.loads(json.dumps(comparison.document()))
    rows = [line for line in written[1].read_text().splitlines() if line.startswith("|")]
    assert len(rows) == 3 * 2 + 3 + 2 + 3
    nothing = compare_runs([run for run in planned if run.variant == "broken"]).write(tmp_path / "nothing")
    assert [path.name for path in nothing] == ["comparison.json", "comparison.md"]


def test_the_picture_has_a_line_of_its_own_colour_for_each_variant(tmp_path):
    curves = {
        "flat": [[(step, 30.0) for step in range(0, 100, 10)]],
        "rising": [[(step, 40.0 + step / 4 + seed) for step in range(0, 100, 10)] for seed in range(3)],
        "nothing": [],
        "high": [[(step, 90.0) for step in range(0, 100 + 50 * seed, 10)] for seed in range(2)],
    }
    draw_curves(curves, tmp_path / "miou.png")
    picture = np.asarray(Image.open(tmp_path / "miou.png").convert("RGB")).astype(int)
    assert picture.shape[1] >= 1000

    def columns_of(number):
        color = [int(COLORS[number][at : at + 2], 16) for at in (1, 3, 5)]
        return np.flatnonzero((np.abs(picture - color).max(axis=2) < 12).any(axis=0))

    assert columns_of(2).size == 0, "a variant without runs is left out"
    widths = [np.ptp(columns_of(number)) for number in (0, 1, 3)]
    assert min(widths) > 0.7 * picture.shape[1]
    # The longer run of `high` is drawn only as far as the shorter one goes.
    assert max(widths) - min(widths) < 0.1 * picture.shape[1]
