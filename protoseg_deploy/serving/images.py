"""From the tensors of a request to images, and from class maps to pictures."""

from io import BytesIO
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from protoseg_deploy.bundles.contract import INPUT
from protoseg_deploy.data.images import decode_image
from protoseg_deploy.errors import DataError
from protoseg_deploy.recipe import ImageReading
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.serving.limits import Limits
from protoseg_deploy.serving.requests import ErrorKind, InputTensor, RequestError, elements_of

_MOST_NESTED = 4
"""Lists in lists: one for each axis, of which the outermost counts as none."""


def images_of(
    tensor: InputTensor, reading: ImageReading, fixed_size: tuple[int, int] | None, limits: Limits
) -> UInt8Array:
    """The images of a request.

    Args:
        tensor: ``images``: ``UINT8`` ``[N,H,W,3]`` RGB, or ``BYTES`` ``[N]`` (or ``[N,1]``), encoded images of one
            size, decoded as `read_image` decodes files.
        reading: how encoded images are read.
        fixed_size: height and width that the network takes; None: any.
        limits: of the server.

    Returns:
        ``[N,H,W,3]`` uint8.

    Raises:
        RequestError: name, type, shape or content do not fit, or a limit is exceeded.
    """
    if tensor.name != INPUT:
        raise RequestError("invalid", f"there is no input {tensor.name[:100]!r}: the model has one, {INPUT!r}")
    if tensor.datatype not in ("UINT8", "BYTES"):
        raise RequestError(
            "invalid", f"{INPUT} is UINT8 [N,H,W,3] or BYTES [N] (encoded images), not {tensor.datatype[:20]}"
        )
    images = _decoded(tensor, reading, limits) if tensor.datatype == "BYTES" else _pixels(tensor, limits)
    if fixed_size is not None and images.shape[1:3] != fixed_size:
        raise RequestError(
            "invalid",
            f"the model takes images of {fixed_size[0]}x{fixed_size[1]} pixels (height x width) only, "
            f"not {images.shape[1]}x{images.shape[2]}",
        )
    return images


def require_size(images: UInt8Array, size_range: tuple[tuple[int, int], tuple[int, int]] | None) -> None:
    """Refuse images that are too small or too large for an engine.

    Args:
        images: ``[N,H,W,3]``.
        size_range: smallest and largest height and width; None: any.

    Raises:
        RequestError: they are.
    """
    if size_range is None:
        return
    (lowest, narrowest), (highest, widest) = size_range
    height, width = images.shape[1:3]
    if not (lowest <= height <= highest and narrowest <= width <= widest):
        raise RequestError(
            "invalid",
            f"the model takes images of {lowest}x{narrowest} to {highest}x{widest} pixels (height x width), "
            f"not {height}x{width}",
        )


def palette_pngs(class_maps: NDArray[Any], colors: tuple[tuple[int, int, int], ...]) -> tuple[bytes, ...]:
    """Each ``[H,W]`` class map of at most 256 classes as a palette PNG, its indices the classes."""
    palette = bytes(channel for color in colors for channel in color)
    return tuple(_palette_png(class_map.astype(np.uint8, copy=False), palette) for class_map in class_maps)


def image_pngs(images: UInt8Array) -> tuple[bytes, ...]:
    """Each image of ``[N,H,W,3]`` uint8 RGB as a PNG."""
    return tuple(_png(Image.fromarray(image)) for image in images)


def _palette_png(class_map: UInt8Array, palette: bytes) -> bytes:
    picture = Image.fromarray(class_map, mode="L")
    picture.putpalette(palette)
    return _png(picture)


def _png(picture: Image.Image) -> bytes:
    file = BytesIO()
    picture.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _pixels(tensor: InputTensor, limits: Limits) -> UInt8Array:
    shape = tensor.shape
    if len(shape) != 4 or shape[3] != 3 or min(shape) < 1:
        raise RequestError("invalid", f"{INPUT} is UINT8 [N,H,W,3], every axis at least 1; got {list(shape)[:8]}")
    _check_pixels(shape[0], shape[1], shape[2], limits)
    expected = shape[0] * shape[1] * shape[2] * 3
    if isinstance(tensor.data, bytes | memoryview):
        if len(tensor.data) != expected:
            raise RequestError(
                "invalid", f"{INPUT} of shape {list(shape)} has {expected} bytes; the request holds {len(tensor.data)}"
            )
        return np.frombuffer(tensor.data, np.uint8).reshape(shape)
    return _from_elements(tensor.data, expected).reshape(shape)


def _from_elements(data: Any, expected: int) -> UInt8Array:
    """Numbers of a JSON document or of a gRPC message.

    NumPy would make an array of whatever it is given: of texts one in which each is as long as the longest.
    """
    elements, depth = data, 0
    while elements and isinstance(elements[0], list) and depth < _MOST_NESTED:
        if any(not isinstance(element, list) or len(element) != len(elements[0]) for element in elements):
            break
        elements, depth = list(chain.from_iterable(elements)), depth + 1
    if len(elements) != expected or not set(map(type, elements)) <= {int}:
        raise RequestError(
            "invalid", f"{INPUT} needs {expected} whole numbers from 0 to 255, nested evenly or not at all"
        )
    try:
        return np.frombuffer(bytes(elements), np.uint8)
    except ValueError:
        raise RequestError("invalid", f"{INPUT} holds numbers outside 0 to 255") from None


def _decoded(tensor: InputTensor, reading: ImageReading, limits: Limits) -> UInt8Array:
    shape = tensor.shape
    count = shape[0] if shape else 0
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1) or count < 1:
        raise RequestError("invalid", f"{INPUT} of type BYTES is [N], N at least 1; got {list(shape)[:8]}")
    if count > limits.request_images:
        raise RequestError("too large", f"{count} images in one request; at most {limits.request_images} are taken")
    elements: list[Any] = (
        elements_of(tensor.data, count)
        if isinstance(tensor.data, bytes | memoryview)
        else [element[0] if isinstance(element, list) and element else element for element in tensor.data]
    )
    if len(elements) != count or not all(isinstance(element, bytes) for element in elements):
        raise RequestError("invalid", f"{INPUT} of type BYTES [{count}] needs {count} encoded images as binary data")
    images: list[UInt8Array] = []
    pixels = 0
    for number, element in enumerate(elements):
        most = min(limits.image_pixels, limits.request_pixels - pixels)
        try:
            image = decode_image(element, f"image {number}", reading, most_pixels=most)
        except DataError as error:
            kind: ErrorKind = "too large" if "too large" in error.message else "invalid"
            raise RequestError(kind, error.message) from None
        pixels += image.shape[0] * image.shape[1]
        images.append(image)
    if len({image.shape for image in images}) > 1:
        sizes = ", ".join(f"{image.shape[0]}x{image.shape[1]}" for image in images[:4])
        raise RequestError("invalid", f"images of one request have one size; got {sizes}: send one request for each")
    return np.stack(images)


def _check_pixels(count: int, height: int, width: int, limits: Limits) -> None:
    if count > limits.request_images:
        raise RequestError("too large", f"{count} images in one request; at most {limits.request_images} are taken")
    if height * width > limits.image_pixels or count * height * width > limits.request_pixels:
        raise RequestError(
            "too large",
            f"{count} images of {height}x{width} pixels: at most {limits.image_pixels:,} pixels an image and "
            f"{limits.request_pixels:,} a request are taken",
        )
