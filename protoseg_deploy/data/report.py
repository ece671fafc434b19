"""What a check of the data found out: counts, sizes, class shares."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protoseg_deploy.recipe import ClassTable

Range = tuple[int, int]


@dataclass(frozen=True)
class PartSummary:
    """One part of the data: labelled, unlabelled or validation images."""

    images: int
    heights_px: Range | None
    """Smallest and largest height after EXIF rotation, of the images looked at; None without images."""
    widths_px: Range | None
    class_pixels: tuple[int, ...] = ()
    """Pixels of each class; empty for images without masks."""
    class_images: tuple[int, ...] = ()
    """Images that show each class."""
    ignored_pixels: int = 0

    @classmethod
    def of(
        cls, images: int, sizes: Sequence[Range], pixels: np.ndarray | None = None, classes: int = 0
    ) -> "PartSummary":
        """Summarise so many images.

        Args:
            images: how many there are.
            sizes: ``(height, width)`` of those that were looked at.
            pixels: ``[N,256]``, how often each value occurs in each mask; None without masks.
            classes: how many values are classes.
        """
        heights, widths = [size[0] for size in sizes], [size[1] for size in sizes]
        height_range = (min(heights), max(heights)) if sizes else None
        width_range = (min(widths), max(widths)) if sizes else None
        if pixels is None:
            return cls(images, height_range, width_range)
        known = pixels[:, :classes]
        return cls(
            images,
            height_range,
            width_range,
            class_pixels=tuple(known.sum(axis=0).tolist()),
            class_images=tuple((known > 0).sum(axis=0).tolist()),
            ignored_pixels=int(pixels[:, classes:].sum()),
        )

    def class_percent(self, index: int) -> float:
        """Share of a class among the pixels that are not ignored."""
        return 100.0 * self.class_pixels[index] / max(1, sum(self.class_pixels))

    @property
    def ignored_percent(self) -> float:
        """Share of ignored pixels among all."""
        return 100.0 * self.ignored_pixels / max(1, sum(self.class_pixels) + self.ignored_pixels)

    @property
    def size_text(self) -> str:
        """``360×480`` or ``256–520×256–520``, height first; ``–`` without images."""
        if self.heights_px is None or self.widths_px is None:
            return "–"
        return "×".join(str(low) if low == high else f"{low}–{high}" for low, high in (self.heights_px, self.widths_px))

    def as_document(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "images": self.images,
            "height_px": list(self.heights_px or ()),
            "width_px": list(self.widths_px or ()),
        }
        return document | ({"ignored_percent": round(self.ignored_percent, 4)} if self.class_pixels else {})

    def class_cells(self, index: int) -> tuple[str, str]:
        """Share in percent and number of images of a class, for a table."""
        return (f"{self.class_percent(index):.2f}", str(self.class_images[index])) if self.class_pixels else ("–", "–")

    def class_document(self, part: str, index: int) -> dict[str, Any]:
        """The same with `part` in its keys; empty for images without masks."""
        if not self.class_pixels:
            return {}
        share = round(self.class_percent(index), 4)
        return {f"{part}_percent": share, f"{part}_images": self.class_images[index]}


@dataclass(frozen=True)
class DataReport:
    """Data without faults, and what is worth knowing about them."""

    classes: ClassTable
    labeled: PartSummary
    labeled_pool: int
    """Labelled samples the subset was drawn from."""
    unlabeled: PartSummary
    unlabeled_opened: int
    """Unlabelled images of which at least the header was read, evenly spaced in a large pool."""
    unlabeled_decoded: int
    """Unlabelled images that were decoded."""
    val: PartSummary
    warnings: tuple[str, ...]

    def as_document(self) -> dict[str, Any]:
        """The report as JSON-ready values; keys carry units."""
        return {
            "labeled": self.labeled.as_document() | {"pool_images": self.labeled_pool},
            "unlabeled": self.unlabeled.as_document()
            | {"opened_images": self.unlabeled_opened, "decoded_images": self.unlabeled_decoded},
            "val": self.val.as_document(),
            "classes": [
                {"name": name} | self.labeled.class_document("labeled", index) | self.val.class_document("val", index)
                for index, name in enumerate(self.classes.names)
            ],
            "warnings": list(self.warnings),
            "faults": [],
        }
