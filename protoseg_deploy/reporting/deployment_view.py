"""What is deployed: parity of every file, latency against accuracy, environment, digests."""

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from markupsafe import Markup

import protoseg_deploy
from protoseg_deploy.bundles.verdicts import StageVerdict
from protoseg_deploy.reporting.charts import Dot, scatter_chart
from protoseg_deploy.reporting.facts import BenchRow, BundleFacts
from protoseg_deploy.reporting.figures import count, percent, points, size
from protoseg_deploy.reporting.findings import Findings
from protoseg_deploy.reporting.summary import verdict_of

_LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True)
class StageView:
    """One comparison."""

    stage: str
    against: str
    status: str
    agreement: str
    least: str
    """Agreement that it has to reach."""
    worst: str
    miou: str
    change: str
    """Of mIoU, in points."""
    backend: str
    remarks: tuple[str, ...]
    picture: int | None


@dataclass(frozen=True)
class ParityView:
    """The verdicts of a bundle."""

    name: str
    verdict: str
    passed: bool | None
    images: str
    pytorch: str
    stages: tuple[StageView, ...]


@dataclass(frozen=True)
class BenchView:
    """Latencies, and accuracy where it was measured with them."""

    chart: Markup
    rows: tuple[BenchRow, ...]
    machines: tuple[str, ...]


def parity_views(findings: Findings) -> list[ParityView]:
    """All bundles."""
    return [_parity(bundle, findings) for bundle in findings.bundles]


def _parity(bundle: BundleFacts, findings: Findings) -> ParityView:
    verification = bundle.manifest.verification
    if verification is None:
        return ParityView(bundle.name, "never verified", None, "", "", ())
    images = f"{verification.images:,} images, {verification.masks:,} of them with masks"
    if verification.fitted_images:
        images += f"; {verification.fitted_images:,} were cropped or padded to the size of the graphs"
    return ParityView(
        bundle.name,
        verdict_of(bundle),
        bundle.verified,
        images,
        percent(verification.miou_pytorch_percent, 2),
        tuple(
            _stage(stage, stage.stage in bundle.outdated, findings.stage_pictures.get((bundle.name, stage.stage)))
            for stage in verification.stages
        ),
    )


def _stage(stage: StageVerdict, outdated: bool, picture: int | None) -> StageView:
    remarks = list(stage.reasons)
    if outdated:
        remarks.append("This verdict is about other files than those in the bundle.")
    if stage.emulated:
        remarks.append("Computed in fp32 and rounded to the graph's types here.")
    limits = stage.limits
    return StageView(
        stage.stage,
        stage.against,
        "outdated" if outdated else stage.status,
        percent(stage.agreement_percent, 3),
        percent(limits.min_agreement_percent if limits else None),
        percent(stage.worst_agreement_percent, 2) + (f" ({stage.worst_image})" if stage.worst_image else ""),
        percent(stage.miou_percent, 2),
        points(None if stage.miou_drop_points is None else -stage.miou_drop_points, 2),
        stage.backend,
        tuple(remarks),
        picture,
    )


def bench_view(findings: Findings) -> BenchView:
    """All measured rows."""
    rows = findings.bench.rows
    machines = tuple(dict.fromkeys(row.machine for row in rows))
    judged = [row for row in rows if row.row.miou_percent is not None]
    dots = [_dot(row, machines.index(row.machine)) for row in judged]
    front = sorted((row.row.latency_p50_ms, row.row.miou_percent or 0.0) for row in judged if row.on_front)
    chart = scatter_chart(
        f"Median latency against mean IoU of {len(dots)} measured runtimes",
        dots,
        front,
        x_label="median latency of a call, ms",
        y_label="mean IoU, %",
    )
    return BenchView(chart, rows, machines)


def _dot(bench: BenchRow, style: int) -> Dot:
    row = bench.row
    low, high = row.miou_low_percent, row.miou_high_percent
    return Dot(
        str(bench.number),
        row.latency_p50_ms,
        row.miou_percent or 0.0,
        (row.latency_p50_low_ms, row.latency_p50_high_ms),
        None if low is None or high is None else (low, high),
        hollow=not row.steady,
        style=style,
    )


def environment(findings: Findings) -> list[tuple[str, str]]:
    """What things were made with, and what made this report."""
    lines = []
    for run in findings.runs:
        summary = run.summary or {}
        device, processes = summary.get("device"), summary.get("processes")
        if device:
            many = f", {processes} processes" if isinstance(processes, int) and processes > 1 else ""
            lines.append((f"{run.name} was trained on", f"{device}{many}, {run.recipe.train.precision}"))
    for bundle in findings.bundles:
        versions = ", ".join(f"{name} {number}" for name, number in bundle.manifest.provenance.versions.items())
        lines.append((f"{bundle.name} was exported with", versions))
        backends = dict.fromkeys(stage.backend for stage in bundle.stages if stage.backend)
        if backends:
            lines.append((f"{bundle.name} was verified with", "; ".join(backends)))
    lines += [(f"{row.name} was measured on", row.machine) for row in findings.bench.rows]
    here = [f"protoseg {protoseg_deploy.__version__}", f"Python {platform.python_version()}"]
    for library in _LIBRARIES:
        try:
            here.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return [*dict.fromkeys(lines), ("This report was made with", ", ".join(here))]


@dataclass(frozen=True)
class Digest:
    """A file and what identifies it."""

    owner: str
    what: str
    bytes: str
    sha256: str
    fault: str = ""


def digests(findings: Findings) -> list[Digest]:
    """Networks, recipes and images of runs; files of bundles; measured files."""
    found = []
    for run in findings.runs:
        found += [Digest(run.name, network.path.name, size(network.bytes), network.sha256) for network in run.networks]
        found.append(Digest(run.name, "recipe.yaml", "", run.recipe_sha256))
        if run.images is not None:
            for part, images in (("labelled", run.images.labelled), ("unlabelled", run.images.unlabelled)):
                found.append(Digest(run.name, f"names of the {count(images.count)} {part} images", "", images.sha256))
    for bundle in findings.bundles:
        found += [Digest(bundle.name, file.name, size(file.bytes), file.sha256, file.fault) for file in bundle.files]
        provenance, verification = bundle.manifest.provenance, bundle.manifest.verification
        if provenance.recipe_sha256:
            found.append(Digest(bundle.name, f"recipe of the run {provenance.run}", "", provenance.recipe_sha256))
        if verification is not None:
            found.append(Digest(bundle.name, "images it was verified on", "", verification.images_sha256))
    return found


def provenance(findings: Findings) -> list[tuple[str, str]]:
    """Where networks come from, in words."""
    lines = []
    for run in findings.runs:
        for network in run.networks:
            said = network.provenance
            step = f" at step {said['step']:,}" if isinstance(said.get("step"), int) else ""
            source = said.get("run", run.name)
            lines.append((f"{run.name}, {network.which} network", f"from the run {source}{step}"))
    for bundle in findings.bundles:
        said, source = bundle.manifest.provenance.training, bundle.manifest.provenance
        step = f", step {said['step']:,}" if isinstance(said.get("step"), int) else ""
        lines.append((bundle.name, f"{source.weights} of the run {source.run}{step}"))
        known = {network.sha256: run.name for run in findings.runs for network in run.networks}
        entry = bundle.manifest.files.get("reference.safetensors")
        if entry is not None and entry.sha256 in known:
            lines.append((bundle.name, f"its network is the one of {known[entry.sha256]} in this report"))
    return lines
