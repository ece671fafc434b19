"""What the JSON files of a run hold: shapes they are read into, so that a damaged file is one clear error."""

import math
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt


class _Open(BaseModel):
    """Further keys are kept."""

    model_config = ConfigDict(extra="allow")


class MetricsRecord(_Open):
    """A line of ``metrics.jsonl``."""

    kind: str
    step: NonNegativeInt
    miou_percent: float | None = None


class Summary(_Open):
    """``summary.json``: the result of a finished run. A stripped student has no training of its own."""

    method: str | None = None
    steps: NonNegativeInt
    best_miou_percent: float | None
    best_step: NonNegativeInt | None = None
    last_miou_percent: float | None
    last_iou_percent: dict[str, float | None] | None = None
    train_seconds: float | None = None
    peak_memory_mib: float | None = None


class ImageNames(BaseModel):
    """Number and digest of the names of some images."""

    count: NonNegativeInt
    sha256: str


class RunImages(BaseModel):
    """``images.json``: which images a run learns from."""

    labelled: ImageNames
    unlabelled: ImageNames


class UnreadableRecord(BaseModel):
    """A line of ``unreadable.jsonl``."""

    image: str
    reason: str
    step: NonNegativeInt


def finite(value: Any) -> Any:
    """The same with None for every number that JSON cannot say: a class that occurs nowhere has no IoU."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, (list, tuple)) else value
