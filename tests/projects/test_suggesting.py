"""Images to label next: spread over all there is, away from what is labelled, the unsure ones first."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from protoseg_deploy.cli import cli
from protoseg_deploy.errors import UsageError
from protoseg_deploy.projects.suggesting import Described, suggest


def at(degrees: float, uncertainty: float = 0.0) -> Described:
    angle = np.radians(degrees)
    return Described(np.array([np.cos(angle), np.sin(angle)], np.float32), uncertainty)


def chosen(described: list[Described], labeled: list[Described], count: int) -> list[int]:
    paths = [Path(str(number)) for number in range(len(described))]
    return [int(str(each.image)) for each in suggest(paths, described, labeled, count)]


def test_the_farthest_come_first_and_copies_last() -> None:
    described = [at(0), at(1), at(50), at(51), at(90)]
    assert chosen(described, [at(0)], 2) == [4, 2]
    assert sorted(chosen(described, [], 5)) == [0, 1, 2, 3, 4]


def test_without_labels_the_most_typical_comes_first() -> None:
    assert chosen([at(80), at(10), at(12), at(14), at(12.5)], [], 1) == [3]


def test_of_two_at_the_same_distance_the_unsure_one() -> None:
    assert chosen([at(40, 0.1), at(-40, 0.9)], [at(0)], 1) == [1]
    assert chosen([at(40, 0.9), at(-40, 0.1)], [at(0)], 1) == [0]


def test_there_are_not_enough() -> None:
    with pytest.raises(UsageError, match="--count 3: there are 2 images"):
        suggest([Path("a"), Path("b")], [at(0), at(1)], [], 3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten dark and two bright stripes, one file that is no image."""
    (tmp_path / "photos").mkdir()
    for number in range(12):
        values = np.random.default_rng(number).integers(0, 40, (48, 64, 3)).astype(np.uint8)
        if number >= 10:
            values[:, :: number - 7] += 200
        Image.fromarray(values).save(tmp_path / f"photos/{number}.png")
    (tmp_path / "photos/broken.png").write_bytes(b"x")
    return tmp_path / "photos"


def run(*words: object, code: int = 0) -> str:
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.stdout if code == 0 else result.stderr


def test_a_backbone_chooses_what_differs(photos: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), weights)
    listed = tmp_path / "labeled.txt"
    listed.write_text("".join(f"{photos / f'{number}.png'}\n" for number in range(3)))
    words = (
        "suggest",
        "test_resnet",
        "--weights",
        weights,
        "--images",
        photos,
        "--labeled",
        listed,
        "--out",
        tmp_path / "o",
    )
    said = json.loads(run(*words, "--count", 2, "--json"))
    assert {Path(each["image"]).name for each in said} == {"10.png", "11.png"}
    assert json.loads((tmp_path / "o/suggestions.json").read_text()) == said
    assert (tmp_path / "o/images.txt").read_text().splitlines()[1:] == [Path(each["image"]).name for each in said]
    with Image.open(tmp_path / "o/contact-sheet.jpg") as sheet:
        assert sheet.width > 5 * 200
    assert "--count 10: there are 9 images" in run(*words, "--count", 10, code=2)
    assert "no such folder" in run("suggest", "x", "--images", "absent", "--count", 1, "--out", tmp_path / "p", code=2)
