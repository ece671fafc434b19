"""What an exported graph says about itself, inside the ONNX file: enough to run it without the bundle around it."""

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from protoseg_deploy.choices import Precision
from protoseg_deploy.documents import first_fault, parse_document
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.recipe import ClassTable, Color, ImageReading

_PREFIX = "protoseg."
_MOST_BYTES = 4 * 2**20
"""Of one property; thousands of classes take less."""
_HINT = "It may come from another version of this program: export it again."


class Document(BaseModel):
    """Base of everything stored as JSON: unknown keys are errors, values never change, numbers are finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=(), allow_inf_nan=False
    )


def finite_values(value: Any) -> Any:
    """The same JSON value with null in place of NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: finite_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite_values(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


Informative = Annotated[dict[str, Any], AfterValidator(finite_values)]
"""Values for people, which nothing is computed from."""
Positive = Annotated[float, Field(gt=0)]
Scale = Annotated[float, Field(gt=0, le=4)]
Side = Annotated[int, Field(ge=1)]
Sides = tuple[Side, Side]
"""Height and width in pixels."""


class Classes(Document):
    """The classes of a network in index order."""

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    binary: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        fault = self.table().fault()
        if fault is not None:
            raise ValueError(fault)
        return self

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
    ignore_index: Annotated[int, Field(ge=0, le=255)]
    mean: tuple[float, float, float]
    """Normalisation inside the graph, RGB, in units of 0..255."""
    std: tuple[Positive, Positive, Positive]
    input_scale: Scale
    """Scale at which the network sees the image; inside the graph."""
    reading: ImageReading = ImageReading()
    """How image files become the pixels the network was trained on; outside the graph."""
    fixed_size: Sides | None
    """Height and width the graph is bound to; None: any."""
    precision: Precision
    parameters: int
    backbone: str
    decoder: str
    provenance: Informative
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
        ours = {key[len(_PREFIX) :]: value for key, value in properties.items() if str(key).startswith(_PREFIX)}
        if not ours:
            raise ProtosegError(
                f"{source} is an ONNX model, but not of this program: it has no class metadata",
                "Export one with `protoseg export RUN --bundle DIR`.",
            )
        content = {}
        for key, value in ours.items():
            if len(value) > _MOST_BYTES:
                raise ProtosegError(f"{source}: its metadata cannot be read: {key} has {len(value)} bytes", _HINT)
            content[key] = parse_document(value, f"{source}: its metadata {key}", _ANY, _HINT)
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise ProtosegError(f"{source}: its metadata cannot be read: {first_fault(error)}", _HINT) from None


_ANY: TypeAdapter[Any] = TypeAdapter(Any)
