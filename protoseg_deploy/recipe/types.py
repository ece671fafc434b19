"""Types of values, and what every section of a recipe has in common."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, GetCoreSchemaHandler, Strict
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from protoseg_deploy.files import path_fault
from protoseg_deploy.text import printable


def _plain(text: str) -> str:
    """Names end up in tables, JSON, pictures and ONNX metadata."""
    if not text.strip():
        raise ValueError("an empty name")
    if len(text) > 200:
        raise ValueError(f"a name of {len(text):,} characters")
    if printable(text) != text or "\n" in text or "\t" in text:
        raise ValueError(f"{text!r} holds characters that cannot be shown")
    return text


def _path(text: str) -> str:
    if fault := path_fault(text):
        raise ValueError(fault)
    return text


# Bounds far beyond any use: what lies outside is a slip, or does not fit into memory, float32 or int64.
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(ge=1e-12, le=1e9)]
NonNegative = Annotated[float, Field(ge=0.0, le=1e9)]
Count = Annotated[int, Field(ge=1, le=10**12)]
MOST_STEPS = 99_999_999
"""Of a run; names of checkpoints have eight digits."""
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Images = Annotated[int, Field(ge=1, le=65_536)]
"""In a batch."""
Side = Annotated[int, Field(ge=16, le=65_536)]
"""Of a square, in pixels."""
Resize = Annotated[float, Field(ge=0.01, le=100.0)]
Dilation = Annotated[int, Field(ge=1, le=4096)]
Channels = Annotated[int, Field(ge=8, le=65_536)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Byte = Annotated[int, Field(ge=0, le=255)]
Color = Annotated[tuple[Byte, Byte, Byte], Strict(False)]  # YAML has lists only
Name = Annotated[str, AfterValidator(_plain)]
PathText = Annotated[str, AfterValidator(_path)]
ClassNames = Annotated[list[Name], Field(min_length=1, max_length=10_000)]
Band = Annotated[int, Field(ge=1, le=65_535)]
AlphaPolicy = Literal["auto", "apply", "ignore"]
ExifPolicy = Literal["apply", "ignore"]
ValueRange = Annotated[tuple[float, float], Strict(False)]


@dataclass(frozen=True)
class Mark:
    """What is to be said of a key beside its meaning."""

    unit: str = ""
    """Of its value."""
    may_change: bool = False
    """It may have a new value when a run resumes: it does not change what is computed."""
    written_by: str = ""
    """The command that sets it; nobody else does."""


MAY_CHANGE = Mark(may_change=True)


@dataclass(frozen=True)
class Choice:
    """One of some names that need not be known when the models are defined."""

    names: Callable[[], Sequence[str]]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._known, handler(source))

    def _known(self, name: str) -> str:
        names = self.names()
        if name not in names:
            *others, last = (repr(known) for known in names)
            raise PydanticCustomError(
                "literal_error", "not a known name", {"expected": f"{', '.join(others)} or {last}"}
            )
        return name


class Section(BaseModel):
    """Base of every part of a recipe: unknown keys are errors, values are of their type and never change."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
