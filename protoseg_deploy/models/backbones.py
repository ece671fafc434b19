"""Any timm model as a feature pyramid, whatever its family."""

from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from protoseg_deploy.errors import UsageError
from protoseg_deploy.recipe.loading import did_you_mean


class Backbone(nn.Module):
    """A timm model that returns its feature maps, shallow to deep, as NCHW.

    Convolutional and hierarchical models give their stages of stride 4 and deeper. Plain ViTs give four of their
    blocks, all at the stride of the patches and through the network's last normalisation, without which blocks differ
    in scale. Most families take any image size; some want sides that are multiples of their patches, or lose border
    pixels otherwise. `size_multiple` says which multiple to pad to (1: any size).

    Args:
        name: timm model name.
        output_stride: 8, 16 or 32; families that cannot be dilated keep their own stride.
        pretrained: fetch timm's weights.

    Raises:
        UsageError: timm knows no such model, or it has no feature maps.
    """

    def __init__(self, name: str, output_stride: int = 32, pretrained: bool = False) -> None:
        super().__init__()
        self.name = name
        self.net, options = _create(name, output_stride, pretrained)
        info = self.net.feature_info
        self.channels: list[int] = list(info.channels())
        self.strides: list[int] = list(info.reduction())
        config: Any = timm.get_pretrained_cfg(name)
        self.mean: tuple[float, float, float] = tuple(config.mean)
        self.std: tuple[float, float, float] = tuple(config.std)
        self.is_plain_vit = len(set(self.strides)) == 1
        self._channels_last_output = _gives_nhwc(name)
        self.size_multiple = 1 if self._map_sizes(97, 131, options) == self._full_cover(97, 131) else max(self.strides)
        if self.size_multiple > 1 and not self._map_sizes(3 * self.size_multiple, 4 * self.size_multiple, options):
            raise UsageError(
                f"model.backbone: {name} takes images of one size only", "Choose a backbone that takes any size."
            )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Feature maps of a normalised image ``[B,3,H,W]``, sides multiples of `size_multiple`."""
        features: list[Tensor] = self.net(image)
        if self._channels_last_output:
            features = [feature.permute(0, 3, 1, 2).contiguous() for feature in features]
        return features

    def _map_sizes(self, height: int, width: int, options: dict[str, Any]) -> list[tuple[int, int]]:
        """Sizes of the maps of an image, found without computing them; empty if the network refuses such an image."""
        try:
            with torch.device("meta"), torch.no_grad():
                net: Any = timm.create_model(self.name, pretrained=False, features_only=True, **options).eval()
                maps: list[Tensor] = net(torch.empty(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError, NotImplementedError):
            return []
        first = 1 if self._channels_last_output else 2
        return [(feature.shape[first], feature.shape[first + 1]) for feature in maps]

    def _full_cover(self, height: int, width: int) -> list[tuple[int, int]]:
        """Sizes of maps that lose no border pixel."""
        return [(-(-height // stride), -(-width // stride)) for stride in self.strides]


def _create(name: str, output_stride: int, pretrained: bool) -> tuple[Any, dict[str, Any]]:
    base = name.partition(".")[0]
    if not timm.is_model(base):
        raise UsageError(
            f"model.backbone: timm has no model {name!r}{did_you_mean(base, timm.list_models())}",
            "`python -c \"import timm; print(timm.list_models('*resnet*'))\"` lists names.",
        )
    attempts = _creation_options(base, output_stride)
    for number, options in enumerate(attempts):
        try:
            return _feature_net(name, pretrained, options), options
        except (TypeError, NotImplementedError, AssertionError, ValueError, RuntimeError, AttributeError) as error:
            if number + 1 < len(attempts):
                continue
            raise UsageError(
                f"model.backbone: timm cannot build {name!r} as a feature pyramid: {error}",
                "Set model.weights to `none` or to a file if the weights are what is missing; else choose another.",
            ) from None
        except OSError as error:
            raise _no_weights(name, error) from None
    raise AssertionError("unreachable: the last attempt returns or raises")


def _feature_net(name: str, pretrained: bool, options: dict[str, Any]) -> Any:
    if not _is_vit(name.partition(".")[0]):
        return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    # timm's `features_only` would leave out the last normalisation.
    size = {key: value for key, value in options.items() if key != "out_indices"}
    vit = timm.create_model(name, pretrained=pretrained, num_classes=0, **size)
    return FeatureGetterNet(vit, options["out_indices"], norm=True)


def _no_weights(name: str, error: Exception) -> UsageError:
    first_line = (str(error).splitlines() or [type(error).__name__])[0]
    return UsageError(
        f"model.weights: the pretrained weights of {name!r} cannot be fetched: {first_line}",
        "Without a network, set model.weights to a file (.safetensors or .pth) or to `none`.",
    )


def _creation_options(name: str, output_stride: int) -> list[dict[str, Any]]:
    """What to ask timm for, best first: families differ in what they accept."""
    if _is_vit(name):
        with torch.device("meta"):
            probe: Any = timm.create_model(name, pretrained=False, num_classes=0)
        depth = len(probe.blocks)
        taps = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
        return [{"out_indices": taps, "dynamic_img_size": True}, {"out_indices": taps}]
    pyramid = {"out_indices": _pyramid_indices(name)}
    if _gives_nhwc(name):
        return [{**pyramid, "strict_img_size": False}, pyramid]
    return [{**pyramid, "output_stride": output_stride}, pyramid]


def _pyramid_indices(name: str) -> tuple[int, ...]:
    """The last four levels: models with a stride-2 level have five."""
    with torch.device("meta"):
        probe: Any = timm.create_model(name, pretrained=False, features_only=True)
    return tuple(range(len(probe.feature_info.channels())))[-4:]


def _is_vit(name: str) -> bool:
    module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return module in {"vision_transformer", "eva", "deit", "beit"}


def _gives_nhwc(name: str) -> bool:
    module = timm.model_entrypoint(name).__module__.rpartition(".")[2]
    return module in {"swin_transformer", "swin_transformer_v2"}
