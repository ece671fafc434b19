"""Damaged files among the unlabelled images of a run."""

import json
import shutil

import pytest

from protoseg_deploy.errors import DataError
from protoseg_deploy.methods import build_method
from protoseg_deploy.training import train
from tests.conftest import with_values


@pytest.fixture
def damaged(tiny_recipe, scenes, tmp_path):
    """The recipe over a copy of the data in which two of nine unlabelled images are cut off."""
    shutil.copytree(scenes, tmp_path / "data")
    for name in ("002.png", "005.png"):
        path = tmp_path / "data/unlabeled/images" / name
        path.write_bytes(path.read_bytes()[:300])
    return with_values(tiny_recipe, data={"root": str(tmp_path / "data")})


@pytest.mark.parametrize("workers", [0, 1])
def test_they_are_replaced_recorded_and_reported(damaged, tmp_path, capsys, workers):
    recipe = with_values(damaged, data={"max_unreadable_share": 0.02}, train={"workers": workers})
    train(recipe, tmp_path / "run", build_method)
    records = [json.loads(line) for line in (tmp_path / "run/unreadable.jsonl").read_text().splitlines()]
    assert sorted(record["image"].rpartition("/")[2] for record in records) == ["002.png", "005.png"]
    assert "2 unlabelled images could not be read" in capsys.readouterr().err


def test_beyond_the_share_training_stops_with_their_names(damaged, tmp_path):
    with pytest.raises(DataError, match="max_unreadable_share") as caught:
        train(damaged, tmp_path / "run", build_method, quiet=True)
    assert "002.png" in str(caught.value)
    assert "005.png" in str(caught.value)
