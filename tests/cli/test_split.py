"""``split``: lists that a recipe can use, scenes never in both parts; `check` finds those that are."""

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from protoseg_deploy.cli import cli
from protoseg_deploy.data import find_data
from protoseg_deploy.recipe import load_recipe
from tests.data.test_similarity import picture

CLASSES = 3


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROTOSEG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 scenes with masks, each with its mirrored copy; 6 more without, of which three show a scene of those."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(30):
        image = picture(number)
        mask = np.zeros((120, 160), np.uint8)
        mask[:40] = 1 + number % 2
        mask[-5:] = 255
        for name, turned in ((f"{number}a", False), (f"{number}b", True)):
            twin = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turned else image
            twin.save(tmp_path / f"images/{name}.jpg")
            Image.fromarray(mask[:, ::-1] if turned else mask).save(tmp_path / f"masks/{name}.png")
    for number in (0, 1, 2, 100, 101, 102):
        picture(number).resize((120, 90)).save(tmp_path / f"images/new{number}.png")
    return tmp_path


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result.stdout if code == 0 else result.stderr


def test_lists_for_a_recipe(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists"
    said = json.loads(run("split", photos / "images", "--out", out, "--labeled", 8, "--val", 12, "--json"))
    assert said["lists"]["labeled"]["images"] == 8
    assert said["lists"]["val"] == {"images": 12, "scenes": 6}
    assert {entry["value"] for entry in said["classes"]} == {"0", "1", "2"}
    assert all(entry["training_images"] and entry["validation_images"] for entry in said["classes"])
    fragment = run("split", photos / "images", "--out", out, "--labeled", 8, "--val", 12).partition("data:\n")[2]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data:\n{fragment}  classes: [a, b, c]\nmethod: {{name: fixmatch}}\n")
    data = load_recipe(str(recipe), []).data
    sets = find_data(data, need_unlabeled=True, need_val=True)
    assert (len(sets.labeled), len(sets.val)) == (8, 12)

    def scene(path: Path) -> str:
        return path.stem.removeprefix("new").rstrip("ab")

    validated = {scene(sample.image) for sample in sets.val}
    assert not validated & {scene(path) for path in sets.unlabeled}
    assert not validated & {scene(sample.image) for sample in sets.labeled}
    left_out = out / "left_out.txt"
    expected = {name for name in ("new0.png", "new1.png", "new2.png") if scene(Path(name)) in validated}
    lines = left_out.read_text().splitlines()[1:] if left_out.is_file() else []
    assert {Path(line).name for line in lines} == expected
    assert run("check", recipe).count("show a scene") == 0


def test_check_names_shared_scenes(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    (tmp_path / "l.txt").write_text("".join(f"images/{n}a.jpg\tmasks/{n}a.png\n" for n in range(6)))
    (tmp_path / "v.txt").write_text("".join(f"images/{n}b.jpg\tmasks/{n}b.png\n" for n in range(4, 10)))
    recipe.write_text(
        f"data: {{root: {tmp_path}, labeled: {{list: l.txt}}, val: {{list: v.txt}}, classes: [a, b, c]}}\n"
        "method: {name: supervised}\nmodel: {weights: none}\n"
    )
    said = run("check", recipe)
    assert "2 validation images show a scene that is trained on with its mask" in said
    assert "images/4b.jpg" in said
    (first, second) = sorted(
        json.loads(run("check", recipe, "--json"))["shared_scenes"], key=lambda one: one["trained"]
    )
    assert [Path(first["validation"]).name, Path(second["validation"]).name] == ["4b.jpg", "5b.jpg"]
    assert [Path(first["trained"]).name, Path(second["trained"]).name] == ["4a.jpg", "5a.jpg"]
    assert first["labelled"] is True
    deep = run("check", recipe, "data.value_range=percentile_1_99")
    assert "2 validation images show a scene" in deep


def test_groups_by_name(photos: Path, tmp_path: Path) -> None:
    run("split", photos / "images", "--out", tmp_path / "l", "--val", 6, "--group-by", r"(\d)\d?[ab]")
    parts = []
    for name in ("labeled", "val"):
        lines = (tmp_path / f"l/{name}.txt").read_text().splitlines()[1:]
        parts.append({Path(line.split("\t")[0]).name[0] for line in lines})
    assert not parts[0] & parts[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--val", 60), "60 images with masks cannot be divided into at least 1 and 60"),
        (("--labeled", 50, "--val", 20), "cannot be divided into 50 and 20"),
        (("--group-by", "("), "no regular expression"),
        (("--group-by", "a"), "0 groups in parentheses instead of one"),
        (("--group-by", "(zzz)"), "no file name fits"),
        (("--masks", "absent"), "no such folder: absent"),
    ],
)
def test_what_cannot_be_divided(photos: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    assert message in run("split", photos / "images", "--out", tmp_path / "out", *words, code=2)
    assert not (tmp_path / "out").exists()


def test_lists_of_others_stay_and_earlier_ones_go(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "lists"
    out.mkdir()
    (out / "val.txt").write_text("mine")
    words = ("split", photos / "images", "--out", out)
    assert "is there already" in run(*words, "--val", 12, code=2)
    assert (out / "val.txt").read_text() == "mine"
    (out / "val.txt").unlink()
    run(*words, "--val", 12)
    (out / "left_out.txt").write_text("of an earlier split")
    for number in (0, 1, 2):
        (photos / f"images/new{number}.png").unlink()
    assert "scenes and groups stay together" in run(*words, "--val", 11)
    assert not (out / "left_out.txt").exists()
