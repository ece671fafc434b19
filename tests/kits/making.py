"""Bundles and pictures for the tests of kits."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from protoseg_deploy.bundles import Bundle
from protoseg_deploy.bundles.bundle import file_entry
from protoseg_deploy.bundles.manifest import (
    GraphInfo,
    InputSpec,
    Manifest,
    Masks,
    NetworkInfo,
    OutputSpec,
    Provenance,
)
from protoseg_deploy.bundles.metadata import Classes, GraphMetadata
from protoseg_deploy.bundles.verdicts import StageVerdict, Verification
from protoseg_deploy.evaluation.samples import folder_samples
from protoseg_deploy.exporting import Calibration, export_bundle
from protoseg_deploy.models import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, ImageReading, Model, shipped_folder
from tests.data.image_files import deep_png, packed_grey_png, with_orientation

UInt8 = NDArray[np.uint8]

RUNNER = shipped_folder("export") / "runner"
PYTHON_RUNNER = RUNNER / "protoseg_runner.py"
CPP_RUNNER = RUNNER / "cpp"
TABLE = ClassTable(("sky", "road", "tree", "car"), ((10, 20, 30), (0, 255, 0), (1, 2, 3), (200, 0, 90)))


def pattern(height: int, width: int, seed: int = 0) -> UInt8:
    """Smooth colours with noise: JPEG changes it a little, and every orientation of it differs."""
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 120 * np.sin(rows / (3 + c) + columns / (5 + 2 * c) + seed) for c in range(3)]
    noise = np.random.default_rng(seed).normal(0, 8, (height, width, 3))
    return (np.stack(waves, axis=-1) + noise).clip(0, 255).astype(np.uint8)


def network_bundles(folder: Path) -> None:
    """``any`` (any size, fp32 and int8) and ``fixed`` (40x56) of a network with random weights."""
    (folder / "images").mkdir(parents=True)
    for number in range(2):
        Image.fromarray(pattern(64, 64, number)).save(folder / "images" / f"{number}.png")
    samples = folder_samples(folder / "images")
    model = Model(backbone="test_resnet", weights="none", decoder="lraspp", decoder_channels=8)
    spec = NetworkSpec(model, TABLE)
    torch.manual_seed(0)
    network = build_segmenter(spec).eval()
    images = torch.from_numpy(np.stack([pattern(64, 64, number) for number in range(2)])).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(images)
    weights = network.state_dict()
    weights["head.bias"] -= logits.transpose(0, 1).flatten(1).median(1).values  # or one class would win everywhere
    save_network(folder / "net.safetensors", weights, spec)
    calibration = Calibration([sample.image for sample in samples], max_drop=100.0)
    export_bundle(
        folder / "net.safetensors",
        folder / "any",
        precisions=("fp32", "int8"),
        calibration=calibration,
        samples=samples,
        verify=False,
    )
    export_bundle(folder / "net.safetensors", folder / "fixed", size=(40, 56), verify=False)


def hash_bundle(folder: Path, **reading: Any) -> Path:
    """A bundle of 256 classes whose graph shows every difference of a channel: (3 red + 5 green + 7 blue) mod 256."""
    names, colors = zip(*((f"class {n}", (n, 255 - n, 7)) for n in range(256)), strict=True)
    classes = Classes(names=names, colors=colors)
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.INT32),
        helper.make_node("MatMul", ["numbers", "factors"], ["sums"]),
        helper.make_node("Mod", ["sums", "count"], ["rest"]),
        helper.make_node("Cast", ["rest"], ["class_map"], to=TensorProto.UINT8),
    ]
    constants = [
        numpy_helper.from_array(np.array([3, 5, 7], np.int32), "factors"),
        numpy_helper.from_array(np.array(256, np.int32), "count"),
    ]
    axes = ["batch", "height", "width"]
    graph = helper.make_graph(
        nodes,
        "hash",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [*axes, 3])],
        [helper.make_tensor_value_info("class_map", TensorProto.UINT8, axes)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    says = GraphMetadata(
        program="0.1.0", classes=classes, ignore_index=255, mean=(0, 0, 0), std=(1, 1, 1), input_scale=1,
        reading=ImageReading(**reading), fixed_size=None, precision="fp32", parameters=3, backbone="none",
        decoder="none", provenance={}, network_sha256="0" * 64,
    )  # fmt: skip
    for key, value in says.to_properties().items():
        model.metadata_props.add(key=key, value=value)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    manifest = Manifest(
        network=NetworkInfo(backbone="none", decoder="none", parameters=3),
        classes=classes,
        masks=Masks(ignore_index=255),
        input=InputSpec(
            shape=(*axes, 3), fixed_size=None, input_scale=1, reading=says.reading, mean=says.mean, std=says.std
        ),
        outputs=(OutputSpec(name="class_map", dtype="uint8", shape=tuple(axes), meaning="classes"),),
        graphs={"fp32": GraphInfo(file="model.onnx", files=("model.onnx",), opset=18)},
        provenance=Provenance(run="none", weights="none", recipe_sha256=None, training={}, versions={}),
        files={"model.onnx": file_entry(folder / "model.onnx")},
    )
    Bundle.create(folder, manifest)
    return folder


def judge(folder: Path, *statuses: str) -> Path:
    """Write verdicts about fp32 and, where there are two, int8 into a bundle of `network_bundles`."""
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    names = [("onnx fp32", "model.onnx", "pytorch"), ("onnx int8", "model.int8.onnx", "onnx fp32")]
    stages = tuple(
        StageVerdict(
            stage=stage,
            artefact=file,
            artefact_sha256=manifest.digest_of(file),
            against=against,
            against_sha256=manifest.digest_of("reference.safetensors" if against == "pytorch" else "model.onnx"),
            status=status,
        )
        for (stage, file, against), status in zip(names, statuses, strict=False)
    )
    verification = Verification(
        passed="failed" not in statuses, images=1, masks=0, fitted_images=0, images_sha256="0" * 64,
        miou_pytorch_percent=None, stages=stages,
    )  # fmt: skip
    bundle.record(verification)
    return folder


def copied(bundle: Path, folder: Path, change: Callable[[dict[str, Any]], object] = lambda manifest: None) -> Path:
    """A copy of a bundle, with a changed manifest."""
    shutil.copytree(bundle, folder)
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    return folder


def write_common_pictures(folder: Path) -> list[Path]:
    """Files that both runners read."""
    folder.mkdir(parents=True)
    image = pattern(37, 50)
    grey = image[..., 0]
    alpha = pattern(37, 50, 1)[..., :1]
    for orientation in range(1, 9):
        exif = with_orientation(orientation)
        Image.fromarray(image).save(folder / f"turned-{orientation}.jpg", exif=exif, quality=90)
        Image.fromarray(image).save(folder / f"turned-{orientation}.png", exif=exif)
    Image.fromarray(image).save(folder / "full-colour.jpg", subsampling=0)
    Image.fromarray(image).save(folder / "progressive.jpg", progressive=True, subsampling=2)
    Image.fromarray(grey).save(folder / "grey.jpg")
    Image.fromarray(image).save(folder / "rgb.ppm")
    Image.fromarray(grey).save(folder / "grey.pgm")
    Image.fromarray(grey).save(folder / "grey.png")
    Image.fromarray(grey > 127).save(folder / "one-bit.png")
    packed_grey_png(folder / "two-bits.png", grey // 64, 2)
    packed_grey_png(folder / "four-bits.png", grey // 16, 4)
    Image.fromarray(np.random.default_rng(0).integers(0, 65536, (37, 50), dtype=np.uint16)).save(
        folder / "deep-grey.png"
    )
    deep_png(folder / "deep-colour.png", image.astype(np.uint16) * 256 + alpha)
    deep_png(folder / "deep-alpha.png", np.concatenate([image, alpha], axis=2).astype(np.uint16) * 256 + 99)
    palette = Image.fromarray(image).quantize(60)
    palette.save(folder / "palette.png")
    palette.save(folder / "palette-transparent.png", transparency=bytes(range(0, 240, 4)))
    Image.fromarray(np.concatenate([image, alpha], axis=2)).save(folder / "alpha.png")
    Image.fromarray(np.concatenate([grey[..., None], alpha], axis=2)).save(folder / "grey-alpha.png")
    Image.fromarray(image).save(folder / "key.png", transparency=tuple(int(value) for value in image[5, 5]))
    return sorted(folder.iterdir())


def write_other_pictures(folder: Path) -> list[Path]:
    """Files that the Python runner reads."""
    folder.mkdir(parents=True)
    image = pattern(37, 50)
    Image.fromarray(image).convert("CMYK").save(folder / "cmyk.jpg")
    for name in ("still.gif", "plain.bmp", "lossy.webp"):
        Image.fromarray(image).save(folder / name)
    Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(folder / "deep-grey.pgm")
    return sorted(folder.iterdir())


def with_weights_outside(bundle: Path, folder: Path) -> Path:
    """A copy of a bundle whose fp32 graph has its weights in a file beside it, as graphs above 2 GB have."""
    shutil.copytree(bundle, folder)
    model = onnx.load(folder / "model.onnx")
    outside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 256}
    onnx.save_model(model, folder / "model.onnx", **outside)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["graphs"]["fp32"]["files"] = ["model.onnx", "model.onnx.data"]
    for name in ("model.onnx", "model.onnx.data"):
        manifest["files"][name] = file_entry(folder / name).model_dump(mode="json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
