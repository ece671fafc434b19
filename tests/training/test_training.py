"""Runs: what they leave behind, exact resumption, and what they refuse."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file

from protoseg_deploy.errors import DataError, ProtosegError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import load_network, load_prototypes
from protoseg_deploy.recipe import recipe_from_dict
from protoseg_deploy.training import Interrupted, Run, loop, train
from protoseg_deploy.training.validation import validate
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
    off = with_values(tiny_recipe, method={"name": "prototype", "prototype_weight": 0.0})
    base = with_values(tiny_recipe, method={"name": "fixmatch"})
    train(off, tmp_path / "off", build_method, quiet=True)
    train(base, tmp_path / "base", build_method, quiet=True)
    assert_same_weights(tmp_path / "off", tmp_path / "base")
    losses = [
        [r["labeled"] + r["unlabeled"] for r in Run(tmp_path / name).metrics() if r["kind"] == "train"]
        for name in ("off", "base")
    ]
    assert losses[0] == losses[1]


def test_the_prototype_branch_changes_training(tiny_recipe, tmp_path, finished):
    train(with_values(tiny_recipe, method={"name": "fixmatch"}), tmp_path / "base", build_method, quiet=True)
    left, right = weights_of(finished[0]), weights_of(tmp_path / "base")
    assert any(not torch.equal(left[name], right[name]) for name in left)


def test_worker_processes_do_not_change_the_result(tiny_recipe, tmp_path, finished):
    train(with_values(tiny_recipe, train={"workers": 2}), tmp_path / "workers", build_method, quiet=True)
    assert_same_weights(finished[0], tmp_path / "workers")


def start_in_process(recipe, folder, tmp_path, *more):
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    command = [sys.executable, "-m", "protoseg_deploy", "train", str(path), "--run", str(folder), *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def run_and_kill(recipe, folder, tmp_path, step):
    """Train in a process of its own that kills itself, without any clean-up, before it takes step `step`."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    code = f"""
import os, signal
from protoseg_deploy.cli import cli
from protoseg_deploy.training import Trainer
take = Trainer.train_step
def take_or_die(self, batch):
    if self.step == {step}:
        os.kill(os.getpid(), signal.SIGKILL)
    return take(self, batch)
Trainer.train_step = take_or_die
cli(["train", {str(path)!r}, "--run", {str(folder)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr


def wait_for_step(folder, step, process):
    """Until the metrics say that `step` is done."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if any(record["step"] >= step for record in Run(folder).metrics()):
            return
        time.sleep(0.02)
    raise AssertionError(f"never came to step {step}: {process.communicate()}")


def test_killed_and_resumed_equals_uninterrupted_bit_for_bit(tiny_recipe, tmp_path):
    recipe = with_values(
        tiny_recipe,
        train={"steps": 24, "checkpoint_every": 7, "log_every": 1, "eval_every": 10},
        model={"dropout": 0.3},
    )
    run_and_kill(recipe, tmp_path / "killed", tmp_path, step=16)
    resumed = start_in_process(recipe, tmp_path / "killed", tmp_path, "--resume")
    assert resumed.wait(120) == 0, resumed.communicate()
    whole = start_in_process(recipe, tmp_path / "whole", tmp_path)
    assert whole.wait(120) == 0, whole.communicate()
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")
    steps = [record["step"] for record in Run(tmp_path / "killed").metrics() if record["kind"] == "train"]
    assert steps == list(range(1, 25)), "every step is logged once"


def test_sigterm_saves_and_says_how_to_resume(tiny_recipe, tmp_path):
    recipe = with_values(tiny_recipe, train={"steps": 500, "checkpoint_every": 1000, "log_every": 1, "eval_every": 500})
    process = start_in_process(recipe, tmp_path / "run", tmp_path)
    wait_for_step(tmp_path / "run", 3, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"--resume" in err
    assert b"Traceback" not in err
    assert len(Run(tmp_path / "run").checkpoints.paths()) == 1


def test_a_signal_during_an_evaluation_is_saved_before_it_is_obeyed(tiny_recipe, tmp_path, monkeypatch):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*arguments)

    monkeypatch.setattr(loop, "validate", interrupted)
    recipe = with_values(tiny_recipe, train={"eval_every": 3, "checkpoint_every": 100})
    with pytest.raises(Interrupted, match="after step 3"):
        train(recipe, tmp_path / "run", build_method, quiet=True)
    assert [path.name for path in Run(tmp_path / "run").checkpoints.paths()] == ["step-00000003.pt"]


def test_a_run_killed_before_its_summary_is_finished_by_resuming(tiny_recipe, finished):
    folder, summary = finished
    (folder / "summary.json").unlink()
    assert train(tiny_recipe, folder, build_method, resume=True, quiet=True) == summary


def test_a_resumed_run_needs_its_initial_weights_no_more(tiny_recipe, tmp_path):
    torch.save(timm.create_model("resnet10t", pretrained=False).state_dict(), tmp_path / "w.pth")
    recipe = with_values(tiny_recipe, model={"weights": str(tmp_path / "w.pth")})
    whole = train(recipe, tmp_path / "whole", build_method, quiet=True)
    run_and_kill(recipe, tmp_path / "killed", tmp_path, step=5)
    (tmp_path / "w.pth").unlink()
    resumed = train(recipe, tmp_path / "killed", build_method, resume=True, quiet=True)
    assert resumed["last_miou_percent"] == whole["last_miou_percent"]
    assert_same_weights(tmp_path / "killed", tmp_path / "whole")


def test_other_images_are_refused_on_resume(tiny_recipe, scenes, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    recipe = with_values(tiny_recipe, data={"root": str(root), "labeled_count": 3}, train={"steps": 2})
    train(recipe, tmp_path / "run", build_method, quiet=True)
    for part in ("images", "masks"):
        shutil.copy(root / "labeled" / part / "000.png", root / "labeled" / part / "0000.png")
    recipe_now = with_values(recipe, data={"labeled_count": 3})
    (root / "unlabeled/images/008.png").unlink()
    with pytest.raises(UsageError, match="images"):
        train(recipe_now, tmp_path / "run", build_method, resume=True, quiet=True)


def test_moved_data_may_be_resumed_and_the_run_knows_its_new_place(tiny_recipe, scenes, tmp_path):
    train(tiny_recipe, tmp_path / "run", build_method, quiet=True)
    shutil.copytree(scenes, tmp_path / "moved")
    moved = with_values(tiny_recipe, data={"root": str(tmp_path / "moved")})
    train(moved, tmp_path / "run", build_method, resume=True, quiet=True)
    assert Run(tmp_path / "run").recipe().data.root == str(tmp_path / "moved")


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


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(tiny_recipe, tmp_path, finished, capsys):
    folder, _ = finished
    (folder / "summary.json").unlink()
    newest = Run(folder).checkpoints.paths()[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    train(tiny_recipe, folder, build_method, resume=True)
    assert newest.name in capsys.readouterr().err.replace("\n", "")
    assert Run(folder).summary()["steps"] == 8


def test_no_readable_checkpoint_is_an_error(tiny_recipe, finished):
    folder, _ = finished
    for path in Run(folder).checkpoints.paths():
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(ProtosegError, match="no checkpoint to resume from"):
        train(tiny_recipe, folder, build_method, resume=True, quiet=True)


def test_a_changed_recipe_is_refused_with_its_keys(tiny_recipe, finished):
    changed = with_values(tiny_recipe, train={"lr": 0.5}, method={"confidence_threshold": 0.1})
    with pytest.raises(UsageError, match=r"method\.confidence_threshold, train\.lr"):
        train(changed, finished[0], build_method, resume=True, quiet=True)


def test_what_may_change_may_change(tiny_recipe, finished):
    changed = with_values(tiny_recipe, train={"log_every": 1})
    assert train(changed, finished[0], build_method, resume=True, quiet=True) == finished[1]
    assert Run(finished[0]).recipe().train.log_every == 1


def test_an_existing_run_is_not_overwritten(tiny_recipe, finished):
    with pytest.raises(UsageError, match="already exists"):
        train(tiny_recipe, finished[0], build_method, quiet=True)


def test_resume_without_a_run_is_an_error(tiny_recipe, tmp_path):
    with pytest.raises(UsageError, match="no run to resume"):
        train(tiny_recipe, tmp_path / "none", build_method, resume=True, quiet=True)


def test_metrics_cut_off_in_the_middle_of_a_line_are_read(finished):
    run = Run(finished[0])
    count = len(run.metrics())
    with run.metrics_path.open("a") as file:
        file.write('{"kind": "train", "st')
    assert len(run.metrics()) == count


def test_the_labeled_subset_is_reproducible_from_the_run(tiny_recipe, tmp_path):
    recipe = with_values(tiny_recipe, data={"labeled_count": 3, "labeled_seed": 4}, train={"steps": 1})
    train(recipe, tmp_path / "one", build_method, quiet=True)
    train(recipe, tmp_path / "two", build_method, quiet=True)
    lists = [Run(tmp_path / name).labeled_list.read_text() for name in ("one", "two")]
    assert lists[0] == lists[1]
    assert len([line for line in lists[0].splitlines() if not line.startswith("#")]) == 3
    assert json.loads((tmp_path / "one" / "summary.json").read_text())["labeled_images"] == 3
