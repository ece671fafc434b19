"""``protoseg serve-repo``: bundles as a model repository of the Triton Inference Server."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from protoseg_deploy.cli.arguments import (
    PATH,
    Number,
    height_and_width,
    json_option,
    note,
    precision_option,
    print_json,
    print_table,
    runtime_argument,
)
from protoseg_deploy.cli.verb import Verb
from protoseg_deploy.serving.triton.options import (
    GPU_DELAY_MS,
    LARGEST_BATCH,
    MAX_BATCH,
    MOST_INSTANCES,
    MOST_PIXELS,
    MOST_THREADS,
    TRITON_BACKENDS,
    WARMUP_SIZE,
    ModelOptions,
    TritonBackend,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from protoseg_deploy.choices import Precision
    from protoseg_deploy.serving.triton.artefact import TritonArtefact
    from protoseg_deploy.serving.triton.repository import AddedModel


@click.command(name="serve-repo", cls=Verb, short_help="Write bundles as a model repository for Triton.")
@click.argument("bundles", metavar="BUNDLE[@PRECISION]...", nargs=-1, required=True)
@click.option("--out", type=PATH, required=True, help="Model repository; created if missing, else added to.")
@click.option(
    "--backend",
    type=click.Choice(TRITON_BACKENDS),
    default="onnxruntime",
    show_default=True,
    help="Triton backend. `tensorrt` serves the engine of the bundle, `python` runs ONNX Runtime in Python.",
)
@precision_option
@click.option("--engine", metavar="NAME", help="Engine of the bundle for --backend tensorrt, if it has several.")
@click.option(
    "--name",
    "names",
    multiple=True,
    metavar="NAME",
    help="Name of the model; one for each BUNDLE.  [default: its folder]",
)
@click.option("--max-batch", type=click.IntRange(1, LARGEST_BATCH), help=f"Largest batch.  [default: {MAX_BATCH}]")
@click.option(
    "--instances", type=click.IntRange(1, MOST_INSTANCES), default=1, show_default=True, help="Copies of the model."
)
@click.option("--gpu", is_flag=True, help="Run on GPUs; --instances is then the number on each.")
@click.option(
    "--threads",
    type=click.IntRange(1, MOST_THREADS),
    help="CPU threads of each instance.  [default: the library's]",
)
@click.option(
    "--delay",
    "delay_ms",
    type=Number(0, 1000),
    help=f"Milliseconds that a batch waits.  [default: 0 on CPUs, {GPU_DELAY_MS:g} on GPUs]",
)
@click.option(
    "--max-megapixels",
    type=Number(0, min_open=True),
    default=MOST_PIXELS / 1e6,
    show_default=True,
    help="Of one request; for --backend python and --ensemble.",
)
@click.option(
    "--warmup-size",
    type=height_and_width,
    metavar="HxW",
    help=f"Size of the warm-up image, unless the graph fixes it.  [default: {WARMUP_SIZE[0]}x{WARMUP_SIZE[1]}]",
)
@click.option("--cache", is_flag=True, help="Answer repeated requests from Triton's response cache.")
@click.option("--ensemble", is_flag=True, help="Add the model NAME_encoded, which takes JPEG and PNG files.")
@click.option("--allow-unverified", is_flag=True, help="Also serve artefacts that are unverified or failed.")
@json_option
def command(
    bundles: tuple[str, ...],
    out: Path,
    backend: TritonBackend,
    precision: str | None,
    engine: str | None,
    names: tuple[str, ...],
    max_batch: int | None,
    instances: int,
    gpu: bool,
    threads: int | None,
    delay_ms: float | None,
    max_megapixels: float,
    warmup_size: tuple[int, int] | None,
    cache: bool,
    ensemble: bool,
    allow_unverified: bool,
    as_json: bool,
) -> None:
    """Write BUNDLEs into a model repository of the Triton Inference Server, each as a model of its own.

    The configuration of a model is generated from its graph and says which artefact it serves: classes, digest,
    verdict. A bundle for a model that is already there becomes its next version; the same bundle again changes nothing.
    Artefacts that are not verified are refused.

    \b
    protoseg serve-repo bundles/mine --out repository
    protoseg serve-repo bundles/mine bundles/mine@int8 --name mine --name mine-int8 --out repository
    protoseg serve-repo bundles/mine --out repository --backend python --ensemble --max-batch 16
    protoseg serve-repo bundles/mine --out repository --backend tensorrt --precision fp16 --instances 2
    """
    from protoseg_deploy.serving.triton.artefact import find_artefact
    from protoseg_deploy.serving.triton.library import config_types
    from protoseg_deploy.serving.triton.repository import add_model, check_name

    config_types()  # says what to install before anything is read
    options = ModelOptions(
        backend=backend,
        max_batch=max_batch,
        instances=instances,
        gpu=gpu,
        delay_ms=delay_ms,
        threads=threads,
        max_pixels=max(1, round(1e6 * max_megapixels)),
        warmup_size=warmup_size,
        cache=cache,
        ensemble=ensemble,
        allow_unverified=allow_unverified,
    )
    arguments = [_argument(text, precision, out) for text in bundles]
    called = _names([path for path, _ in arguments], names, ensemble=ensemble)
    for name in called:
        check_name(name)
    artefacts = [find_artefact(path, options, graph, engine) for path, graph in arguments]
    added = [add_model(out, name, artefact, options) for name, artefact in zip(called, artefacts, strict=True)]
    if as_json:
        print_json({"repository": str(out), "models": [_document(model) for model in added]})
    else:
        _show(out, added)
    _note(added, artefacts)


def _argument(text: str, precision: str | None, out: Path) -> "tuple[Path, Precision | None]":
    """The bundle, and the precision of its graph. Raises UsageError where the repository would lie inside."""
    from protoseg_deploy.errors import UsageError

    argument = runtime_argument(text, precision, None)
    if argument.backend is not None:
        raise UsageError(
            f"{text}: @{argument.backend} is not a backend of Triton", f"Give --backend {'|'.join(TRITON_BACKENDS)}."
        )
    path = argument.path
    if not isinstance(path, Path):
        raise UsageError(f"{text} is a model on a server; a repository is made of bundles")
    if out.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--out {out} lies inside the bundle {path}", "Choose another folder.")
    return path, argument.precision


def _names(paths: "Sequence[Path]", names: tuple[str, ...], *, ensemble: bool) -> list[str]:
    """A name for every bundle. Raises UsageError where they are not one for each, or two models get the same."""
    from protoseg_deploy.errors import UsageError
    from protoseg_deploy.serving.triton.config import DECODE_SUFFIX, ENSEMBLE_SUFFIX

    if names and len(names) != len(paths):
        raise UsageError(
            f"{len(names)} names for {len(paths)} bundles", "Give one --name for each, in their order, or none."
        )
    called = list(names) or [path.resolve().name for path in paths]
    suffixes = ("", DECODE_SUFFIX, ENSEMBLE_SUFFIX) if ensemble else ("",)
    models = [name + suffix for name in called for suffix in suffixes]
    twice = next((name for name in models if models.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two models would have the name {twice}", "Give each a --name.")
    return called


def _document(model: "AddedModel") -> dict[str, object]:
    return {
        "name": model.name,
        "version": model.version,
        "latest": model.latest,
        "change": model.change,
        "sha256": model.facts.sha256,
        "precision": model.facts.metadata.precision,
        "verified": model.facts.verified,
        "folder": str(model.folder),
        "ensemble": model.ensemble,
    }


def _show(out: Path, added: "Sequence[AddedModel]") -> None:
    rows = [
        (m.name, m.version, m.facts.metadata.precision, m.facts.sha256[:12], m.ensemble or "", m.change) for m in added
    ]
    print_table(["model", "version", "precision", "sha256", "encoded images", "change"], rows, title=str(out))


def _note(added: "Sequence[AddedModel]", artefacts: "Sequence[TritonArtefact]") -> None:
    for model, artefact in zip(added, artefacts, strict=True):
        if artefact.facts.verified is not True:
            verdict = "failed its verification" if artefact.facts.verified is False else "is unverified"
            note(f"{artefact.graph.file} {verdict}; the configuration of {model.name} says so to its clients.")
        if model.version != model.latest:
            note(
                f"{model.name}: this bundle is version {model.version} already, and version {model.latest} answers "
                f"requests that name none; remove {model.folder / str(model.latest)} to go back."
            )
