"""CutMix: a box of one strong view pasted into another, labels and masks with it (Yun et al., ICCV 2019)."""

import torch
from torch import Tensor

_CUTMIX_AREA = (0.02, 0.4)
_CUTMIX_ASPECT = (0.3, 3.3)


class CutMix:
    """One box per image, pasted from its partner in the batch.

    Images are partners two by two (0 and 1, 2 and 3, …), so that a batch spread over processes mixes as a whole one
    does; in an odd batch each is mixed with the one before.

    Args:
        boxes: ``[B,H,W]`` bool, true where the partner shows.
    """

    def __init__(self, boxes: Tensor) -> None:
        self.boxes = boxes

    @classmethod
    def draw(cls, shape: torch.Size, probability: float, generator: torch.Generator) -> "CutMix":
        """Boxes of 2–40 % of the image and aspect 0.3–3.3 for maps ``[B,H,W]``, without a host sync."""
        batch, height, width = shape
        device = generator.device
        coin, area, aspect, where_y, where_x = torch.rand(5, batch, 1, 1, device=device, generator=generator)
        area = _CUTMIX_AREA[0] + area * (_CUTMIX_AREA[1] - _CUTMIX_AREA[0])
        lowest, highest = area.clamp(min=_CUTMIX_ASPECT[0]), area.reciprocal().clamp(max=_CUTMIX_ASPECT[1])
        aspect = lowest + aspect * (highest - lowest)  # any other aspect would not fit into the image
        box_height, box_width = (area * aspect).sqrt() * height, (area / aspect).sqrt() * width
        top, left = where_y * (height - box_height), where_x * (width - box_width)
        rows = torch.arange(height, device=device).view(1, height, 1)
        columns = torch.arange(width, device=device).view(1, 1, width)
        inside = (rows >= top) & (rows < top + box_height) & (columns >= left) & (columns < left + box_width)
        return cls(inside & (coin < probability))

    def __call__(self, values: Tensor) -> Tensor:
        """Mix ``[B,H,W]`` or ``[B,C,H,W]`` values; every kind of value of a batch is mixed by the same boxes."""
        boxes = self.boxes if values.dim() == 3 else self.boxes.unsqueeze(1)
        return torch.where(boxes, self.partners(values), values)

    @staticmethod
    def partners(values: Tensor) -> Tensor:
        """For each image of ``[B,…]`` the value of its partner."""
        if len(values) % 2 == 0:
            return torch.stack([values[1::2], values[::2]], dim=1).flatten(0, 1)
        return values.roll(1, dims=0)

    def __getitem__(self, images: slice) -> "CutMix":
        """The boxes of some of the images."""
        return CutMix(self.boxes[images])
