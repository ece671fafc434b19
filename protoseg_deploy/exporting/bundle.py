"""The folder that leaves the building: graph, reference network, manifest, verdict."""

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime

import protoseg_deploy
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.exporting.onnx_export import (
    GraphOptions,
    export_onnx,
    input_shape,
    normalisation,
    output_specs,
)
from protoseg_deploy.exporting.verification import verify_bundle, worst_picture
from protoseg_deploy.models import NetworkSpec, Segmenter, count_parameters, load_network
from protoseg_deploy.recipe import load_recipe
from protoseg_deploy.runtimes.manifest import (
    GRAPH_FILE,
    MANIFEST_FILE,
    REFERENCE_FILE,
    InputSpec,
    Manifest,
    Masks,
    NetworkInfo,
    Provenance,
    Verdict,
    file_entry,
    file_sha256,
    read_manifest,
)
from protoseg_deploy.runtimes.metadata import Classes, GraphMetadata
from protoseg_deploy.runtimes.pytorch import network_file


@dataclass(frozen=True)
class Bundle:
    """A finished bundle."""

    path: Path
    manifest: Manifest


class VerificationFailedError(ProtosegError):
    """The exported graph does not do what the network does; the failed bundle is kept for inspection."""

    def __init__(self, verdict: Verdict, kept: Path) -> None:
        picture = worst_picture(kept)
        super().__init__(
            f"the exported graph does not match the network: {'; '.join(verdict.reasons)}",
            f"Kept in {kept}" + (f", worst image in {picture}" if picture else ""),
        )
        self.verdict = verdict
        self.kept = kept


def export_bundle(
    run: Path,
    bundle: Path,
    *,
    size: tuple[int, int] | None = None,
    confidence: bool = False,
    logits: bool = False,
    which: str = "best",
    opset: int | None = None,
    samples: Sequence[Sample] = (),
    progress: Callable[[int, int], object] | None = None,
) -> Bundle:
    """Export the network of a run and verify it; a bundle appears only when everything went well.

    Args:
        run: a run folder or a network file.
        bundle: folder to write. A bundle that is there is replaced at the very end; anything else is not touched.
        size: height and width to bind the graph to; None: images of any size.
        confidence: add the output ``confidence``, uint8 ``[B,H,W]``.
        logits: add the output ``logits``, float32 ``[B,C,H,W]``.
        which: ``best`` or ``last`` network of the run.
        opset: 18 to 20; 18 when absent.
        samples: images to verify on; without any the manifest says that the bundle is unverified.
        progress: called with (images verified, images in all).

    Raises:
        UsageError: the target is something other than a bundle.
        VerificationFailedError: graph and network disagree; what was made lies in ``<bundle>-failed``.
        ProtosegError: no network there, or it cannot be exported.
    """
    _check_target(bundle)
    options = GraphOptions(size, confidence, logits) if opset is None else GraphOptions(size, confidence, logits, opset)
    network = network_file(run, which)
    segmenter, spec = load_network(network)
    with _scratch_folder(bundle) as folder:
        metadata = _metadata(segmenter, spec, options, file_sha256(network))
        export_onnx(segmenter, spec, metadata, folder / GRAPH_FILE, options)
        shutil.copyfile(network, folder / REFERENCE_FILE)
        manifest = _manifest(folder, metadata, spec, options, run, network)
        (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
        if samples:
            verdict = verify_bundle(folder, samples, progress=progress)
            if not verdict.passed:
                failed = bundle.absolute().with_name(f"{bundle.absolute().name}-failed")
                _check_target(failed)
                _replace(folder, failed)
                raise VerificationFailedError(verdict, failed)
        _replace(folder, bundle)
    return Bundle(bundle, read_manifest(bundle))


def _metadata(segmenter: Segmenter, spec: NetworkSpec, options: GraphOptions, digest: str) -> GraphMetadata:
    mean, std = normalisation(segmenter)
    return GraphMetadata(
        program=protoseg_deploy.__version__,
        classes=Classes.of(spec.classes),
        ignore_index=spec.ignore_index,
        mean=mean,
        std=std,
        input_scale=spec.input_scale,
        fixed_size=options.size,
        precision="fp32",
        parameters=count_parameters(segmenter),
        backbone=spec.model.backbone,
        decoder=spec.model.decoder,
        provenance=_finite(spec.provenance),
        network_sha256=digest,
    )


def _manifest(
    folder: Path, metadata: GraphMetadata, spec: NetworkSpec, options: GraphOptions, run: Path, network: Path
) -> Manifest:
    recipe = network.with_name("recipe.yaml")
    known = recipe.is_file()
    return Manifest(
        network=NetworkInfo(backbone=metadata.backbone, decoder=metadata.decoder, parameters=metadata.parameters),
        classes=metadata.classes,
        masks=Masks(ignore_index=metadata.ignore_index, value_map=load_recipe(recipe).data.value_map if known else {}),
        input=InputSpec(
            shape=input_shape(options),
            fixed_size=options.size,
            input_scale=metadata.input_scale,
            mean=metadata.mean,
            std=metadata.std,
        ),
        outputs=output_specs(spec, options),
        precision=metadata.precision,
        opset=options.opset,
        provenance=Provenance(
            run=run.absolute().name,
            weights=network.name,
            recipe_sha256=hashlib.sha256(recipe.read_bytes()).hexdigest() if known else None,
            training=metadata.provenance,
            versions={
                "protoseg": metadata.program,
                **{name: version(name) for name in ("torch", "timm", "onnx", "onnxscript")},
                "onnxruntime": onnxruntime.__version__,
            },
        ),
        files={name: file_entry(folder / name) for name in (GRAPH_FILE, REFERENCE_FILE)},
    )


def _finite(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """JSON knows no nan: what was not measured becomes null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in provenance.items()
    }


def _check_target(bundle: Path) -> None:
    """A folder of something else must never be deleted."""
    if bundle.exists() and not (bundle.is_dir() and (not any(bundle.iterdir()) or (bundle / MANIFEST_FILE).is_file())):
        raise UsageError(
            f"{bundle} exists and is not a bundle", "Choose another --bundle folder; only bundles are replaced."
        )


@contextmanager
def _scratch_folder(bundle: Path) -> Iterator[Path]:
    """A sibling to write in, so that the last step is a rename; gone afterwards, whatever happens."""
    folder = bundle.absolute().with_name(f".{bundle.absolute().name}.{os.getpid()}.tmp")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except OSError as error:
        raise ProtosegError(f"cannot write beside {bundle}: {error.strerror}", "Choose another --bundle.") from None
    try:
        yield folder
    except OSError as error:
        raise ProtosegError(
            f"cannot write {bundle}: {error.strerror or error}", "Free some space or choose another --bundle."
        ) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _replace(folder: Path, target: Path) -> None:
    """Rename into place; an earlier bundle is removed only when the new one stands."""
    target = target.absolute()
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
