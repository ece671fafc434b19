"""Full disks and folders that cannot be written: one clear error, and nothing is lost."""

import errno
import os
import resource
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import Run, Trainer, train
from tests.conftest import with_values
from tests.training.crashing import (
    as_file,
    assert_same,
    assert_same_runs,
    before_step,
    crash_at,
    final_state,
    start_command,
)


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


def test_a_full_disk_under_tensorboard_switches_it_off_without_a_traceback(recipe, tmp_path):
    """Its files are written by a thread of its own; the run, whose files find room, goes on."""
    many = with_values(recipe, train={"steps": 40, "checkpoint_every": 1000, "eval_every": 1000})
    command = ["train", as_file(many, tmp_path), "--run", tmp_path / "run"]
    code, said = start_command(tmp_path, *command, prepare=crash_at(_fill_tensorboard))
    assert code == 0, said
    assert "Traceback" not in said
    assert said.count("train.trackers: tensorboard is switched off: OSError: [Errno 28] No space left on device") == 1
    assert [record["step"] for record in Run(tmp_path / "run").metrics() if record["kind"] == "train"] == [
        *range(1, 41)
    ]


def _fill_tensorboard():
    from tensorboard.summary.writer.record_writer import RecordWriter

    write, room = RecordWriter.write, [100]

    def write_if_there_is_room(self, data):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    RecordWriter.write = write_if_there_is_room
