"""Names that people choose from; light to import, so that every `--help` knows them at once."""

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Backend = Literal["onnxruntime", "tensorrt-ep", "openvino"]
"""The inference backend: ONNX Runtime with its CPU or CUDA provider, with its TensorRT provider, or OpenVINO."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)
