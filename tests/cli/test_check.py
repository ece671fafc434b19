"""``protoseg check`` from the outside: tables, one JSON document, exit codes, no tracebacks."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from protoseg_deploy.cli import cli


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("images", "masks", "more", "val", "val_masks"):
        (tmp_path / name).mkdir()
        for number in range(3):
            shape = (20, 30) if "masks" in name else (20, 30, 3)
            values = rng.integers(0, 2 if "masks" in name else 256, shape, dtype=np.uint8)
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"""
data:
  root: {tmp_path}
  labeled: {{images: images, masks: masks}}
  unlabeled: {{images: more}}
  val: {{images: val, masks: val_masks}}
  classes: [field, weed]
train: {{crop: 16, batch_labeled: 2, batch_unlabeled: 2}}
""",
        encoding="utf-8",
    )
    return path


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, ["check", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def test_tables_for_people(recipe: Path) -> None:
    result = run(recipe, "data.labeled_count=2")
    assert result.exit_code == 0, result.output
    for part in ("2 of 3", "20×30", "0 field", "1 weed", "No errors found"):
        assert part in result.stdout


def test_warnings_are_shown(recipe: Path) -> None:
    result = run(recipe, "train.crop=32")
    assert result.exit_code == 0
    assert "Warning: 3 labelled images smaller than train.crop 32" in result.stdout


def test_one_json_document(recipe: Path) -> None:
    result = run(recipe, "--json")
    document = json.loads(result.stdout)
    assert document["labeled"]["images"] == document["labeled"]["pool_images"] == 3
    assert document["val"]["height_px"] == [20, 20]
    assert [entry["name"] for entry in document["classes"]] == ["field", "weed"]
    assert sum(entry["labeled_percent"] for entry in document["classes"]) == pytest.approx(100, abs=0.01)
    assert document["faults"] == []


def test_supervised_recipes_need_no_unlabelled_or_validation_images(recipe: Path) -> None:
    result = run(recipe, "--json", "method.name=supervised", "data.unlabeled={}", "data.val={}")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["unlabeled"]["images"] == document["val"]["images"] == 0
    assert "val_percent" not in document["classes"][0]


def test_all_faults_and_exit_code_1(recipe: Path) -> None:
    more = recipe.parent / "more"
    for number in range(30):
        (more / f"broken{number:02}.png").write_text("no image")
    result = run(recipe)
    assert result.exit_code == 1
    assert "Traceback" not in result.output
    assert all(str(more / f"broken{number:02}.png") in result.stderr for number in range(30))
    result = run(recipe, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["faults"]) == 30


def test_missing_folders_name_their_keys(recipe: Path) -> None:
    result = run(recipe, "data.val.images=nowhere", "data.labeled_count=9")
    assert result.exit_code == 1
    assert f"data.val.images: no such folder: {recipe.parent / 'nowhere'}" in result.stderr
    assert "data.labeled_count: 9 images asked for, 3 labelled images found" in result.stderr
    result = run(recipe, "--json", f"data.root={recipe.parent / 'gone'}")
    assert result.exit_code == 1
    assert "data.root: no such folder" in json.loads(result.stdout)["faults"][0]


def test_one_fault_hides_no_other_and_no_warning(recipe: Path) -> None:
    """A missing mask, a damaged image, a class without a pixel, a small image, a file that is not read."""
    root = recipe.parent
    (root / "masks/0.png").unlink()
    (root / "val/1.png").write_text("no image")
    (root / "more/a.dcm").touch()
    changes = ("data.classes=[field, weed, tree]", "data.missing_classes=error", "train.crop=32")
    result = run(recipe, *changes)
    assert result.exit_code == 1
    for part in ("images/0.png: no mask", "val/1.png: not an image", "no labelled pixel of tree"):
        assert part in result.stderr
        assert part not in result.stdout
    for part in ("smaller than train.crop 32", "1 file is not read: 1 .dcm"):
        assert part in result.stdout
    document = json.loads(run(recipe, *changes, "--json").stdout)
    assert len(document["faults"]) == 3
    assert len(document["warnings"]) >= 2
    assert document["labeled"]["images"] == 2


def test_a_wrong_recipe_is_a_usage_error(recipe: Path) -> None:
    assert run("no-such-recipe").exit_code == 2
    assert run(recipe, "data.clases=[a]").exit_code == 2


@pytest.mark.parametrize(
    ("backbone", "says"),
    [
        ("mvitv2_tiny", "mvitv2_tiny cannot be exported for images of any size: no side of an image may exceed"),
        ("levit_128s", "levit_128s takes images of one size only"),
    ],
)
def test_backbones_that_cannot_be_exported_are_refused_before_any_image_is_read(
    recipe: Path, tmp_path: Path, backbone: str, says: str
) -> None:
    arguments = [str(recipe), "data.labeled.images=nowhere", "model.weights=none", f"model.backbone={backbone}"]
    for verb in (["check"], ["train", "--run", str(tmp_path / "run")]):
        result = CliRunner().invoke(cli, [*verb, *arguments])
        assert result.exit_code == 2
        assert f"model.backbone: {says}" in result.stderr
    assert not (tmp_path / "run").exists()


def test_missing_weights_are_named_with_all_other_faults(recipe: Path, tmp_path: Path) -> None:
    arguments = [str(recipe), f"model.weights={tmp_path / 'none.pth'}"]
    result = CliRunner().invoke(cli, ["check", *arguments])
    assert result.exit_code == 1
    assert f"model.weights: {tmp_path / 'none.pth'}: no such file. Give a .safetensors or .pth" in result.stderr
    trained = CliRunner().invoke(
        cli, ["train", *arguments, "data.labeled.images=absent", "--run", str(tmp_path / "run")]
    )
    assert trained.exit_code == 2
    assert "none.pth: no such file" in trained.stderr
