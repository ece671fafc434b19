"""Faults to plant into the graphs of a bundle, each signed again as somebody would who built it wrongly."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.models import Segmenter

Fault = Callable[[onnx.ModelProto], None]


def edit_graph(bundle: Path, name: str, edit: Fault) -> None:
    """Change a graph and make the manifest agree with it."""
    model = onnx.load(bundle / name)
    edit(model)
    onnx.checker.check_model(model)
    onnx.save(model, bundle / name)
    manifest = Bundle.open(bundle).manifest
    Bundle.create(bundle, manifest.model_copy(update={"files": {**manifest.files, name: file_entry(bundle / name)}}))


def swap_red_and_blue(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0]), "bgr"))
    for node in model.graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    gather = onnx.helper.make_node("Gather", ["images", "bgr"], ["swapped"], name="swap", axis=3)
    model.graph.node.insert(0, gather)


def forget_the_mean(model: onnx.ModelProto) -> None:
    names = [entry for entry in model.graph.initializer if entry.name == "segmenter.mean"]
    assert len(names) == 1
    zero = np.zeros_like(numpy_helper.to_array(names[0]))
    names[0].CopyFrom(numpy_helper.from_array(zero, names[0].name))


def align_the_corners(model: onnx.ModelProto) -> None:
    """Of every upsampling: the classic between frameworks."""
    modes = [
        attribute
        for node in model.graph.node
        if node.op_type == "Resize"
        for attribute in node.attribute
        if attribute.name == "coordinate_transformation_mode"
    ]
    assert modes
    for mode in modes:
        mode.s = b"align_corners"


def double_a_scale(model: onnx.ModelProto) -> None:
    """Of the weights of the convolution in the middle of the network."""
    initializers = {entry.name: entry for entry in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    convolutions = [
        made_by[node.input[1]]
        for node in model.graph.node
        if node.op_type == "Conv" and made_by.get(node.input[1], node).op_type == "DequantizeLinear"
    ]
    assert len(convolutions) > 3
    scale = initializers[convolutions[len(convolutions) // 2].input[1]]
    scale.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(scale), scale.name))


@torch.no_grad()
def beyond_fp16(segmenter: Segmenter) -> None:
    """Blow up what one layer gives and take it back in the next: the same function in float32, too large for fp16."""
    norms = [module for module in segmenter.decoder.modules() if isinstance(module, nn.BatchNorm2d)]
    factor = 1e5
    norms[0].weight.mul_(factor)
    norms[0].bias.mul_(factor)
    segmenter.head.weight[:, : norms[0].num_features].div_(factor)
