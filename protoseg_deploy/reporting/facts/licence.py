"""Under which licence the weights are that a backbone started from."""

from dataclasses import dataclass

from protoseg_deploy.errors import ProtosegError


@dataclass(frozen=True)
class WeightsLicence:
    """Of a backbone's pretrained weights, as timm says; texts are empty where nobody says."""

    backbone: str
    pretrained: bool | None
    """Whether training started from pretrained weights; None: nobody says."""
    licence: str
    source: str
    """Repository of the weights."""
    note: str
    """What the user has to find out."""


def licence_of_weights(backbone: str, weights: str | None) -> WeightsLicence:
    """The licence of the weights that a run started from.

    Args:
        backbone: a timm name, with or without the tag of its weights.
        weights: ``model.weights`` of the recipe; None where there is no recipe.
    """
    if weights == "none":
        return WeightsLicence(backbone, False, "", "", "The backbone was trained from random weights.")
    import timm

    from protoseg_deploy.models.backbones import registered_name

    try:
        config = timm.get_pretrained_cfg(registered_name(backbone))
    except ProtosegError:
        config = None
    licence, source = (config.license or "", config.hf_hub_id or config.url or "") if config else ("", "")
    source = source if isinstance(source, str) else ""
    if weights is None:
        note = "No recipe says which weights training started from; these are timm's for this backbone."
    elif weights != "pretrained":
        note = "Training started from a file of weights: find out whether these are timm's, and its licence otherwise."
    elif not licence:
        note = "timm does not say under which licence these weights are: find out before you pass the network on."
    else:
        note = ""
    return WeightsLicence(backbone, None if weights is None else True, licence, source, note)
