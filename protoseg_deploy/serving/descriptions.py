"""What a server tells of itself and its models, as the Open Inference Protocol and Triton's extensions have it."""

from typing import Any

from protoseg_deploy import __version__
from protoseg_deploy.bundles.contract import INPUT
from protoseg_deploy.serving.artefact import CLASS_MAP_PNG, IMAGE_PNG
from protoseg_deploy.serving.catalog import Catalog
from protoseg_deploy.serving.model import Model
from protoseg_deploy.serving.requests import DATATYPES

SERVER = "protoseg"
EXTENSIONS = ("binary_tensor_data", "model_configuration", "model_repository", "statistics")


def server_metadata() -> dict[str, Any]:
    return {"name": SERVER, "version": __version__, "extensions": list(EXTENSIONS)}


def model_metadata(model: Model) -> dict[str, Any]:
    """Names, types and shapes from the graph; -1: any. Parameters say what the artefact is, and what it takes."""
    artefact = model.artefact
    outputs = [
        {"name": port.name, "datatype": DATATYPES[port.dtype], "shape": list(artefact.output_shape(port))}
        for port in artefact.ports
    ]
    pictures = [name for name in artefact.outputs if name in (CLASS_MAP_PNG, IMAGE_PNG)]
    outputs += [{"name": name, "datatype": "BYTES", "shape": [-1]} for name in pictures]
    limits = {"max_pixels": str(model.limits.image_pixels), "max_request_bytes": str(model.limits.request_bytes)}
    return {
        "name": model.name,
        "versions": [model.version],
        "platform": "onnx",
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": list(artefact.input_shape())}],
        "outputs": outputs,
        "parameters": {**artefact.facts.to_parameters(), **limits},
    }


def model_config(model: Model) -> dict[str, Any]:
    """The configuration, as Triton's ``ModelConfig`` message in JSON; its ``dims`` leave the batch out."""
    metadata = model_metadata(model)

    def described(tensor: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": tensor["name"],
            "data_type": _config_type(tensor["datatype"]),
            "dims": tensor["shape"][1:] or [1],
        }

    return {
        "name": model.name,
        "platform": "",
        "backend": SERVER,
        "max_batch_size": model.limits.request_images,
        "input": [described(tensor) for tensor in metadata["inputs"]],
        "output": [described(tensor) for tensor in metadata["outputs"]],
        "instance_group": [
            {
                "name": model.name,
                "kind": "KIND_CPU" if model.artefact.device == "cpu" else "KIND_GPU",
                "count": len(model.artefact.instances),
            }
        ],
        "parameters": {key: {"string_value": value} for key, value in metadata["parameters"].items()},
    }


def model_statistics(model: Model) -> dict[str, Any]:
    """Counts and times, as Triton's ``ModelStatistics`` message in JSON."""
    found = model.statistics

    def duration(ns: int, count: int = found.succeeded) -> dict[str, int]:
        return {"count": count, "ns": ns}

    return {
        "name": model.name,
        "version": model.version,
        "last_inference": found.last_ms,
        "inference_count": found.images,
        "execution_count": round(found.executions),
        "inference_stats": {
            "success": duration(found.total_ns),
            "fail": duration(found.failed_ns, found.failed),
            "queue": duration(found.queue_ns),
            "compute_input": duration(found.input_ns),
            "compute_infer": duration(found.compute_ns),
            "compute_output": duration(found.output_ns),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": duration(found.batch_ns[size], round(images / size))}
            for size, images in sorted(found.batches.items())
        ],
    }


def repository_index(catalog: Catalog, *, ready_only: bool = False) -> list[dict[str, str]]:
    """All models; they are ready as long as they are there."""
    state = "UNAVAILABLE" if catalog.stopping else "READY"
    if ready_only and catalog.stopping:
        return []
    return [{"name": model.name, "version": model.version, "state": state, "reason": ""} for model in catalog.models()]


def _config_type(datatype: str) -> str:
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
