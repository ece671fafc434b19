"""Bundles whose graph is a few nodes: made in milliseconds, with answers that a line of NumPy gives."""

from pathlib import Path
from typing import Literal

import numpy as np
from onnx import TensorProto, helper

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.bundles.manifest import GraphInfo, InputSpec, Manifest, Masks, NetworkInfo, OutputSpec, Provenance
from protoseg_deploy.bundles.metadata import Classes
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.recipe import ImageReading
from tests.runtimes import small_graphs

NAMES = ("dark", "dim", "light", "bright", "never")
COLORS = ((40, 60, 200), (200, 40, 40), (40, 180, 60), (250, 210, 0), (120, 120, 120))
MANY = 300


def classes_of(image: np.ndarray) -> np.ndarray:
    """What the graph of `write_bundle` gives for ``[H,W,3]``: a quarter of the range of red each."""
    return image[..., 0] // 64


def confidence_of(image: np.ndarray) -> np.ndarray:
    """The confidence that it gives: green."""
    return image[..., 1]


def write_bundle(
    folder: Path,
    status: Literal["passed", "failed"] = "passed",
    *,
    quarter: int = 64,
    exif: Literal["apply", "ignore"] = "apply",
) -> Path:
    """A bundle whose graph has passed its verification or not, with the output ``confidence``.

    Args:
        folder: where; it is made.
        status: of the verification.
        quarter: values of red of one class.
        exif: whether images are turned as their EXIF orientation says.
    """
    reading = ImageReading(exif=exif)
    changes = {"classes": Classes(names=NAMES, colors=COLORS), "reading": reading}
    said = small_graphs.metadata().model_copy(update=changes)
    nodes = [
        helper.make_node("Gather", ["images", "red"], ["reds"], axis=3),
        helper.make_node("Cast", ["reds"], ["wide"], to=TensorProto.INT32),
        helper.make_node("Div", ["wide", "quarter"], ["classes"]),
        helper.make_node("Cast", ["classes"], ["class_map"], to=TensorProto.UINT8),
        helper.make_node("Gather", ["images", "green"], ["confidence"], axis=3),
    ]
    confidence = small_graphs.tensor("confidence", TensorProto.UINT8, ("n", "h", "w"))
    weights = {"quarter": np.array(quarter, np.int32), "green": np.array(1)}
    outputs = (small_graphs.CLASS_MAP, confidence)
    folder.mkdir()
    small_graphs.write(
        folder / "model.onnx", small_graphs.make_graph(nodes, outputs=outputs, weights=weights, said=said)
    )
    shape = ("batch", "height", "width")
    verdict = StageVerdict(stage="onnx fp32", artefact="model.onnx", against="pytorch", status=status)
    manifest = Manifest(
        network=NetworkInfo(backbone="x", decoder="y", parameters=1),
        classes=said.classes,
        masks=Masks(ignore_index=255),
        input=InputSpec(
            shape=(*shape, 3), fixed_size=None, input_scale=1.0, reading=reading, mean=said.mean, std=said.std
        ),
        outputs=tuple(OutputSpec(name=port.name, dtype="uint8", shape=shape, meaning="") for port in outputs),
        graphs={"fp32": GraphInfo(file="model.onnx", files=("model.onnx",), opset=18)},
        provenance=Provenance(run="", weights="", recipe_sha256=None, training={}, versions={}),
        files={"model.onnx": file_entry(folder / "model.onnx")},
        verification=Verification(
            passed=status == "passed",
            images=1,
            masks=0,
            fitted_images=0,
            images_sha256="",
            miou_pytorch_percent=None,
            stages=(verdict,),
        ),
    )
    Bundle.create(folder, manifest)
    return folder


def write_unverified_graph(folder: Path) -> Path:
    """A graph of 300 classes without a bundle; the class is red modulo 3."""
    cast = helper.make_node("Cast", ["red modulo 3"], ["class_map"], to=TensorProto.INT32)
    class_map = small_graphs.tensor("class_map", TensorProto.INT32, ("n", "h", "w"))
    nodes = [*small_graphs.remainder("red modulo 3"), cast]
    folder.mkdir()
    said = small_graphs.metadata(MANY)
    return small_graphs.write(folder / "model.onnx", small_graphs.make_graph(nodes, outputs=(class_map,), said=said))
