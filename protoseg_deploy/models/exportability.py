"""Backbones that train and cannot be exported, or for one size of images only.

As found by `benchmarks/backbone_families.py` on one network of each module of timm (docs/backbones.md); `make
test-families` fails where this table is no longer what happens.
"""

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models.backbones import registered_name, timm_module
from protoseg_deploy.recipe import Model

NOT_EXPORTABLE: dict[str, str] = {}
"""Reason by module of timm."""
ONE_SIZE = {
    "mvitv2": "its relative positions end at the size of its pretraining, which no side may exceed",
}
"""Reason by module of timm; `protoseg export --size` binds the graph."""


def require_exportable(spec: Model) -> None:
    """Refuse a backbone before it is trained that could not be exported afterwards.

    Raises:
        UsageError: it is one of those.
    """
    reason = NOT_EXPORTABLE.get(timm_module(registered_name(spec.backbone)))
    if reason is not None:
        raise UsageError(
            f"model.backbone: {spec.backbone} cannot be exported: {reason}",
            "Choose another backbone; docs/backbones.md lists those that can.",
        )


def export_warnings(spec: Model) -> list[str]:
    """What an export of this backbone will ask for."""
    reason = ONE_SIZE.get(timm_module(registered_name(spec.backbone)))
    if reason is None:
        return []
    return [f"{spec.backbone} can be exported for one size of images only ({reason}): `protoseg export --size HxW`"]
