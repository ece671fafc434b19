"""Killed runs, full disks, folders that cannot be written: what was done stays, and goes on exactly."""

import errno
import io
import itertools
import multiprocessing
import os
import random
import resource
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest
import timm
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from protoseg_deploy.cli import cli
from protoseg_deploy.distillation import distill
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import recipe_from_dict
from protoseg_deploy.training import Interrupted, Run, Trainer, checkpoints, loop, train
from protoseg_deploy.training.validation import validate
from tests.conftest import recipe_tree, with_values

STEPS = 12

# Runs of their own that cost no import: they are forked from a process that has imported this file.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


@pytest.fixture
def recipe(scenes):
    """Every kind of state a run can have: dropout, an aligned distribution, a bank, warm-up."""
    return with_values(
        recipe_from_dict(recipe_tree(scenes), "test recipe"),
        model={"backbone": "test_resnet", "dropout": 0.3},
        method={"distribution_alignment": True},
        train={"steps": STEPS, "checkpoint_every": 3, "eval_every": 5, "log_every": 1, "warmup_steps": 4},
    )


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before_step(step, action=die):
    """Kill the process, or do something else, before it takes this step."""
    take = Trainer.train_step

    def take_or_act(self, batch):
        if self.step == step:
            action()
        return take(self, batch)

    Trainer.train_step = take_or_act


def while_writing(step):
    """Kill the process when half the checkpoint after this step is in its file."""
    save = torch.save

    def torn(state, file):
        if state["step"] != step:
            return save(state, file)
        whole = io.BytesIO()
        save(state, whole)
        file.write(whole.getvalue()[: len(whole.getvalue()) // 2])
        file.flush()
        return die()

    checkpoints.torch.save = torn


def around_renaming(name, *, done):
    """Kill the process right before or right after a file gets its name."""
    replace = Path.replace

    def torn(self, target):
        if Path(target).name == name:
            if done:
                replace(self, target)
            die()
        return replace(self, target)

    Path.replace = torn


def _segment(work, arguments, options, crash, errors):
    """What a process of a run does."""
    multiprocessing.set_start_method("fork", force=True)  # as in a program: workers see when it is killed
    torch.set_num_threads(1)
    if crash is not None:
        crash[0](*crash[1], **crash[2])
    try:
        work(*arguments, **options)
    except BaseException:
        Path(errors).write_text(traceback.format_exc())
        raise


def crash_at(where, *arguments, **options):
    return where, arguments, options


def run_segment(tmp_path, work, *arguments, crash=None, **options):
    """A part of a run in a process of its own: up to where it crashes, or to its end."""
    errors = tmp_path / "errors.txt"
    errors.unlink(missing_ok=True)
    process = PROCESSES.Process(target=_segment, args=(work, arguments, options, crash, errors))
    process.start()
    process.join(120)
    said = errors.read_text() if errors.exists() else ""
    assert process.exitcode == (0 if crash is None else -signal.SIGKILL), said


def train_segment(recipe, folder, resume):
    train(recipe, folder, build_method, resume=resume, quiet=True)


def distill_segment(teacher, folder, resume):
    distill(teacher, folder, ["model.decoder_channels=8"], resume=resume, quiet=True)


def run_chain(tmp_path, work, sources, folder, crashes):
    """Start a run, crash it, resume it, crash it again, …, and let it come to its end; sources take turns."""
    for source, crash in zip(itertools.cycle(sources), [*crashes, None], strict=False):
        run_segment(tmp_path, work, source, folder, Run(folder).exists(), crash=crash)


def assert_same(one, other, where="state"):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for number, (left, right) in enumerate(zip(one, other, strict=True)):
            assert_same(left, right, f"{where}[{number}]")
    else:
        assert one == other, where


def final_state(folder):
    state, damaged = Run(folder).checkpoints.load_newest()
    assert not damaged
    assert state["step"] == STEPS
    return {name: value for name, value in state.items() if name != "seconds"}


def figures(folder):
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in Run(folder).metrics()]


def assert_same_runs(one, other):
    """Weights, moving average and its counter, optimiser, bank, random numbers; networks; every figure, once."""
    assert_same(final_state(one), final_state(other))
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(load_file(one / name), load_file(other / name), name)
    assert figures(one) == figures(other)
    assert not [path for folder in (one, other) for path in folder.rglob(".*")], "nothing half-written"


def random_steps(seed):
    return sorted(random.Random(seed).sample(range(1, STEPS), 3))


@pytest.mark.parametrize("method", ["supervised", "fixmatch", "prototype"])
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


@pytest.fixture
def stopped(recipe, tmp_path, monkeypatch):
    """The folder of a run that was stopped after 5 of its steps, and that of one that was not."""

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*arguments)

    train(recipe, tmp_path / "whole", build_method, quiet=True)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "validate", interrupted)
        with pytest.raises(Interrupted, match="after step 5"):
            train(recipe, tmp_path / "run", build_method, quiet=True)
    return tmp_path / "run", tmp_path / "whole"


def test_a_signal_during_an_evaluation_is_saved_before_it_is_obeyed(stopped):
    assert [path.name for path in Run(stopped[0]).checkpoints.paths()] == ["step-00000003.pt", "step-00000005.pt"]


def sigterm_after(step):
    before_step(step, lambda: os.kill(os.getpid(), signal.SIGTERM))


def command_line(arguments, errors, prepare=None):
    """The program as it is started; what it says goes to a file, its exit code is that of the process."""
    if prepare is not None:
        prepare[0](*prepare[1], **prepare[2])
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
    cli([str(argument) for argument in arguments])


def start_command(tmp_path, *arguments, prepare=None):
    """Exit code of the program, and what it says on standard error."""
    errors = tmp_path / "errors.txt"
    process = PROCESSES.Process(target=command_line, args=(arguments, errors, prepare))
    process.start()
    process.join(120)
    return process.exitcode, errors.read_text()


def as_file(recipe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def test_sigterm_saves_and_says_how_to_resume(recipe, tmp_path):
    command = ["train", as_file(recipe, tmp_path), "--run", tmp_path / "run"]
    code, said = start_command(tmp_path, *command, prepare=crash_at(sigterm_after, 3))
    assert code == 128 + signal.SIGTERM
    assert "after step 4" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert Run(tmp_path / "run").checkpoints.paths()[-1].name == "step-00000004.pt"


def small_files_after(step, size):
    """From this step on no file may grow beyond `size` bytes."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    before_step(step, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)))


def test_a_checkpoint_that_finds_no_room_leaves_the_earlier_ones_and_the_run_goes_on(recipe, tmp_path):
    train(recipe, tmp_path / "whole", build_method, quiet=True)
    size = Run(tmp_path / "whole").checkpoints.paths()[-1].stat().st_size
    folder = tmp_path / "run"
    command = ["train", as_file(recipe, tmp_path), "--run", folder]
    code, said = start_command(tmp_path, *command, prepare=crash_at(small_files_after, 7, int(0.8 * size)))
    assert code == 1
    assert "Traceback" not in said
    assert said.count("Error: ") == 1
    assert f"cannot write {folder}/checkpoints/step-00000009.pt: File too large" in said
    assert f"the newest is {folder}/checkpoints/step-00000006.pt" in said
    assert "--resume" in said
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step-00000003.pt", "step-00000006.pt"]
    train(recipe, folder, build_method, resume=True, quiet=True)
    assert_same_runs(tmp_path / "whole", folder)


def refuse_to_open(monkeypatch, name):
    """The file, and what it is written to before it has its name, are on a file system that is read-only."""
    path_open, makedirs = Path.open, os.makedirs

    def refuse(path):
        if name in Path(path).name:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    def open_for_reading(self, mode="r", *more, **options):
        if mode != "r" and "r" not in mode:
            refuse(self)
        return path_open(self, mode, *more, **options)

    def make_folders(path, *more, **options):
        refuse(path)
        makedirs(path, *more, **options)

    monkeypatch.setattr(Path, "open", open_for_reading)
    monkeypatch.setattr(os, "makedirs", make_folders)


@pytest.mark.parametrize(
    "name",
    [
        "recipe.yaml",
        "metrics.jsonl",
        "tensorboard",
        "step-00000009.pt",
        "last.safetensors",
        "best.safetensors",
        "prototypes.safetensors",
        "summary.json",
    ],
)
def test_a_file_that_cannot_be_written_is_named_and_nothing_is_lost(recipe, tmp_path, stopped, monkeypatch, name):
    folder, whole = stopped
    # Better than any: what the next evaluation finds is the best, so that every file is written.
    state, _ = Run(folder).checkpoints.load_newest()
    newest = Run(folder).checkpoints.save(5, {**state, "best": {"miou_percent": -1.0, "step": 5}})
    content = newest.read_bytes()
    with monkeypatch.context() as patch:
        refuse_to_open(patch, name)
        result = CliRunner().invoke(cli, ["train", "--run", str(folder), "--resume"])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stderr.count("Error: ") == 1
    assert "cannot write" in result.stderr
    assert f"{name}: Read-only file system" in result.stderr
    made = Run(folder).checkpoints.paths()
    assert f"the newest is {made[-1]}" in result.stderr
    assert newest not in made or newest.read_bytes() == content
    assert not list(folder.rglob(".*"))
    train(recipe, folder, build_method, resume=True, quiet=True)
    assert_same(final_state(folder)["student"], final_state(whole)["student"])


def test_a_run_below_a_file_is_one_clear_error(recipe, tmp_path):
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(cli, ["train", str(as_file(recipe, tmp_path)), "--run", str(tmp_path / "file" / "run")])
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
    assert "Not a directory" in result.stderr
    assert "Traceback" not in result.output


def test_a_folder_that_vanishes_is_one_clear_error_and_stays_away(recipe, tmp_path, monkeypatch):
    take = Trainer.train_step

    def take_without_folder(self, batch):
        if self.step == 4:
            shutil.rmtree(tmp_path / "run")
        return take(self, batch)

    monkeypatch.setattr(Trainer, "train_step", take_without_folder)
    with pytest.raises(ProtosegError, match="No such file or directory"):
        train(recipe, tmp_path / "run", build_method, quiet=True)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_under_tensorboard_shows_no_traceback(recipe, tmp_path):
    """Its files are written by a thread of its own."""
    many = with_values(recipe, train={"steps": 40, "checkpoint_every": 1000, "eval_every": 1000})
    command = ["train", as_file(many, tmp_path), "--run", tmp_path / "run"]
    code, said = start_command(tmp_path, *command, prepare=crash_at(_fill_tensorboard))
    assert code == 1, said
    assert "Traceback" not in said
    assert f"cannot write {tmp_path}/run/tensorboard: No space left on device" in said


def _fill_tensorboard():
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, room = RecordWriter.write, [100]

    def write_if_there_is_room(self, data):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    RecordWriter.write = write_if_there_is_room


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
