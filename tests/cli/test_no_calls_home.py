"""Nothing is sent anywhere: no verb looks up a name."""

import os
import shutil
import sys

import yaml

from tests.conftest import with_values
from tests.recording_names import recorded

_QUIET_WITHOUT_US = {"CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"} | {
    "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "PYTEST_CURRENT_TEST"
}  # fmt: skip
"""Variables under which libraries send nothing anyway; nothing of the kind is set at a user's."""


def environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in _QUIET_WITHOUT_US}
    return {**kept, "OMP_NUM_THREADS": "1", **more}


def test_a_look_up_is_recorded(tmp_path):
    code = "import socket; socket.getaddrinfo('reports.example', 443)"
    done, names = recorded([sys.executable, "-c", code], tmp_path / "names", env=environment())
    assert done.returncode != 0
    assert "reports.example" in names


def test_no_verb_looks_up_a_name(tiny_recipe, scenes, tmp_path):
    recipe = with_values(tiny_recipe, model={"backbone": "test_resnet"}, train={"steps": 2, "eval_every": 2})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    shutil.copytree(scenes / "val/images", tmp_path / "images")
    home = tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-m", "tests.cli.every_verb", str(tmp_path / "recipe.yaml"), str(tmp_path)]
    done, names = recorded(command, tmp_path / "names", env=environment(HOME=str(home)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert names == []
    assert not (home / "intel").exists(), "no identity or consent is left in the user's home"
