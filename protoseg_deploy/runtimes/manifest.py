"""``manifest.json``: what a bundle is, where it comes from, which files belong to it, and whether it was verified.

Every file it names lies inside the bundle and has a checksum, which is compared whenever the file is used. A verdict
holds for the files that were compared: it names their digests, and says nothing of files that took their place.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exchange import LOCK_FILE, settle
from protoseg_deploy.files import remove_scratch, write_atomically
from protoseg_deploy.locks import sole_writer
from protoseg_deploy.recipe import ClassTable, Color, ImageReading, MaskReading
from protoseg_deploy.runtimes.metadata import Classes, Document, Informative, Precision, Scale, Sides
from protoseg_deploy.runtimes.verdicts import StageVerdict, Verification

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
"""The fp32 graph; see `graph_file` for the others."""
REFERENCE_FILE = "reference.safetensors"
ENGINE_FOLDER = "engines"

Axis = int | str
_HINT = "Export the bundle again."


def _inside(name: str) -> str:
    """A path as manifests write it: relative, with slashes, below the bundle, alike on every system."""
    strange = set(name) & set('\\:<>"|?*') or not name.isprintable()
    if strange or any(not part or part.rstrip(" .") != part for part in name.split("/")):
        raise ValueError(f"{name[:200]!r} is no path of a file inside the bundle")
    return name


FileName = Annotated[str, AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class InputSpec(Document):
    """The one input of the graph. Nothing has to be done to an image but to decode it, as `reading` says."""

    name: str = "images"
    dtype: Literal["uint8"] = "uint8"
    layout: Literal["NHWC"] = "NHWC"
    color: Literal["RGB"] = "RGB"
    range: tuple[int, int] = (0, 255)
    shape: tuple[Axis, ...]
    """Numbers are fixed, names are dynamic."""
    fixed_size: Sides | None
    """Height and width; None: any."""
    input_scale: Scale
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
    training: Informative
    """What the network file says of itself: step, method, metric."""
    versions: dict[str, str]
    """Of this program and the libraries that made the graph."""


class FileEntry(Document):
    sha256: Sha256
    bytes: Annotated[int, Field(ge=0)]


class GraphInfo(Document):
    """One ONNX graph of the bundle; they all have the same inputs and outputs."""

    file: FileName
    files: tuple[FileName, ...]
    """The graph and, above 2 GB, the file of its weights."""
    opset: int
    conversion: Informative = Field(default_factory=dict)
    """How it was made from the fp32 graph: what was kept in a higher precision, what int8 was calibrated on."""


class EngineEntry(Document):
    """One compiled engine; its sidecar says the rest."""

    file: FileName
    sidecar: FileName
    precision: Precision
    graph: FileName
    """File it was built from."""
    engine: Literal["tensorrt", "tensorrt-rtx"]


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
    files: dict[FileName, FileEntry]
    verification: Verification | None = None
    """None: never verified."""

    def mask_reading(self) -> MaskReading:
        """How masks that go with the network are read."""
        return self.masks.reading(self.classes.table(), self.input.reading)

    @model_validator(mode="after")
    def _every_file_has_a_checksum(self) -> Self:
        for precision, graph in self.graphs.items():
            if graph.file not in graph.files:
                raise ValueError(f"graphs.{precision}.files does not hold {graph.file}")
        named = {name for graph in self.graphs.values() for name in graph.files}
        named |= {name for entry in self.engines.values() for name in (entry.file, entry.sidecar, entry.graph)}
        missing = sorted(named - self.files.keys())
        if missing:
            raise ValueError(f"files holds no checksum of {missing[0]}")
        return self

    def files_of_graphs(self) -> set[str]:
        """Names of the ONNX files that are `graphs`."""
        return {graph.file for graph in self.graphs.values()}

    def digest_of(self, artefact: str) -> str | None:
        """SHA-256 of a file by its checksum in `files`; of a graph, over those of all its files.

        Args:
            artefact: name as in `files`, also with ``@LIBRARY`` behind it; see `verified_as`.

        Returns:
            None for a file that the manifest does not name.
        """
        name = artefact if artefact in self.files else artefact.rpartition("@")[0]
        graph = next((graph for graph in self.graphs.values() if graph.file == name), None)
        parts = (name,) if graph is None else graph.files
        entries = [self.files.get(part) for part in parts]
        return joint_digest([entry.sha256 if entry else None for entry in entries])

    def digest_of_stage(self, stage: str) -> str | None:
        """Of the artefact of an earlier stage; ``pytorch`` is the network file."""
        if stage == "pytorch":
            return self.digest_of(REFERENCE_FILE)
        verdict = None if self.verification is None else self.verification.stage(stage)
        return None if verdict is None else self.digest_of(verdict.artefact)

    def verified(self, artefact: str) -> bool | None:
        """Whether a file of the bundle, and everything it was made from, passed; None: never compared.

        A verdict about other files than the manifest lists, as their digests say, is none. Verdicts of versions that
        noted no digests are taken to be about the files listed beside them.

        Args:
            artefact: name of a graph or an engine, as in `files`.
        """
        if self.verification is None:
            return None
        stage = next((stage for stage in self.verification.stages if stage.artefact == artefact), None)
        passed: bool | None = True
        seen: set[str] = set()
        while stage is not None and stage.stage not in seen and self.is_about_these_files(stage):
            seen.add(stage.stage)
            if stage.status == "failed":
                return False
            if stage.status == "not run":
                passed = None
            if stage.against == "pytorch":
                return passed
            stage = self.verification.stage(stage.against)
        return None

    def is_about_these_files(self, verdict: StageVerdict) -> bool:
        """Whether the files that were compared are the ones in `files`; so are those of a verdict without digests."""
        pairs = (
            (verdict.artefact_sha256, self.digest_of(verdict.artefact)),
            (verdict.against_sha256, self.digest_of_stage(verdict.against)),
        )
        return all(noted in (None, listed) for noted, listed in pairs)

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def graph_file(precision: Precision) -> str:
    """Name of the graph of a precision: ``model.onnx``, ``model.int8.onnx``."""
    return GRAPH_FILE if precision == "fp32" else f"model.{precision}.onnx"


def read_manifest(bundle: Path) -> Manifest:
    """Read the manifest of a bundle folder.

    Raises:
        ProtosegError: the folder is no bundle, or its manifest is damaged.
    """
    settle(bundle)
    try:
        if bundle.is_dir():
            return read_document(bundle / MANIFEST_FILE, Manifest, _HINT)
    except FileNotFoundError:
        pass
    raise ProtosegError(
        f"{bundle} is not a bundle: it has no {MANIFEST_FILE}",
        "Bundles are folders written by `protoseg export RUN --bundle DIR`.",
    )


def check_file(bundle: Path, manifest: Manifest, name: str) -> Path:
    """Path of a file of the bundle, after comparing it with its checksum.

    Raises:
        ProtosegError: the file is missing, cut off, changed, or a link to a file outside the bundle.
    """
    path = bundle / name
    entry = manifest.files.get(name)
    if entry is None:
        raise ProtosegError(f"{bundle / MANIFEST_FILE} does not list {name}", _HINT)
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "is missing from the bundle"
        raise ProtosegError(f"{path} {what}", _HINT)
    if not path.resolve().is_relative_to(bundle.resolve()):
        raise ProtosegError(
            f"{path} is a link to a file outside the bundle", "Copy the bundle with the files that its links point to."
        )
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


@contextmanager
def changing(bundle: Path) -> Iterator[Manifest]:
    """The manifest of a bundle, which nobody else changes, and no export exchanges, until the end of the block.

    Raises:
        ProtosegError: the folder is no bundle, or another process does not let go of it.
    """
    read_manifest(bundle)
    with sole_writer(bundle / LOCK_FILE, str(bundle), wait_s=60):
        remove_scratch(bundle)
        yield read_manifest(bundle)


def write_manifest(bundle: Path, manifest: Manifest) -> None:
    """Replace the manifest of a bundle in one step."""
    write_atomically(bundle / MANIFEST_FILE, manifest.to_json().encode())


def add_engine(bundle: Path, name: str, entry: EngineEntry) -> Manifest:
    """Note an engine that was built into a bundle; one of the same name is replaced.

    A verdict about an earlier engine of that name is dropped with it.

    Returns:
        The manifest as it is now.
    """
    with changing(bundle) as manifest:
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


def joint_digest(digests: Sequence[str | None]) -> str | None:
    """One SHA-256 for several files by theirs, in order; of one file its own. None where one is unknown."""
    known = [digest for digest in digests if digest is not None]
    if len(known) < len(digests) or not known:
        return None
    return known[0] if len(known) == 1 else hashlib.sha256("".join(known).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
