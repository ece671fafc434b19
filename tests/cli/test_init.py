"""``init``: from a folder to a project that trains, and on to a verified int8 bundle."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import timm
import yaml
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from protoseg_deploy.cli import cli
from protoseg_deploy.projects import trying
from tests.data.test_similarity import picture


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps cost what a test says."""
    monkeypatch.setattr(trying, "try_steps", lambda recipe, method, batch, precision: (trying.Cost(100.0, 50.0), ""))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "test_resnet_mine.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    return file


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.stderr


def photos(folder: Path, shape: str, count: int = 24, masked: int = 12) -> Path:
    """Scenes as strangers keep them; the masks show where red is above blue."""
    for number in range(count):
        image = picture(number, 128, 96)
        values = np.asarray(image)
        mask = (values[..., 0] > values[..., 2]).astype(np.uint8)
        places = {
            "folders": (f"images/{number}.jpg", f"masks/{number}.png", mask * 255),
            "endings": (f"{number}.png", f"{number}_mask.png", mask),
            "colours": (f"day{number % 2}/{number}.jpg", f"labels/day{number % 2}/{number}.png", mask),
        }[shape]
        name, mask_name, stored = places
        for path in (folder / name, folder / mask_name):
            path.parent.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
        if number < masked:
            shown = np.array([[0, 0, 255], [255, 128, 0]], np.uint8)[stored] if shape == "colours" else stored
            Image.fromarray(shown).save(folder / mask_name)
    return folder


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("shape", ["folders", "endings", "colours"])
def test_projects_of_three_shapes(tmp_path: Path, weights: Path, shape: str) -> None:
    source, out = photos(tmp_path / "data", shape), tmp_path / "project"
    said = run("init", source, "--out", out, "--weights", weights, "--val", 4)
    assert "about 2 minutes" in said
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert recipe["model"]["backbone"] == "test_resnet"
    assert recipe["method"]["name"] == "prototype"
    assert recipe["train"]["crop"] == 96
    names = json.loads((out / "classes.json").read_text())["names"]
    assert names == (["blue", "color_255_128_0"] if shape == "colours" else ["foreground"])
    assert recipe["data"].get("value_map") == ({255: 1} if shape == "folders" else None)
    assert "No errors found" in run("check", out / "recipe.yaml")
    text = (out / "recipe.yaml").read_text()
    assert "12 images without masks beside 8 with" in text
    assert f"protoseg train {out}" in (out / "NEXT.md").read_text()
    assert sorted(path.name for path in out.iterdir()) == ["NEXT.md", "classes.json", "lists", "recipe.yaml"]


@pytest.mark.usefixtures("quick")
def test_annotations_become_masks(tmp_path: Path, weights: Path) -> None:
    source, out = photos(tmp_path / "data", "folders", masked=0) / "images", tmp_path / "project"
    box = [[10, 10, 60, 10, 60, 50, 10, 50]]
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 128, "height": 96} for n in range(10)],
        "categories": [{"id": 7, "name": "crack"}, {"id": 9, "name": "rust"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 7 + 2 * (n % 2), "segmentation": box, "area": 2000, "iscrowd": 0}
            for n in range(10)
        ],
    }
    document["annotations"][3]["segmentation"] = [[1, 2]]
    (tmp_path / "coco.json").write_text(json.dumps(document))
    said = run("init", source, "--masks", tmp_path / "coco.json", "--out", out, "--weights", weights)
    assert "1 records of" in said
    assert json.loads((out / "classes.json").read_text())["names"] == ["background", "crack", "rust"]
    assert "No errors found" in run("check", out / "recipe.yaml")
    (tmp_path / "coco.json").write_text("{}")
    run("init", source, "--masks", tmp_path / "coco.json", "--out", tmp_path / "other", "--weights", weights, code=2)
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("quick")
def test_many_bands_and_bits(tmp_path: Path, weights: Path) -> None:
    for number in range(8):
        red = np.asarray(picture(number, 128, 96).convert("L")).astype(np.uint16) * 15
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        bands = np.stack([red] * 5, axis=2)
        tifffile.imwrite(tmp_path / f"images/{number}.tif", bands, photometric="minisblack", planarconfig="contig")
        Image.fromarray((red > 1500).astype(np.uint8)).save(tmp_path / f"masks/{number}.png")
    out = tmp_path / "project"
    run("init", tmp_path / "images", "--out", out, "--weights", weights)
    data = yaml.safe_load((out / "recipe.yaml").read_text())["data"]
    assert (data["bands"], data["value_range"]) == ([1, 2, 3], "percentile_1_99")
    assert "No errors found" in run("check", out / "recipe.yaml")


@pytest.mark.usefixtures("quick")
def test_copies_stand_on_their_own(tmp_path: Path, weights: Path) -> None:
    source, out = photos(tmp_path / "data", "folders"), tmp_path / "project"
    run("init", source, "--out", out, "--weights", weights, "--copy")
    source.rename(tmp_path / "gone")
    assert "No errors found" in run("check", out / "recipe.yaml")


def test_from_a_folder_to_an_int8_bundle(tmp_path: Path, weights: Path) -> None:
    source, out = photos(tmp_path / "data", "folders"), tmp_path / "project"
    assert f"Next: protoseg train {out}" in run("init", source, "--out", out, "--weights", weights)
    text = (out / "recipe.yaml").read_text()
    assert "a step takes" in text
    quick = ("train.steps=8", "train.eval_every=4", "train.workers=0", "train.precision=fp32")
    trained = run("train", out, *quick)
    assert f"Next: protoseg distill {out}/runs/first --run {out}/runs/first-student" in trained
    student = out / "runs/first-student"
    distilled = run("distill", out / "runs/first", "--run", student)
    assert f"--bundle {out}/bundles/first-student --precision fp32,int8" in distilled
    bundle = out / "bundles/first-student"
    run("export", student, "--bundle", bundle, "--precision", "fp32,int8", "--max-drop", 100)
    assert (bundle / "model.int8.onnx").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("absent",), "no such folder: absent"),
        (("{data}/images",), "24 images and no masks"),
        (("{data}", "--weights", "absent.pth"), "--weights absent.pth: the name does not begin with a timm model"),
        (("{data}", "--weights", "resnet18.pth"), "model.weights: resnet18.pth: no such file"),
        (("{data}", "--backbone", "resnet1"), "resnet1"),
        (("{data}", "--val", "12"), "12 images with masks cannot be divided"),
        (("{data}", "--classes", "absent"), "--classes: no such file: absent"),
        (("{data}", "--group-by", "("), "no regular expression"),
    ],
)
def test_what_cannot_be_made(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    source = photos(tmp_path / "data", "folders")
    if "{data}/images" in words:
        (source / "masks").rename(tmp_path / "elsewhere")
    out = tmp_path / "project"
    assert message in run("init", *(word.format(data=source) for word in words), "--out", out, code=2)
    assert not out.exists()


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project/mine.txt").touch()
    source = photos(tmp_path / "data", "folders", 4, 4)
    assert "is not empty" in run("init", source, "--out", tmp_path / "project", code=2)


def test_batches_are_halved_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def cost(recipe, method, batch, precision):
        tried.append((batch, precision))
        return trying.Cost(10.0 * batch * (0.5 if precision == "bf16" else 1), 1000.0 * batch), ""

    monkeypatch.setattr(trying, "try_steps", cost)
    found = trying.fit_to_machine(Path("x"), "supervised", 8, False, 4000.0)
    assert (found.batch, found.precision) == (2, "bf16")
    assert tried == [(8, "fp32"), (4, "fp32"), (2, "fp32"), (2, "bf16")]
    assert trying.fit_to_machine(Path("x"), "supervised", 8, False, 10.0).batch == 1
    monkeypatch.setattr(trying, "try_steps", lambda *_: (None, "CUDA out of memory"))
    assert trying.fit_to_machine(Path("x"), "supervised", 8, True, 4000.0).batch == 1
    monkeypatch.setattr(trying, "try_steps", lambda *_: (None, "no such class"))
    found = trying.fit_to_machine(Path("x"), "supervised", 8, False, 4000.0)
    assert (found.batch, found.cost) == (8, None)
