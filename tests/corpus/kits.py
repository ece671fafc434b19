"""Healthy files for cases to start from: data, recipes, a graph that shows what was read, a run, a bundle."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import yaml
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from protoseg_deploy.bundles.metadata import Classes, GraphMetadata
from protoseg_deploy.models import NetworkSpec, build_segmenter, save_network
from protoseg_deploy.recipe import ClassTable, Model
from tests.corpus.launching import Launcher
from tests.made_once import made_once

UInt8 = NDArray[np.uint8]

HEIGHT, WIDTH = 32, 40
NAMES = ("ground", "red", "blue")
COLORS = ((40, 40, 40), (200, 60, 40), (40, 90, 210))
MODEL = {"backbone": "test_resnet", "weights": "none", "decoder": "lraspp", "decoder_channels": 8}


def scene(seed: int, height: int = HEIGHT, width: int = WIDTH) -> tuple[UInt8, UInt8]:
    """A noisy picture ``[H,W,3]`` that shows every class, and its mask ``[H,W]``."""
    random = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for index in (1, 2):
        top, left = random.integers(0, height - 12), (index - 1) * (width // 2) + random.integers(0, 4)
        mask[top : top + 12, left : left + 12] = index
    image = np.array(COLORS)[mask] + random.normal(0, 12, (height, width, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_data(root: Path, labeled: int = 3, unlabeled: int = 3, val: int = 2) -> Path:
    """Folders ``labeled``, ``unlabeled`` and ``val``, with ``images`` and ``masks``."""
    for part, first, count in (("labeled", 0, labeled), ("unlabeled", 100, unlabeled), ("val", 200, val)):
        for kind in ("images", "masks"):
            (root / part / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image, mask = scene(first + number)
            Image.fromarray(image).save(root / part / "images" / f"{number}.png", compress_level=1)
            if part != "unlabeled":
                Image.fromarray(mask).save(root / part / "masks" / f"{number}.png")
    return root


def recipe_tree(root: Path | str = "data") -> dict[str, Any]:
    """A recipe over `write_data` that trains in a second."""
    return {
        "data": {
            "root": str(root),
            "labeled": {"images": "labeled/images", "masks": "labeled/masks"},
            "unlabeled": {"images": "unlabeled/images"},
            "val": {"images": "val/images", "masks": "val/masks"},
            "classes": list(NAMES),
        },
        "model": dict(MODEL),
        "method": {"name": "fixmatch", "confidence_threshold": 0.0},
        "train": {
            "steps": 4, "crop": 32, "batch_labeled": 2, "batch_unlabeled": 2, "optimizer": "adamw", "lr": 0.004,
            "eval_every": 2, "checkpoint_every": 2, "log_every": 1, "workers": 0, "device": "cpu",
        },
    }  # fmt: skip


def write_recipe(path: Path, tree: Any = None) -> Path:
    path.write_text(yaml.safe_dump(recipe_tree() if tree is None else tree, sort_keys=False), encoding="utf-8")
    return path


def spec(**changes: Any) -> NetworkSpec:
    return NetworkSpec(Model(**(MODEL | changes)), ClassTable(NAMES, COLORS), provenance={"step": 4})


def write_network(path: Path, change: Callable[[dict[str, torch.Tensor]], object] = lambda weights: None) -> Path:
    """A network file with random weights, which `change` may change."""
    torch.manual_seed(0)
    weights = build_segmenter(spec()).state_dict()
    change(weights)
    save_network(path, weights, spec())
    return path


def _balance(weights: dict[str, torch.Tensor], images: Path) -> None:
    """Shift the logits of a network so that no class wins everywhere."""
    network = build_segmenter(spec())
    network.load_state_dict(weights)
    batch = np.stack([np.asarray(Image.open(path)) for path in sorted(images.iterdir())])
    with torch.no_grad():
        logits = network.eval()(torch.from_numpy(batch).permute(0, 3, 1, 2))
    weights["head.bias"] -= logits.transpose(0, 1).flatten(1).median(1).values


def mirrored(image: UInt8) -> UInt8:
    """What `mirror_graph` makes of an image ``[H,W,3]``: two bits of each channel, ``[H,W]``."""
    bits = image.astype(np.int64) // 64
    return np.asarray(bits @ np.array([16, 4, 1]), dtype=np.uint8)


def metadata(**changes: Any) -> GraphMetadata:
    """What `mirror_graph` says of itself."""
    names = tuple(f"class {number}" for number in range(64))
    colors = tuple((64 * (n // 16), 64 * (n // 4 % 4), 64 * (n % 4)) for n in range(64))
    values = {
        "program": "0.1.0", "classes": Classes(names=names, colors=colors), "ignore_index": 255,
        "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0), "input_scale": 1.0, "fixed_size": None, "precision": "fp32",
        "parameters": 3, "backbone": "none", "decoder": "none", "provenance": {}, "network_sha256": "0" * 64,
    }  # fmt: skip
    return GraphMetadata.model_validate(values | changes)


def mirror_graph() -> onnx.ModelProto:
    """A graph that keeps the contract and shows in its class map what the image was read as."""
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["numbers", "step"], ["shares"]),
        helper.make_node("Floor", ["shares"], ["levels"]),
        helper.make_node("MatMul", ["levels", "places"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["class_map"], to=TensorProto.UINT8),
    ]
    weights = [
        numpy_helper.from_array(np.array(64, np.float32), "step"),
        numpy_helper.from_array(np.array([16, 4, 1], np.float32), "places"),
    ]
    graph = helper.make_graph(
        nodes,
        "mirror",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("class_map", TensorProto.UINT8, ["batch", "height", "width"])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    describe(model, metadata().to_properties())
    return model


def describe(model: onnx.ModelProto, properties: dict[str, str]) -> None:
    """Replace the metadata of a graph."""
    del model.metadata_props[:]
    for key, value in properties.items():
        model.metadata_props.add(key=key, value=value)


class Kits:
    """What takes seconds to make, made once for all cases and processes of a session, when it is first asked for."""

    def __init__(self, folder: Path, launcher: Launcher) -> None:
        self._folder = folder
        self._launcher = launcher

    def data(self) -> Path:
        return self._made("data", write_data)

    def mirror(self) -> Path:
        """A folder with ``mirror.onnx``, see `mirror_graph`."""
        return self._made("mirror", lambda folder: onnx.save(mirror_graph(), folder / "mirror.onnx")) / "mirror.onnx"

    def run(self) -> Path:
        """A finished run, by ``protoseg train``; its data are `data`."""
        data = self.data()

        def train(folder: Path) -> None:
            recipe = write_recipe(folder / "mine.yaml", recipe_tree(data))
            self._protoseg(folder, "train", str(recipe), "--run", str(folder / "run"))

        return self._made("trained", train) / "run"

    def bundle(self) -> Path:
        """A verified bundle, by ``protoseg export``, of a network that has not learned and yet shows every class."""
        val = self.data() / "val" / "images"

        def export(folder: Path) -> None:
            network = write_network(folder / "net.safetensors", lambda weights: _balance(weights, val))
            words = ["--bundle", str(folder / "bundle"), "--images", str(val)]
            self._protoseg(folder, "export", str(network), *words)

        return self._made("exported", export) / "bundle"

    def predicted(self, image: UInt8) -> UInt8:
        """Class map of an image by `bundle`."""
        graph = onnxruntime.InferenceSession(str(self.bundle() / "model.onnx"), providers=["CPUExecutionProvider"])
        class_map: UInt8 = graph.run(["class_map"], {"images": image[None]})[0][0]
        return class_map

    def _protoseg(self, folder: Path, *arguments: str) -> None:
        ended = self._launcher.call(arguments, folder, {"PROTOSEG_CACHE": str(folder / "cache")}, limit_s=300)
        assert ended.code == 0, ended.err.decode()

    def _made(self, name: str, make: Callable[[Path], object]) -> Path:
        def make_in(folder: Path) -> None:
            folder.mkdir()
            make(folder)

        return made_once(self._folder / name, make_in)


def interrupted(run: Path, folder: Path) -> Path:
    """A copy of a finished run as a kill after half of its steps would have left it."""
    shutil.copytree(run, folder)
    (folder / "summary.json").unlink()
    (folder / "last.safetensors").unlink()
    newest = max((folder / "checkpoints").iterdir())
    newest.unlink()
    return folder


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    """Read a JSON file, change what is in it, write it again."""
    tree = json.loads(path.read_text(encoding="utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), encoding="utf-8")


def link_tree(source: Path, target: Path) -> Path:
    """A copy of a folder for cases that only read it."""
    shutil.copytree(source, target, copy_function=os.link)
    return target
