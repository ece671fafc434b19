"""Killed and stopped runs: what was done stays, and goes on exactly."""

import os
import random
import signal
import time

import pytest
import timm
import torch

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import Run, train
from tests.conftest import with_values
from tests.training.crashing import (
    STEPS,
    around_renaming,
    as_file,
    assert_same_runs,
    before_step,
    crash_at,
    distill_segment,
    run_chain,
    run_segment,
    start_command,
    train_segment,
    while_writing,
)


def random_steps(seed):
    return sorted(random.Random(seed).sample(range(1, STEPS), 3))


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "corrmatch", "prototype"])
def test_a_run_killed_three_times_equals_one_that_was_not(recipe, tmp_path, method):
    recipe = with_values(recipe, method={"name": method})
    train(recipe, tmp_path / "whole", build_method, quiet=True)
    # Now and then a worker process makes the batches of the run with prototypes.
    sources = [recipe, with_values(recipe, train={"workers": 1})] if method == "prototype" else [recipe]
    crashes = [crash_at(before_step, step) for step in random_steps(method)]
    run_chain(tmp_path, train_segment, sources, tmp_path / "killed", crashes)
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_distillation_killed_three_times_equals_one_that_was_not(recipe, tmp_path):
    train(recipe, tmp_path / "teacher", build_method, quiet=True)
    distill_segment(tmp_path / "teacher", tmp_path / "whole", False)
    crashes = [crash_at(before_step, step) for step in random_steps("distillation")]
    run_chain(tmp_path, distill_segment, [tmp_path / "teacher"], tmp_path / "killed", crashes)
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_run_killed_while_it_writes_equals_one_that_was_not(recipe, tmp_path):
    train(recipe, tmp_path / "whole", build_method, quiet=True)
    crashes = [
        crash_at(around_renaming, "images.json", done=True),
        crash_at(around_renaming, "recipe.yaml", done=False),
        crash_at(while_writing, 3),
        crash_at(around_renaming, "step-00000003.pt", done=False),
        crash_at(around_renaming, "best.safetensors", done=False),
        crash_at(around_renaming, "step-00000006.pt", done=True),
        crash_at(while_writing, 9),
        crash_at(around_renaming, "metrics.jsonl", done=False),
        crash_at(around_renaming, "last.safetensors", done=True),
        crash_at(around_renaming, "summary.json", done=False),
    ]
    run_chain(tmp_path, train_segment, [recipe], tmp_path / "killed", crashes)
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_signal_during_an_evaluation_is_saved_before_it_is_obeyed(stopped):
    assert [path.name for path in Run(stopped[0]).checkpoints.paths()] == ["step-00000003.pt", "step-00000005.pt"]


def sigterm_after(step):
    before_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_sigterm_saves_and_says_how_to_resume(recipe, tmp_path):
    command = ["train", as_file(recipe, tmp_path), "--run", tmp_path / "run"]
    code, said = start_command(tmp_path, *command, prepare=crash_at(sigterm_after, 3))
    assert code == 128 + signal.SIGTERM
    assert "after step 4" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert Run(tmp_path / "run").checkpoints.paths()[-1].name == "step-00000004.pt"


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(recipe, stopped, capsys):
    folder, whole = stopped
    newest = Run(folder).checkpoints.paths()[-1]
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    train(recipe, folder, build_method, resume=True)
    said = capsys.readouterr().err.replace("\n", "")
    assert newest.name in said
    assert "resuming after step 3" in said
    assert_same_runs(folder, whole)


def test_no_readable_checkpoint_is_an_error(recipe, stopped):
    for path in Run(stopped[0]).checkpoints.paths():
        path.write_bytes(b"not a checkpoint")
    with pytest.raises(ProtosegError, match="no checkpoint to resume from"):
        train(recipe, stopped[0], build_method, resume=True, quiet=True)


def test_a_resumed_run_needs_its_initial_weights_no_more(recipe, tmp_path):
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), tmp_path / "w.pth")
    recipe = with_values(recipe, model={"weights": str(tmp_path / "w.pth")})
    train(recipe, tmp_path / "whole", build_method, quiet=True)
    run_segment(tmp_path, train_segment, recipe, tmp_path / "killed", False, crash=crash_at(before_step, 5))
    (tmp_path / "w.pth").unlink()
    train_segment(recipe, tmp_path / "killed", True)
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")


def test_a_student_is_not_resumed_by_the_wrong_program(recipe, tmp_path):
    supervised = with_values(recipe, method={"name": "supervised"}, train={"steps": 3})
    train(supervised, tmp_path / "teacher", build_method, quiet=True)
    distill_segment(tmp_path / "teacher", tmp_path / "student", False)
    (tmp_path / "student" / "summary.json").unlink()
    with pytest.raises(UsageError, match="trained by distillation"):
        train(Run(tmp_path / "student").recipe(), tmp_path / "student", build_method, resume=True, quiet=True)


def test_the_clock_goes_on(recipe, stopped):
    """Not compared above: how long a run took counts what it took before it was stopped."""
    before = Run(stopped[0]).checkpoints.load_newest()[0]["seconds"]
    started = time.perf_counter()
    summary = train(recipe, stopped[0], build_method, resume=True, quiet=True)
    assert before < summary["train_seconds"] < before + time.perf_counter() - started
