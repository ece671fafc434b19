"""``train``, ``distill``, ``recipe`` and the program itself from the outside."""

import json
import re
import shutil
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from protoseg_deploy.cli import cli
from protoseg_deploy.training import Run
from tests.conftest import recipe_tree, write_scenes

VERBS = cli.list_commands(None)


def run(*arguments, exit_code=0):
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def fails(*arguments, says, exit_code=1):
    """The command ends with one clear error that says all of `says`, and no traceback."""
    result = run(*arguments, exit_code=exit_code)
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.output
    for text in says:
        assert text in result.stderr, result.stderr


@pytest.fixture
def recipe(scenes, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(scenes)))
    return path


@pytest.fixture(scope="module")
def teacher(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    (folder / "mine.yaml").write_text(yaml.safe_dump(recipe_tree(scenes)))
    run("train", folder / "mine.yaml", "--run", folder / "run")
    return folder / "run"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_an_example(verb):
    assert f"protoseg {verb}" in run(verb, "--help").output


def test_an_unknown_verb_is_a_usage_error():
    assert "No such command" in run("tran", exit_code=2).output


def test_python_dash_m_is_the_same_program():
    shown = subprocess.run([sys.executable, "-m", "protoseg_deploy", "--version"], capture_output=True, text=True)
    assert shown.returncode == 0
    assert "version" in shown.stdout


def test_importing_the_package_loads_nothing_heavy():
    heavy = [
        "torch",
        "timm",
        "onnx",
        "onnxruntime",
        "tensorrt",
        "tensorrt_rtx",
        "tritonclient",
        "matplotlib",
        "sklearn",
    ]
    code = (
        "import sys, protoseg_deploy.cli, protoseg_deploy.cli.train, protoseg_deploy.cli.export\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


_OF_SERVERS = ("tritonclient", "grpc", "starlette", "uvicorn", "httptools", "uvloop", "prometheus_client")
_OF_STORES = ("pyarrow", "fsspec", "ray")


@pytest.mark.parametrize(
    "absent",
    [("tensorrt", "tensorrt_rtx", "openvino", *_OF_SERVERS, *_OF_STORES), ("resource", "fcntl")],
    ids=["optional", "of Unix alone"],
)
def test_no_module_needs_what_may_be_absent(absent):
    """But those of `serve` and of sharded prediction, whose commands name the extra that is missing."""
    code = f"""
import importlib, pkgutil, sys

for name in {absent}:
    sys.modules[name] = None
import protoseg_deploy

of_extras = ("protoseg_deploy.serving.", "protoseg_deploy.evaluation.shards.")
for module in pkgutil.walk_packages(protoseg_deploy.__path__, "protoseg_deploy.", onerror=lambda _: None):
    try:
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    except Exception as error:
        if not module.name.startswith(of_extras) or not any(name in str(error) for name in {absent}):
            raise
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_recipe_list_and_show():
    listed = run("recipe", "list").output
    assert all(line.endswith(".") for line in listed.splitlines()), "whole sentences"
    assert "voc-resnet101-pcr" in listed
    shown = yaml.safe_load(run("recipe", "show", "camvid-mobilenetv2", "train.steps=77").output)
    assert shown["train"]["steps"] == 77
    assert shown["train"]["poly_power"] == 0.9, "defaults are filled in"


def test_recipe_source_keeps_the_comments():
    assert "# any timm model" in run("recipe", "show", "inhouse-template", "--source").output
    fails("recipe", "show", "demo", "--source", "train.steps=1", says=["no effect"], exit_code=2)


def test_train_reports_a_table_or_json(teacher, recipe, tmp_path):
    document = json.loads(run("train", recipe, "--run", tmp_path / "run", "--json", "train.steps=2").stdout)
    assert document["steps"] == 2
    assert {"best_miou_percent", "last_miou_percent", "train_seconds"} <= document.keys()


def test_a_wrong_recipe(recipe, tmp_path):
    fails(
        "train", recipe, "--run", tmp_path / "run", "train.stepz=3", "method.name=x",
        says=["unknown key train.stepz", "'steps'", "method.name"], exit_code=2,
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_bad_data_is_found_before_anything_is_written(scenes, tmp_path):
    root = tmp_path / "data"
    write_scenes(root / "labeled", 0, 3)
    write_scenes(root / "unlabeled", 10, 2, masks=False)
    write_scenes(root / "val", 20, 2)
    (root / "labeled/masks/001.png").unlink()
    tree = recipe_tree(root)
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    fails("train", tmp_path / "mine.yaml", "--run", tmp_path / "run", says=["001.png"])
    write_scenes(root / "labeled", 0, 3)
    broken = root / "unlabeled/images/000.png"
    broken.write_bytes(broken.read_bytes()[:200])
    fails("train", tmp_path / "mine.yaml", "--run", tmp_path / "run", says=[str(broken)])
    assert not (tmp_path / "run").exists()


def test_a_broken_weights_file(recipe, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"torn")
    arguments = ["train", recipe, "--run", tmp_path / "run", f"model.weights={tmp_path / 'w.safetensors'}"]
    fails(*arguments, says=["model.weights", "w.safetensors"], exit_code=2)
    assert not (tmp_path / "run").exists(), "nothing is left that would block the next try"


def test_a_corrupt_checkpoint(recipe, tmp_path):
    run("train", recipe, "--run", tmp_path / "run", "train.steps=2")
    for path in Run(tmp_path / "run").checkpoints.paths():
        path.write_text("corrupt")
    fails("train", recipe, "--run", tmp_path / "run", "--resume", "train.steps=2", says=["step-00000002.pt", "damaged"])


def test_devices_and_precisions_that_are_not_there(recipe, tmp_path):
    arguments = ["train", recipe, "--run", tmp_path / "run"]
    fails(*arguments, "train.precision=fp16", says=["train.precision", "CUDA only"], exit_code=2)


def test_a_batch_too_small_to_normalise(recipe, tmp_path):
    fails(
        "train", recipe, "--run", tmp_path / "run", "train.batch_labeled=1", "model.decoder=deeplabv3plus",
        says=["train.batch_labeled"], exit_code=2,
    )  # fmt: skip


def test_stripping_gives_the_teachers_linear_head(teacher, tmp_path):
    document = json.loads(run("distill", teacher, "--run", tmp_path / "student", "--json").stdout)
    assert document["stripped"]
    assert document["compared_images"] == 4
    assert document["student_parameters"] == document["teacher_parameters"]
    assert (tmp_path / "student/best.safetensors").is_file()


def test_stripping_follows_moved_data(teacher, scenes, tmp_path):
    shutil.copytree(scenes, tmp_path / "moved")
    run("distill", teacher, "--run", tmp_path / "student", f"data.root={tmp_path / 'moved'}")
    assert Run(tmp_path / "student").recipe().data.root == str(tmp_path / "moved")


def test_a_smaller_student_is_trained(teacher, tmp_path):
    result = run(
        "distill", teacher, "--run", tmp_path / "student", "--json",
        "model.backbone=mobilenetv3_small_050", "train.steps=4",
    )  # fmt: skip
    document = json.loads(result.stdout)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("step 4/4")]
    assert ", average " in line
    assert "teacher" not in line, "which is the run it learns from"
    fails(
        "distill", teacher, "--run", tmp_path / "student", "--resume",
        says=["nothing is trained", "model.backbone=mobilenetv3_small_050"], exit_code=2,
    )  # fmt: skip
    fails("distill", teacher, "--run", tmp_path / "new", "--resume", says=["Start without --resume"], exit_code=2)
    again = run(
        "distill", teacher, "--run", tmp_path / "student", "--resume",
        "model.backbone=mobilenetv3_small_050", "train.steps=4",
    )  # fmt: skip
    assert "the run is already finished; for more steps" in again.stderr
    assert Run(tmp_path / "student").recipe().distill.target == "prototype", "the teacher has prototypes"
    assert not document["stripped"]
    assert document["student_parameters"] < document["teacher_parameters"]
    losses = next(record for record in Run(tmp_path / "student").metrics() if record["kind"] == "train")
    assert {"labeled", "kl", "channel"} <= losses.keys()


def test_a_student_of_a_teacher_without_prototypes_learns_from_its_linear_head(recipe, tmp_path):
    run("train", recipe, "--run", tmp_path / "teacher", "method.name=supervised", "train.steps=4")
    smaller = ["model.decoder_channels=8", "train.steps=2"]
    run("distill", tmp_path / "teacher", "--run", tmp_path / "student", *smaller)
    assert Run(tmp_path / "student").recipe().distill.target == "linear"
    asked = ["distill", tmp_path / "teacher", "--run", tmp_path / "other", *smaller, "distill.target=prototype"]
    fails(*asked, says=["prototypes.safetensors"])


def test_a_student_that_cannot_be(teacher, tmp_path):
    fails("distill", tmp_path, "--run", tmp_path / "s", says=["holds no trained run"], exit_code=2)
    fails("distill", teacher, "--run", tmp_path / "s", "train.steps=3", says=["train.steps=3"], exit_code=2)
    fails("distill", teacher, "--run", tmp_path / "s", "model.backbone=resnet19", says=["resnet19"], exit_code=2)
    fails("distill", teacher, "--run", teacher, says=["already exists"], exit_code=2)


def test_a_run_that_diverges_says_how_to_look_at_the_step_and_that_works(recipe, tmp_path):
    folder = tmp_path / "run"
    spoilt = [
        "train.lr=1000",
        "train.head_lr_factor=1000",
        "train.optimizer=sgd",
        "train.max_skipped_steps=2",
        "train.eval_every=8",
        "train.checkpoint_every=8",
        "method.name=fixmatch",
    ]
    fails("train", recipe, "--run", folder, *spoilt, says=["is NaN or infinite", "protoseg replay"])
    (file,) = folder.glob("skipped-step-*.pt")
    shown = run("replay", file).output
    assert run("train", "--replay", file).output == shown, "as earlier versions have it"
    # Whether a layer's output overflows, or only gradients do, is a matter of rounding.
    assert re.search(r"non-finite (output: (backbone|decoder|head)|gradients: [1-9])", shown), shown
    assert "Images that cause non-finite outputs on their own: 4" in shown
    document = json.loads(run("replay", file, "--json").output)
    assert (document["first_layer"] or "Every layer's output is finite") in shown
    assert len(document["files"]) == 4
    fails("train", recipe, "--replay", file, says=["stands alone"], exit_code=2)
    fails("train", "--replay", tmp_path / "mine.yaml", says=["not a skipped step"], exit_code=2)
    fails("train", recipe, says=["--run"], exit_code=2)


def test_a_run_whose_hours_are_over_is_no_failure(recipe, tmp_path):
    stopped = run("train", recipe, "--run", tmp_path / "run", "--json", "train.max_hours=1e-9")
    assert "step 1 of 8" in json.loads(stopped.stdout)["stopped"]
    assert "--resume" in stopped.stderr
    assert "Error" not in stopped.stderr
    run("train", "--run", tmp_path / "run", "--resume", "train.max_hours=1")
    assert Run(tmp_path / "run").summary()["steps"] == 8
