"""What an exported graph says about itself, inside the ONNX file: enough to run it without the bundle around it."""

import json
from collections.abc import Mapping
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.recipe import ClassTable, Color, ImageReading

_PREFIX = "protoseg."

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


class Document(BaseModel):
    """Base of everything stored as JSON: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class Classes(Document):
    """The classes of a network in index order."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    binary: bool = False

    @classmethod
    def of(cls, table: ClassTable) -> Self:
        return cls(names=table.names, colors=table.colors, binary=table.binary)

    def table(self) -> ClassTable:
        return ClassTable(self.names, self.colors, self.binary)


class GraphMetadata(Document):
    """Metadata properties of an exported graph; each field is one property, its value written as JSON."""

    format: Literal[1] = 1
    program: str
    """Version of this program."""
    classes: Classes
    ignore_index: int
    mean: tuple[float, float, float]
    """Normalisation inside the graph, RGB, in units of 0..255."""
    std: tuple[float, float, float]
    input_scale: float
    """Scale at which the network sees the image; inside the graph."""
    reading: ImageReading = ImageReading()
    """How image files become the pixels the network was trained on; outside the graph."""
    fixed_size: tuple[int, int] | None
    """Height and width the graph is bound to; None: any."""
    precision: Precision
    parameters: int
    backbone: str
    decoder: str
    provenance: dict[str, Any]
    """Run, step, method, mIoU of the weights."""
    network_sha256: str
    """Digest of the network file the graph was made of."""

    def to_properties(self) -> dict[str, str]:
        content = self.model_dump(mode="json")
        return {_PREFIX + key: json.dumps(value, ensure_ascii=False) for key, value in content.items()}

    @classmethod
    def from_properties(cls, properties: Mapping[str, str], source: str) -> Self:
        """Read the properties back.

        Raises:
            ProtosegError: the graph was not exported by this program, or by a version that wrote them differently.
        """
        ours = {key.removeprefix(_PREFIX): value for key, value in properties.items() if key.startswith(_PREFIX)}
        if not ours:
            raise ProtosegError(
                f"{source} is an ONNX model, but none of this program: it does not say what its classes are",
                "Export one with `protoseg export RUN --bundle DIR`.",
            )
        try:
            return cls.model_validate({key: json.loads(value) for key, value in ours.items()})
        except (json.JSONDecodeError, ValidationError) as error:
            raise ProtosegError(
                f"{source}: its metadata cannot be read: {_first_fault(error)}",
                "It may come from another version of this program: export it again.",
            ) from None


def _first_fault(error: json.JSONDecodeError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        details = error.errors(include_url=False)[0]
        return f"{'.'.join(str(part) for part in details['loc'])}: {details['msg']}"
    return str(error)
