"""Does a server answer what the artefact answers that the gate has passed?"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protoseg_deploy.bundles.bundle import Bundle
from protoseg_deploy.choices import Precision
from protoseg_deploy.data.folders import Sample
from protoseg_deploy.data.images import read_image
from protoseg_deploy.data.masks import read_mask
from protoseg_deploy.data.pairs import require_fit
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.evaluation.metrics import ConfusionMatrix
from protoseg_deploy.runtimes.onnx import OnnxRuntime
from protoseg_deploy.runtimes.remote import RemoteRuntime
from protoseg_deploy.runtimes.tiling import fit_image


@dataclass(frozen=True)
class ServerComparison:
    """A server against the artefact of a bundle that it says to serve."""

    server: str
    bundle: str
    precision: Precision
    sha256: str
    """Of the artefact, on both sides."""
    verified: bool | None
    """Verdict of the bundle."""
    images: int
    differing_pixels: int
    differing_images: int
    worst_image: str | None
    """The one with the largest share of differing pixels; None: all are equal."""
    agreement_percent: float
    miou_server_percent: float | None
    """Against masks, where there were any."""
    miou_bundle_percent: float | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)


def compare_with_server(
    bundle: Bundle,
    server: RemoteRuntime,
    samples: Sequence[Sample],
    *,
    device: str = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> ServerComparison:
    """Segment images here and there. Images that do not fit a fixed size are cropped or padded.

    Args:
        bundle: what the server is said to serve.
        server: any precision of it.
        samples: images, with masks or without.
        device: of ONNX Runtime here.
        progress: called with (images done, images in all).

    Raises:
        ProtosegError: the server has an artefact that is not in the bundle, it fails, or an image cannot be read.
    """
    precision = _served_precision(bundle, server)
    local = OnnxRuntime(bundle.folder, device=device, precision=precision)
    info = local.info
    masks = info.masks
    matrices = [ConfusionMatrix(len(info.classes), info.ignore_index) for _ in range(2)]
    differing = pixels = images_differing = 0
    worst: tuple[float, Path | None] = (0.0, None)
    with_masks = 0
    for number, sample in enumerate(samples, start=1):
        image = read_image(sample.image, info.reading)
        mask = None
        if sample.mask is not None and masks is not None:
            mask = read_mask(sample.mask, masks)
            require_fit(sample, image, mask, len(info.classes), info.reading, masks)
            with_masks += 1
        if info.fixed_size is not None:
            image = fit_image(image, info.fixed_size)
            mask = None if mask is None else fit_image(mask, info.fixed_size)
        ours, theirs = (runtime.predict(image[None]) for runtime in (local, server))
        count = int(np.count_nonzero(ours != theirs))
        differing, pixels = differing + count, pixels + ours.size
        images_differing += count > 0
        worst = max(worst, (count / ours.size, sample.image), key=lambda pair: pair[0])
        if mask is not None:
            for matrix, class_map in zip(matrices, (theirs, ours), strict=True):
                matrix.update(class_map, mask[None])
        if progress is not None:
            progress(number, len(samples))
    miou_server, miou_bundle = (matrix.miou_percent() if with_masks else None for matrix in matrices)
    return ServerComparison(
        server=str(server.info.path),
        bundle=str(bundle.folder),
        precision=precision,
        sha256=server.facts.sha256,
        verified=info.verified,
        images=len(samples),
        differing_pixels=differing,
        differing_images=images_differing,
        worst_image=str(worst[1]) if worst[1] is not None else None,
        agreement_percent=100.0 * (1 - differing / pixels),
        miou_server_percent=miou_server,
        miou_bundle_percent=miou_bundle,
    )


def _served_precision(bundle: Bundle, server: RemoteRuntime) -> Precision:
    digests = {precision: bundle.graph(precision).digest() for precision in bundle.manifest.graphs}
    found = next((precision for precision, digest in digests.items() if digest == server.facts.sha256), None)
    if found is None:
        there = ", ".join(f"{precision} {digest[:12]}" for precision, digest in digests.items())
        raise ProtosegError(
            f"{server.info.path} does not serve {bundle.folder}: its artefact is {server.facts.sha256[:12]} "
            f"({server.info.precision}), the bundle has {there}",
            "Reload the server with this bundle, or compare it with the bundle it was given.",
        )
    return found
