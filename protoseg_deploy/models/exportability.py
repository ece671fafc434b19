"""Backbones that a network can be built of, and that cannot be deployed.

As found by `benchmarks/backbone_families.py` (docs/backbones.md); `make test-families` fails where this table is no
longer what happens. All other refusals are those of `Backbone`, which finds out by itself.
"""

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import registered_name, timm_module
from protoseg_deploy.recipe import Model

NOT_EXPORTABLE = {
    "mvitv2": "no side of an image may exceed the 224 pixels of its pretraining, where its relative positions end",
}
"""Reason by module of timm."""


def require_exportable(spec: Model) -> None:
    """Refuse a backbone before it is trained that could not be exported afterwards.

    Raises:
        UsageError: it is one of those.
    """
    reason = NOT_EXPORTABLE.get(timm_module(registered_name(spec.backbone)))
    if reason is not None:
        raise UsageError(
            f"model.backbone: {spec.backbone} cannot be exported for images of any size: {reason}",
            "Choose another backbone; docs/backbones.md lists those that can.",
        )
