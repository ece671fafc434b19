"""No library reports home: usage reports of what we build on are switched off before it is loaded.

ONNX Runtime (from 1.29 on, on Linux too), OpenVINO and MLflow send usage reports unless told otherwise, Hugging Face's
hub adds them to downloads, and W&B reports its errors. Each is told in the way it documents or provides for, in this
process and, through the environment, in those it starts. Nothing of the user's is changed: no file of consent is
written.
"""

import os
import sys

_SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}
"""Read by ONNX Runtime when it is loaded; by ``huggingface_hub``, which timm downloads with; by trackers."""


def switch_off_telemetry() -> None:
    """Called before anything else of the package is imported."""
    os.environ.update(_SWITCHES)
    # OpenVINO reports its own import. Where this package is missing it takes a stub that does nothing; its switches are
    # a file in the user's home and being run by a CI service.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
