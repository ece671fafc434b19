"""The image of Triton's warm-up request: a scene of the embedded data set, at the size of the model."""

import numpy as np
from PIL import Image

from protoseg_deploy.data.scenes import scene_of_split
from protoseg_deploy.runtimes.base import UInt8Array


def warmup_image(size: tuple[int, int]) -> UInt8Array:
    """``[H,W,3]`` uint8 RGB, the same at every call.

    Args:
        size: height and width in pixels.
    """
    scene = Image.fromarray(scene_of_split("val", 0).image)
    return np.asarray(scene.resize((size[1], size[0]), Image.Resampling.BICUBIC))
