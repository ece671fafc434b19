"""Two processes on the CPU against one on the same global batch."""

import pytest
import torch
from safetensors.torch import load_file

from protoseg_deploy.errors import UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Model, Train, recipe_from_dict
from protoseg_deploy.training import Run, train
from protoseg_deploy.training.devices import synchronise_normalisation
from protoseg_deploy.training.step import freeze_idle
from protoseg_deploy.training.stopping import OutOfTime
from tests.conftest import recipe_tree, with_values
from tests.training.launching import start, write_recipe
from tests.training.spread_run import take_steps_of_file

METHODS = {
    "balanced classes": {"prototypes": {"class_balanced": True}},
    "entropy": {"pseudo_label_filter": "entropy"},
    "corrmatch": {"name": "corrmatch", "prototypes": {"enabled": True}},
}


@pytest.fixture(scope="module")
def spread_recipe(scenes):
    return with_values(
        recipe_from_dict(recipe_tree(scenes), "test recipe"),
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


@pytest.fixture(scope="module")
def by_two(spread_recipe, tmp_path_factory):
    """What each of two processes has after the steps of each of METHODS."""
    folder = tmp_path_factory.mktemp("two")
    recipes = [
        write_recipe(folder / f"{number}.yaml", with_values(spread_recipe, method=method))
        for number, method in enumerate(METHODS.values())
    ]
    start(["-m", "tests.training.spread_run", *map(str, recipes)], folder)
    return {
        name: [torch.load(folder / f"{number}-{rank}.pt", weights_only=True) for rank in range(2)]
        for number, name in enumerate(METHODS)
    }


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_compute_what_one_does_on_the_same_global_batch(spread_recipe, by_two, tmp_path, name):
    recipe = with_values(spread_recipe, method=METHODS[name])
    alone = take_steps_of_file(write_recipe(tmp_path / "alone.yaml", recipe))
    first, second = by_two[name]
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
    path = write_recipe(tmp_path / "recipe.yaml", recipe)
    whole = take_steps_of_file(path)
    parts, again = (take_steps_of_file(path, ["train.accumulate=2"]) for _ in range(2))
    for name in ("student", "teacher", "method"):
        assert_close(whole[name], parts[name], rtol=1e-6, atol=1e-9)
        assert_close(again[name], parts[name], rtol=0, atol=0)


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
