"""A run, a student and a bundle whose names are as hostile as file systems and recipes allow; made once, only read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from protoseg_deploy.distillation import distill
from protoseg_deploy.evaluation.samples import run_samples
from protoseg_deploy.exporting import export_bundle
from protoseg_deploy.methods import build_method
from protoseg_deploy.recipe import recipe_from_dict
from protoseg_deploy.reporting.card import export_card
from protoseg_deploy.training import train
from tests.conftest import draw_scene, recipe_tree
from tests.exporting.tracing import traced_once_in
from tests.made_once import made_once, session_folder

CLASSES = ["<script>alert(1)</script>", 'red "&" <b>', "a|b`c*[x](y)"]
FILES = "<img src=x onerror=alert({})> & 'it' \u202egnp.png"


def write_data(root: Path) -> None:
    """Like the scenes of other tests, with other file names."""
    for part, seed, count in (("labeled", 100, 4), ("unlabeled", 200, 5), ("val", 300, 6)):
        for number in range(count):
            image, mask = draw_scene(seed + number)
            for kind, pixels in (("images", image), ("masks", mask)):
                if kind == "images" or part != "unlabeled":
                    (root / part / kind).mkdir(parents=True, exist_ok=True)
                    Image.fromarray(np.asarray(pixels)).save(root / part / kind / FILES.format(number))


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what is shared."""
    folder = session_folder(tmp_path_factory) / "reported"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def data(place: Path) -> Path:
    return made_once(place / "data", write_data)


@pytest.fixture(scope="session")
def run(place: Path, data: Path) -> Path:
    """Trained with prototypes, two evaluations."""
    tree = recipe_tree(data)
    tree["data"]["classes"] = CLASSES
    tree["model"] = {"backbone": "test_resnet", "weights": "none", "decoder": "lraspp", "decoder_channels": 16}
    tree["train"] |= {"steps": 8, "eval_every": 4, "lr": 0.01}
    recipe = recipe_from_dict(tree, "test recipe")
    return made_once(place / "run", lambda folder: train(recipe, folder, build_method, quiet=True))


@pytest.fixture(scope="session")
def student(place: Path, run: Path) -> Path:
    """Stripped: it has no training of its own."""
    return made_once(place / "student", lambda folder: distill(run, folder, quiet=True))


@pytest.fixture(scope="session")
def bundle(place: Path, run: Path) -> Path:
    """Exported and verified, with a card, from the run."""

    def make(folder: Path) -> None:
        card = export_card(run, place / "bundle")
        with traced_once_in(place.parent / "traces"):
            export_bundle(run, folder, samples=run_samples(run), card=card)

    return made_once(place / "bundle", make)
