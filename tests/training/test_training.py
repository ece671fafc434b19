"""Runs: what they leave behind, and what they learn."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from protoseg_deploy.errors import DataError
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import load_network, load_prototypes
from protoseg_deploy.recipe import recipe_from_dict
from protoseg_deploy.training import Run, train
from tests.conftest import recipe_tree, with_values


def weights_of(folder):
    return load_file(folder / "last.safetensors")


def assert_same_weights(one, other):
    left, right = weights_of(one), weights_of(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.fixture(scope="module")
def finished_once(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    recipe = recipe_from_dict(recipe_tree(scenes), "test recipe")
    return folder, train(recipe, folder, build_method, quiet=True)


@pytest.fixture
def finished(finished_once, tmp_path):
    """A finished run that a test may spoil, and its summary."""
    shutil.copytree(finished_once[0], tmp_path / "run")
    return tmp_path / "run", finished_once[1]


def test_a_run_leaves_everything_behind(finished, tiny_recipe):
    folder, summary = finished
    run = Run(folder)
    assert summary["steps"] == 8
    assert run.summary() == summary
    kinds = [record["kind"] for record in run.metrics()]
    assert kinds.count("train") == 4
    assert kinds.count("evaluation") == 2
    assert kinds.count("prototypes") == 2
    logged = next(record for record in run.metrics() if record["kind"] == "train" and record["step"] == 8)
    for term in ("labeled", "unlabeled", "prototype_labeled", "prototype_unlabeled", "confident_share"):
        assert logged[term] > 0, term
    assert len(run.labeled_list.read_text().splitlines()) >= 6
    network, spec = load_network(run.best)
    assert spec.classes.names == ("ground", "red", "blue")
    assert spec.provenance["miou_percent"] == pytest.approx(summary["best_miou_percent"])
    assert network(torch.zeros(1, 3, 37, 51)).shape == (1, 3, 37, 51)
    assert load_prototypes(run.prototypes).shape == (3, 2, network.feature_channels("head_input"))
    assert any(run.folder.glob("tensorboard/*"))


def test_nothing_of_the_prototype_branch_is_in_the_network_file(finished):
    names = weights_of(finished[0]).keys()
    assert all(name.split(".")[0] in {"backbone", "decoder", "head"} for name in names)


def test_learning_happens(tiny_recipe, tmp_path):
    recipe = with_values(tiny_recipe, train={"steps": 60, "eval_every": 60}, method={"name": "supervised"})
    summary = train(recipe, tmp_path / "run", build_method, quiet=True)
    assert summary["last_student_miou_percent"] > 60, "three flat colours are easy"


def test_prototype_without_weight_is_fixmatch_step_for_step(tiny_recipe, tmp_path):
    off = with_values(tiny_recipe, method={"name": "prototype", "prototypes": {"weight": 0.0}})
    base = with_values(tiny_recipe, method={"name": "fixmatch"})
    train(off, tmp_path / "off", build_method, quiet=True)
    train(base, tmp_path / "base", build_method, quiet=True)
    assert_same_weights(tmp_path / "off", tmp_path / "base")
    losses = [
        [r["labeled"] + r["unlabeled"] for r in Run(tmp_path / name).metrics() if r["kind"] == "train"]
        for name in ("off", "base")
    ]
    assert losses[0] == losses[1]


def test_the_prototype_branch_draws_features_to_the_prototypes_of_their_class(tiny_recipe, tmp_path):
    """Its loss falls further where it counts than where it hardly does; both runs see the same images."""
    ends = []
    for weight in (1e-6, 1.0):
        recipe = with_values(
            tiny_recipe, train={"steps": 24, "log_every": 1}, method={"prototypes": {"weight": weight}}
        )
        run = tmp_path / f"weight-{weight}"
        train(recipe, run, build_method, quiet=True)
        logged = [record["prototype_labeled"] for record in Run(run).metrics() if "prototype_labeled" in record]
        ends.append(sum(logged[-6:]) / 6 / weight)
    assert ends[1] < 0.9 * ends[0]


def test_worker_processes_do_not_change_the_result(tiny_recipe, tmp_path, finished):
    train(with_values(tiny_recipe, train={"workers": 2}), tmp_path / "workers", build_method, quiet=True)
    assert_same_weights(finished[0], tmp_path / "workers")


def test_a_run_killed_before_its_summary_is_finished_by_resuming(tiny_recipe, finished):
    folder, summary = finished
    (folder / "summary.json").unlink()
    assert train(tiny_recipe, folder, build_method, resume=True, quiet=True) == summary


def test_an_image_that_breaks_in_training_is_named_without_a_workers_traceback(tiny_recipe, scenes, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    for path in (root / "unlabeled/images").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    recipe = with_values(tiny_recipe, data={"root": str(root)}, train={"workers": 1})
    with pytest.raises(DataError) as caught:
        train(recipe, tmp_path / "run", build_method, quiet=True)
    assert "Traceback" not in str(caught.value)
    assert str(root / "unlabeled/images") in str(caught.value)


def test_the_labeled_subset_is_reproducible_from_the_run(tiny_recipe, tmp_path):
    recipe = with_values(tiny_recipe, data={"labeled_count": 3, "labeled_seed": 4}, train={"steps": 1})
    train(recipe, tmp_path / "one", build_method, quiet=True)
    train(recipe, tmp_path / "two", build_method, quiet=True)
    lists = [Run(tmp_path / name).labeled_list.read_text() for name in ("one", "two")]
    assert lists[0] == lists[1]
    assert len([line for line in lists[0].splitlines() if not line.startswith("#")]) == 3
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["labeled_images"] == 3
