"""Methods and decoders of other packages: installed ones by entry points, others by a decorator."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from protoseg_deploy.errors import RecipeError
from protoseg_deploy.methods import FixMatch, Method, build_method, register_method
from protoseg_deploy.models import NetworkSpec, build_segmenter
from protoseg_deploy.recipe import class_table, recipe_from_dict
from protoseg_deploy.registry import DECODERS, METHODS
from tests.conftest import recipe_tree

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
import torch
from protoseg_deploy.methods import FixMatch
from protoseg_deploy.models.decoders import LRASPP

class Halved(FixMatch):
    def unlabeled_losses(self, *arguments):
        labeled, strong, losses = super().unlabeled_losses(*arguments)
        return labeled, strong, {name: loss / 2 for name, loss in losses.items()}

class Wide(LRASPP):
    min_batch = 2
"""
ENTRY_POINTS = """
[protoseg_deploy.methods]
halved = tiny_plugin:Halved

[protoseg_deploy.decoders]
wide = tiny_plugin:Wide
"""


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What ``pip install`` leaves of a package: a module and its metadata."""
    folder = tmp_path / "site"
    (folder / "tiny_plugin-1.0.dist-info").mkdir(parents=True)
    (folder / "tiny_plugin.py").write_text(MODULE)
    (folder / "tiny_plugin-1.0.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: tiny-plugin\nVersion: 1.0\n"
    )
    (folder / "tiny_plugin-1.0.dist-info/entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def protoseg(*arguments: object, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT]))}
    command = [sys.executable, "-m", "protoseg_deploy", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_an_installed_plug_in_trains_and_one_that_is_not_is_unknown(
    installed: Path, scenes: Path, tmp_path: Path
) -> None:
    tree = recipe_tree(scenes)
    tree["method"] = {"name": "halved"}
    tree["model"]["decoder"] = "wide"
    tree["train"] |= {"steps": 2, "eval_every": 2}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
    arguments = ("train", tmp_path / "mine.yaml", "--run", tmp_path / "run")
    unknown = protoseg(*arguments, paths=[])
    assert unknown.returncode == 2
    assert "method.name: 'halved' is not one of 'supervised', 'fixmatch'" in unknown.stderr
    assert "model.decoder: 'wide' is not one of 'deeplabv3plus'" in unknown.stderr
    trained = protoseg(*arguments, paths=[installed])
    assert trained.returncode == 0, trained.stderr
    explained = protoseg("recipe", "explain", "method.name", paths=[installed]).stdout
    assert "corrmatch, prototype, halved; default: prototype" in explained
    (installed / "tiny_plugin.py").write_text("import absent")
    broken = protoseg("train", tmp_path / "mine.yaml", "--run", tmp_path / "other", paths=[installed])
    assert broken.returncode == 2
    assert "(tiny_plugin:" in broken.stderr
    assert "cannot be imported: No module named 'absent'" in broken.stderr
    assert "Traceback" not in broken.stderr


def test_a_decorator_makes_a_method_known(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "registered", {})
    tree = recipe_tree(scenes)
    tree["method"] = {"name": "mine"}
    with pytest.raises(RecipeError, match=r"method\.name: 'mine' is not one of"):
        recipe_from_dict(tree, "test")

    @register_method("mine")
    class Mine(FixMatch):
        pass

    recipe = recipe_from_dict(tree, "test")
    classes = class_table(recipe.data)
    student = build_segmenter(NetworkSpec(recipe.model, classes))
    method = build_method(recipe, student, classes)
    assert type(method) is Mine
    assert method.name == "mine"
    with pytest.raises(ValueError, match="a method named 'mine' already"):
        register_method("mine")(Mine)
    with pytest.raises(ValueError, match="a method named 'fixmatch' already"):
        register_method("fixmatch")(Mine)


@pytest.mark.parametrize("name", METHODS.names())
def test_every_name_of_a_method_has_a_class(name: str) -> None:
    assert issubclass(METHODS.get(name), Method)


@pytest.mark.parametrize("name", DECODERS.names())
def test_every_name_of_a_decoder_has_a_class(name: str) -> None:
    assert DECODERS.get(name).min_batch >= 1
