"""What an export may replace: a bundle, and nothing that is not a bundle's."""

import json
from collections.abc import Iterable
from pathlib import Path

from protoseg_deploy.bundles.manifest import CARD_FILE, ENGINE_FOLDER, MANIFEST_FILE, VERIFICATION_FOLDER
from protoseg_deploy.errors import UsageError
from protoseg_deploy.exchange import LOCK_FILE, settle
from protoseg_deploy.files import is_scratch, open_regular, read_at_most, resolved

_MOST_BYTES = 2**28

_OURS = {".": (MANIFEST_FILE, CARD_FILE, LOCK_FILE), ENGINE_FOLDER: ("*.engine", "*.json", "*.onnx", "*.cache")}
_OURS[VERIFICATION_FOLDER] = ("worst-*.png",)


def check_target(bundle: Path, inputs: Iterable[Path]) -> None:
    """Refuse a folder that is not a bundle, a bundle with files of somebody else, and one that is read from.

    Args:
        bundle: the folder to be replaced; there or not.
        inputs: files and folders that the export reads.

    Raises:
        UsageError: it may not be replaced.
    """
    settle(bundle)
    if not bundle.exists():
        return
    if not bundle.is_dir() or (any(bundle.iterdir()) and not _is_bundle(bundle)):
        raise UsageError(
            f"{bundle} exists and is not a bundle", "Choose another --bundle folder; only bundles are replaced."
        )
    place = resolved(bundle)
    for path in inputs:
        if resolved(path).is_relative_to(place):
            raise UsageError(
                f"{path} lies in {bundle}, which would be replaced", "Choose another --bundle; nothing was written."
            )
    strangers = [path.relative_to(bundle).as_posix() for path in _strangers(bundle)]
    if strangers:
        more = f" and {len(strangers) - 3} more" if len(strangers) > 3 else ""
        raise UsageError(
            f"{bundle} holds files that are not the bundle's: {', '.join(strangers[:3])}{more}",
            "Move them elsewhere, or choose another --bundle; nothing was written.",
        )


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a manifest of ours, of any version; other programs have a ``manifest.json`` too."""
    return _files_of(folder) is not None


def _files_of(folder: Path) -> set[str] | None:
    """Names in the manifest of a bundle of any version; None where it is none."""
    try:
        with open_regular(folder / MANIFEST_FILE) as file:
            content = json.loads(read_at_most(file, _MOST_BYTES) or b"")
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not {"format", "network", "classes", "files"} <= content.keys():
        return None
    return set(content["files"]) if isinstance(content["files"], dict) else None


def _strangers(bundle: Path) -> list[Path]:
    """Files, links and folders below a bundle that no export, build or verification has put there."""
    named = _files_of(bundle) or set()
    found = []
    for path in sorted(bundle.rglob("*")):
        relative = path.relative_to(bundle)
        patterns = _OURS.get(relative.parent.as_posix(), ())
        ours = relative.as_posix() in named or is_scratch(path.name) or any(map(path.match, patterns))
        folder = path.is_dir() and not path.is_symlink() and relative.as_posix() in _OURS
        if not folder and (path.is_symlink() or not ours or path.is_dir()):
            found.append(path)
    return found
