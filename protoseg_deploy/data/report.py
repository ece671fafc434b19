"""What a check of the data found out: counts, sizes, class shares."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from protoseg_deploy.data.leaks import SharedScene
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ClassTable

Range = tuple[int, int]


@dataclass
class Findings:
    """What a check has found out so far."""

    faults: list[str] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


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
        cls, images: int, sizes: Sequence[Range], pixels: Sequence[Mapping[int, int]] | None = None, classes: int = 0
    ) -> "PartSummary":
        """Summarise so many images.

        Args:
            images: how many there are.
            sizes: ``(height, width)`` of those that were looked at.
            pixels: of each mask, how often the values that it holds occur; None without masks.
            classes: how many values are classes.
        """
        heights, widths = [size[0] for size in sizes], [size[1] for size in sizes]
        height_range = (min(heights), max(heights)) if sizes else None
        width_range = (min(widths), max(widths)) if sizes else None
        if pixels is None:
            return cls(images, height_range, width_range)
        totals: Counter[int] = Counter()
        shown: Counter[int] = Counter()
        for counts in pixels:
            totals.update(counts)
            shown.update(counts.keys())
        return cls(
            images,
            height_range,
            width_range,
            class_pixels=tuple(totals[index] for index in range(classes)),
            class_images=tuple(shown[index] for index in range(classes)),
            ignored_pixels=sum(count for value, count in totals.items() if value >= classes),
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
    """What a check has found out about data."""

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
    """What deserves a look."""
    faults: tuple[str, ...] = ()
    """What keeps the data from being used, each with its file or key."""
    hints: tuple[str, ...] = ()
    """How to fix the errors."""
    unread: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of each folder, how many files of which endings are not read."""
    scenes: tuple[SharedScene, ...] = ()
    """Validation images that are near-duplicates of images that are trained on."""

    def error(self, shown: int = 20) -> DataError:
        """All errors in one, so many of them in its message."""
        count = "1 fault" if len(self.faults) == 1 else f"{len(self.faults)} faults"
        return DataError(f"the data of the recipe cannot be used: {count}", self.faults, "\n".join(self.hints), shown)

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
            "unread_files": {folder: dict(counts) for folder, counts in self.unread.items()},
            "shared_scenes": [scene.to_dict() for scene in self.scenes],
            "warnings": list(self.warnings),
            "faults": list(self.faults),
            "hints": list(self.hints),
        }
