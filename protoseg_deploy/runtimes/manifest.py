"""``manifest.json``: what a bundle is, where it comes from, which files belong to it, and whether it was verified."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.metadata import Classes, Document

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
REFERENCE_FILE = "reference.safetensors"

Axis = int | str


class InputSpec(Document):
    """The one input of the graph. Nothing has to be done to an image but to decode it."""

    name: str = "images"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    color: Literal["RGB"] = "RGB"
    range: tuple[int, int] = (0, 255)
    shape: tuple[Axis, ...]
    """Numbers are fixed, names are dynamic."""
    fixed_size: tuple[int, int] | None
    """Height and width; None: any."""
    input_scale: float
    """Inside the graph."""
    mean: tuple[float, float, float]
    """Inside the graph, in units of 0..255."""
    std: tuple[float, float, float]


class OutputSpec(Document):
    name: str
    dtype: str
    shape: tuple[Axis, ...]
    meaning: str


class Masks(Document):
    """How index masks that go with the network are read."""

    ignore_index: int
    value_map: dict[int, int] = Field(default_factory=dict)
    """Values to replace first, as in the recipe."""


class NetworkInfo(Document):
    backbone: str
    decoder: str
    parameters: int


class Provenance(Document):
    """Where the weights come from and what made the files."""

    run: str
    """Folder or file that was exported."""
    weights: str
    """Name of the exported network file."""
    recipe_sha256: str | None
    training: dict[str, Any]
    """What the network file says of itself: step, method, metric."""
    versions: dict[str, str]
    """Of this program and the libraries that made the graph."""


class FileEntry(Document):
    sha256: str
    bytes: int


class Limits(Document):
    """What a verified bundle has to keep."""

    min_agreement_percent: float = 99.9
    """Pixels with the same class in PyTorch and ONNX Runtime, over all images."""
    max_relative_margin: float = 1e-2
    """Where the classes differ: largest distance between PyTorch's two best logits, over the spread of the logits of
    that image (root mean square distance from their mean over classes). A real fault flips confident pixels too."""
    max_miou_change_points: float = 0.1


class Verdict(Document):
    """Outcome of comparing the graph with the PyTorch network on images."""

    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass; empty if it did."""
    limits: Limits
    images: int
    masks: int
    """How many of the images had masks."""
    fitted_images: int
    """How many were cropped or padded because the graph is bound to a size."""
    agreement_percent: float
    worst_image: str
    worst_agreement_percent: float
    disagreeing_pixels: int
    max_relative_margin: float
    """At a disagreeing pixel; 0 where there is none."""
    miou_pytorch_percent: float | None
    miou_onnx_percent: float | None
    images_sha256: str
    """Digest over the names and bytes of the images, in order."""
    provider: str


class Manifest(Document):
    """Content of ``manifest.json``."""

    format: Literal[1] = 1
    network: NetworkInfo
    classes: Classes
    masks: Masks
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    precision: Literal["fp32", "fp16", "bf16", "int8"]
    opset: int
    provenance: Provenance
    files: dict[str, FileEntry]
    verification: Verdict | None = None
    """None: never verified."""

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle folder.

    Raises:
        ProtosegError: the folder is no bundle, or its manifest is damaged.
    """
    path = bundle / MANIFEST_FILE
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ProtosegError(
            f"{bundle} is not a bundle: it has no {MANIFEST_FILE}",
            "Bundles are folders written by `protoseg export RUN --bundle DIR`.",
        ) from None
    except OSError as error:
        raise ProtosegError(f"cannot read {path}: {error.strerror}") from None
    except ValidationError as error:
        details = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in details["loc"])
        raise ProtosegError(
            f"{path} is damaged or of another version: {where + ': ' if where else ''}{details['msg']}",
            "Export the bundle again.",
        ) from None


def check_file(bundle: Path, manifest: Manifest, name: str) -> Path:
    """Path of a file of the bundle, after comparing it with its checksum.

    Raises:
        ProtosegError: the file is missing, cut off or changed.
    """
    path = bundle / name
    entry = manifest.files.get(name)
    if entry is None:
        raise ProtosegError(f"{bundle / MANIFEST_FILE} does not list {name}", "Export the bundle again.")
    if not path.is_file():
        raise ProtosegError(f"{path} is missing from the bundle", "Export the bundle again.")
    size = path.stat().st_size
    if size != entry.bytes or file_sha256(path) != entry.sha256:
        detail = f"{size} bytes instead of {entry.bytes}" if size != entry.bytes else "its checksum differs"
        raise ProtosegError(
            f"{path} is not the file the manifest describes: {detail}",
            "It was damaged or replaced after the export: copy or export the bundle again.",
        )
    return path


def file_entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
