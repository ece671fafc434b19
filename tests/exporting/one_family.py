"""A network of any backbone, exported and compared with PyTorch."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from protoseg_deploy.errors import UsageError
from protoseg_deploy.exporting.tracing.onnx_export import GraphOptions, export_onnx
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, Segmenter, build_segmenter, require_deployable
from protoseg_deploy.recipe import Model
from tests.exporting.families import CLASSES, liven, metadata, pictures


def deployable_spec(backbone: str) -> NetworkSpec:
    """A network with the decoder ``lraspp``, or ``fpn`` on a plain ViT.

    Raises:
        UsageError: no network can be built with this backbone, or it could not be exported.
    """
    model = Model(backbone=backbone, weights="none", decoder="lraspp", decoder_channels=16)
    try:
        require_deployable(model)
    except UsageError as error:
        if "plain ViT" not in error.message:
            raise
        model = model.model_copy(update={"decoder": "fpn"})
        require_deployable(model)
    return NetworkSpec(model, CLASSES)


def random_network(spec: NetworkSpec) -> Segmenter:
    """Random weights of a scale with which classes vary over an image; in eval mode."""
    torch.manual_seed(0)
    segmenter = build_segmenter(spec)
    liven(segmenter)
    return segmenter.eval()


def export_network(segmenter: Segmenter, spec: NetworkSpec, path: Path, size: tuple[int, int] | None = None) -> None:
    """Write the graph, for images of any size or of one."""
    options = GraphOptions(size)
    export_onnx(segmenter, spec, metadata(segmenter, spec, options), path, options)


def class_maps_agree(path: Path, segmenter: Segmenter, size: tuple[int, int]) -> float:
    """Share of the pixels to which ONNX Runtime and PyTorch give the same class; 0 where all are of one class."""
    images = pictures(1, *size)
    with torch.inference_mode():
        expected = DeployedSegmenter(segmenter).eval()(torch.from_numpy(images))[0].numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(["class_map"], {"images": images})[0]
    return float(np.mean(found == expected)) if len(np.unique(expected)) > 1 else 0.0
