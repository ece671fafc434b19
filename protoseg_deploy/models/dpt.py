"""The dense prediction transformer's decoder (Ranftl et al., ICCV 2021), the usual one on DINOv2."""

from torch import Tensor, nn
from torch.nn import functional as F

from protoseg_deploy.models.backbones import Backbone
from protoseg_deploy.models.decoder_base import Decoder, require_levels, resize_like, width_of
from protoseg_deploy.recipe import Model


class DPT(Decoder):
    """Levels are reassembled into a pyramid, then fused from the deepest to the shallowest.

    The four maps of a plain ViT, all at the stride of the patches, are projected to 3/4, 3/2, 3 and 6 times
    ``decoder_channels`` (96, 192, 384 and 768 at the published width of 128 for a ViT-Base) and resampled to four
    times, twice, once and half their resolution. The maps of other backbones are a pyramid already.

    The features have ``decoder_channels`` channels and twice the resolution of the finest level: stride 1.75 with
    patches of 14 pixels, stride 2 on a ResNet. As in the head published for segmentation with DINOv2 (UniMatch V2,
    Yang et al., TPAMI 2025) there is no batch normalisation; even one image per step trains.
    """

    def __init__(self, backbone: Backbone, spec: Model) -> None:
        super().__init__()
        require_levels(backbone, spec.decoder)
        width = width_of(spec)
        self.embedding_channels = self.feature_channels = width
        level_widths = backbone.channels
        self.reassemble: nn.ModuleList | None = None
        if backbone.is_plain_vit:
            level_widths = [width * 3 // 4, width * 3 // 2, width * 3, width * 6]
            self.reassemble = _reassembly(backbone.channels, level_widths)
        self.narrow = nn.ModuleList(nn.Conv2d(level, width, 3, padding=1, bias=False) for level in level_widths)
        self.deepest = _refinement(width)
        self.fusions = nn.ModuleList(_Fusion(width) for _ in level_widths[1:])
        self.output = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU())

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, Tensor]:
        if self.reassemble is not None:
            pyramid = [resample(level) for resample, level in zip(self.reassemble, pyramid, strict=True)]
        *shallower, deepest = (narrow(level) for narrow, level in zip(self.narrow, pyramid, strict=True))
        fused = self.deepest(deepest)
        for fusion, level in zip(self.fusions, reversed(shallower), strict=True):
            fused = fusion(level, fused)
        features = self.output(F.interpolate(fused, scale_factor=2.0, mode="bilinear", align_corners=False))
        return features, features


class _Fusion(nn.Module):
    """A level joins what was fused of the deeper ones (Lin et al., RefineNet, CVPR 2017)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.enter = _ResidualUnit(width)
        self.refine = _refinement(width)

    def forward(self, level: Tensor, deeper: Tensor) -> Tensor:
        """Two maps ``[B,D,h,w]`` and ``[B,D,h',w']`` to one of the size of `level`."""
        fused: Tensor = self.refine(self.enter(level) + resize_like(deeper, level))
        return fused


class _ResidualUnit(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)
        )

    def forward(self, level: Tensor) -> Tensor:
        changed: Tensor = level + self.change(level)
        return changed


def _refinement(width: int) -> nn.Sequential:
    """The paper projects after the upsampling that follows; before it the outcome is the same from a quarter of the
    pixels, because both are linear and the weights of an interpolation add up to one.
    """
    return nn.Sequential(_ResidualUnit(width), nn.Conv2d(width, width, 1))


def _reassembly(channels: list[int], widths: list[int]) -> nn.ModuleList:
    """Equal-stride maps to four times, twice, once and half the resolution, the last one rounded up."""
    first, second, _, last = widths
    resample = (
        nn.ConvTranspose2d(first, first, 4, stride=4),
        nn.ConvTranspose2d(second, second, 2, stride=2),
        nn.Identity(),
        nn.Conv2d(last, last, 3, stride=2, padding=1),
    )
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(level, width, 1), change)
        for level, width, change in zip(channels, widths, resample, strict=True)
    )
