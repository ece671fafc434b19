"""The images of a sharded prediction, one at a time: of folders, of files, of a manifest; never all in memory."""

import os
import posixpath
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from protoseg_deploy.data.finding import no_images, scan_images
from protoseg_deploy.data.paths import is_image_name
from protoseg_deploy.errors import UsageError
from protoseg_deploy.evaluation.shards.manifests import read_manifest
from protoseg_deploy.evaluation.shards.stores import file_system, is_url, plain_path

Found = tuple[str, int]
"""An image, absolute or a URL, with slashes; and where in that text the name of its mask begins, -1 where it lies
outside the folder of its manifest."""


def list_images(inputs: Sequence[str], manifest: str | None, leave_out: Sequence[str] = ()) -> Iterator[Found]:
    """All images, in an order that depends on nothing but what is there; repeated ones come repeatedly.

    Args:
        inputs: image files and folders, local or URLs.
        manifest: see `read_manifest`; read after the inputs.
        leave_out: folders not to enter, local or URLs.

    Raises:
        UsageError: an input does not exist, a folder holds no images, or the manifest cannot be read.
    """
    folders = [Path(folder) for folder in leave_out if not is_url(folder)]
    urls = [folder for folder in leave_out if is_url(folder)]
    for given in inputs:
        yield from _remote(given, urls) if is_url(given) else _local(plain_path(given), folders)
    if manifest is not None:
        yield from _of_manifest(manifest)


def _local(given: str, leave_out: Sequence[Path]) -> Iterator[Found]:
    base = _slashed(os.path.abspath(given))  # noqa: PTH100  links are not followed, and a/../b is b
    if os.path.isdir(base):  # noqa: PTH112  Path.is_dir raises where a path is too long
        empty, start = True, len(base.rstrip("/")) + 1
        for below, names in scan_images(Path(base), leave_out, {}):
            empty = empty and not names
            before = f"{base.rstrip('/')}/{below}"
            yield from ((before + name, start) for name in names)
        if empty:
            raise UsageError(no_images(Path(given), "IMAGES"))
    elif os.path.exists(base):  # noqa: PTH110
        yield base, base.rfind("/") + 1
    else:
        raise UsageError(f"{given}: no such file or folder")


def _remote(given: str, leave_out: Sequence[str]) -> Iterator[Found]:
    system, path = file_system(given)
    url = given.rstrip("/")
    others = [file_system(folder) for folder in leave_out]
    closed = {place.strip("/") for other, place in others if type(other) is type(system)}
    try:
        if not system.isdir(path):
            if not system.exists(path):
                raise UsageError(f"{url}: no such file or folder")
            yield url, url.rfind("/") + 1
            return
        empty = True
        for below, names in _walk(system, path, closed):
            for name in names:
                empty = False
                yield f"{url}/{below}{name}", len(url) + 1
    except UsageError:
        raise
    except Exception as error:  # of the driver: no credentials, no network
        raise UsageError(f"{url} cannot be listed: {error}") from None
    if empty:
        raise UsageError(f"IMAGES: no images in {url}")


def _walk(system: Any, path: str, closed: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Folders below a remote one, each with its sorted image names; hidden ones and `closed` ones are skipped."""
    waiting = [""]
    while waiting:
        below = waiting.pop()
        if posixpath.join(path, below).strip("/") in closed:
            continue
        _, folders, files = next(iter(system.walk(posixpath.join(path, below), maxdepth=1)), ("", (), ()))
        yield below, sorted(name for name in files if is_image_name(name) and not name.startswith("."))
        waiting += sorted((f"{below}{name}/" for name in folders if not name.startswith(".")), reverse=True)


def _of_manifest(manifest: str) -> Iterator[Found]:
    place = manifest if is_url(manifest) else _slashed(os.path.abspath(plain_path(manifest)))  # noqa: PTH100
    before = place[: place.rfind("/") + 1]
    for name in read_manifest(manifest):
        image = plain_path(name)
        if not is_url(image):
            image = _slashed(image)
            if not os.path.isabs(image):  # noqa: PTH117
                image = before + image
        image = _normal(image)
        yield image, len(before) if image.startswith(before) else -1


def _normal(image: str) -> str:
    """Without ``.``, ``..`` and doubled slashes, so that no mask is written outside the folder of results."""
    protocol, found, path = image.partition("://") if is_url(image) else ("", "", image)
    if "//" in path or "/." in path or path.startswith("."):
        path = _slashed(posixpath.normpath(path)) if found else _slashed(os.path.normpath(path))
    return f"{protocol}{found}{path}"


def _slashed(path: str) -> str:
    return path.replace("\\", "/") if os.name == "nt" else path
