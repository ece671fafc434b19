"""A bundle appears all at once: written beside its place, renamed at the very end."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.runtimes.manifest import MANIFEST_FILE


def check_target(bundle: Path) -> None:
    """A folder of something else must never be deleted."""
    if bundle.exists() and not (bundle.is_dir() and (not any(bundle.iterdir()) or _is_bundle(bundle))):
        raise UsageError(
            f"{bundle} exists and is not a bundle", "Choose another --bundle folder; only bundles are replaced."
        )


def _is_bundle(folder: Path) -> bool:
    """Whether a folder holds a manifest of ours, of any version; other programs have a ``manifest.json`` too."""
    try:
        content = json.loads((folder / MANIFEST_FILE).read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and {"format", "network", "classes", "files"} <= content.keys()


@contextmanager
def scratch_folder(bundle: Path) -> Iterator[Path]:
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


def put_in_place(folder: Path, target: Path) -> None:
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
