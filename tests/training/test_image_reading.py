"""A run trained on percentiles of its images keeps the numbers they came to, and goes on with them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.errors import UsageError
from protoseg_deploy.methods import build_method
from protoseg_deploy.models.saved import read_network_spec
from protoseg_deploy.recipe import image_reading, recipe_from_dict
from protoseg_deploy.training import Run, train
from tests.conftest import recipe_tree


def test_percentiles_are_measured_once_and_kept(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for part in ("labeled", "unlabeled", "val"):
        for folder in ("images", "masks"):
            (tmp_path / part / folder).mkdir(parents=True)
        for number in range(2):
            values = random.integers(0, 4096, (40, 48)).astype(np.uint16)
            Image.fromarray(values).save(tmp_path / part / "images" / f"{number}.png")
            Image.fromarray((values // 1400).astype(np.uint8)).save(tmp_path / part / "masks" / f"{number}.png")
    tree = recipe_tree(tmp_path)
    tree["data"]["value_range"] = "percentile_2_98"
    tree["model"]["backbone"] = "test_resnet"
    tree["train"] |= {"steps": 2, "eval_every": 2, "checkpoint_every": 2}
    recipe = recipe_from_dict(tree, "test")
    folder = tmp_path / "run"
    train(recipe, folder, build_method, quiet=True)
    kept = Run(folder).recipe()
    low, high = kept.data.value_range
    assert 0 < low < 200
    assert 3900 < high < 4096
    assert read_network_spec(folder / "best.safetensors").reading == image_reading(kept.data)
    summary = train(recipe, folder, build_method, extend_to=3, quiet=True)
    assert summary["steps"] == 3
    assert Run(folder).recipe().data.value_range == (low, high)
    tree["data"]["value_range"] = "percentile_1_99"
    with pytest.raises(UsageError, match=r"data\.value_range"):
        train(recipe_from_dict(tree, "test"), folder, build_method, resume=True, quiet=True)
