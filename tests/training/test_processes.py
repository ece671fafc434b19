"""Two processes on the CPU against one on the same global batch."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from protoseg_deploy.errors import UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Model, Train
from protoseg_deploy.training import Run, train
from protoseg_deploy.training.devices import synchronise_normalisation
from protoseg_deploy.training.step import freeze_idle
from protoseg_deploy.training.stopping import OutOfTime
from tests.conftest import with_values

ROOT = Path(__file__).resolve().parents[2]


def run_program(tmp_path, recipe, name, processes, *overrides):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    arguments = ["-m", "tests.training.spread_run", str(tmp_path / "recipe.yaml"), str(tmp_path / name), *overrides]
    start(processes, arguments, tmp_path)
    return [torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True) for rank in range(processes)]


def start(processes, arguments, folder, *torchrun_options, check=True):
    launcher = [sys.executable]
    if processes > 1:
        launcher += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *torchrun_options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=environment, cwd=folder)
    if check:
        assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture
def spread_recipe(tiny_recipe):
    return with_values(
        tiny_recipe,
        model={"backbone": "test_resnet", "dropout": 0.0},
        method={"distribution_alignment": True, "confidence_threshold": 0.34, "pseudo_label_filter": "confidence"},
        train={
            "class_aware_share": 0.5,
            "logit_adjustment": 0.5,
            "copy_paste_probability": 0.5,
            "batch_labeled": 4,
            "batch_unlabeled": 4,
            "steps": 6,
            "clip_grad_norm": 10.0,
            "optimizer": "sgd",
            "lr": 0.01,
        },
    )


def assert_same_weights(one, other):
    left, right = (load_file(folder / "last.safetensors") for folder in (one, other))
    assert_close(left, right, rtol=0, atol=0)


def assert_close(one, other, **bounds):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}", **bounds)


@pytest.mark.parametrize(
    "method",
    [
        {"prototypes": {"class_balanced": True}},
        {"pseudo_label_filter": "entropy"},
        {"name": "corrmatch", "prototypes": {"enabled": True}},
    ],
    ids=["balanced classes", "entropy", "corrmatch"],
)
def test_two_processes_compute_what_one_does_on_the_same_global_batch(spread_recipe, tmp_path, method):
    recipe = with_values(spread_recipe, method=method)
    (alone,) = run_program(tmp_path, recipe, "alone", 1)
    first, second = run_program(tmp_path, recipe, "two", 2)
    for step, (expected, found) in enumerate(zip(alone["losses"], first["losses"], strict=True)):
        assert expected.keys() == found.keys()
        assert found == pytest.approx(expected, rel=1e-5), f"step {step}"
    assert first["losses"] == second["losses"]
    for part in ("method", "student", "teacher"):
        for name in first[part]:
            assert torch.equal(first[part][name], second[part][name]), f"{part} {name} differs between processes"
        assert_close(alone[part], first[part], rtol=1e-6, atol=1e-9)
    assert first["method"]["branch.bank.pixels"].sum() > 0


def test_parts_of_an_accumulated_step_see_what_the_whole_one_sees(spread_recipe, tmp_path):
    """Without ignored or uncertain pixels the mean over parts is the mean over all; class frequencies know one part
    after the other."""
    recipe = with_values(
        spread_recipe,
        method={"confidence_threshold": 0.0, "distribution_alignment": False, "prototypes": {"start": 0.0}},
        data={"value_map": {255: 0}},
        train={"scale": [1.0, 1.0], "steps": 4, "logit_adjustment": 0.0},
    )
    (whole,) = run_program(tmp_path, recipe, "whole", 1)
    (parts,) = run_program(tmp_path, recipe, "parts", 1, "train.accumulate=2")
    (both,) = run_program(tmp_path, recipe, "both", 1, "train.accumulate=2")
    for name in ("student", "teacher", "method"):
        assert_close(whole[name], parts[name], rtol=1e-6, atol=1e-9)
        assert_close(both[name], parts[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("sizes", "decoder", "says"),
    [
        ({"batch_labeled": 3, "accumulate": 2}, "lraspp", r"train\.batch_labeled: 3.*2 parts"),
        ({"batch_labeled": 6, "batch_unlabeled": 6, "accumulate": 2}, "lraspp", r"train\.batch_unlabeled: 6.*in pairs"),
        ({"batch_labeled": 2, "batch_unlabeled": 4, "accumulate": 2}, "deeplabv3plus", "at least 2 images"),
    ],
)
def test_batches_that_cannot_be_spread_are_refused(tiny_recipe, tmp_path, sizes, decoder, says):
    recipe = with_values(tiny_recipe, train=sizes, model={"decoder": decoder})
    with pytest.raises(UsageError, match=says):
        train(recipe, tmp_path / "run", build_method, quiet=True)


@pytest.mark.parametrize(
    ("method", "accumulate"),
    [
        ({"name": "fixmatch"}, 1),
        ({"name": "supervised"}, 2),
        ({"name": "fixmatch", "cutmix_probability": 0.0}, 3),
    ],
    ids=["in one piece", "without unlabelled images", "without partners"],
)
def test_an_odd_batch_trains_where_nothing_is_torn_apart(tiny_recipe, tmp_path, method, accumulate):
    sizes = {"steps": 2, "batch_labeled": 6, "batch_unlabeled": 3, "accumulate": accumulate}
    recipe = with_values(tiny_recipe, method=method, train=sizes)
    summary = train(recipe, tmp_path / "run", build_method, quiet=True)
    assert summary["steps"] == 2
    records = [record for record in Run(tmp_path / "run").metrics() if record["kind"] == "train"]
    assert all(record["labeled"] > 0 for record in records)
    assert all(("unlabeled" in record) == (method["name"] != "supervised") for record in records)


@pytest.mark.parametrize("backbone", ["mobilenetv2_035", "test_efficientnet", "test_resnet"])
def test_synchronised_normalisation_is_the_same_network(backbone):
    """Layers of timm that normalise and activate at once keep their activation."""
    torch.manual_seed(0)
    network = Segmenter(Model(backbone=backbone, decoder="deeplabv3plus", decoder_channels=8), 3).eval()
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    expected = network(images)
    converted = synchronise_normalisation(network)
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    assert not any(type(module) is torch.nn.BatchNorm2d for module in converted.modules())
    torch.testing.assert_close(converted(images), expected)


def test_parameters_that_no_loss_depends_on_are_taken_out_of_training():
    student = Segmenter(Model(backbone="mobilenetv2_035", decoder="lraspp", decoder_channels=8), 3)
    idle = torch.nn.Parameter(torch.zeros(3))
    student.decoder.register_parameter("idle", idle)
    freeze_idle(student, Train(crop=64))
    trained = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    student.train()
    student.forward_features(torch.zeros(2, 3, 64, 64)).logits.sum().backward()
    reached = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert trained == reached
    assert "decoder.idle" not in trained


def test_an_error_of_one_process_is_said_once_and_without_a_traceback(tiny_recipe, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "data")
    for path in (tmp_path / "data/labeled/images").iterdir():
        path.write_bytes(path.read_bytes()[:300])
    recipe = with_values(tiny_recipe, data={"root": str(tmp_path / "data")})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    verb = ["train", str(tmp_path / "recipe.yaml"), "--run-folder", str(tmp_path / "run")]
    done = start(2, ["-m", "protoseg_deploy", *verb], tmp_path, check=False)
    assert done.returncode != 0
    assert done.stderr.count("Error: the data of the recipe cannot be used") == 1
    assert "another process of this training has failed" in done.stderr
    # what torchrun itself says of the failed workers comes after
    assert "Traceback" not in done.stderr.split("torch/distributed/elastic")[0]


def test_compiled_networks_compute_the_same_and_are_put_away_after_a_step(tiny_recipe, tmp_path, monkeypatch):
    """With a back end that only traces: generating code would take a minute."""
    traced = []

    def compile_to_trace(function):
        traced.append(function)
        return torch_compile(function, backend="eager")

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile_to_trace)
    recipe = with_values(tiny_recipe, train={"steps": 4}, model={"dropout": 0.0})
    eager = train(recipe, tmp_path / "eager", build_method, quiet=True)
    assert not traced
    compiled = train(with_values(recipe, train={"compile": True}), tmp_path / "compiled", build_method, quiet=True)
    assert len(traced) == 2, "student and teacher"
    assert compiled["last_miou_percent"] == pytest.approx(eager["last_miou_percent"], abs=1e-3)
    losses = [
        [record["labeled"] for record in Run(tmp_path / name).metrics() if record["kind"] == "train"]
        for name in ("eager", "compiled")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert not any("forward_features" in vars(function.__self__) for function in traced)


def test_a_run_stops_when_its_hours_are_over_and_goes_on_where_it_stopped(tiny_recipe, tmp_path):
    recipe = with_values(tiny_recipe, train={"max_hours": 1e-9})
    with pytest.raises(OutOfTime, match=r"max_hours.*step 1 of 8") as caught:
        train(recipe, tmp_path / "run", build_method, quiet=True)
    assert caught.value.exit_code == 0
    assert not Run(tmp_path / "run").summary_path.exists()
    longer = with_values(recipe, train={"max_hours": 1.0})
    summary = train(longer, tmp_path / "run", build_method, resume=True, quiet=True)
    whole = train(with_values(recipe, train={"max_hours": None}), tmp_path / "whole", build_method, quiet=True)
    assert summary["last_miou_percent"] == whole["last_miou_percent"]
    assert_same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_killed_worker_is_restarted_and_training_ends_with_the_right_number_of_steps(tiny_recipe, tmp_path):
    recipe = with_values(
        tiny_recipe, train={"steps": 9, "checkpoint_every": 3, "log_every": 1, "eval_every": 9, "batch_unlabeled": 4}
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    verb = ["train", str(tmp_path / "recipe.yaml"), "--run-folder", str(tmp_path / "run"), "--continue", "--json"]
    worker = ["-m", "tests.training.dying_worker", str(tmp_path / "died"), "SIGKILL", "5"]
    done = start(2, [*worker, *verb], tmp_path, "--max-restarts=2")
    assert (tmp_path / "died").exists(), "the worker did die"
    assert "resuming after step 3" in done.stderr
    run = Run(tmp_path / "run")
    assert run.summary()["steps"] == 9
    assert run.summary()["processes"] == 2
    steps = [record["step"] for record in run.metrics() if record["kind"] == "train"]
    assert steps == list(range(1, 10)), "every step is logged once, by one process"
    assert len(list((run.folder / "tensorboard").iterdir())) == 2, "one file of the first process a start"
    states = run.checkpoints.load_newest()[0]["random"]
    assert len(states) == 2
    assert not torch.equal(states[0]["cpu"], states[1]["cpu"]), "dropout differs between processes"


def test_sigterm_to_one_process_stops_all_after_the_same_step(tiny_recipe, tmp_path):
    recipe = with_values(
        tiny_recipe,
        train={"steps": 400, "checkpoint_every": 400, "log_every": 4, "eval_every": 400, "batch_unlabeled": 4},
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    verb = ["train", str(tmp_path / "recipe.yaml"), "--run-folder", str(tmp_path / "run")]
    worker = ["-m", "tests.training.dying_worker", str(tmp_path / "asked"), "SIGTERM", "6"]
    done = start(2, [*worker, *verb], tmp_path, check=False)
    assert done.returncode != 0
    assert "stopped by SIGTERM after step 8" in done.stderr
    assert [path.name for path in Run(tmp_path / "run").checkpoints.paths()] == ["step-00000008.pt"]


@pytest.mark.parametrize(
    ("stopped", "says"),
    [
        (1, "process 1 of this training sent no heartbeat for 2 s"),
        (0, "the first process of this training, or torchrun beside it, sent no heartbeat"),
    ],
)
def test_a_process_that_is_stopped_ends_the_other_one(tmp_path, stopped, says):
    """Started as `torchrun` would, which itself takes half a minute to end the one that is stopped."""
    code = (
        "import os, signal, torch.distributed as dist\n"
        "from protoseg_deploy.recipe import Train\n"
        "from protoseg_deploy.training.processes import process_group, wait_for_others\n"
        "with process_group(Train(device='cpu', timeout_s=2.0)):\n"
        "    wait_for_others()\n"
        f"    if dist.get_rank() == {stopped}: os.kill(os.getpid(), signal.SIGSTOP)\n"
        "    wait_for_others()\n"
    )
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "one"}
    environment = os.environ | job | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    errors = [tmp_path / "0", tmp_path / "1"]
    processes = []
    for rank, path in enumerate(errors):
        own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        with path.open("w") as file:
            processes.append(subprocess.Popen([sys.executable, "-c", code], stderr=file, env=own))
    other = 1 - stopped
    try:
        assert processes[other].wait(120) == 1
    finally:
        for process in processes:
            process.kill()
    said = errors[other].read_text()
    assert said.count("Error: ") == 1
    assert says in said
    assert "--continue" in said


def test_processes_wait_longer_than_the_limit_for_one_that_works(tmp_path):
    code = (
        "import time, torch.distributed as dist\n"
        "from protoseg_deploy.recipe import Train\n"
        "from protoseg_deploy.training.processes import process_group, wait_for_others\n"
        "with process_group(Train(device='cpu', timeout_s=1.0)):\n"
        "    time.sleep(4 * dist.get_rank())\n"
        "    wait_for_others()\n"
        "print('together')\n"
    )
    (tmp_path / "waiting.py").write_text(code)
    assert start(2, [str(tmp_path / "waiting.py")], tmp_path).stdout.count("together") == 2
