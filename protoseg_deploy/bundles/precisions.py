"""Everything that is particular to a precision, in one table."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from protoseg_deploy.bundles.verdicts import Limits
from protoseg_deploy.choices import PRECISIONS, Precision


@dataclass(frozen=True)
class LowType:
    """A floating-point type of 16 bits, for graphs that are cast to it."""

    element_type: int
    """ONNX's number of it."""
    onnx_name: str
    array_type: Any
    """NumPy's."""
    opset: int
    """The first one whose convolutions and poolings take it."""
    largest: float
    smallest: float
    """Smallest number with all its digits."""
    kept_operators: frozenset[str] = frozenset()
    """Operators for which TensorRT does not have the type."""


@dataclass(frozen=True)
class PrecisionSpec:
    """One precision of graphs and engines."""

    limits: Limits
    """What a graph has to keep against the one it was made from. An engine may round as fp16 does even in fp32 (TF32):
    it is held to the limits of its precision, but not to stricter ones than those of fp16."""
    sound_db: float
    """Signal-to-noise ratio one sound operation reaches on exact inputs; below it, the inputs limit the output."""
    tensorrt_name: str
    """Of the type in TensorRT's network definitions."""
    tensorrt_text: re.Pattern[str]
    """How inspectors of TensorRT 10 and 11 write it: "Half", "Channel major FP16 format where …", "Int8"."""
    openvino_names: frozenset[str]
    """Of the types in OpenVINO's reports that are computed as this precision."""
    openvino_hint: str = "f32"
    """What OpenVINO is asked to compute in what the graph leaves in floating point."""
    tensorrt_since: str = ""
    """Compute capability of the first GPUs that have it; empty: all have."""
    emulated_by: Mapping[str, str] = field(default_factory=dict)
    """Providers of ONNX Runtime that compute it in float32, and what is to be said about that."""
    low_type: LowType | None = None


_ROUNDED = "computed in float32, every result rounded to its type"
_IN_FLOAT = "computed in floating point between quantisation and dequantisation"

SPECS: Mapping[Precision, PrecisionSpec] = {
    "fp32": PrecisionSpec(
        limits=Limits(min_agreement_percent=99.9, max_relative_margin=1e-2, max_miou_drop_points=0.1),
        sound_db=110.0,
        tensorrt_name="FLOAT",
        tensorrt_text=re.compile(r"\bfp32\b|\bfloat\b|\bf32\b", re.IGNORECASE),
        openvino_names=frozenset({"f32"}),
    ),
    "fp16": PrecisionSpec(
        limits=Limits(min_agreement_percent=99.5, max_relative_margin=0.05, max_miou_drop_points=0.2),
        sound_db=65.0,
        tensorrt_name="HALF",
        tensorrt_text=re.compile(r"\bfp16\b|\bhalf\b|\bf16\b", re.IGNORECASE),
        openvino_names=frozenset({"f16"}),
        openvino_hint="f16",
        emulated_by={"cpu": _ROUNDED},
        low_type=LowType(TensorProto.FLOAT16, "tensor(float16)", np.float16, 18, 65504.0, 2.0**-14),
    ),
    "bf16": PrecisionSpec(
        limits=Limits(min_agreement_percent=99.0, max_relative_margin=0.5, max_miou_drop_points=0.5),
        sound_db=45.0,
        tensorrt_name="BF16",
        tensorrt_text=re.compile(r"bf16|bfloat16", re.IGNORECASE),
        openvino_names=frozenset({"bf16"}),
        openvino_hint="bf16",
        tensorrt_since="8.0",
        emulated_by={"cpu": _ROUNDED},
        low_type=LowType(
            TensorProto.BFLOAT16,
            "tensor(bfloat16)",
            ml_dtypes.bfloat16,
            22,
            3.3895e38,
            2.0**-126,
            frozenset({"HardSwish", "Mish", "ConvTranspose"}),
        ),
    ),
    "int8": PrecisionSpec(
        limits=Limits(min_agreement_percent=90.0, max_relative_margin=None, max_miou_drop_points=1.0),
        sound_db=35.0,
        tensorrt_name="INT8",
        tensorrt_text=re.compile(r"\bint8\b|\bi8\b", re.IGNORECASE),
        openvino_names=frozenset({"i8", "u8"}),
        emulated_by={"cuda": _IN_FLOAT},
    ),
}
assert tuple(SPECS) == PRECISIONS


def low_type(precision: Precision) -> LowType:
    """The type of 16 bits of a precision that has one."""
    found = SPECS[precision].low_type
    assert found is not None, precision
    return found
