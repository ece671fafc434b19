"""Networks: timm backbone, decoder, linear head; their files; what is deployed of them."""

from protoseg_deploy.models.deployed import DeployedSegmenter, class_map_dtype, scale_images
from protoseg_deploy.models.saved import (
    NetworkSpec,
    build_segmenter,
    count_parameters,
    load_network,
    load_prototypes,
    read_network_spec,
    save_network,
    save_prototypes,
)
from protoseg_deploy.models.segmenter import (
    Segmenter,
    SegmenterOutput,
    require_buildable,
    require_deployable,
    resize_logits,
)
from protoseg_deploy.models.weights import LoadReport, load_backbone_weights
from protoseg_deploy.models.windows import WindowedSegmenter, Windows, default_stride

__all__ = [
    "DeployedSegmenter",
    "LoadReport",
    "NetworkSpec",
    "Segmenter",
    "SegmenterOutput",
    "WindowedSegmenter",
    "Windows",
    "build_segmenter",
    "class_map_dtype",
    "count_parameters",
    "default_stride",
    "load_backbone_weights",
    "load_network",
    "load_prototypes",
    "read_network_spec",
    "require_buildable",
    "require_deployable",
    "resize_logits",
    "save_network",
    "save_prototypes",
    "scale_images",
]
