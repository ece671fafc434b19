"""A network of any backbone, exported and compared with PyTorch."""

from pathlib import Path

import numpy as np
import onnxruntime
import torch

from protoseg_deploy.errors import UsageError
from protoseg_deploy.exporting.tracing.onnx_export import GraphOptions, export_onnx
from protoseg_deploy.models import DeployedSegmenter, NetworkSpec, build_segmenter, require_deployable
from protoseg_deploy.recipe import Model
from tests.exporting.families import CLASSES, Family, metadata, pictures


def buildable_model(family: Family) -> Model:
    """The ``model`` section of a family; with the decoder ``fpn`` for plain ViTs, whatever the family says.

    Raises:
        UsageError: no segmentation network can be built of it and exported.
    """
    model = Model(backbone=family.backbone, weights="none", decoder=family.decoder, decoder_channels=16)
    try:
        require_deployable(model)
    except UsageError as error:
        if "plain ViT" not in error.message:
            raise
        model = model.model_copy(update={"decoder": "fpn"})
        require_deployable(model)
    return model


def export_family(family: Family, path: Path) -> DeployedSegmenter:
    """Export a network with random weights, as `buildable_model` gives it.

    Returns:
        What was exported.
    """
    torch.manual_seed(0)
    spec, options = NetworkSpec(buildable_model(family), CLASSES), GraphOptions(family.size)
    segmenter = build_segmenter(spec).eval()
    export_onnx(segmenter, spec, metadata(segmenter, spec, options), path, options)
    return DeployedSegmenter(segmenter).eval()


def class_maps_agree(path: Path, deployed: DeployedSegmenter, size: tuple[int, int]) -> float:
    """Share of the pixels to which ONNX Runtime and PyTorch give the same class."""
    images = pictures(1, *size)
    with torch.inference_mode():
        expected = deployed(torch.from_numpy(images))[0].numpy()
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return float(np.mean(session.run(["class_map"], {"images": images})[0] == expected))
