"""Scenes that several images show: validation images that are near-duplicates of images that are trained on."""

import filecmp
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg_deploy.data.folders import DataSets
from protoseg_deploy.data.similarity import find_similar, read_thumbnails
from protoseg_deploy.data.similarity.thumbnails import Progress
from protoseg_deploy.recipe import Data, ImageReading

_MOST_UNLABELED = 20_000
_COPY = 0.99


@dataclass(frozen=True)
class SharedScene:
    """A validation image and the image of the training that is most like it."""

    validation: Path
    trained: Path
    labelled: bool
    """Whether its mask is trained on, too."""
    resemblance: float
    """See `protoseg_deploy.data.similarity`."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "validation": str(self.validation),
            "trained": str(self.trained),
            "labelled": self.labelled,
            "resemblance": self.resemblance,
        }


def shared_scenes(sets: DataSets, data: Data, progress: Progress | None = None) -> tuple[SharedScene, ...]:
    """Validation images that show a scene which is trained on, the most alike first.

    Exact copies and files of both parts are left out: a check finds them by their content. Of a large pool 20,000
    evenly spaced unlabelled images are looked at.
    """
    validation = [sample.image for sample in sets.val]
    labeled = [sample.image for sample in sets.labeled]
    known = {*validation, *labeled}
    unlabeled = [path for path in _some(sets) if path not in known]
    trained = [*labeled, *unlabeled]
    if not validation:
        return ()
    reading = ImageReading(bands=data.bands, alpha=data.alpha, exif=data.exif)
    pixels = read_thumbnails([*validation, *trained], reading, progress).pixels
    best: dict[int, SharedScene] = {}
    for pair in find_similar(pixels[: len(validation)], pixels[len(validation) :]):
        is_labeled = pair.second < len(labeled)
        if pair.resemblance > _COPY and filecmp.cmp(validation[pair.first], trained[pair.second], shallow=False):
            continue
        earlier = best.get(pair.first)
        if earlier is None or (is_labeled and not earlier.labelled):
            best[pair.first] = SharedScene(
                validation[pair.first], trained[pair.second], is_labeled, round(pair.resemblance, 3)
            )
    return tuple(sorted(best.values(), key=lambda scene: (-scene.resemblance, scene.validation)))


def warnings_of_scenes(scenes: Sequence[SharedScene]) -> list[str]:
    """What a check says about them."""
    warnings = []
    for labelled, consequence in (
        (True, "with its mask: the scores will be too good"),
        (False, "without its mask: the scores are not those of unseen images"),
    ):
        some = [scene for scene in scenes if scene.labelled == labelled]
        if some:
            subject = "1 validation image shows" if len(some) == 1 else f"{len(some)} validation images show"
            first = some[0]
            warnings.append(
                f"{subject} a scene that is trained on {consequence}; first {first.validation}, alike "
                f"{first.trained} ({first.resemblance:.2f}). `protoseg split` keeps scenes together"
            )
    return warnings


def _some(sets: DataSets) -> list[Path]:
    count = len(sets.unlabeled)
    places = np.linspace(0, count - 1, min(count, _MOST_UNLABELED)).astype(int).tolist() if count else []
    return [sets.unlabeled[place] for place in places]
