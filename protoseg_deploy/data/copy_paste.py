"""Copy-paste: the pixels of some classes of one view put into another."""

from collections.abc import Sequence

import torch

from protoseg_deploy.data.views import View


def paste_classes(view: View, donor: View, classes: Sequence[int]) -> View:
    """A view with all pixels of some classes of another one on top, mask alike.

    After Ghiasi et al., "Simple Copy-Paste", CVPR 2021, with the pixels of classes in place of those of objects, as
    ClassMix mixes unlabelled images (Olsson et al., WACV 2021). Edges are not blurred.

    Args:
        view: what is pasted onto.
        donor: of the same size; classes it does not show paste nothing.
        classes: what is pasted; no ignore index.
    """
    pasted = torch.isin(donor.mask, donor.mask.new_tensor(classes))
    return View(torch.where(pasted, donor.image, view.image), torch.where(pasted, donor.mask, view.mask))
