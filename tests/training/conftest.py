"""A recipe of everything a run can have, and a run of it that was stopped."""

import os
import shutil
import signal

import pytest

from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import recipe_from_dict
from protoseg_deploy.training import Interrupted, loop, train
from protoseg_deploy.training.validation import validate
from tests.conftest import recipe_tree, with_values
from tests.training.crashing import STEPS


@pytest.fixture
def recipe(scenes):
    """See `full_recipe`."""
    return full_recipe(scenes)


def full_recipe(scenes):
    """Every kind of state a run can have: dropout, class frequencies, thresholds, a bank, warm-up."""
    return with_values(
        recipe_from_dict(recipe_tree(scenes), "test recipe"),
        model={"backbone": "test_resnet", "dropout": 0.3},
        method={"distribution_alignment": True, "confidence_threshold": 0.4},
        train={
            "class_aware_share": 0.5,
            "logit_adjustment": 0.5,
            "copy_paste_probability": 0.5,
            "steps": STEPS,
            "checkpoint_every": 3,
            "eval_every": 5,
            "log_every": 1,
            "warmup_steps": 4,
        },
    )


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The folder of a run that was stopped after 5 of its steps, and that of one that was not: copies to go on with."""
    return tuple(shutil.copytree(stopped_once / name, tmp_path / name) for name in ("run", "whole"))


@pytest.fixture(scope="session")
def stopped_once(scenes, tmp_path_factory):
    """Trained once for `stopped`."""
    folder, recipe = tmp_path_factory.mktemp("stopped"), full_recipe(scenes)

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return validate(*arguments)

    train(recipe, folder / "whole", build_method, quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "validate", interrupted)
        with pytest.raises(Interrupted, match="after step 5"):
            train(recipe, folder / "run", build_method, quiet=True)
    return folder
