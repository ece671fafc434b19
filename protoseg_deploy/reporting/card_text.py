"""The text of a model card: Markdown for people, with the metadata of the Hugging Face Hub in front."""

from dataclasses import dataclass
from typing import Any

import yaml

from protoseg_deploy.bundles.card import files_and_verdicts, markdown, table
from protoseg_deploy.bundles.manifest import REFERENCE_FILE, Manifest
from protoseg_deploy.reporting.facts import BenchRow, EvaluationFacts, RunFacts, WeightsLicence, licence_of_weights
from protoseg_deploy.reporting.figures import counted, listed, number, percent, points
from protoseg_deploy.reporting.summary import WEAK_PERCENT, method_of

_MOST_SIZES = 4


@dataclass(frozen=True)
class CardFacts:
    """What a card is written from."""

    name: str
    manifest: Manifest
    run: RunFacts | None
    """None: a network file without its run."""
    evaluation: EvaluationFacts | None
    """Of the very weights in the bundle."""
    val_images: int | None
    sizes: tuple[str, ...]
    """Heights and widths of the images it was verified on, the most frequent first."""
    latencies: tuple[BenchRow, ...] = ()


def model_card(facts: CardFacts) -> str:
    """The card as text."""
    parts = [
        _metadata(facts),
        f"# {markdown(facts.name)}",
        _introduction(facts),
        "## Intended use",
        _use(facts),
        "## Training data",
        _data(facts),
        "## Accuracy",
        _accuracy(facts),
        files_and_verdicts(facts.manifest),
        "## Latency",
        _latency(facts),
        "## Limits, as measured",
        _limits(facts),
        "## Licence",
        _licence(facts),
        "## Provenance",
        _provenance(facts),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(facts: CardFacts) -> str:
    manifest = facts.manifest
    content: dict[str, Any] = {
        "library_name": "onnx",
        "pipeline_tag": "image-segmentation",
        "tags": ["semantic-segmentation", "onnx", "protoseg-deploy", *manifest.graphs],
    }
    licence = _weights(facts)
    pretrained = facts.run is not None and facts.run.recipe.model.weights == "pretrained"
    if pretrained and licence.source.count("/") == 1:
        content["base_model"] = licence.source
    miou = _miou(facts)
    if miou is not None:
        content["metrics"] = ["mean_iou"]
        content["model-index"] = [
            {
                "name": facts.name,
                "results": [
                    {
                        "task": {"type": "image-segmentation"},
                        "dataset": {"type": "custom", "name": f"validation images of {manifest.provenance.run}"},
                        "metrics": [{"type": "mean_iou", "name": "mean IoU, %", "value": round(miou, 2)}],
                    }
                ],
            }
        ]
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=False, width=1000)
    return f"---\n# license: is yours to choose, see Licence below\n{text}---"


def _miou(facts: CardFacts) -> float | None:
    if facts.evaluation is not None:
        return facts.evaluation.kept_percent
    return number(facts.manifest.provenance.training.get("miou_percent"))


def _introduction(facts: CardFacts) -> str:
    network, names = facts.manifest.network, facts.manifest.classes.names
    miou = _miou(facts)
    accuracy = f" Its mean IoU on validation images is {percent(miou)} %." if miou is not None else ""
    return (
        f"Semantic segmentation of images into {len(names)} classes: {', '.join(map(markdown, names))}. "
        f"The network is {markdown(network.backbone)} with the decoder {markdown(network.decoder)}, "
        f"{network.parameters:,} parameters, as ONNX graphs in {listed(list(facts.manifest.graphs))}.{accuracy}"
    )


def _use(facts: CardFacts) -> str:
    spec, outputs = facts.manifest.input, facts.manifest.outputs
    size = "of any size" if spec.fixed_size is None else f"of {spec.fixed_size[0]}×{spec.fixed_size[1]} pixels only"
    shape = ", ".join(str(axis) for axis in spec.shape)
    lines = [
        f"- Input: `{spec.name}` [{shape}], {spec.dtype} {spec.color}, images {size}. Normalisation and resizing are "
        "part of the graph.",
        *(
            f"- Output: `{output.name}` [{', '.join(map(str, output.shape))}], {output.dtype}: "
            f"{markdown(output.meaning)}."
            for output in outputs
        ),
        "- It is meant for images like those it was trained on: the same kind of scene, camera and resolution. Nothing "
        "was measured on others: evaluate it on your own images with `protoseg evaluate` before you rely on it.",
        "- No decision that can harm people should depend on it alone.",
    ]
    return "\n".join(lines)


def _data(facts: CardFacts) -> str:
    run = facts.run
    if run is None:
        return "Not known: the network was exported without its run."
    labelled = unlabelled = "–"
    if run.images is not None:
        labelled, unlabelled = f"{run.images.labelled.count:,}", f"{run.images.unlabelled.count:,}"
    val = "–" if facts.val_images is None else f"{facts.val_images:,}"
    rows = [["labelled (images with masks)", labelled], ["unlabelled", unlabelled], ["validation", val]]
    return (
        table(["part", "images"], rows)
        + "\n\nThe best network was chosen on the validation images, so its accuracy on them is slightly optimistic."
    )


def _accuracy(facts: CardFacts) -> str:
    if facts.evaluation is None:
        miou = _miou(facts)
        if miou is None:
            return "Nobody has measured it."
        return f"Mean IoU {percent(miou, 2)} % on the validation images; by class it is not known."
    ious = facts.evaluation.iou_percent
    rows = [[markdown(name), percent(iou), _remark(iou)] for name, iou in ious.items()]
    rows.append(["**mean**", f"**{percent(facts.evaluation.kept_percent)}**", ""])
    return "IoU on the validation images, in percent:\n\n" + table(["class", "IoU, %", ""], rows)


def _remark(iou: float | None) -> str:
    if iou is None:
        return "does not occur"
    return "weak" if iou < WEAK_PERCENT else ""


def _latency(facts: CardFacts) -> str:
    if not facts.latencies:
        return (
            "Not measured. `protoseg bench` measures it, and `protoseg report BUNDLE RUN bench.json --card "
            "MODEL_CARD.md` writes it here."
        )
    rows = []
    for bench in facts.latencies:
        row = bench.row
        rows.append(
            [
                row.precision,
                f"{row.batch} × {row.height}×{row.width}",
                f"{row.latency_p50_ms:.1f}" + ("" if row.steady else " (not steady)"),
                f"{row.latency_p95_ms:.1f}",
                percent(row.miou_percent, 2),
                f"{markdown(bench.machine)}, {counted(row.threads, 'thread')}, {markdown(row.backend)}",
            ]
        )
    return table(["precision", "batch × size", "median, ms", "p95, ms", "mean IoU, %", "measured on"], rows)


def _limits(facts: CardFacts) -> str:
    lines = []
    if facts.evaluation is not None:
        ious = facts.evaluation.iou_percent
        weak = [
            f"{markdown(name)} ({percent(iou)} %)"
            for name, iou in ious.items()
            if iou is not None and iou < WEAK_PERCENT
        ]
        absent = [markdown(name) for name, iou in ious.items() if iou is None]
        lines.append(
            f"- Weak classes, IoU below {WEAK_PERCENT:g} %: {listed(weak)}."
            if weak
            else f"- No class is below {WEAK_PERCENT:g} % IoU."
        )
        if absent:
            lines.append(f"- No validation image shows {listed(absent)}: nothing is known about them.")
    else:
        lines.append("- Accuracy by class is not known.")
    if facts.sizes:
        more = f" and {len(facts.sizes) - _MOST_SIZES} other sizes" if len(facts.sizes) > _MOST_SIZES else ""
        lines.append(
            f"- It was verified on images of {', '.join(facts.sizes[:_MOST_SIZES])} pixels{more} (height × "
            "width). Other sizes were not verified."
        )
    elif facts.manifest.verification is not None:
        lines.append("- The sizes of the images it was verified on are not known.")
    else:
        lines.append("- It was not verified on any image when this card was written.")
    if facts.manifest.input.fixed_size is None and facts.manifest.input.input_scale != 1.0:
        lines.append(
            f"- The network sees images at {facts.manifest.input.input_scale:g} of their size: objects much smaller "
            "than in training are lost."
        )
    drops = [
        f"{markdown(stage.stage)} {points(-stage.miou_drop_points, 2)}"
        for stage in (facts.manifest.verification.stages if facts.manifest.verification else ())
        if stage.miou_drop_points is not None
    ]
    if drops:
        lines.append(
            f"- Points of mean IoU that an artefact gains or loses against the one before: {'; '.join(drops)}."
        )
    return "\n".join(lines)


def _weights(facts: CardFacts) -> WeightsLicence:
    weights = facts.run.recipe.model.weights if facts.run is not None else None
    kind = weights if weights in (None, "none", "pretrained") else "file"
    return licence_of_weights(facts.manifest.network.backbone, kind)


def _licence(facts: CardFacts) -> str:
    licence = _weights(facts)
    if licence.pretrained is False:
        return "The backbone was trained from random weights. The licence of this network is yours to choose."
    source = f" ({markdown(licence.source)})" if licence.source else ""
    known = f"`{licence.licence}`" if licence.licence else "unknown"
    note = f" {licence.note}" if licence.note else ""
    return (
        f"Weights of the backbone {markdown(licence.backbone)}{source}, as timm states: {known}.{note} Your images may "
        "set further conditions."
    )


def _provenance(facts: CardFacts) -> str:
    source, run = facts.manifest.provenance, facts.run
    said = source.training
    lines = [f"- Run `{markdown(source.run)}`, file `{markdown(source.weights)}`"]
    if run is not None:
        lines[0] += f", method {markdown(method_of(run))}"
    if isinstance(said.get("step"), int) and isinstance(said.get("steps"), int):
        lines[0] += f", step {said['step']:,} of {said['steps']:,}"
    entry = facts.manifest.files.get(REFERENCE_FILE)
    if entry is not None:
        lines.append(f"- Network: SHA-256 `{entry.sha256}`")
    if source.recipe_sha256:
        lines.append(f"- Recipe: SHA-256 `{source.recipe_sha256}`")
    lines.append(
        "- Made with " + ", ".join(f"{markdown(name)} {markdown(number)}" for name, number in source.versions.items())
    )
    return "\n".join(lines)
