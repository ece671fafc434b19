"""Names that people choose from; light to import, so that every `--help` knows them at once."""

from typing import Literal, get_args

Precision = Literal["fp32", "fp16", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

Backend = Literal["onnxruntime", "tensorrt-ep", "openvino"]
"""The inference backend: ONNX Runtime with its CPU or CUDA provider, with its TensorRT provider, or OpenVINO."""
BACKENDS: tuple[Backend, ...] = get_args(Backend)

ANNOTATION_FORMATS = (
    "coco", "labelme", "cvat", "label-studio", "yolo", "supervisely", "cityscapes", "voc", "color-masks",
    "binary-masks",
)  # fmt: skip
"""What `convert` reads."""

PRE_ANNOTATION_FORMATS = ("coco", "cvat", "labelme", "labelstudio")
"""What `predict --format` writes."""
