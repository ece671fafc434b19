"""What the runners should give: the index PNGs of `predict`."""

from pathlib import Path

import numpy as np
from PIL import Image

from protoseg_deploy.evaluation.prediction import predict_files
from protoseg_deploy.runtimes import OnnxRuntime


def predicted(bundle: Path, inputs: list[Path], out: Path, precision: str = "fp32", **options: object) -> dict:
    """Index maps by name of the image, of the package's ONNX Runtime on one thread."""
    runtime = OnnxRuntime(bundle, device="cpu", threads=1, precision=precision)
    done = predict_files(runtime, inputs, out, **options)
    assert not done.failed
    return {image.image.name: np.array(Image.open(image.index)) for image in done.images}


def assert_same_masks(document: dict, expected: dict[str, np.ndarray]) -> None:
    """The masks that a runner's JSON document names are the expected class maps, pixel by pixel."""
    found = {Path(one["image"]).name: Path(one["mask"]) for one in document["images"]}
    assert found.keys() == expected.keys()
    differing = {}
    for name, mask in found.items():
        with Image.open(mask) as image:
            class_map = np.array(image)
        assert class_map.shape == expected[name].shape, name
        if count := int((class_map != expected[name]).sum()):
            differing[name] = count
    assert not differing
