"""The deployable artefact: graphs, reference network, manifest, verdict."""

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import onnxruntime

import protoseg_deploy
from protoseg_deploy.bundles.bundle import Bundle, file_entry
from protoseg_deploy.bundles.digests import file_sha256
from protoseg_deploy.bundles.manifest import (
    CARD_FILE,
    GRAPH_FILE,
    REFERENCE_FILE,
    GraphInfo,
    InputSpec,
    Manifest,
    Masks,
    NetworkInfo,
    Provenance,
)
from protoseg_deploy.bundles.metadata import Classes, GraphMetadata
from protoseg_deploy.bundles.verdicts import Verification
from protoseg_deploy.choices import PRECISIONS, Precision
from protoseg_deploy.data import Sample
from protoseg_deploy.errors import ProtosegError, WriteError
from protoseg_deploy.exchange import replacing
from protoseg_deploy.exporting.gate.verification import verify_bundle, worst_picture
from protoseg_deploy.exporting.mask_reader import MaskReader
from protoseg_deploy.exporting.precisions import Calibration, make_graph
from protoseg_deploy.exporting.target import check_target
from protoseg_deploy.exporting.tracing.onnx_export import (
    DEFAULT_OPSET,
    GraphOptions,
    export_onnx,
    input_shape,
    normalisation,
    output_specs,
)
from protoseg_deploy.files import resolved, write_atomically
from protoseg_deploy.models import NetworkSpec, Segmenter, count_parameters, load_network
from protoseg_deploy.run_folder import RunFolder, network_file


class VerificationFailedError(ProtosegError):
    """A graph does not match the network; the failed bundle is kept for inspection."""

    def __init__(self, verification: Verification, kept: Bundle) -> None:
        super().__init__(*failure_message(kept, verification))
        self.verification = verification
        self.kept = kept.folder


def failure_message(bundle: Bundle, verification: Verification) -> tuple[str, str]:
    """What a failed verification tells people: the first stage that fails, and what to do now."""
    failed = verification.first_failure()
    assert failed is not None
    later = [stage.stage for stage in verification.stages if stage.status == "failed" and stage is not failed]
    also = f" (after it also {', '.join(later)})" if later else ""
    picture = worst_picture(bundle, failed.stage)
    return (
        f"{bundle.folder}: `{failed.stage}` does not match `{failed.against}`: {'; '.join(failed.reasons)}{also}",
        failed.next_step.replace("BUNDLE", str(bundle.folder)) + (f"\nWorst image: {picture}" if picture else ""),
    )


def export_bundle(
    run: Path,
    folder: Path,
    *,
    precisions: Sequence[Precision] = ("fp32",),
    size: tuple[int, int] | None = None,
    confidence: bool = False,
    logits: bool = False,
    which: str = "best",
    opset: int = DEFAULT_OPSET,
    calibration: Calibration | None = None,
    samples: Sequence[Sample] = (),
    verify: bool = True,
    card: Callable[[Bundle, Sequence[Sample]], str] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Bundle:
    """Export the network of a run and verify it; a bundle appears only when everything went well.

    Args:
        run: a run folder or a network file.
        folder: to write. A bundle that is there is replaced at the very end; anything else is not touched.
        precisions: one graph each; fp32 is always among them, the others are made from it.
        size: height and width to bind the graphs to; None: images of any size.
        confidence: add the output ``confidence``, uint8 ``[B,H,W]``.
        logits: add the output ``logits``, float32 ``[B,C,H,W]``.
        which: ``best`` or ``last`` network of the run.
        opset: of the fp32 graph.
        calibration: images and options of int8.
        samples: images to verify on, and to measure int8's accuracy on.
        verify: False skips verification; so does an absence of samples. The manifest says so.
        card: makes the text of the model card from the verified bundle and the samples, such as `export_card`; no card
            when absent.
        progress: called with (images verified, images in all).

    Raises:
        UsageError: the target is something other than a bundle, or int8 lacks images.
        VerificationFailedError: a graph does not match the network; what was made lies in ``<folder>-failed``.
        ProtosegError: no network there, it cannot be exported, or int8 would cost too much.
    """
    network = network_file(run, which)
    inputs = [network, *(file for sample in samples for file in (sample.image, sample.mask) if file is not None)]
    place = resolved(folder)
    failed = place.with_name(f"{place.name}-failed")
    check_target(folder, inputs)
    check_target(failed, inputs)
    options = GraphOptions(size, confidence, logits, opset)
    segmenter, spec = load_network(network)
    masks = _masks(network, spec)
    truth = MaskReader(spec.classes, spec.reading, masks.reading(spec.classes, spec.reading))
    with replacing(folder, lambda place: check_target(place, inputs)) as replacement, _writing(folder):
        made = replacement.folder
        metadata = _metadata(segmenter, spec, options, file_sha256(network))
        files = export_onnx(segmenter, spec, metadata, made / GRAPH_FILE, options)
        graphs: dict[Precision, GraphInfo] = {"fp32": GraphInfo(file=GRAPH_FILE, files=files, opset=options.opset)}
        for precision in PRECISIONS[1:]:
            if precision in precisions:
                graphs[precision] = make_graph(made, precision, metadata, calibration, samples, truth)
        shutil.copyfile(network, made / REFERENCE_FILE)
        bundle = Bundle.create(made, _manifest(made, metadata, masks, graphs, spec, options, run, network))
        if samples and verify:
            verification = verify_bundle(bundle, samples, progress=progress)
            if not verification.passed:
                replacement.put_in_place(failed)
                raise VerificationFailedError(verification, Bundle.open(failed))
        if card is not None:
            written = Bundle.open(made)
            write_atomically(made / CARD_FILE, card(written, samples).encode("utf-8", "backslashreplace"))
        replacement.put_in_place()
    return Bundle.open(folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Libraries write graphs by themselves, and say of a full disk what the operating system says."""
    try:
        yield
    except OSError as error:
        raise WriteError(folder, error) from None


def _metadata(segmenter: Segmenter, spec: NetworkSpec, options: GraphOptions, digest: str) -> GraphMetadata:
    mean, std = normalisation(segmenter)
    return GraphMetadata(
        program=protoseg_deploy.__version__,
        classes=Classes.of(spec.classes),
        ignore_index=spec.ignore_index,
        mean=mean,
        std=std,
        input_scale=spec.input_scale,
        reading=spec.reading,
        fixed_size=options.size,
        precision="fp32",
        parameters=count_parameters(segmenter),
        backbone=spec.model.backbone,
        decoder=spec.model.decoder,
        provenance=spec.provenance,
        network_sha256=digest,
    )


def _masks(network: Path, spec: NetworkSpec) -> Masks:
    run = RunFolder.around(network)
    if not run.exists():
        return Masks(ignore_index=spec.ignore_index)
    data = run.recipe().data
    return Masks(
        ignore_index=spec.ignore_index,
        value_map=data.value_map,
        ignore_colors=tuple(data.ignore_colors),
        palette_masks=data.palette_masks or "indices",
    )


def _manifest(
    folder: Path,
    metadata: GraphMetadata,
    masks: Masks,
    graphs: dict[Precision, GraphInfo],
    spec: NetworkSpec,
    options: GraphOptions,
    run: Path,
    network: Path,
) -> Manifest:
    recipe = RunFolder.around(network).recipe_path
    return Manifest(
        network=NetworkInfo(backbone=metadata.backbone, decoder=metadata.decoder, parameters=metadata.parameters),
        classes=metadata.classes,
        masks=masks,
        input=InputSpec(
            shape=input_shape(options),
            fixed_size=options.size,
            input_scale=metadata.input_scale,
            reading=metadata.reading,
            mean=metadata.mean,
            std=metadata.std,
        ),
        outputs=output_specs(spec, options),
        graphs=graphs,
        provenance=Provenance(
            run=run.absolute().name,
            weights=network.name,
            recipe_sha256=hashlib.sha256(recipe.read_bytes()).hexdigest() if recipe.is_file() else None,
            training=metadata.provenance,
            versions={
                "protoseg": metadata.program,
                **{name: version(name) for name in ("torch", "timm", "onnx", "onnxscript")},
                "onnxruntime": onnxruntime.__version__,
            },
        ),
        files={
            name: file_entry(folder / name)
            for name in (*(name for graph in graphs.values() for name in graph.files), REFERENCE_FILE)
        },
    )
