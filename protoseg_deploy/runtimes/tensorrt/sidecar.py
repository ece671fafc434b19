"""What is known of an engine, in a JSON file beside it, and the checks before an engine is loaded.

An engine is bound to a version of the library, to GPUs and to a range of shapes. The libraries tell so late, in their
own words or not at all; everything they would refuse is refused here first.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.metadata import Document, GraphMetadata, Side
from protoseg_deploy.choices import Precision
from protoseg_deploy.documents import read_document
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.files import write_atomically
from protoseg_deploy.runtimes.tensorrt.library import LIBRARY_NAMES, EngineKind

Shape = tuple[Side, Side, Side]
"""Batch, height, width."""

AMPERE = (8, 0)
"""First compute capability that portable engines run on, and the first with bf16."""


class Profile(Document):
    """Shapes of the input an engine takes."""

    min: Shape
    opt: Shape
    """The shape it is fastest at."""
    max: Shape

    def fixed_size(self) -> tuple[int, int] | None:
        """Height and width, if it takes only one."""
        return self.min[1:] if self.min[1:] == self.max[1:] else None

    def __str__(self) -> str:
        return ",".join("x".join(map(str, shape)) for shape in (self.min, self.opt, self.max))


class LayerTable(Document):
    """In which precision the layers of an engine compute."""

    evidence: Literal["engine", "network"]
    """``engine``: read from the built engine. ``network``: from the types of the network it was built from, which a
    strongly typed engine has to keep; all there is where no GPU can load the engine."""
    heavy: dict[str, int]
    """Convolutions and matrix products by precision."""
    layers: dict[str, dict[str, int]]
    """All layers by kind and precision."""
    wider: tuple[str, ...]
    """Convolutions and matrix products in a higher precision than asked for."""


class EngineSidecar(Document):
    """Content of ``<engine>.json``."""

    format: Literal[1] = 1
    engine: EngineKind
    library_version: str
    precision: Precision
    graph: str
    """File name of the ONNX graph."""
    graph_sha256: dict[str, str]
    """Digest of each of its files: the graph, and the file of its weights where they lie outside."""
    engine_sha256: str
    engine_bytes: Annotated[int, Field(ge=0)]
    targets: tuple[str, ...]
    """Compute capabilities it was built for, such as ``8.6``; empty: any from 8.0 on."""
    gpu: str | None
    """GPU it was built on."""
    driver: str | None
    profile: Profile
    workspace_bytes: int | None
    """Limit of scratch memory; None: the library's own."""
    version_compatible: bool
    hardware_compatible: bool
    layers: LayerTable
    build_seconds: float
    metadata: GraphMetadata
    """Copied from the graph."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        profile = self.profile
        if not all(a <= b <= c for a, b, c in zip(profile.min, profile.opt, profile.max, strict=True)):
            raise ValueError(f"the profile {profile} is not in the order smallest, best, largest")
        if self.precision != self.metadata.precision:
            raise ValueError(f"precision is {self.precision}, and that of the graph {self.metadata.precision}")
        return self

    @property
    def library(self) -> str:
        return f"{LIBRARY_NAMES[self.engine]} {self.library_version}"


def sidecar_file(engine: Path) -> Path:
    return engine.with_suffix(".json")


def write_sidecar(engine: Path, sidecar: EngineSidecar) -> None:
    write_atomically(sidecar_file(engine), (sidecar.model_dump_json(indent=2) + "\n").encode())


def read_sidecar(engine: Path) -> EngineSidecar:
    """Read the sidecar of an engine file.

    Raises:
        ProtosegError: there is none, or it is damaged.
    """
    path = sidecar_file(engine)
    try:
        return read_document(path, EngineSidecar, "Build the engine again with `protoseg build`.")
    except FileNotFoundError as error:
        raise ProtosegError(
            f"{engine} cannot be used without {path.name} beside it: {error.strerror}",
            "Copy both files, or build the engine again with `protoseg build`.",
        ) from None


def check_engine_file(engine: Path, sidecar: EngineSidecar) -> None:
    """Refuse an engine file that is not the one its sidecar describes.

    Raises:
        ProtosegError: it is missing, truncated or changed.
    """
    if not engine.is_file():
        raise ProtosegError(f"no such file: {engine}")
    if engine.stat().st_size != sidecar.engine_bytes or file_sha256(engine) != sidecar.engine_sha256:
        raise ProtosegError(
            f"{engine} is not the engine that {sidecar_file(engine).name} describes: its checksum differs",
            "It was damaged or replaced: copy both files again, or build it again with `protoseg build`.",
        )


def check_version(engine: Path, sidecar: EngineSidecar, version: str) -> None:
    """Refuse another version of the library than the engine was built with.

    Version-compatible engines run under later versions with the same major number.

    Args:
        engine: for the message.
        sidecar: of the engine.
        version: of the library that is installed.

    Raises:
        UsageError: the engine does not run under that version.
    """
    built, found = _numbers(sidecar.library_version), _numbers(version)
    if built == found or (sidecar.version_compatible and built[0] == found[0] and found > built):
        return
    hint = f"Install {sidecar.library}, or build the engine again with `protoseg build`."
    if sidecar.engine == "tensorrt" and built[0] == found[0] and found > built:
        hint += " Engines built with --version-compatible also run under later versions of the same major number."
    raise UsageError(
        f"{engine} was built with {sidecar.library}; installed is {LIBRARY_NAMES[sidecar.engine]} {version}", hint
    )


def check_gpu(engine: Path, sidecar: EngineSidecar, capability: tuple[int, int], gpu: str) -> None:
    """Refuse a GPU the engine was not built for.

    Args:
        engine: for the message.
        sidecar: of the engine.
        capability: compute capability of the GPU.
        gpu: its name.

    Raises:
        UsageError: the engine does not run on it.
    """
    portable = sidecar.hardware_compatible or not sidecar.targets
    here = f"{capability[0]}.{capability[1]}"
    if here in sidecar.targets or (portable and capability >= AMPERE):
        return
    wanted = "8.0 and later" if portable else " and ".join(sidecar.targets)
    raise UsageError(
        f"{engine} was built for GPUs of compute capability {wanted}; this is a {gpu} ({here})",
        "Build it again on this machine."
        if sidecar.engine == "tensorrt"
        else f"Build it again with --target-sm {','.join([*sidecar.targets, here])}.",
    )


def check_shape(engine: Path, profile: Profile, shape: Shape) -> None:
    """Refuse a batch that the optimisation profile does not cover.

    Raises:
        UsageError: batch, height or width is too small or too large.
    """
    for name, found, least, most in zip(("batch", "height", "width"), shape, profile.min, profile.max, strict=True):
        if not least <= found <= most:
            allowed = f"{least}" if least == most else f"{least} to {most}"
            raise UsageError(
                f"{engine} takes a {name} of {allowed}; got {found}",
                f"Its profile is {profile} (smallest, best, largest batch x height x width). Build it with another "
                "--profile, or predict in tiles.",
            )


def _numbers(version: str) -> tuple[int, ...]:
    """``10.13.3.9.post1`` as (10, 13, 3, 9)."""
    parts = version.split(".")
    return tuple(int(part) for part in parts[:4] if part.isdecimal())
