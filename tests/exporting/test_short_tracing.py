"""Parts of backbones that are traced in another way than timm computes them."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from onnxscript.rewriter import RewriteRule, rewrite
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.pool2d_same import AvgPool2dSame, MaxPool2dSame

from protoseg_deploy.exporting.tracing.padding import constant_same_padding
from protoseg_deploy.exporting.tracing.resampling import translations
from protoseg_deploy.exporting.tracing.rewriting import quick_mismatches
from protoseg_deploy.exporting.tracing.window_attention import counted_windows, gather_windows
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Model


@pytest.mark.parametrize("kernel", [2, 3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 2), (2, 1), (4, 1)])
def test_same_padding_is_that_of_timm(kernel: int, stride: int, dilation: int) -> None:
    torch.manual_seed(0)
    layers = [Conv2dSame(3, 4, kernel, stride, dilation=dilation)]
    layers += [pool(kernel, stride) for pool in (AvgPool2dSame, MaxPool2dSame) if dilation == 1]
    for layer in layers:
        for height, width in ((16, 24), (8, 40), (15, 9), (1, 5)):
            images = torch.randn(2, 3, height, width)
            expected = layer(images)
            with constant_same_padding():
                found = layer(images)
            assert torch.equal(found, expected)


class Stem(torch.nn.Module):
    """Two layers with SAME padding, of images that are padded to a multiple of their strides."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(Conv2dSame(3, 4, 5, 2), MaxPool2dSame(3, 2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        below, right = ((side + 3) // 4 * 4 - side for side in images.shape[2:])
        return self.layers(torch.nn.functional.pad(images, (0, right, 0, below)))


def test_same_padding_is_traced_as_constants() -> None:
    axis = torch.export.Dim.DYNAMIC
    with constant_same_padding():
        traced = torch.export.export(
            Stem(), (torch.randn(2, 3, 13, 18),), dynamic_shapes=({0: axis, 2: axis, 3: axis},)
        )
    pads = [node.args[1] for node in traced.graph.nodes if node.target == torch.ops.aten.pad.default]
    assert pads[1:] == [[1, 2, 1, 2], [0, 1, 0, 1]]
    assert not all(isinstance(number, int) for number in pads[0])


def test_images_are_padded_where_layers_pad_by_size() -> None:
    def multiple(backbone: str, **more: int) -> int:
        with torch.device("meta"):
            return Segmenter(
                Model(backbone=backbone, weights="none", decoder="lraspp", **more), 2
            ).backbone.size_multiple

    assert multiple("tf_efficientnet_lite0", output_stride=16) == 16
    assert multiple("tf_efficientnet_lite0", output_stride=32) == 32
    assert multiple("efficientnet_lite0", output_stride=16) == 1
    assert multiple("resnet10t", output_stride=16) == 1  # SAME pooling of stride 1
    assert multiple("mobilevit_xxs", output_stride=32) == 64
    assert multiple("test_maxvit") == 160


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_cr_tiny_224", "swinv2_tiny_window8_256"])
def test_gathered_windows_are_those_of_timm(name: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, strict_img_size=False, embed_dim=12, depths=(2, 2), num_heads=(2, 3)).eval()
    for parameter in network.parameters():  # some start at zero
        torch.nn.init.normal_(parameter, std=0.5)
    gathering = copy.deepcopy(network)
    gather_windows(gathering)
    with torch.inference_mode():
        for height, width in ((224, 160), (96, 128), (44, 100)):
            images = torch.randn(2, 3, height, width)
            torch.testing.assert_close(gathering.forward_features(images), network.forward_features(images))


def test_gathered_windows_of_a_davit_are_those_of_timm() -> None:
    torch.manual_seed(0)
    network = timm.create_model("davit_tiny", embed_dims=(12, 18), depths=(1, 1), num_heads=(2, 3)).eval()
    gathering = copy.deepcopy(network)
    gather_windows(gathering)
    with torch.inference_mode():
        for height, width in ((112, 80), (96, 128), (44, 100)):
            images = torch.randn(2, 3, height, width)
            torch.testing.assert_close(gathering.forward_features(images), network.forward_features(images))


def test_counted_windows_are_those_of_timm() -> None:
    torch.manual_seed(0)
    small = {"embed_dim": 12, "num_heads": 1, "stages": (1, 1, 2, 1), "global_att_blocks": (3,)}
    network = timm.create_model("sam2_hiera_tiny", **small).eval()
    with torch.inference_mode():
        for height, width in ((96, 128), (32, 160)):
            images = torch.randn(2, 3, height, width)
            expected = network.forward_features(images)
            with counted_windows():
                torch.testing.assert_close(network.forward_features(images), expected)


def test_adaptive_average_pooling_equals_pytorch_at_any_size() -> None:
    pool = torch.nn.AdaptiveAvgPool2d((7, 5)).eval()
    axis = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        pool,
        (torch.randn(2, 3, 14, 19),),
        dynamo=True,
        dynamic_shapes=({0: axis, 2: axis, 3: axis},),
        opset_version=18,
        custom_translation_table=translations(),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for height, width in ((14, 19), (3, 5), (1, 40), (29, 31)):
        images = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
        np.testing.assert_allclose(found, pool(images).numpy(), atol=1e-5)


def test_quick_mismatches_leave_matches_alone() -> None:
    rule = RewriteRule(lambda op, x: (op.Relu(x), op.Neg(x)), lambda op, x: (op.Abs(x), op.Exp(x)))
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 18]>
        both (float[4] x) => (float[4] first, float[4] second) {
            shifted = Add (x, x)
            rest = Relu (shifted)
            opposite = Neg (shifted)
            first = Sqrt (rest)
            second = Sqrt (opposite)
        }"""
    )
    with quick_mismatches():
        found = rewrite(model, [rule])
    assert [node.op_type for node in found.graph.node] == ["Add", "Abs", "Exp", "Sqrt", "Sqrt"]
