"""Encoded images to pixels in Triton's Python backend, for a model that takes uint8 RGB.

NumPy and Pillow are all it needs. One input ``images``, ``BYTES`` ``[N]``: JPEG or 8-bit PNG files of one size. One
output ``pixels``, uint8 RGB ``[N,H,W,3]``. Transparency is composited on black, and the EXIF orientation applied, as
the parameters ``alpha`` and ``exif`` say; ``max_pixels`` and ``max_images`` are limits of a request, held against
headers before pixels are decoded.
"""

import io
import json
import warnings

import numpy as np
import triton_python_backend_utils as pb_utils
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG")
"""Pillow takes those of several cameras in one JPEG file for them too; the first picture is read."""
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class TritonPythonModel:
    """Decodes the images of requests."""

    def initialize(self, args):
        """Read the parameters.

        Raises:
            TritonModelException: NumPy is too new for this backend.
        """
        if int(np.__version__.split(".")[0]) >= 2:
            raise pb_utils.TritonModelException(
                f"{args['model_name']}: NumPy {np.__version__} is installed, with which Triton's Python backend "
                "answers requests with empty outputs and reports success. Install numpy<2 for its Python."
            )
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self._max_pixels = int(parameters.get("max_pixels", 50_000_000))
        self._max_images = int(parameters.get("max_images", 8))
        self._turned = parameters.get("exif", "apply") == "apply"
        self._composed = parameters.get("alpha", "auto") != "ignore"
        Image.MAX_IMAGE_PIXELS = None  # the limit here is ours, and held against the header

    def execute(self, requests):
        """One response for each request, in order."""
        responses = []
        for request in requests:
            try:
                pixels = self._decoded(request)
                responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("pixels", pixels)]))
            except (ValueError, MemoryError) as error:
                failure = pb_utils.TritonError(str(error) or "not enough memory", pb_utils.TritonError.INVALID_ARG)
                responses.append(pb_utils.InferenceResponse([], error=failure))
        return responses

    def _decoded(self, request):
        """``[N,H,W,3]`` uint8. Raises ValueError where the request holds no images that are taken."""
        tensor = pb_utils.get_input_tensor_by_name(request, "images")
        contents = [] if tensor is None else list(tensor.as_numpy().ravel())
        if not 1 <= len(contents) <= self._max_images:
            raise ValueError(f"a request holds 1 to {self._max_images} encoded images; got {len(contents)}")
        images, left = [], self._max_pixels
        for number, content in enumerate(contents):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                image = self._decode(bytes(content), f"image {number}", left)
            left -= image.shape[0] * image.shape[1]
            images.append(image)
        sizes = {f"{image.shape[0]}x{image.shape[1]}" for image in images}
        if len(sizes) > 1:
            raise ValueError(f"images of one request have one size; got {', '.join(sorted(sizes))}")
        return np.stack(images)

    def _decode(self, content, name, most_pixels):
        try:
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        except Exception:  # Pillow's plugins raise what they like on damaged headers
            raise ValueError(f"{name} is no JPEG or PNG file, or damaged") from None
        if image.width * image.height > most_pixels:
            raise ValueError(f"{name} of {image.width}x{image.height} pixels is too large: {most_pixels:,} are taken")
        if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"{name} is an animation")
        if image.mode not in MODES:
            raise ValueError(f"{name}: PNG files of Pillow mode {image.mode} are not read: send pixels instead")
        try:
            image.load()
            return self._rgb(image)
        except MemoryError:
            raise
        except Exception:
            raise ValueError(f"{name} is truncated or damaged") from None

    def _rgb(self, image):
        turned = ImageOps.exif_transpose(image) if self._turned else image
        if turned.has_transparency_data and self._composed:
            layers = turned.convert("RGBA")
            turned = Image.new("RGB", layers.size)
            turned.paste(layers.convert("RGB"), mask=layers.getchannel("A"))
        return np.array(turned.convert("RGB"))
