"""``manifest.json``: what a bundle is, where it comes from, which files belong to it, and whether it was verified.

Every file it names lies inside the bundle and has a checksum, which is compared whenever the file is used. A verdict
holds for the files that were compared: it names their digests, and says nothing of files that took their place.
"""

import json
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from protoseg_deploy.bundles.digests import joint_digest
from protoseg_deploy.bundles.metadata import Classes, Document, Informative, Scale, Sides
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.choices import Precision
from protoseg_deploy.recipe import ClassTable, Color, ImageReading, MaskReading

MANIFEST_FILE = "manifest.json"
GRAPH_FILE = "model.onnx"
"""The fp32 graph; see `graph_file` for the others."""
REFERENCE_FILE = "reference.safetensors"
CARD_FILE = "MODEL_CARD.md"
"""For people, who may edit it: it has no checksum."""
ENGINE_FOLDER = "engines"
VERIFICATION_FOLDER = "verification"

Axis = int | str
HINT = "Export the bundle again."


def _inside(name: str) -> str:
    """A path as manifests write it: relative, with slashes, below the bundle, alike on every system."""
    strange = set(name) & set('\\:<>"|?*') or not name.isprintable()
    if strange or any(not part or part.rstrip(" .") != part for part in name.split("/")):
        raise ValueError(f"{name[:200]!r} is not a path of a file inside the bundle")
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
