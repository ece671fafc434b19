"""From an artefact to the models of a repository: new versions stand beside old ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from protoseg_deploy.bundles.digests import file_sha256, joint_digest
from protoseg_deploy.bundles.service import ServiceFacts
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.recipe.shipped import shipped_folder
from protoseg_deploy.serving.triton.artefact import TritonArtefact
from protoseg_deploy.serving.triton.config import (
    DECODE_SUFFIX,
    ENSEMBLE_SUFFIX,
    LABELS_FILE,
    WARMUP_FILE,
    check_decodable,
    decode_config,
    ensemble_config,
    model_config,
    tensors_of,
)
from protoseg_deploy.serving.triton.library import CONFIG_FILE, config_text
from protoseg_deploy.serving.triton.model_folder import Content, ModelFolder, has_ensemble, writing
from protoseg_deploy.serving.triton.options import ModelOptions
from protoseg_deploy.serving.triton.warmup import warmup_image

Change = Literal["added", "updated", "unchanged"]


@dataclass(frozen=True)
class AddedModel:
    """What became of an artefact in a repository."""

    name: str
    version: int
    latest: int
    """Version that answers requests that name none."""
    change: Change
    """``added``: a new version; ``updated``: the version was there, other files of its model were written."""
    facts: ServiceFacts
    folder: Path
    ensemble: str | None
    """Name of the model that takes encoded images."""


def add_model(repository: Path, name: str, artefact: TritonArtefact, options: ModelOptions) -> AddedModel:
    """Put an artefact into a repository, as the next version of a model.

    An artefact that is there already, by its digest, stays the version it is; what the options change is written. A
    model that has an ensemble keeps it.

    Args:
        repository: folder; made where there is none.
        name: of the model, which is that of its folder.
        artefact: see `find_artefact`.
        options: how Triton runs the model, all its versions alike.

    Raises:
        UsageError: the folder of that name is no model of this program, its versions have other inputs, outputs or
            another backend, or an ensemble cannot decode as the network needs.
        ProtosegError: files of it are damaged, or those of the bundle were exchanged meanwhile.
        WriteError: the disk is full, or the folder cannot be written.
    """
    check_name(name)
    with writing(repository):
        encoded = options.ensemble or has_ensemble(repository, name)
        suffixes = ("", DECODE_SUFFIX, ENSEMBLE_SUFFIX) if encoded else ("",)
        models = {suffix: ModelFolder.read(repository / (name + suffix), suffix) for suffix in suffixes}
        if encoded:
            check_decodable(name, artefact)
        there = models[""]
        versions = dict(there.versions or {})
        known = [number for number, facts in versions.items() if facts.sha256 == artefact.facts.sha256]
        version = known[-1] if known else max(versions, default=0) + 1
        versions[version] = artefact.facts
        config = model_config(name, artefact, options, versions)
        if set(versions) - {version}:
            _require_alike(there, config)
        changed = _write_model(there, _files(config, artefact, options, versions, version), artefact, version)
        latest = versions[max(versions)]
        for suffix, files in _ensemble_files(name, artefact, options, latest).items() if encoded else ():
            if models[suffix].changed(files):
                models[suffix].write(files, 1)
                changed = True
    change: Change = "unchanged" if not changed else "updated" if known else "added"
    ensemble = name + ENSEMBLE_SUFFIX if encoded else None
    return AddedModel(name, version, max(versions), change, artefact.facts, there.path, ensemble)


def check_name(name: str) -> None:
    """Refuse what is no name of a model in addresses and folders alike.

    Raises:
        UsageError: it holds other characters than letters, digits, ``.``, ``_`` and ``-``, or starts with a dot.
    """
    plain = name.isascii() and name.replace("_", "").replace("-", "").replace(".", "").isalnum()
    if not plain or name.startswith(".") or len(name) > 100:
        raise UsageError(
            f"{name!r} is no name of a model: letters, digits, '.', '_' and '-' are, 100 at most",
            "Give one with --name.",
        )


def _files(
    config: Any, artefact: TritonArtefact, options: ModelOptions, versions: Mapping[int, ServiceFacts], version: int
) -> dict[str, Content]:
    files: dict[str, Content] = {f"{version}/{name}": source for name, source in artefact.files.items()}
    if options.backend == "python":
        files[f"{version}/model.py"] = _template("model.py")
    files[LABELS_FILE] = _labels(versions[max(versions)])
    files[f"warmup/{WARMUP_FILE}"] = warmup_image(artefact.warmup_size(options)).tobytes()
    files[CONFIG_FILE] = config_text(config)
    return files


def _ensemble_files(
    name: str, artefact: TritonArtefact, options: ModelOptions, latest: ServiceFacts
) -> dict[str, dict[str, Content]]:
    """Files of the models around the model, by their suffixes."""
    return {
        DECODE_SUFFIX: {
            "1/model.py": _template("decode_model.py"),
            CONFIG_FILE: config_text(decode_config(name, artefact, options)),
        },
        ENSEMBLE_SUFFIX: {
            "1/.keep": b"",  # Triton wants the folder, and object stores keep no empty ones
            LABELS_FILE: _labels(latest),
            CONFIG_FILE: config_text(ensemble_config(name, artefact, latest)),
        },
    }


def _write_model(model: ModelFolder, files: Mapping[str, Content], artefact: TritonArtefact, version: int) -> bool:
    """Write what is not there; whether there was anything."""
    changed = model.changed(files)
    folder = model.path / str(version)
    if folder.is_dir():
        damaged = [name for name in changed if isinstance(files[name], Path)]
        if damaged:
            raise ProtosegError(
                f"{model.path / damaged[0]} is not the file that {CONFIG_FILE} describes: it was damaged or replaced",
                f"Remove {folder} and add the bundle again.",
            )
    elif joint_digest([file_sha256(file) for file in artefact.files.values()]) != artefact.facts.sha256:
        raise ProtosegError(f"{artefact.graph.file} was replaced while it was read", "Try again.")
    if changed:
        model.write(files, version)
    return bool(changed)


def _require_alike(there: ModelFolder, config: Any) -> None:
    """Raises UsageError where two versions cannot share the one configuration that Triton has for them."""
    for what, old, new in (
        ("inputs and outputs", _listed(there.config), _listed(config)),
        ("backend", there.config.backend, config.backend),
    ):
        if old != new:
            raise UsageError(
                f"{there.path} has versions with other {what}, and Triton has one configuration for all versions: "
                f"{old} there, {new} here",
                "Give the model another --name, or remove the folder.",
            )


def _listed(config: Any) -> str:
    return ", ".join(f"{name} {list(dims)}" for name, _, dims in tensors_of(config))


def _labels(facts: ServiceFacts) -> bytes:
    """Names of the classes, one a line."""
    return "".join(f"{' '.join(name.split())}\n" for name in facts.metadata.classes.names).encode()


def _template(name: str) -> bytes:
    return (shipped_folder("export") / "triton" / name).read_bytes()
