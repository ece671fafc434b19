"""Masks of class indices, read as the manifest of a bundle says, or refused."""

from pathlib import Path

import numpy as np
from PIL import Image
from protoseg_runner import AGAIN, Bundle, RunnerError

_COLORS = "Masks of colours are not read here: convert them, or evaluate at home."


def read_indices(path: Path) -> np.ndarray:
    """The numbers in a file ``[H,W]``; of a palette image the indices.

    Raises:
        RunnerError: it is no mask of class indices.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "I;16", "I"):
                raise RunnerError(f"{path}: an image of mode {image.mode} is no mask of class indices", _COLORS)
            return np.asarray(image)
    except OSError as error:
        raise RunnerError(f"{path} cannot be read: {error}") from None


class MaskReading:
    """How masks of a bundle are read.

    Raises:
        RunnerError: the manifest does not say.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._classes = len(bundle.classes)
        try:
            masks = bundle.manifest["masks"]
            self._ignored = int(masks["ignore_index"])
            self._values = {int(value): int(by) for value, by in (masks.get("value_map") or {}).items()}
            self._palettes = masks.get("palette_masks", "indices")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            manifest = bundle.folder / "manifest.json"
            raise RunnerError(f"{manifest}: masks is damaged: {type(error).__name__}: {error}", AGAIN) from None

    def read(self, path: Path) -> np.ndarray:
        """Class indices ``[H,W]`` and the ignored value.

        Raises:
            RunnerError: a value is no class, or the palette counts.
        """
        mask = read_indices(path)
        if self._palettes == "colors":
            with Image.open(path) as image:
                if image.mode == "P":
                    raise RunnerError(f"{path}: the colours of its palette count, says the manifest", _COLORS)
        replaced = mask.astype(np.int64)
        for value, by in self._values.items():
            replaced[mask == value] = by
        strange = np.unique(replaced[(replaced != self._ignored) & ((replaced < 0) | (replaced >= self._classes))])
        if strange.size:
            raise RunnerError(
                f"{path} holds {strange[0]}, which is no class: they are 0 to {self._classes - 1}, and {self._ignored} "
                "is ignored"
            )
        return replaced

    def confusion(self, class_map: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """``[C,C]`` pixels by true and predicted class."""
        counted = truth != self._ignored
        pairs = truth[counted] * self._classes + class_map[counted]
        return np.bincount(pairs, minlength=self._classes**2).reshape(self._classes, self._classes)
