"""A small data set, its recipe, and the check of both; shared by the tests of the check."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.data import DataReport, check_data, find_data
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import Recipe, recipe_from_dict

CLASSES = ["sky", "road", "car"]


def write(path: Path, values: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return values


def recipe_for(root: Path, **sections: dict[str, object]) -> Recipe:
    data = {
        "root": str(root),
        "labeled": {"images": "train", "masks": "train_masks"},
        "unlabeled": {"images": "more"},
        "val": {"images": "val", "masks": "val_masks"},
        "classes": CLASSES,
    }
    train = {"crop": 16, "batch_labeled": 2, "batch_unlabeled": 2}
    return recipe_from_dict(
        {
            "data": data | sections.get("data", {}),
            "method": sections.get("method", {}),
            "train": train | sections.get("train", {}),
        },
        "test",
    )


def check(root: Path, decode_limit: int = 2000, open_limit: int = 20_000, **sections: dict[str, object]) -> DataReport:
    recipe = recipe_for(root, **sections)
    sets = find_data(recipe.data, need_unlabeled=True, need_val=recipe.data.val.is_set)
    return check_data(recipe, sets, decode_limit=decode_limit, open_limit=open_limit)


def faults_of(root: Path, **sections: dict[str, object]) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        check(root, **sections)
    return caught.value.faults
