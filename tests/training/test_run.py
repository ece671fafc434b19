"""Run folders: what may change between a start and a resumption, and runs that become longer."""

import os
import shutil

import pytest
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import RecipeError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import load_run_recipe, recipe_from_dict, resumable_keys, with_keys_of
from protoseg_deploy.training import Run, Trainer, optimization, train
from protoseg_deploy.training.recording import lag_of_average
from protoseg_deploy.training.step import TrainStep
from tests.conftest import recipe_tree, with_values
from tests.training.crashing import assert_same

STEPS, LONGER = 8, 12


@pytest.fixture(scope="module")
def recipe(scenes):
    return with_values(
        recipe_from_dict(recipe_tree(scenes), "test recipe"),
        model={"backbone": "test_resnet"},
        method={"unlabeled_start": 0.125, "unlabeled_ramp": 0.5},
        train={"steps": STEPS, "log_every": 1},
    )


@pytest.fixture(scope="module")
def finished_once(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    return folder, train(recipe, folder, build_method, quiet=True)


@pytest.fixture
def finished(finished_once, tmp_path):
    """A finished run that a test may spoil, and its summary."""
    shutil.copytree(finished_once[0], tmp_path / "run")
    return tmp_path / "run", finished_once[1]


def extend(recipe, folder, steps):
    return train(recipe, folder, build_method, extend_to=steps, quiet=True)


def resume(recipe, folder):
    return train(recipe, folder, build_method, resume=True, quiet=True)


def factor(step, steps, power=0.9):
    return (1 - step / steps) ** power


def watch_learning_rates(monkeypatch):
    """Of the backbone at every step that is taken, by step."""
    rates = {}
    take = TrainStep.take

    def watched(self, batch, step):
        rates[step] = [group["lr"] for group in self.optimizer.param_groups]
        return take(self, batch, step)

    monkeypatch.setattr(TrainStep, "take", watched)
    return rates


def stop_before(monkeypatch, step):
    """A run that is killed, as far as one can be without a process of its own."""
    take = Trainer.train_step

    def take_or_stop(self, batch):
        if self.step == step:
            raise KeyboardInterrupt
        return take(self, batch)

    monkeypatch.setattr(Trainer, "train_step", take_or_stop)


def test_other_images_are_refused_on_resume(recipe, scenes, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    recipe = with_values(recipe, data={"root": str(root), "labeled_count": 3}, train={"steps": 2})
    train(recipe, tmp_path / "run", build_method, quiet=True)
    (root / "unlabeled/images/008.png").unlink()
    with pytest.raises(UsageError, match="other unlabelled images: 9 then, 8 now"):
        resume(recipe, tmp_path / "run")


def labels_of(folder):
    return [line for line in Run(folder).labeled_list.read_text(encoding="utf-8").splitlines() if line[0] != "#"]


def test_a_run_that_goes_on_keeps_its_labelled_subset(recipe, scenes, tmp_path, monkeypatch):
    """Labelled images that were added, another draw of a newer version: the list in the folder counts."""
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    tree = with_values(recipe, data={"root": str(root), "labeled_count": 3, "labeled_seed": 1}).model_dump(mode="json")
    del tree["data"]["labeled_draw"]
    recipe = recipe_from_dict(tree, "a recipe that does not say how to draw")
    stop_before(monkeypatch, 4)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", build_method, quiet=True)
    monkeypatch.undo()
    before = labels_of(tmp_path / "run")
    for number in range(20):
        for kind in ("images", "masks"):
            shutil.copy(root / f"labeled/{kind}/000.png", root / f"labeled/{kind}/new{number}.png")
    assert Run(tmp_path / "run").recipe().data.labeled_draw == "covering"
    stored = yaml.safe_load(Run(tmp_path / "run").recipe_path.read_text())
    del stored["data"]["labeled_draw"]
    Run(tmp_path / "run").recipe_path.write_text(yaml.safe_dump(stored))  # as versions before wrote it
    Run(tmp_path / "run").recipe_copy.unlink()
    resume(recipe, tmp_path / "run")
    assert labels_of(tmp_path / "run") == before
    assert len(before) == 3
    assert Run(tmp_path / "run").recipe().data.labeled_draw == "random"
    with pytest.raises(UsageError, match=r"data\.labeled_draw"):
        resume(with_values(recipe, data={"labeled_draw": "covering"}), tmp_path / "run")


def test_names_that_are_no_text_train_and_go_on(recipe, scenes, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(scenes, root)
    name = os.fsdecode(b"stra\xdfe.png")
    try:
        for part in ("labeled/images", "labeled/masks", "unlabeled/images", "val/images", "val/masks"):
            (root / part / "000.png").rename(root / part / name)
    except OSError:
        pytest.skip("this file system takes text only")
    recipe = with_values(recipe, data={"root": str(root)})
    train(recipe, tmp_path / "run", build_method, quiet=True)
    extend(recipe, tmp_path / "run", STEPS + 2)
    assert b"labeled/images/stra\xdfe.png" in Run(tmp_path / "run").labeled_list.read_bytes()


def test_moved_data_may_be_resumed_and_the_run_knows_its_new_place(recipe, scenes, finished, tmp_path):
    shutil.copytree(scenes, tmp_path / "moved")
    resume(with_values(recipe, data={"root": str(tmp_path / "moved")}), finished[0])
    assert Run(finished[0]).recipe().data.root == str(tmp_path / "moved")


def test_a_changed_recipe_is_refused_with_its_keys_and_those_that_may_change(recipe, finished):
    changed = with_values(recipe, train={"lr": 0.5, "compile": True}, method={"confidence_threshold": 0.1})
    before = Run(finished[0]).recipe_path.read_bytes()
    with pytest.raises(UsageError, match=r"method\.confidence_threshold, train\.compile, train\.lr") as caught:
        resume(changed, finished[0])
    for key in resumable_keys():
        assert key in caught.value.hint
    assert Run(finished[0]).recipe_path.read_bytes() == before


def test_another_length_is_refused_and_the_way_to_it_named(recipe, finished):
    with pytest.raises(UsageError, match="--extend-to"):
        resume(with_values(recipe, train={"steps": LONGER}), finished[0])


def test_what_may_change_may_change(recipe, finished):
    values = {"log_every": 2, "max_hours": 5.0, "max_skipped_steps": 3, "eval_batch": 2, "checkpoint_every": 3}
    changed = with_values(recipe, train=values, data={"max_unreadable_share": 0.5, "cache_mib": 0})
    assert resume(changed, finished[0]) == finished[1]
    now = Run(finished[0]).recipe()
    assert {key: getattr(now.train, key) for key in values} == values
    assert (now.data.max_unreadable_share, now.data.cache_mib) == (0.5, 0)


def test_an_existing_run_is_not_overwritten(recipe, finished):
    with pytest.raises(UsageError, match="already exists"):
        train(recipe, finished[0], build_method, quiet=True)


def test_a_folder_with_other_things_is_not_taken(recipe, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not empty"):
        train(recipe, tmp_path / "run", build_method, quiet=True)


def test_resume_without_a_run_is_an_error(recipe, tmp_path):
    with pytest.raises(UsageError, match="no run to resume"):
        resume(recipe, tmp_path / "none")


def test_metrics_cut_off_in_the_middle_of_a_line_are_read(finished):
    run = Run(finished[0])
    count = len(run.metrics())
    with run.metrics_path.open("a") as file:
        file.write('{"kind": "train", "st')
    assert len(run.metrics()) == count


def test_an_extended_run_computes_what_one_with_this_schedule_does(recipe, finished, tmp_path, monkeypatch):
    """The old formula up to the old end, the new one after it; start and ramp stay shares of the old length."""
    rates = watch_learning_rates(monkeypatch)
    summary = extend(recipe, finished[0], LONGER)
    assert sorted(rates) == list(range(STEPS, LONGER))
    spec = recipe.train
    for step, groups in rates.items():
        backbone = spec.lr * factor(step, LONGER)
        expected = [backbone, backbone, backbone * spec.head_lr_factor, backbone * spec.head_lr_factor]
        assert groups == pytest.approx(expected, rel=1e-12), f"step {step}"
    logged = {record["step"]: record["lr"] for record in Run(finished[0]).metrics() if record["kind"] == "train"}
    assert logged[STEPS + 1] == pytest.approx(spec.lr * factor(STEPS + 1, LONGER), rel=1e-12), "of the next step"

    def as_it_was(spec, optimizer):
        return optimization.LambdaLR(optimizer, lambda step: factor(step, STEPS if step < STEPS else LONGER))

    monkeypatch.setattr("protoseg_deploy.training.step.build_schedule", as_it_was)
    whole = with_values(recipe, train={"steps": LONGER, "extended_from": STEPS})
    assert train(whole, tmp_path / "whole", build_method, quiet=True)["best_step"] == summary["best_step"]
    assert summary["steps"] == LONGER
    for name in ("best.safetensors", "last.safetensors", "prototypes.safetensors"):
        assert_same(load_file(finished[0] / name), load_file(tmp_path / "whole" / name), name)
    losses = [
        [record["unlabeled"] for record in Run(folder).metrics() if "unlabeled" in record]
        for folder in (finished[0], tmp_path / "whole")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == LONGER - 1, "unlabelled images join after the first step"


def test_an_extension_that_was_interrupted_is_finished_by_resuming(recipe, finished, tmp_path, monkeypatch):
    folder, old_summary = finished
    shutil.copytree(folder, tmp_path / "whole")
    extend(recipe, tmp_path / "whole", LONGER)
    with monkeypatch.context() as patch:
        stop_before(patch, STEPS + 3)
        with pytest.raises(KeyboardInterrupt):
            extend(recipe, folder, LONGER)
    assert Run(folder).summary() == old_summary, "until there is a new one"
    assert Run(folder).recipe().train.steps == LONGER
    assert resume(recipe, folder)["steps"] == LONGER, "the recipe of the start still has the old length"
    name = "last.safetensors"
    assert_same(load_file(folder / name), load_file(tmp_path / "whole" / name), name)


def test_an_extension_killed_before_its_summary_is_not_taken_for_the_old_run(recipe, finished, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "write_summary", lambda self, summary: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extend(recipe, finished[0], LONGER)
    assert resume(recipe, finished[0])["steps"] == LONGER


def test_extended_twice_it_still_knows_its_first_length(recipe, finished):
    extend(recipe, finished[0], STEPS + 1)
    extend(recipe, finished[0], STEPS + 2)
    spec = Run(finished[0]).recipe().train
    assert (spec.steps, spec.extended_from, spec.planned_steps) == (STEPS + 2, STEPS, STEPS)


def test_an_extension_that_cannot_be_is_refused(recipe, finished, tmp_path):
    for steps in (STEPS - 1, STEPS):
        with pytest.raises(UsageError, match="already has 8 steps"):
            extend(recipe, finished[0], steps)
    for steps in (10**8, 10**20):
        with pytest.raises(UsageError, match="at most 99,999,999 steps"):
            extend(recipe, finished[0], steps)
    shutil.rmtree(finished[0] / "checkpoints")
    (finished[0] / "summary.json").unlink()
    with pytest.raises(UsageError, match="cannot be extended"):
        extend(recipe, finished[0], LONGER)
    with pytest.raises(UsageError, match="no run"):
        extend(recipe, tmp_path / "none", LONGER)
    assert Run(finished[0]).recipe().train.steps == STEPS


def test_a_recipe_that_could_not_be_read_again_is_not_written(recipe, finished):
    run = Run(finished[0])
    before = run.recipe_path.read_bytes(), run.recipe_copy.read_bytes()
    spoilt = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": float("nan")})})
    with pytest.raises(RecipeError, match=r"train\.lr"):
        run.keep_recipe(spoilt)
    assert (run.recipe_path.read_bytes(), run.recipe_copy.read_bytes()) == before


def command(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, ["train", *map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    return result


def test_a_run_goes_on_with_its_own_recipe(finished):
    folder = finished[0]
    command("--run", folder, "--extend-to", STEPS + 1, "train.checkpoint_every=5")
    assert Run(folder).summary()["steps"] == STEPS + 1
    assert Run(folder).recipe().train.checkpoint_every == 5
    command("--run", folder, "--resume", "train.log_every=3")
    assert Run(folder).recipe().train.log_every == 3
    assert "train.lr" in command("--run", folder, "--resume", "train.lr=1", exit_code=2).stderr


def test_continue_starts_a_run_or_resumes_it(recipe, tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(with_values(recipe, train={"steps": 3}).model_dump(mode="json")))
    arguments = [tmp_path / "mine.yaml", "--run", tmp_path / "run", "--continue"]
    command(*arguments)
    said = command(*arguments).stderr
    assert "the run is already finished; use --extend-to N to train longer" in said, "there was nothing left to do"
    for _ in range(2):  # torchrun repeats a command as it is
        command("--run", tmp_path / "run", "--continue", "--extend-to", 4)
        assert Run(tmp_path / "run").summary()["steps"] == 4


def test_an_extension_that_was_stopped_goes_on_by_its_command_and_resume(recipe, finished, monkeypatch):
    folder = finished[0]
    with monkeypatch.context() as patch:
        stop_before(patch, STEPS + 3)
        with pytest.raises(KeyboardInterrupt):
            extend(recipe, folder, LONGER)
    same = ["--run", folder, "--extend-to", LONGER]
    assert "--resume finishes" in command(*same, exit_code=2).stderr
    command(*same, "--resume")
    assert Run(folder).summary()["steps"] == LONGER


def test_a_moving_average_that_lags_far_behind_is_said():
    figures = {"miou_percent": 45.5, "student_miou_percent": 96.4}
    assert "ends 50.9 points of mIoU below the student" in lag_of_average(figures)
    assert lag_of_average(figures | {"miou_percent": 95.0}) is None
    assert lag_of_average(figures | {"miou_percent": 99.0}) is None
    assert lag_of_average(dict.fromkeys(figures)) is None, "there is no validation image, or no pixel counts"


def test_without_a_run_a_recipe_is_needed(tmp_path):
    for option in ("--resume", "--continue", "--extend-to=9", None):
        result = command("--run", tmp_path / "none", *([option] if option else []), exit_code=2)
        assert "RECIPE" in result.stderr


def test_the_help_says_where_to_find_what_may_change():
    assert "protoseg recipe explain" in " ".join(command("--help").output.split())


def test_a_run_of_a_version_without_separable_convolutions_goes_on_as_it_began(recipe, tmp_path):
    tree = recipe.model_dump(mode="json")
    del tree["model"]["separable"], tree["model"]["decoder_channels"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    begun = load_run_recipe(tmp_path / "recipe.yaml")
    assert (begun.model.separable, begun.model.decoder_channels) == (False, 256)
    given = recipe_from_dict(tree, "the same, given again")
    assert (given.model.separable, given.model.decoder_channels) == (None, None)
    assert with_keys_of(begun, given).model == begun.model
