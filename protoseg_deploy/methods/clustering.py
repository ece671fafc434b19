"""Where prototypes start: k-means per class over labelled pixels (run once, outside the training step)."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor
from torch.nn import functional as F

from protoseg_deploy.errors import DataError, ProtosegError
from protoseg_deploy.methods.prototypes import gather_features
from protoseg_deploy.models import Segmenter
from protoseg_deploy.recipe import Features

LabeledViews = Callable[[int | None], Iterable[tuple[Tensor, Tensor]]]

_PIXELS_PER_CLASS = 20_000
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
        ``[C,K,D]`` float32 on the CPU.

    Raises:
        DataError: a class has no labelled pixel, unless some may lack them; every such class is named.
        ProtosegError: the features are not finite.
    """
    device = segmenter.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    collected: list[list[Tensor]] = [[] for _ in class_names]
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
                collected[number].append(F.normalize(features, dim=-1).cpu())

    collect(views(None))
    for number, parts in enumerate(collected):
        if not parts:
            collect(views(number))
    segmenter.train(was_training)
    missing = [name for name, parts in zip(class_names, collected, strict=True) if not parts]
    if missing and (not may_lack_classes or len(missing) == len(class_names)):
        raise DataError(
            f"no labelled pixel of: {', '.join(missing)}; prototypes need every class",
            hint="Label an image that shows them, take more labelled images, merge the classes by data.value_map, or "
            "start a run with data.missing_classes: ignore.",
        )
    features = [torch.cat(parts) if parts else None for parts in collected]
    if not all(part.isfinite().all() for part in features if part is not None):
        raise ProtosegError(
            "the network's features are not finite where prototypes are to be placed: training has diverged",
            "Lower train.lr, set train.clip_grad_norm=1, or train in another precision.",
        )
    none = torch.zeros(per_class, segmenter.feature_channels(which))
    return torch.stack([none if part is None else _centres(part, per_class, generator, seed) for part in features])


def _centres(features: Tensor, count: int, generator: torch.Generator, seed: int) -> Tensor:
    features = features[torch.randperm(len(features), generator=generator)[:_PIXELS_PER_CLASS]]
    clusters = min(count, len(np.unique(features.numpy(), axis=0)))
    centres = KMeans(clusters, n_init=3, random_state=seed % 2**32).fit(features.numpy()).cluster_centers_
    repeated = torch.from_numpy(centres).float()
    return repeated[torch.arange(count) % clusters]
