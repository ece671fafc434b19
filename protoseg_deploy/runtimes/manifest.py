"""``manifest.json``: what a bundle is, where it comes from, which files belong to it, and whether it was verified."""

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exchange import settle
from protoseg_deploy.files import write_atomically
from protoseg_deploy.recipe import ClassTable, Color, ImageReading, MaskReading
from protoseg_deploy.runtimes.metadata import Classes, Document, Precision

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
"""The fp32 graph; see `graph_file` for the others."""
REFERENCE_FILE = "reference.safetensors"
ENGINE_FOLDER = "engines"

Axis = int | str


class InputSpec(Document):
    """The one input of the graph. Nothing has to be done to an image but to decode it, as `reading` says."""

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
    reading: ImageReading = ImageReading()
    """How image files become those pixels: bands, range of values, orientation. The defaults are plain decoding."""
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
    ignore_colors: tuple[Color, ...] = ()
    """Colours that are ignored in masks that show the colours of the classes."""
    palette_masks: Literal["indices", "colors"] = "indices"
    """What counts of masks with a palette."""

    def reading(self, classes: ClassTable, images: ImageReading) -> MaskReading:
        """How they are read beside images that are read so."""
        return MaskReading(
            ignore_index=self.ignore_index,
            value_map=self.value_map,
            colors=classes.colors,
            ignore_colors=self.ignore_colors,
            palette_masks=self.palette_masks,
            exif=images.exif,
        )


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


class GraphInfo(Document):
    """One ONNX graph of the bundle; they all have the same inputs and outputs."""

    file: str
    files: tuple[str, ...]
    """The graph and, above 2 GB, the file of its weights."""
    opset: int
    conversion: dict[str, Any] = Field(default_factory=dict)
    """How it was made from the fp32 graph: what was kept in a higher precision, what int8 was calibrated on."""


class EngineEntry(Document):
    """One compiled engine; its sidecar says the rest."""

    file: str
    sidecar: str
    precision: Precision
    graph: str
    """File it was built from."""
    engine: Literal["tensorrt", "tensorrt-rtx"]


class Limits(Document):
    """What an artefact has to keep against the one it was made from."""

    min_agreement_percent: float
    """Pixels with the same class, over all images."""
    max_relative_margin: float | None
    """Where the classes differ: largest distance between PyTorch's two best logits, over the spread of the logits of
    that image (root mean square distance from their mean over classes). A real fault flips confident pixels too."""
    max_miou_drop_points: float


class StageVerdict(Document):
    """Outcome of comparing one artefact with the one it was made from."""

    stage: str
    """``onnx fp32``, ``onnx int8``, ``engine fp16-sm86``."""
    artefact: str
    """File in the bundle."""
    against: str
    """``pytorch``, or an earlier stage."""
    status: Literal["passed", "failed", "not run"]
    reasons: tuple[str, ...] = ()
    """Why it did not pass, or why it could not run here."""
    next_step: str = ""
    """Of the first failure: what to do now."""
    backend: str = ""
    emulated: bool = False
    """Computed in fp32 and rounded to the graph's types: accuracy is that of the graph, latency is not."""
    limits: Limits | None = None
    agreement_percent: float | None = None
    worst_image: str | None = None
    worst_agreement_percent: float | None = None
    disagreeing_pixels: int | None = None
    max_relative_margin: float | None = None
    """At a disagreeing pixel; 0 where there is none."""
    miou_percent: float | None = None
    """Against masks, where there were any."""
    miou_drop_points: float | None = None
    """Below the artefact it is compared with."""


class Verification(Document):
    """Outcome of the gate: PyTorch, the fp32 graph, every other graph, every engine that could run."""

    passed: bool
    """No stage failed. Stages that could not run do not count: they are unverified."""
    images: int
    masks: int
    """How many of the images had masks."""
    fitted_images: int
    """How many were cropped or padded because the graph is bound to a size."""
    images_sha256: str
    """Digest over the names and bytes of the images, in order."""
    miou_pytorch_percent: float | None
    stages: tuple[StageVerdict, ...]

    def stage(self, name: str) -> StageVerdict | None:
        return next((stage for stage in self.stages if stage.stage == name), None)

    def first_failure(self) -> StageVerdict | None:
        """The stage to look at: later ones may only have inherited its fault."""
        return next((stage for stage in self.stages if stage.status == "failed"), None)


class Manifest(Document):
    """Content of ``manifest.json``."""

    format: Literal[2] = 2
    network: NetworkInfo
    classes: Classes
    masks: Masks
    input: InputSpec
    outputs: tuple[OutputSpec, ...]
    graphs: dict[Precision, GraphInfo]
    """``fp32`` is always there: every other graph is made from it and compared with it."""
    engines: dict[str, EngineEntry] = Field(default_factory=dict)
    """By name, such as ``fp16-sm86``."""
    provenance: Provenance
    files: dict[str, FileEntry]
    verification: Verification | None = None
    """None: never verified."""

    def mask_reading(self) -> MaskReading:
        """How masks that go with the network are read."""
        return self.masks.reading(self.classes.table(), self.input.reading)

    def files_of_graphs(self) -> set[str]:
        """Names of the ONNX files that are `graphs`."""
        return {graph.file for graph in self.graphs.values()}

    def verified(self, artefact: str) -> bool | None:
        """Whether a file of the bundle, and everything it was made from, passed; None: never compared.

        Args:
            artefact: name of a graph or an engine, as in `files`.
        """
        if self.verification is None:
            return None
        stage = next((stage for stage in self.verification.stages if stage.artefact == artefact), None)
        passed: bool | None = True
        while stage is not None:
            if stage.status == "failed":
                return False
            if stage.status == "not run":
                passed = None
            if stage.against == "pytorch":
                return passed
            stage = self.verification.stage(stage.against)
        return None

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"


def graph_file(precision: Precision) -> str:
    """Name of the graph of a precision: ``model.onnx``, ``model.int8.onnx``."""
    return GRAPH_FILE if precision == "fp32" else f"model.{precision}.onnx"


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle folder.

    Raises:
        ProtosegError: the folder is no bundle, or its manifest is damaged.
    """
    settle(bundle)
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


def check_graph(bundle: Path, manifest: Manifest, precision: Precision) -> Path:
    """Path of a graph of the bundle, after comparing all its files with their checksums.

    Raises:
        UsageError: the bundle has no graph of that precision.
        ProtosegError: a file is missing, cut off or changed.
    """
    info = manifest.graphs.get(precision)
    if info is None:
        raise UsageError(
            f"{bundle} has no {precision} graph; it has {', '.join(manifest.graphs)}",
            f"Export it with `protoseg export RUN --bundle DIR --precision {','.join((*manifest.graphs, precision))}`.",
        )
    for name in info.files:
        check_file(bundle, manifest, name)
    return bundle / info.file


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Replace the manifest of a bundle in one step."""
    write_atomically(bundle / MANIFEST_FILE, manifest.to_json().encode())


def add_engine(bundle: Path, name: str, entry: EngineEntry) -> Manifest:
    """Note an engine that was built into a bundle; one of the same name is replaced.

    A verdict about an earlier engine of that name is dropped with it.

    Returns:
        The manifest as it is now.
    """
    manifest = read_manifest(bundle)
    verification = manifest.verification
    if verification is not None:
        changed = {entry.file, entry.graph} - manifest.files_of_graphs()
        stages = tuple(stage for stage in verification.stages if stage.artefact not in changed)
        passed = all(stage.status != "failed" for stage in stages)
        verification = verification.model_copy(update={"stages": stages, "passed": passed})
    added = {entry.file, entry.sidecar, entry.graph} - manifest.files_of_graphs()
    files = {**manifest.files, **{file: file_entry(bundle / file) for file in sorted(added)}}
    engines = {**manifest.engines, name: entry}
    manifest = manifest.model_copy(update={"engines": engines, "files": files, "verification": verification})
    write_manifest(bundle, manifest)
    return manifest


def file_entry(path: Path) -> FileEntry:
    return FileEntry(sha256=file_sha256(path), bytes=path.stat().st_size)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
