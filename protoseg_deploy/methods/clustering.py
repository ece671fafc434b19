"""Where prototypes start: k-means per class over labelled pixels (run once, outside the training step)."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.methods.prototypes import gather_features
from protoseg_deploy.methods.soft_kmeans import cluster_softly
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Features

LabeledViews = Callable[[int | None], Iterable[tuple[Tensor, Tensor]]]

PIXELS_PER_CLASS = 20_000
_PIXELS_PER_CLASS_AND_VIEW = 256


@torch.no_grad()
def cluster_prototypes(
    segmenter: Segmenter,
    views: LabeledViews,
    class_names: Sequence[str],
    which: Features,
    per_class: int,
    ignore_index: int,
    seed: int,
    *,
    may_lack_classes: bool = False,
) -> Tensor:
    """Cluster the directions of labelled pixels' features, each class by itself.

    Two networks that differ by rounding, as one process and several on the same global batch make them, get prototypes
    that differ by rounding: which pixels are drawn does not depend on features, and clusters follow them smoothly.

    Args:
        segmenter: gives the features; put into eval mode for the time, its statistics stay as they are.
        views: called with None for labelled views, ``[1,3,S,S]`` uint8 and ``[1,S,S]`` int64, and with the index of a
            class that they did not show for views around its pixels.
        class_names: in index order.
        which: the features prototypes live in.
        per_class: clusters per class. A class with fewer pixels repeats its own.
        ignore_index: label that is no class.
        seed: of the pixel draw and of k-means.
        may_lack_classes: a class without a labelled pixel gets zeros, which are no prototypes.

    Returns:
        ``[C,K,D]`` on the CPU, of the dtype of the features, float32 at least.

    Raises:
        DataError: a class has no labelled pixel, unless some may lack them; every such class is named.
        ProtosegError: the features are not finite.
    """
    device = segmenter.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    collected = [DrawnPixels(generator) for _ in class_names]
    was_training = segmenter.training
    segmenter.eval()

    def collect(shown: Iterable[tuple[Tensor, Tensor]]) -> None:
        for image, label in shown:
            output = segmenter.forward_features(image.to(device))
            for number in torch.unique(label).tolist():
                if number == ignore_index:
                    continue
                positions = (label[0] == number).nonzero()
                drawn = torch.randperm(len(positions), generator=generator)[:_PIXELS_PER_CLASS_AND_VIEW]
                chosen = positions[drawn][None].to(device)
                features = gather_features(output.features(which), chosen, output.padded_size)[0]
                collected[number].add(F.normalize(features, dim=-1).cpu())

    collect(views(None))
    for number, pixels in enumerate(collected):
        if not pixels:
            collect(views(number))
    segmenter.train(was_training)
    missing = [name for name, pixels in zip(class_names, collected, strict=True) if not pixels]
    if missing and (not may_lack_classes or len(missing) == len(class_names)):
        raise DataError(
            f"no labelled pixel of: {', '.join(missing)}; prototypes need every class",
            hint="Label an image that shows them, take more labelled images, merge the classes by data.value_map, or "
            "start a run with data.missing_classes: ignore.",
        )
    features = [pixels.features() if pixels else None for pixels in collected]
    if not all(part.isfinite().all() for part in features if part is not None):
        raise ProtosegError(
            "the network's features are not finite where prototypes are to be placed: training has diverged",
            "Lower train.lr, set train.clip_grad_norm=1, or train in another precision.",
        )
    centres = [None if part is None else cluster_softly(part, per_class, generator) for part in features]
    none = torch.zeros(1, segmenter.feature_channels(which), dtype=next(c.dtype for c in centres if c is not None))
    return torch.stack(
        [part[torch.arange(per_class) % len(part)] for part in (none if c is None else c for c in centres)]
    )


class DrawnPixels:
    """At most `PIXELS_PER_CLASS` features of a class, every pixel that is added as likely to be kept as any other.

    The memory it takes does not grow with the number of labelled images.
    """

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator
        self._parts: list[tuple[Tensor, Tensor]] = []
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, features: Tensor) -> None:
        """Take ``[N,D]`` features."""
        self._parts.append((features, torch.rand(len(features), dtype=torch.float64, generator=self._generator)))
        self._held += len(features)
        if self._held > 2 * PIXELS_PER_CLASS:
            self._thin_out()

    def features(self) -> Tensor:
        """``[N,D]``, what was drawn."""
        self._thin_out()
        return self._parts[0][0]

    def _thin_out(self) -> None:
        features, numbers = (torch.cat(parts) for parts in zip(*self._parts, strict=True))
        kept = numbers.argsort()[:PIXELS_PER_CLASS]
        self._parts = [(features[kept], numbers[kept])]
        self._held = len(kept)
