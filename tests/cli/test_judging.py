"""``evaluate``, ``predict`` and ``bench`` from the outside: documents, tables, exit codes, no tracebacks."""

import json
import shutil
from pathlib import Path

import click
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner, Result
from PIL import Image
from sklearn.metrics import jaccard_score

from protoseg_deploy.choices import BACKENDS, PRECISIONS
from protoseg_deploy.cli import cli
from protoseg_deploy.cli.arguments import RuntimeArgument, runtime_argument
from protoseg_deploy.exporting.bundle import export_bundle
from protoseg_deploy.models import (
    NetworkSpec,
    WindowedSegmenter,
    Windows,
    build_segmenter,
    load_network,
    save_network,
)
from protoseg_deploy.recipe import ClassTable, Model
from protoseg_deploy.runtimes import opening
from protoseg_deploy.runtimes.opening import open_runtime
from protoseg_deploy.runtimes.openvino import why_no_bf16
from tests.conftest import recipe_tree
from tests.fake_runtime import FakeRuntime

pytestmark = pytest.mark.usefixtures("traced_once")

COLORS = ((90, 90, 90), (220, 40, 30), (30, 60, 220))


def run(*arguments: object, exit_code: int | None = 0) -> Result:
    result = CliRunner().invoke(cli, [*map(str, arguments)])
    assert exit_code is None or result.exit_code == exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with two different untrained networks as its best and its last."""
    folder = tmp_path_factory.mktemp("run")
    spec = NetworkSpec(
        Model(backbone="resnet10t", weights="none", decoder="lraspp", decoder_channels=16),
        ClassTable(("ground", "red", "blue"), COLORS),
    )
    for seed, name in enumerate(("best", "last")):
        torch.manual_seed(seed)
        network = build_segmenter(spec)
        torch.nn.init.normal_(network.head.weight, std=3.0)  # so that more than one class is predicted
        save_network(folder / f"{name}.safetensors", network.state_dict(), spec)
    return folder


@pytest.fixture(scope="module")
def bundle(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of any size, fp32 and bf16."""
    return export_bundle(run_folder, tmp_path_factory.mktemp("bundle") / "mine", precisions=("fp32", "bf16")).folder


@pytest.fixture(scope="module")
def recipe(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "mine.yaml"
    path.write_text(yaml.safe_dump(recipe_tree(scenes)), encoding="utf-8")
    return path


def val_pixels(runtime_path: Path, scenes: Path, which: str = "best") -> tuple[np.ndarray, np.ndarray]:
    """Counted pixels of all validation images: true and predicted class."""
    runtime = open_runtime(runtime_path, which=which)
    truths, predictions = [], []
    for path in sorted((scenes / "val/images").glob("*.png")):
        truth = np.asarray(Image.open(scenes / "val/masks" / path.name))
        predicted = runtime.predict(np.asarray(Image.open(path))[None])[0]
        truths.append(truth[truth != 255])
        predictions.append(predicted[truth != 255])
    return np.concatenate(truths), np.concatenate(predictions)


@pytest.mark.parametrize("which", ["best", "last"])
def test_evaluate_by_a_recipe(run_folder: Path, recipe: Path, scenes: Path, which: str) -> None:
    last = ["--last"] if which == "last" else []
    document = json.loads(run("evaluate", run_folder, "--recipe", recipe, "--json", *last).stdout)
    truth, predicted = val_pixels(run_folder, scenes, which)
    iou = 100 * jaccard_score(truth, predicted, average=None, labels=[0, 1, 2])
    assert list(document["iou_percent"]) == ["ground", "red", "blue"]
    np.testing.assert_allclose(list(document["iou_percent"].values()), iou)
    assert document["miou_percent"] == pytest.approx(iou.mean())
    assert document["images"] == 4
    assert document["images_per_second"] > 0


def test_evaluate_by_folders_gives_the_same_and_shows_a_table(run_folder: Path, recipe: Path, scenes: Path) -> None:
    by_recipe = json.loads(run("evaluate", run_folder, "--recipe", recipe, "--json").stdout)
    folders = ["--images", scenes / "val/images", "--masks", scenes / "val/masks"]
    by_folders = json.loads(run("evaluate", run_folder, *folders, "--batch", 3, "--json").stdout)
    assert by_folders["iou_percent"] == pytest.approx(by_recipe["iou_percent"])
    table = run("evaluate", run_folder, *folders).stdout
    for text in ("0 ground", "1 red", "2 blue", f"{by_recipe['miou_percent']:.2f}"):
        assert text in table


def test_a_run_and_its_bundle_are_judged_alike(run_folder: Path, bundle: Path, recipe: Path, tmp_path: Path) -> None:
    """The same verbs on a real graph of fixed size, which has to work in tiles, and on one of any size."""
    export_bundle(run_folder, tmp_path / "fixed", size=(32, 32))
    results = {
        name: json.loads(run("evaluate", path, "--recipe", recipe, "--json").stdout)
        for name, path in (("run", run_folder), ("any", bundle), ("fixed", tmp_path / "fixed"))
    }
    assert results["any"]["kind"] == "onnx"
    assert results["any"]["miou_percent"] == pytest.approx(results["run"]["miou_percent"], abs=0.1)
    assert (results["any"]["tiled_images"], results["fixed"]["tiled_images"]) == (0, 4)
    assert sum(results["fixed"]["truth_pixels"].values()) == sum(results["run"]["truth_pixels"].values())
    document = json.loads(run("bench", run_folder, tmp_path / "fixed", "--runs", 3, "--json").stdout)
    assert [(one["height"], one["width"], one["kind"]) for one in document["runtimes"]] == [
        (32, 32, "pytorch"),
        (32, 32, "onnx"),
    ]


def test_evaluate_only_needs_the_validation_images(run_folder: Path, recipe: Path) -> None:
    gone = ("data.labeled.images=gone", "data.unlabeled.images=gone")
    document = json.loads(run("evaluate", run_folder, "--recipe", recipe, *gone, "--json").stdout)
    assert document["images"] == 4


def test_evaluate_refuses_what_does_not_fit(run_folder: Path, recipe: Path, scenes: Path, tmp_path: Path) -> None:
    other = run("evaluate", run_folder, "--recipe", recipe, "data.classes=[ground,red,car]", exit_code=2)
    assert "only in the runtime: 2 blue" in other.stderr
    assert "only in the recipe: 2 car" in other.stderr
    for arguments in (
        [],
        ["--recipe", recipe, "--images", scenes, "--masks", scenes],
        ["--images", scenes],
        ["train.steps=3", "--images", scenes, "--masks", scenes],
    ):
        run("evaluate", run_folder, *arguments, exit_code=2)
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / kind / "odd.png")
    odd = run("evaluate", run_folder, "--images", tmp_path / "images", "--masks", tmp_path / "masks", exit_code=1)
    assert "odd.png: ids out of range: 77 in " in odd.stderr
    assert odd.stdout == ""


def window_rows(run_folder: Path, image: Path, side: int, stride: int) -> np.ndarray:
    """``[H,C,W]`` logits averaged over windows; the tests of `WindowedSegmenter` hold these against a plain loop."""
    segmenter, spec = load_network(run_folder / "best.safetensors")
    with torch.inference_mode():
        rows = WindowedSegmenter(segmenter, spec.input_scale, Windows(side, stride)).logit_rows(
            torch.from_numpy(np.array(Image.open(image)))
        )
    return rows.numpy()


def test_evaluate_in_windows(run_folder: Path, recipe: Path, scenes: Path, tmp_path: Path) -> None:
    given = ["--recipe", recipe, "--window", 24, "--stride", 16, "--batch", 5]
    document = json.loads(run("evaluate", run_folder, *given, "--json").stdout)
    assert (document["window_px"], document["stride_px"]) == (24, 16)
    truths, predictions = [], []
    for path in sorted((scenes / "val/images").glob("*.png")):
        truth = np.asarray(Image.open(scenes / "val/masks" / path.name))
        predicted = window_rows(run_folder, path, 24, 16).argmax(axis=1)
        truths.append(truth[truth != 255])
        predictions.append(predicted[truth != 255])
    expected = 100 * jaccard_score(np.concatenate(truths), np.concatenate(predictions), average=None)
    np.testing.assert_allclose(list(document["iou_percent"].values()), expected, atol=0.2)
    whole = json.loads(run("evaluate", run_folder, "--recipe", recipe, "--json").stdout)
    assert whole["window_px"] is None
    assert whole["iou_percent"] != document["iou_percent"]
    assert "in windows of 24 pixels every 16" in run("evaluate", run_folder, *given).stdout
    assert "on whole images" in run("evaluate", run_folder, "--recipe", recipe).stdout

    trained = tmp_path / "run"  # the recipe in a run says how it is evaluated, options say it louder
    shutil.copytree(run_folder, trained)
    tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    tree["train"] |= {"eval_window": 24, "eval_stride": 16, "eval_batch": 3}
    (trained / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    for arguments, window, stride in (([], 24, 16), (["--stride", 8], 24, 8), (["--window", 32], 32, 21)):
        cut = json.loads(run("evaluate", trained, "--recipe", recipe, *arguments, "--json").stdout)
        assert (cut["window_px"], cut["stride_px"]) == (window, stride)
        if not arguments:
            assert cut["iou_percent"] == pytest.approx(document["iou_percent"], abs=0.2)
    again = json.loads(run("evaluate", trained, "--recipe", recipe, "--whole", "--json").stdout)
    assert again["iou_percent"] == whole["iou_percent"]


def test_evaluate_refuses_windows_that_cannot_be(run_folder: Path, bundle: Path, recipe: Path) -> None:
    for arguments, said in (
        ([bundle, "--window", 32], "not a PyTorch run: --window does not apply"),
        ([bundle, "--stride", 16], "--stride 16 goes with --window"),
        ([run_folder, "--stride", 16], "--stride 16 goes with --window"),
        ([run_folder, "--window", 32, "--stride", 33], "cannot start every 33 pixels"),
        ([run_folder, "--window", 32, "--whole"], "--whole means no windows"),
    ):
        assert said in run("evaluate", *arguments, "--recipe", recipe, exit_code=2).stderr


def test_predict_writes_what_the_runtime_says(run_folder: Path, scenes: Path, tmp_path: Path) -> None:
    images = scenes / "val/images"
    document = json.loads(run("predict", run_folder, images, "--out", tmp_path / "out", "--json").stdout)
    assert [Path(one["image"]).name for one in document["images"]] == [f"00{number}.png" for number in range(4)]
    runtime = open_runtime(run_folder)
    for one in document["images"]:
        expected = runtime.predict(np.asarray(Image.open(one["image"]))[None])[0]
        np.testing.assert_array_equal(np.asarray(Image.open(one["index"])), expected)
        assert sum(one["class_pixels"].values()) == expected.size
        assert Path(one["color"]).is_file()
        assert Path(one["overlay"]).is_file()


def test_predict_in_tiles_keeps_the_size(run_folder: Path, scenes: Path, tmp_path: Path) -> None:
    arguments = ["--out", tmp_path, "--tile", "32x24", "--overlap", 8, "--batch", 2, "--json"]
    document = json.loads(run("predict", run_folder, scenes / "val/images/000.png", *arguments).stdout)
    assert (document["tile_px"], document["overlap_px"]) == ([32, 24], 8)
    assert Image.open(document["images"][0]["index"]).size == (48, 40)


def test_predict_names_unreadable_images_and_does_the_others(run_folder: Path, scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "torn.jpg").write_bytes(b"\xff\xd8\xff no more")
    inputs = [tmp_path / "torn.jpg", scenes / "val/images/000.png"]
    result = run("predict", run_folder, *inputs, "--out", tmp_path / "out", "--json", exit_code=1)
    document = json.loads(result.stdout)
    assert [Path(one["image"]).name for one in document["failed"]] == ["torn.jpg"]
    assert len(document["images"]) == 1
    assert "1 of 2 images could not be read" in result.stderr
    assert "torn.jpg" in result.stderr


@pytest.mark.parametrize(
    ("kind", "verified", "said"),
    [
        ("onnx", None, "unverified"),
        ("onnx", False, "failed its verification"),
        ("onnx", True, ""),
        ("pytorch", None, ""),
    ],
)
def test_predict_says_when_nobody_has_verified_the_runtime(
    monkeypatch: pytest.MonkeyPatch, scenes: Path, tmp_path: Path, kind: str, verified: bool | None, said: str
) -> None:
    fake = FakeRuntime(lambda images: images[..., 0] // 100, kind=kind, verified=verified)
    monkeypatch.setattr(opening, "open_runtime", lambda *_, **__: fake)
    result = run("predict", "fake", scenes / "val/images/000.png", "--out", tmp_path)
    assert said in result.stderr if said else result.stderr == ""


def test_masks_of_a_folder_are_read_as_in_training(
    run_folder: Path, recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    """0, 127 and 254 for 0, 1 and 2, which the recipe's value map puts right: a run and its bundle know it."""
    trained, images, masks = tmp_path / "run", scenes / "val/images", tmp_path / "masks"
    shutil.copytree(run_folder, trained)
    tree = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    tree["data"]["value_map"] = {127: 1, 254: 2}
    (trained / "recipe.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")
    masks.mkdir()
    for path in (scenes / "val/masks").iterdir():
        stored = np.asarray(Image.open(path))
        Image.fromarray(np.where(stored < 3, stored * 127, 255).astype(np.uint8)).save(masks / path.name)
    exported = export_bundle(trained, tmp_path / "bundle").folder
    expected = json.loads(run("evaluate", trained, "--recipe", recipe, "--json").stdout)["iou_percent"]
    for runtime in (trained, trained / "best.safetensors", exported, exported / "model.onnx", f"{exported}@openvino"):
        document = json.loads(run("evaluate", runtime, "--images", images, "--masks", masks, "--json").stdout)
        assert document["iou_percent"] == pytest.approx(expected, abs=0.5)
    alone = shutil.copy(exported / "model.onnx", tmp_path)
    said = run("evaluate", alone, "--images", images, "--masks", masks, exit_code=1).stderr
    assert "data.value_map" in said, "a graph by itself knows its classes only"


def test_precision_and_backend_reach_the_runtime(bundle: Path, recipe: Path, scenes: Path, tmp_path: Path) -> None:
    if reason := why_no_bf16():
        pytest.skip(reason)
    low = ["--precision", "bf16", "--json"]
    evaluated = json.loads(run("evaluate", bundle, "--recipe", recipe, *low).stdout)
    assert (evaluated["precision"], evaluated["verified"]) == ("bf16", None)
    assert evaluated["emulated"].startswith("bf16 emulated")
    fp32 = json.loads(run("evaluate", bundle, "--recipe", recipe, "--json").stdout)
    assert (fp32["precision"], fp32["emulated"]) == ("fp32", None)
    assert fp32["iou_percent"] != evaluated["iou_percent"]
    image = scenes / "val/images/000.png"
    predicted = run("predict", bundle, image, "--out", tmp_path, "--backend", "openvino", *low)
    document = json.loads(predicted.stdout)
    assert document["backend"].startswith("OpenVINO")
    assert document["precision"] == "bf16"
    assert f"{bundle} (bf16) is unverified" in predicted.stderr
    expected = open_runtime(bundle, precision="bf16", backend="openvino").predict(np.asarray(Image.open(image))[None])
    np.testing.assert_array_equal(np.asarray(Image.open(document["images"][0]["index"])), expected[0])
    for arguments, message in (
        (("--precision", "int8"), "has no int8 graph; it has fp32, bf16"),
        (("--precision", "int9"), "int9"),
        (("--backend", "tensorrt-ep", "--device", "cpu"), "cannot be combined with --device cpu"),
    ):
        assert message in run("predict", bundle, image, "--out", tmp_path, *arguments, exit_code=2).stderr


def test_bench_compares_precisions_and_backends_of_one_bundle(bundle: Path) -> None:
    """What stands behind an @ wins over the options, which hold for the others."""
    texts = [f"{bundle}@bf16", f"{bundle}@openvino@fp32", f"{bundle}@fp32", f"{bundle}"]
    result = run("bench", *texts, "--precision", "bf16", "--size", 32, "--runs", 3, "--json")
    document = json.loads(result.stdout)
    found = [(one["runtime"], one["precision"], one["backend"].split()[0]) for one in document["runtimes"]]
    assert found == list(
        zip(texts, ["bf16", "fp32", "fp32", "bf16"], ["ONNX", "OpenVINO", "ONNX", "ONNX"], strict=True)
    )
    assert [one["runtime"] for one in document["ratios"]] == texts[1:]
    assert f"{texts[0]}: bf16 emulated" in result.stderr
    assert f"{texts[2]}: " not in result.stderr.replace(f"{texts[2]}: the latency is not", "")
    assert result.stderr.count("is unverified") == 4


def test_what_stands_behind_an_at_sign(run_folder: Path, tmp_path: Path) -> None:
    assert "no such file or folder" in run("bench", f"{run_folder}@int9", exit_code=2).stderr
    assert "one of fp32, fp16" in run("bench", f"{run_folder}@int9", exit_code=2).stderr
    assert "is fp32, not int8" in run("bench", f"{run_folder}@int8", exit_code=2).stderr
    assert "--backend openvino does not apply" in run("bench", f"{run_folder}@openvino", exit_code=2).stderr
    odd = tmp_path / "mine@int8"
    odd.symlink_to(run_folder)
    assert runtime_argument(str(odd), None, None) == RuntimeArgument(str(odd), odd)
    assert runtime_argument(f"{odd}@fp32", "int8", "openvino") == RuntimeArgument(
        f"{odd}@fp32", odd, "fp32", "openvino"
    )


def test_one_precision_and_one_backend_at_most(tmp_path: Path) -> None:
    wanted = RuntimeArgument(f"{tmp_path}@openvino@int8", tmp_path, "int8", "openvino")
    assert runtime_argument(wanted.text, None, None) == wanted
    with pytest.raises(click.BadParameter, match="two precisions, int8 and fp16"):
        runtime_argument(f"{tmp_path}@int8@fp16", None, None)
    with pytest.raises(click.BadParameter, match="two backends, openvino and onnxruntime"):
        runtime_argument(f"{tmp_path}@openvino@fp16@onnxruntime", None, None)
    assert "two precisions" in run("bench", f"{tmp_path}@int8@int8", exit_code=2).stderr


def test_choices_are_what_runtimes_know() -> None:
    for verb in ("evaluate", "predict", "bench"):
        options = {option.name: option for option in cli.get_command(click.Context(cli), verb).params}
        assert tuple(options["precision"].type.choices) == PRECISIONS
        assert tuple(options["backend"].type.choices) == BACKENDS


def test_predict_tiles_a_fixed_size_and_says_so(monkeypatch: pytest.MonkeyPatch, scenes: Path, tmp_path: Path) -> None:
    fake = FakeRuntime(lambda images: images[..., 0] // 100, fixed_size=(16, 32))
    monkeypatch.setattr(opening, "open_runtime", lambda *_, **__: fake)
    result = run("predict", "fake", scenes / "val/images/000.png", "--out", tmp_path)
    assert "16x32 only" in result.stderr
    assert Image.open(tmp_path / "index/000.png").size == (48, 40)
    assert "32x32 asked for" in run("predict", "fake", scenes, "--out", tmp_path, "--tile", 32, exit_code=2).stderr


def test_bench_one_runtime(run_folder: Path, scenes: Path) -> None:
    arguments = ["bench", run_folder, "--size", "32x48", "--batch", 2, "--runs", 5]
    document = json.loads(run(*arguments, "--json").stdout)
    assert document["latency_p50_ms"] <= document["latency_p90_ms"] <= document["latency_p99_ms"]
    assert document["images_per_second"] == pytest.approx(2000 / document["latency_mean_ms"])
    assert list(document["boundaries"]) == ["engine", "copies", "arrays"]
    assert (document["batch"], document["height"], document["width"], document["input"]) == (2, 32, 48, "random")
    assert torch.__version__.startswith(document["machine"]["libraries"]["torch"])
    card = run(*arguments, "--images", scenes / "val/images").stdout
    for text in (
        "engine",
        "copies",
        "arrays",
        "file",
        "first call",
        "bound: ",
        "images per second",
        "2 x 32x48 px of real images",
    ):
        assert text in card


def test_bench_several_gives_ratios_of_medians(run_folder: Path) -> None:
    best, last = run_folder / "best.safetensors", run_folder / "last.safetensors"
    document = json.loads(run("bench", best, last, "--size", 32, "--runs", 5, "--json").stdout)
    first, second = document["runtimes"]
    (ratio,) = document["ratios"]
    assert (ratio["runtime"], ratio["against"]) == (str(last), str(best))
    assert ratio["arrays_p50_ratio"] == pytest.approx(second["latency_p50_ms"] / first["latency_p50_ms"])
    assert "p50 / first" in run("bench", best, last, "--size", 32, "--runs", 5).stdout


@pytest.mark.parametrize("size", ["0x4", "4x", "axb", "1x2x3", "-3"])
def test_bench_refuses_sizes_that_are_none(run_folder: Path, size: str) -> None:
    assert "is not a size" in run("bench", run_folder, f"--size={size}", exit_code=2).stderr
