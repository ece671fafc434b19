"""Steps whose loss or gradient is not finite: nothing of them stays, and too many of them end a run."""

import copy

import pytest
import torch
from torch import nn

from protoseg_deploy.data import find_data
from protoseg_deploy.errors import UsageError
from protoseg_deploy.methods import FixMatch, build_method
from protoseg_deploy.methods.base import StepResult
from protoseg_deploy.recipe import class_table
from protoseg_deploy.training import Run, Trainer, resolved_recipe, train
from protoseg_deploy.training.replay import replay
from protoseg_deploy.training.skipping import SkippedSteps, TooManySkipped
from protoseg_deploy.training.state import state_of
from tests.conftest import with_values


def trainer_of(recipe, folder):
    recipe = resolved_recipe(recipe, class_table(recipe.data))
    sets = find_data(recipe.data, need_unlabeled=True, need_val=True)
    trainer = Trainer(recipe, Run(folder), sets, build_method, quiet=True)
    trainer.student.train()
    return trainer


def take(trainer, count=1):
    for _ in range(count):
        outcome = trainer.train_step(trainer.batches.batch(trainer.step).to(trainer.compute.device))
        trainer.step += 1
    return outcome


def frozen_copy(trainer):
    state = copy.deepcopy({**state_of(trainer), "schedule": None, "scaler": None})
    state["teacher"].pop("updates")  # a moving average of the same values moves on
    state["optimizer"].pop("param_groups")  # as the learning rate does
    state["method"] = {name: value for name, value in state["method"].items() if "idle" not in name}
    return state


def leaves(tree):
    if isinstance(tree, dict):
        for key in tree:
            yield from leaves(tree[key])
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from leaves(value)
    else:
        yield tree


def spoil(monkeypatch, what):
    """FixMatch with an infinite loss whose gradients are finite, or a finite one whose gradients are not."""
    whole = FixMatch.step

    def step(self, student, teacher, batch, number):
        result = whole(self, student, teacher, batch, number)
        weight = student.head.weight
        infinite_loss = weight.sum() * 0 + float("inf")
        infinite_slope = (weight * 0).sum().sqrt()  # at 0
        term = infinite_loss if what == "loss" else infinite_slope
        return StepResult({**result.losses, "broken": term}, result.monitors)

    monkeypatch.setattr(FixMatch, "step", step)


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_broken_step_changes_nothing(tiny_recipe, tmp_path, monkeypatch, what, optimizer):
    recipe = with_values(tiny_recipe, train={"optimizer": optimizer, "steps": 20}, method={"ema_decay": 0.0})
    trainer = trainer_of(recipe, tmp_path / "run")
    assert take(trainer, 4).taken
    before = frozen_copy(trainer)
    with monkeypatch.context() as patch:
        spoil(patch, what)
        outcome = take(trainer)
    assert not outcome.taken
    trainer.step -= 1
    for old, new in zip(leaves(before), leaves(frozen_copy(trainer)), strict=True):
        assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new
    assert take(trainer).taken, "the next step is a step again"
    now = trainer.student.state_dict()
    assert any(not torch.equal(value, now[name]) for name, value in before["student"].items())


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_broken_first_step_leaves_nothing_behind(tiny_recipe, tmp_path, monkeypatch, optimizer):
    recipe = with_values(tiny_recipe, train={"optimizer": optimizer, "steps": 20}, method={"name": "fixmatch"})
    spoilt, whole = trainer_of(recipe, tmp_path / "spoilt"), trainer_of(recipe, tmp_path / "whole")
    whole.student.load_state_dict(spoilt.student.state_dict())
    with monkeypatch.context() as patch:
        spoil(patch, "loss")
        assert not take(spoilt).taken
    with pytest.warns(UserWarning, match="lr_scheduler"):
        whole.stepper.schedule.step()
    whole.step = 1
    for trainer in (spoilt, whole):
        torch.manual_seed(5)
        assert take(trainer).taken
    for name, value in whole.student.state_dict().items():
        assert torch.equal(value, spoilt.student.state_dict()[name]), name


def test_the_scaled_path_of_gpus_skips_by_its_flag_and_keeps_its_scale(tiny_recipe, tmp_path, monkeypatch):
    """The same calls as on a GPU, with a scaler that is enabled on the CPU."""
    recipe = with_values(
        tiny_recipe, train={"optimizer": "sgd", "steps": 20, "momentum": 0.9}, method={"name": "fixmatch"}
    )
    trainer = trainer_of(recipe, tmp_path / "run")
    stepper = trainer.stepper
    stepper.scaler = torch.amp.GradScaler("cpu", init_scale=1.0, growth_interval=2**31 - 1)
    for _ in range(2):
        before = copy.deepcopy(trainer.student.state_dict())
        with monkeypatch.context() as patch:
            spoil(patch, "loss")
            assert not take(trainer).taken
        for name, value in trainer.student.state_dict().items():
            assert torch.equal(value, before[name]), name
    assert stepper.scaler.get_scale() == 1.0
    assert take(trainer).taken
    buffers = [state["momentum_buffer"] for state in stepper.optimizer.state.values()]
    assert max(buffer.abs().max() for buffer in buffers) < 100


def test_statistics_of_normalisation_survive_an_image_that_overflows(tiny_recipe, tmp_path):
    trainer = trainer_of(tiny_recipe, tmp_path / "run")
    norm = next(module for module in trainer.student.modules() if isinstance(module, nn.BatchNorm2d))
    before = norm.running_mean.clone()
    handle = trainer.student.backbone.register_forward_pre_hook(lambda module, inputs: (inputs[0] * float("inf"),))
    assert not take(trainer).taken
    handle.remove()
    assert torch.equal(norm.running_mean, before)
    assert take(trainer).taken
    assert not torch.equal(norm.running_mean, before)
    assert norm.running_mean.isfinite().all()


def test_only_steps_in_a_row_are_too_many():
    skipped = SkippedSteps(3, torch.device("cpu"))
    pattern = [False, False, True, False, False, False]
    told = [skipped.see(step, torch.tensor(taken), "batch", {}) for step, taken in enumerate(pattern)]
    assert told == [None] * 5 + [(5, "batch", {})]


def test_skipped_steps_are_counted_and_said(tiny_recipe, tmp_path, monkeypatch, capsys):
    whole = FixMatch.step

    def step(self, student, teacher, batch, number):
        result = whole(self, student, teacher, batch, number)
        if number in (2, 5, 6):
            result.losses["broken"] = student.head.weight.sum() * float("nan")
        return result

    monkeypatch.setattr(FixMatch, "step", step)
    train(tiny_recipe, tmp_path / "run", build_method)
    records = [record for record in Run(tmp_path / "run").metrics() if record["kind"] == "train"]
    assert [record.get("skipped_steps", 0) for record in records] == [0, 1, 1, 1]
    assert all(record["labeled"] > 0 for record in records), "averages are over the steps that counted"
    assert "skipped" in capsys.readouterr().err


def test_too_many_in_a_row_stop_the_run_and_leave_a_replay_behind(tiny_recipe, tmp_path):
    recipe = with_values(
        tiny_recipe,
        train={
            "lr": 1000.0,
            "head_lr_factor": 1000.0,
            "optimizer": "sgd",
            "max_skipped_steps": 3,
            "eval_every": 8,  # an evaluation would find the network not finite first
            "checkpoint_every": 8,
        },
        method={"name": "fixmatch"},
    )
    with pytest.raises(TooManySkipped, match="is NaN or infinite") as caught:
        train(recipe, tmp_path / "run", build_method, quiet=True)
    file = next((tmp_path / "run").glob("skipped-step-*.pt"))
    assert str(file) in caught.value.hint
    document = torch.load(file, weights_only=True)
    assert len(document["files"]) == 4
    assert document["batch"]["images"].shape == (2, 3, 32, 32)


def test_a_replay_names_the_layer_and_the_images(tiny_recipe, tmp_path, monkeypatch):
    """A convolution whose weights are huge overflows on every image, in the same step as in training."""
    recipe = with_values(tiny_recipe, train={"max_skipped_steps": 2, "steps": 20})
    whole, found = Trainer.train_step, {}

    def train_step(self, batch):
        if self.step == 3:
            with torch.no_grad():
                self.student.decoder.project[0].weight.fill_(1e38)
        outcome = whole(self, batch)
        found[self.step] = outcome.result.losses
        return outcome

    monkeypatch.setattr(Trainer, "train_step", train_step)
    with pytest.raises(TooManySkipped) as caught:
        train(recipe, tmp_path / "run", build_method, quiet=True)
    file = next((tmp_path / "run").glob("skipped-step-*.pt"))
    report = replay(file)
    assert report.step == 4
    assert report.first_layer == "decoder.project.0 (Conv2d)"
    assert report.largest_input < 1e6
    assert {str(path) for path in report.images} <= set(report.files)
    assert len(report.files) == 4
    assert report.losses.keys() == found[4].keys()
    assert str(file) in str(caught.value.hint)


def test_what_is_no_skipped_step_is_refused(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"nothing")
    torch.save({"step": 1}, tmp_path / "y.pt")
    for name in ("x.pt", "y.pt", "z.pt"):
        with pytest.raises(UsageError, match=name):
            replay(tmp_path / name)
