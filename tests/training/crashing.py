"""Runs in processes of their own that are killed or obstructed where a test wants it."""

import io
import itertools
import multiprocessing
import os
import signal
import traceback
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from protoseg_deploy.cli import cli
from protoseg_deploy.distillation import distill
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import Run, Trainer, checkpoints, train

STEPS = 12

# Runs of their own that cost no import: they are forked from a process that has imported this file.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__])


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
    """What to call in the new process before it starts, in a form that can be sent there."""
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
    return {name: value for name, value in state.items() if name not in {"seconds", "peak_memory_mib"}}


def figures(folder):
    return [{k: v for k, v in record.items() if k != "images_per_second"} for record in Run(folder).metrics()]


def assert_same_runs(one, other):
    """Weights, moving average and its counter, optimiser, bank, random numbers; networks; every figure, once."""
    assert_same(final_state(one), final_state(other))
    for name in ("last.safetensors", "best.safetensors"):
        assert_same(load_file(one / name), load_file(other / name), name)
    assert figures(one) == figures(other)
    assert not [path for folder in (one, other) for path in folder.rglob(".*")], "nothing half-written"


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
