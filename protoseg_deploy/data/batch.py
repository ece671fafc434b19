"""What one step learns from."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from protoseg_deploy.data.photometric import augment


@dataclass(frozen=True)
class Batch:
    """A step's part of a process. Images are uint8 RGB, masks int64 once on the device."""

    images: Tensor
    """``[Bl,3,S,S]`` weak views of labelled images."""
    labels: Tensor
    """``[Bl,S,S]`` class indices, ignore index where nothing is known."""
    weak: Tensor
    """``[Bu,3,S,S]`` weak views of unlabelled images; Bu = 0 where a method wants none."""
    valid: Tensor
    """``[Bu,S,S]`` bool, false outside the image."""
    augmentations: Tensor
    """``[V,Bu,P]`` float32, photometric augmentation of each strong view: see `photometric`."""
    strong: Tensor
    """``[V,Bu,3,S,S]`` weak views with photometric augmentation; ``[0]`` until made (`with_strong_views`)."""
    first_slots: tuple[int, int] = (0, 0)
    """Places of the first labelled and the first unlabelled image in the global batch of the step."""
    files: tuple[str, ...] = ()
    """The labelled images, then the unlabelled ones."""
    unreadable: tuple[str, ...] = ()
    """Unlabelled images that could not be read and were replaced, each with its reason."""

    def to(self, device: torch.device) -> "Batch":
        """On a device, labels as int64."""
        moved = self._each(lambda _, tensor: tensor.to(device, non_blocking=True))
        return replace(moved, labels=moved.labels.long())

    def with_strong_views(self) -> "Batch":
        """With its strong views, made on the device it is on unless the loader has made them."""
        if len(self.strong) == len(self.augmentations):
            return self
        return replace(self, strong=torch.stack([augment(self.weak, view) for view in self.augmentations]))

    def pin_memory(self) -> "Batch":
        return self._each(lambda _, tensor: tensor.pin_memory())

    def share_memory(self) -> None:
        """Move it to memory that another process can map.

        Raises:
            RuntimeError: there is no room.
        """
        for value in vars(self).values():
            if isinstance(value, Tensor) and value.numel():
                value.share_memory_()  # type: ignore[no-untyped-call]

    def parts(self, count: int) -> list["Batch"]:
        """The batch split into `count` batches for gradient accumulation; the sizes are multiples of `count`."""

        def part(number: int) -> "Batch":
            sizes = [len(images) * number // count for images in (self.images, self.weak)]
            chosen = self._each(lambda name, tensor: _part(tensor, name in {"augmentations", "strong"}, number, count))
            return replace(chosen, first_slots=(self.first_slots[0] + sizes[0], self.first_slots[1] + sizes[1]))

        return [part(number) for number in range(count)]

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> "Batch":
        changed = {name: change(name, value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **changed)  # type: ignore[arg-type]


def _part(tensor: Tensor, views_first: bool, number: int, count: int) -> Tensor:
    if tensor.numel() == 0:
        return tensor
    return tensor.chunk(count, dim=1 if views_first else 0)[number]
