#!/usr/bin/env python3
"""Segment images with a bundle of `protoseg export`: this one file, NumPy, and ONNX Runtime or TensorRT.

    python protoseg_runner.py BUNDLE                                 # what it is; compares files with their checksums
    python protoseg_runner.py BUNDLE photos --out masks              # a palette PNG for every image
    python protoseg_runner.py BUNDLE photos --out masks --precision int8 --threads 4
    python protoseg_runner.py BUNDLE photos --out masks --engine fp16-sm86
    python protoseg_runner.py fp16-sm86.engine photos --out masks    # with fp16-sm86.json beside it
    python protoseg_runner.py BUNDLE --bench 100 --size 512x1024     # latency, arrays in to arrays out

    from protoseg_runner import Segmenter
    class_maps = Segmenter("bundle").predict(images)                 # [B,H,W,3] uint8 RGB to [B,H,W]

Pillow decodes image files; for `.npy` files (uint8 RGB ``[H,W,3]``) it is not needed. PyTorch and protoseg are not.

Supported: ONNX graphs of bundles of format 2; CPU, CUDA and TensorRT providers of ONNX Runtime; engines of `protoseg
build` under TensorRT and TensorRT-RTX, on the first visible GPU; tiles; JPEG, PNG, BMP, GIF, PPM, WebP, AVIF and JPEG
2000 files, read as `protoseg predict` reads them.
Not supported: TIFF and HEIC files, `input.reading` with bands or a value range, and fp16 and bf16 graphs on a CPU,
which ONNX Runtime does not compute as the graph says. These are errors.

Exit codes: 0 success; 1 failure, or an image could not be segmented; 2 invalid command line. Python 3.9 or newer.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import itertools
import json
import os
import re
import struct
import sys
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Bundle", "RunnerError", "Segmenter", "read_image"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "WEBP", "AVIF", "JPEG2000")
SUFFIXES = {
    ".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".webp", ".avif", ".jp2", ".j2k",
    ".j2c", ".jpx", ".jpf", ".npy",
    ".tif", ".tiff", ".heic", ".heif",  # refused by name rather than passed over
}  # fmt: skip
MOST_PIXELS = 2**30
MARK = b"protoseg-runner"
"""Keyword of the text chunk of every mask that is written here, with the digest of the graph."""
LIBRARIES = {
    "tensorrt": ("TensorRT", "tensorrt", 10, "pip install tensorrt"),
    "tensorrt-rtx": ("TensorRT-RTX", "tensorrt_rtx", 1, "pip install tensorrt-rtx-cu13"),
}
"""Of engines: name, Python module, oldest major version, and where it is to be had."""
AMPERE = (8, 0)
"""First compute capability that portable engines run on."""
AGAIN = "Copy or export the bundle again."
REBUILD = "Build the engine again with `protoseg build`."
HEAVY = {"Conv", "ConvTranspose", "MatMul", "Gemm", "FusedConv", "FusedMatMul", "Attention"}


class RunnerError(Exception):
    """What is wrong, where, and what to do."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 1) -> None:
        super().__init__(message)
        self.hint, self.exit_code = hint, exit_code


class Bundle:
    """A bundle folder: its manifest, and files that are compared with it whenever they are read.

    Raises:
        RunnerError: the folder is no bundle of format 2, or its manifest is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise RunnerError(f"{self.folder} is not a bundle: it has no manifest.json", exit_code=2) from None
        except (OSError, ValueError, RecursionError) as error:
            raise RunnerError(f"{path} cannot be read: {_line(error)}", AGAIN) from None
        if not isinstance(manifest, dict) or manifest.get("format") != 2:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise RunnerError(f"{path} has format {found!r}; this runner reads format 2", "Use the runner beside it.")
        self.manifest = manifest
        try:
            self._parse()
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunnerError(f"{path} is damaged: {type(error).__name__}: {_line(error)}", AGAIN) from None

    def _parse(self) -> None:
        classes, images = self.manifest["classes"], self.manifest["input"]
        self.classes, self.colors = _class_table(classes)
        taken = {key: images[key] for key in ("name", "dtype", "layout", "color", "range")}
        wanted = {"name": "images", "dtype": "uint8", "layout": "NHWC", "color": "RGB", "range": [0, 255]}
        if taken != wanted:
            raise ValueError(f"its input is {taken}")
        self.reading = dict(images.get("reading") or {})
        size = images["fixed_size"]
        self.fixed_size = None if size is None else (int(size[0]), int(size[1]))
        self.graphs = {name: (graph["file"], tuple(graph["files"])) for name, graph in self.manifest["graphs"].items()}
        self.files = {
            name: (str(entry["sha256"]), int(entry["bytes"])) for name, entry in self.manifest["files"].items()
        }
        self.engines = {
            str(name): (str(entry["file"]), str(entry["sidecar"]), str(entry["precision"]))
            for name, entry in (self.manifest.get("engines") or {}).items()
        }
        for file, *_ in (*self.graphs.values(), *self.engines.values()):
            self.verdict(file)

    def content(self, name: str, keep: bool = True) -> bytes:
        """The bytes of a file, which are those of the manifest; nothing unless they are to be kept.

        Raises:
            RunnerError: it is missing, changed, outside the bundle, or not in the manifest.
        """
        path = self.folder / name
        if name not in self.files or re.search(r'[\\:<>"|?*]|^/|(^|/)\.{0,2}(/|$)', name):
            raise RunnerError(f"{self.folder / 'manifest.json'} lists no file {name!r} inside the bundle", AGAIN)
        if not path.resolve().as_posix().startswith(self.folder.resolve().as_posix().rstrip("/") + "/"):
            raise RunnerError(f"{path} is a link to a file outside the bundle", "Copy the file to where the link is.")
        digest, size = hashlib.sha256(), 0
        kept = []
        try:
            with path.open("rb") as file:
                for part in iter(lambda: file.read(2**24), b""):
                    digest.update(part)
                    size += len(part)
                    kept += [part] if keep else []
        except FileNotFoundError:
            raise RunnerError(f"{path} is missing from the bundle", AGAIN) from None
        except OSError as error:
            raise RunnerError(f"{path} cannot be read: {_line(error)}") from None
        if (digest.hexdigest(), size) != self.files[name]:
            wanted = self.files[name][1]
            detail = "its SHA-256 differs" if size == wanted else f"{size} bytes instead of {wanted}"
            raise RunnerError(f"{path} is not the file the manifest describes: {detail}", AGAIN)
        return b"".join(kept)

    def digest(self, artefact: str) -> str | None:
        """SHA-256 as verdicts note it: of a file, or over the digests of all files of a graph; None: not listed."""
        name = artefact if artefact in self.files else artefact.rpartition("@")[0]
        parts = next((files for file, files in self.graphs.values() if file == name), (name,))
        known = [self.files[part][0] for part in parts if part in self.files]
        if len(known) < len(parts):
            return None
        return known[0] if len(known) == 1 else hashlib.sha256("".join(known).encode()).hexdigest()

    def verdict(self, artefact: str) -> bool | None:
        """Whether a graph, and all it was made from, passed verification; None: never compared as it is now."""
        stages = (self.manifest.get("verification") or {"stages": []})["stages"]
        stage = next((one for one in stages if one["artefact"] == artefact), None)
        passed: bool | None = True
        seen = set()
        while stage is not None and stage["stage"] not in seen:
            before = next((one for one in stages if one["stage"] == stage["against"]), None)
            source = "reference.safetensors" if stage["against"] == "pytorch" else before and before["artefact"]
            noted = (stage.get("artefact_sha256"), stage.get("against_sha256"))
            listed = (self.digest(stage["artefact"]), self.digest(source) if source else None)
            if any(one not in (None, now) for one, now in zip(noted, listed)):
                return None
            if stage["status"] == "failed":
                return False
            passed = None if stage["status"] == "not run" else passed
            if stage["against"] == "pytorch":
                return passed
            seen.add(stage["stage"])
            stage = before
        return None


class Segmenter:
    """Images to class maps by a graph or an engine of a bundle, after its files were compared with the manifest.

    Args:
        bundle: the folder; or an ``.engine`` file, with its sidecar beside it, which need not lie in a bundle.
        precision: which graph; fp32 when absent. Of an engine it must be the precision that it has.
        provider: ``cpu``, ``cuda`` or ``tensorrt``, all of ONNX Runtime. Never another one than was asked for.
        threads: of the CPU; 0: ONNX Runtime's default.
        allow_unverified: compute although verification failed, or on a CPU a graph of fp16 or bf16.
        engine: name of an engine of the bundle, such as ``fp16-sm86``, instead of a graph.

    Attributes:
        bundle: None for an engine that no bundle lists.
        file: the graph or engine, relative to `folder`.
        provider: as given; of an engine the library and the GPU that compute.
        fixed_size: height and width, where it takes only one.
        verified: True; False: verification failed; None: never verified with this provider, or in no bundle.
        sha256: digest of the graph's files, or of the engine.
        warnings: what a user should be told.

    Raises:
        RunnerError: a file differs from the manifest, verification failed, or it cannot be computed here.
    """

    bundle: Bundle | None

    def __init__(
        self,
        bundle: str | Path,
        precision: str | None = None,
        provider: str | None = None,
        threads: int = 0,
        allow_unverified: bool = False,
        engine: str | None = None,
    ) -> None:
        self._allow_unverified = allow_unverified
        self.warnings: list[str] = []
        self.profile: Profile | None = None
        if engine is not None or (Path(bundle).suffix == ".engine" and not Path(bundle).is_dir()):
            if provider is not None or threads:
                raise RunnerError("providers and threads are those of ONNX Runtime; engines have none", exit_code=2)
            self._open_engine(find_engine(Path(bundle), engine), precision)
        else:
            self._open_graph(Bundle(bundle), precision or "fp32", provider or "cpu", threads)

    def _open_graph(self, bundle: Bundle, precision: str, provider: str, threads: int) -> None:
        if provider not in PROVIDERS:
            raise RunnerError(f"no provider {provider!r}; there are {', '.join(PROVIDERS)}", exit_code=2)
        if precision not in bundle.graphs:
            raise RunnerError(
                f"{bundle.folder} has no {precision} graph; it has {', '.join(bundle.graphs)}", exit_code=2
            )
        self.bundle, self.folder, self.precision, self.provider = bundle, bundle.folder, precision, provider
        self.classes, self.colors, self.reading = bundle.classes, bundle.colors, bundle.reading
        self.fixed_size = bundle.fixed_size
        self.file, files = bundle.graphs[precision]
        graph = bundle.content(self.file, keep=len(files) == 1)
        for name in set(files) - {self.file}:
            bundle.content(name, keep=False)
        self.sha256 = str(bundle.digest(self.file))
        self._judge(bundle.verdict(self.file + ("@tensorrt-ep" if provider == "tensorrt" else "")))
        if provider == "cpu" and precision in ("fp16", "bf16"):
            self._doubt(f"{precision}: ONNX Runtime computes it on a CPU with other rounding than was verified", True)
        # The bytes that were compared are the ones that are loaded; weights above 2 GB have to stay in their file.
        source = graph if len(files) == 1 else str(self.folder / self.file)
        session = _open_session(source, provider, threads, str(self.folder / self.file))
        _check_ports(session, self.file, len(self.classes))
        self._compute: Callable[[np.ndarray], np.ndarray] = lambda images: session.run(
            ["class_map"], {"images": images}
        )[0]

    def _open_engine(self, engine: EngineFile, precision: str | None) -> None:
        if precision not in (None, engine.precision):
            raise RunnerError(f"{engine.path} is {engine.precision}, not {precision}", exit_code=2)
        self.bundle, self.folder, self.file = engine.bundle, engine.folder, engine.name
        self.precision, self.sha256, self.profile = engine.precision, engine.sha256, engine.profile
        self.classes, self.colors, self.reading = engine.classes, engine.colors, engine.reading
        self.fixed_size = engine.profile.fixed_size
        self._judge(engine.bundle.verdict(engine.name) if engine.bundle else None)
        session = EngineSession(engine)
        self.provider = session.library
        self._compute = session.run

    def _judge(self, verified: bool | None) -> None:
        self.verified = verified
        if verified is not True:
            how = "failed verification" if verified is False else "is not verified"
            self._doubt(f"{self.folder / self.file} {how}", refuse=verified is False)

    def _doubt(self, what: str, refuse: bool) -> None:
        if refuse and not self._allow_unverified:
            raise RunnerError(f"{what}: refused", "Use another --precision, or --allow-unverified.")
        self.warnings.append(what)

    def predict(self, images: Any) -> np.ndarray:
        """``[B,H,W,3]`` uint8 RGB to class indices ``[B,H,W]`` (uint8; int32 above 256 classes).

        Raises:
            RunnerError: these are no such images, or of another size than the graph or engine takes, or it fails.
        """
        images = np.ascontiguousarray(images)
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != np.uint8 or 0 in images.shape:
            raise RunnerError(f"images are uint8 RGB [B,H,W,3]; got {images.dtype} {list(images.shape)}", exit_code=2)
        fixed = self.fixed_size
        if fixed is not None and images.shape[1:3] != fixed:
            found = f"{images.shape[1]}x{images.shape[2]}"
            raise RunnerError(f"{self.file} takes {fixed[0]}x{fixed[1]} only; got {found}", "Use segment().", 2)
        if self.profile is not None:
            self.profile.check(self.file, images.shape[:3])
        try:
            class_maps = self._compute(images)
        except RunnerError:
            raise
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise RunnerError(
                f"{self.file} cannot be computed: {_line(error)}", "Use smaller images or tiles."
            ) from None
        if class_maps.shape != images.shape[:3] or class_maps.max() >= len(self.classes) or class_maps.min() < 0:
            raise RunnerError(f"{self.file} gives no class map of {len(self.classes)} classes", "Export it again.")
        return class_maps

    def segment(
        self, image: np.ndarray, tile: tuple[int, int] | None = None, overlap: int | None = None, batch: int = 1
    ) -> np.ndarray:
        """One image ``[H,W,3]`` of any size to ``[H,W]``, whole or in tiles as `protoseg predict --tile` cuts them.

        Tiles overlap and are cut in the middle of what they share. A fixed size is always that of the tiles.

        Raises:
            RunnerError: see `predict`; or the tiles do not fit.
        """
        fixed = self.fixed_size
        if self.profile is not None:
            self.profile.check_batch(self.file, batch)
        if tile is None and fixed is None:
            return self.predict(image[None])[0]
        tile = tile or fixed
        assert tile is not None
        overlap = min(tile) // 4 if overlap is None else overlap
        if min(tile) < 1 or batch < 1 or not 0 <= overlap < min(tile) or fixed not in (None, tile):
            raise RunnerError(
                f"tiles of {tile[0]}x{tile[1]} with an overlap of {overlap} in batches of {batch} are not possible",
                "0 <= overlap < tile; a graph of a fixed size takes tiles of that size.",
                exit_code=2,
            )
        height, width = image.shape[:2]
        if fixed is None:
            tile = (min(tile[0], height), min(tile[1], width))
        missing = [(0, max(0, tile[0] - height)), (0, max(0, tile[1] - width)), (0, 0)]
        image = np.pad(image, missing, mode="symmetric")
        rows, columns = _spans(image.shape[0], tile[0], overlap), _spans(image.shape[1], tile[1], overlap)
        places = itertools.product(rows, columns)
        class_map = np.empty(image.shape[:2], np.uint8 if len(self.classes) <= 256 else np.int32)
        while True:
            group = list(itertools.islice(places, min(batch, len(rows) * len(columns))))
            if not group:
                return class_map[:height, :width]
            tiles = [image[top : top + tile[0], left : left + tile[1]] for (top, _, _), (left, _, _) in group]
            for ((top, upper, lower), (left, west, east)), part in zip(group, self.predict(np.stack(tiles))):
                class_map[upper:lower, west:east] = part[upper - top : lower - top, west - left : east - left]

    def read(self, path: str | Path) -> np.ndarray:
        """An image file as ``[H,W,3]`` uint8 RGB, as the manifest says. Raises as `read_image`."""
        return read_image(path, self.reading)


def _spans(length: int, tile: int, overlap: int) -> list[tuple[int, int, int]]:
    """Start of each tile along one side, and the part of the output that comes from it: (start, first, end)."""
    count = 1 + -(-(length - tile) // max(tile - overlap, 1))  # a side shorter than the overlap is one tile
    starts = [(length - tile) * number // max(count - 1, 1) for number in range(count)]
    cuts = [0, *((left + tile + right) // 2 for left, right in zip(starts, starts[1:])), length]
    return list(zip(starts, cuts[:-1], cuts[1:]))


def _open_session(source: bytes | str, provider: str, threads: int, name: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RunnerError(f"ONNX Runtime cannot be loaded: {_line(error)}", "pip install onnxruntime") from None
    wanted = PROVIDERS[provider]
    if wanted not in onnxruntime.get_available_providers():
        found = ", ".join(onnxruntime.get_available_providers())
        raise RunnerError(f"this ONNX Runtime has no {wanted}; it has {found}", "pip install onnxruntime-gpu", 2)
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(4)
    if provider != "cpu" and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(sys.stderr):
            onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = [wanted, PROVIDERS["cuda"]] if provider == "tensorrt" else [wanted]
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers, enable_fallback=False)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise RunnerError(f"ONNX Runtime cannot load {name} with {wanted}: {_line(error)}") from None
    if session.get_providers()[0] != wanted:
        raise RunnerError(f"{wanted} could not be loaded", "Check driver, CUDA, cuDNN and TensorRT; or --provider cpu.")
    if provider != "cpu" and hasattr(session, "get_provider_graph_assignment_info"):
        parts = session.get_provider_graph_assignment_info()
        left = {node.op_type for part in parts if part.ep_name != wanted for node in part.get_nodes()} & HEAVY
        if left:
            raise RunnerError(f"{wanted} left {', '.join(sorted(left))} to other providers", "Use another --provider.")
    return session


def _check_ports(session: Any, file: str, classes: int) -> None:
    found = [(port.name, port.type, len(port.shape)) for port in session.get_inputs()]
    outputs = {port.name: (port.type, len(port.shape)) for port in session.get_outputs()}
    kind = "tensor(uint8)" if classes <= 256 else "tensor(int32)"
    if found != [("images", "tensor(uint8)", 4)] or outputs.get("class_map") != (kind, 3):
        raise RunnerError(f"{file} takes {found} and gives {outputs}", "Export it again.")


class Profile:
    """Shapes ``(batch, height, width)`` that an engine takes: the smallest, the one it is fastest at, the largest."""

    def __init__(self, shapes: dict) -> None:
        least, best, most = (tuple(int(side) for side in shapes[key]) for key in ("min", "opt", "max"))
        if len(least) != 3 or not all(1 <= a <= b <= c for a, b, c in zip(least, best, most)):
            raise ValueError(f"the profile {shapes} is not in the order smallest, best, largest")
        self.least, self.best, self.most = least, best, most
        self.fixed_size = (least[1], least[2]) if least[1:] == most[1:] else None

    def check(self, file: str, shape: Sequence[int]) -> None:
        """Refuse another batch, height or width than the engine takes."""
        for name, found, least, most in zip(("batch", "height", "width"), shape, self.least, self.most):
            if not least <= found <= most:
                raise RunnerError(
                    f"{file} takes a {name} of {least} to {most}; got {found}",
                    "Use --tile with a size between, or build it with another --profile.",
                )

    def check_batch(self, file: str, batch: int) -> None:
        """Refuse batches for which single tiles, or so many, are not possible."""
        if not self.least[0] == 1 <= batch <= self.most[0]:
            raise RunnerError(
                f"{file} takes batches of {self.least[0]} to {self.most[0]}; --batch is {batch}, and the last tiles of "
                "an image may be single",
                "Use another --batch, or build it with another --profile.",
                exit_code=2,
            )


class EngineFile:
    """An ``.engine`` file with its sidecar, compared with each other, and with the bundle if one lists them.

    Args:
        folder: the bundle, or the folder of the file.
        name: of the file in it.
        bundle: the one that lists the engine; None: nobody vouches for it.

    Raises:
        RunnerError: a file is missing, damaged or changed, or the two do not belong together.
    """

    def __init__(self, folder: Path, name: str, bundle: Bundle | None) -> None:
        self.folder, self.name, self.bundle, self.path = folder, name, bundle, folder / name
        entry = next((one for one in bundle.engines.values() if one[0] == name), None) if bundle else None
        sidecar = entry[1] if entry else Path(name).with_suffix(".json").as_posix()
        sidecar_file = folder / sidecar
        if bundle is not None and (entry is not None or sidecar in bundle.files):
            described = bundle.content(sidecar)
        else:
            described = _content(sidecar_file, f"{self.path} cannot be used without {sidecar_file.name} beside it")
        try:
            self._parse(json.loads(described))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"{type(error).__name__}: {_line(error)}"
            raise RunnerError(f"{sidecar_file} is damaged or of another version: {reason}", REBUILD) from None
        self.content = bundle.content(name) if bundle else _content(self.path, f"{self.path} cannot be read")
        if (hashlib.sha256(self.content).hexdigest(), len(self.content)) != (self.sha256, self._bytes):
            raise RunnerError(
                f"{self.path} is not the engine that {sidecar_file.name} describes: its checksum differs",
                "Copy both files again, or build it again with `protoseg build`.",
            )
        if bundle is not None:
            said = (bundle.classes, bundle.colors.tolist(), bundle.reading, entry[2] if entry else self.precision)
            if said != (self.classes, self.colors.tolist(), self.reading, self.precision):
                raise RunnerError(f"{self.path} is not the engine that the manifest describes", REBUILD)

    def _parse(self, sidecar: dict) -> None:
        metadata = sidecar["metadata"]
        if (sidecar["format"], metadata["format"]) != (1, 1):
            raise ValueError(f"it has format {sidecar['format']!r}; this runner reads format 1")
        self.kind = str(sidecar["engine"])
        self.version, self.library = str(sidecar["library_version"]), LIBRARIES[self.kind][0]
        self.sha256, self._bytes = str(sidecar["engine_sha256"]), int(sidecar["engine_bytes"])
        self.precision = str(sidecar["precision"])
        if self.precision != metadata["precision"]:
            raise ValueError(f"precision is {self.precision}, and that of the graph {metadata['precision']}")
        self.targets = tuple(str(target) for target in sidecar["targets"])
        self.version_compatible = sidecar["version_compatible"] is True
        self.hardware_compatible = sidecar["hardware_compatible"] is True
        self.profile = Profile(sidecar["profile"])
        self.classes, self.colors = _class_table(metadata["classes"])
        self.reading = dict(metadata.get("reading") or {})

    def check_version(self, installed: str) -> None:
        """Refuse another version of the library than the engine was built with.

        Version-compatible engines run under later versions with the same major number.
        """
        built, found = _version(self.version), _version(installed)
        later = self.version_compatible and built[:1] == found[:1] and found > built
        if built != found and not later:
            raise RunnerError(
                f"{self.path} was built with {self.library} {self.version}; installed is {installed}",
                f"Install {self.library} {self.version}. {REBUILD}",
            )

    def check_gpu(self, capability: tuple[int, int], gpu: str) -> None:
        """Refuse a GPU of another compute capability than the engine was built for."""
        here = f"{capability[0]}.{capability[1]}"
        portable = self.hardware_compatible or not self.targets
        if here not in self.targets and not (portable and capability >= AMPERE):
            wanted = "8.0 and later" if portable else " and ".join(self.targets)
            raise RunnerError(
                f"{self.path} was built for GPUs of compute capability {wanted}; this is a {gpu} ({here})", REBUILD
            )


def find_engine(path: Path, name: str | None) -> EngineFile:
    """An engine of a bundle by its name in the manifest; or without a name, the one that is in the file.

    Raises:
        RunnerError: the bundle has no such engine; or see `EngineFile`.
    """
    if name is None:
        around = path.absolute().parent.parent
        if path.absolute().parent.name == "engines" and (around / "manifest.json").is_file():
            bundle, file = Bundle(around), f"engines/{path.name}"
            if file in bundle.files:
                return EngineFile(around, file, bundle)
        return EngineFile(path.parent, path.name, None)
    bundle = Bundle(path)
    if name not in bundle.engines:
        names = ", ".join(bundle.engines) or "none"
        raise RunnerError(f"{path} has no engine {name!r}; it has {names}", "Build it with `protoseg build`.", 2)
    return EngineFile(bundle.folder, bundle.engines[name][0], bundle)


class EngineSession:
    """An engine on the GPU: batches go there, are computed, and come back, one call at a time, on one stream.

    Raises:
        RunnerError: there is no GPU or another one than it was built for, no library or another version, or the
            library cannot load the engine.
    """

    def __init__(self, engine: EngineFile) -> None:
        self._name, self._lock = str(engine.path), threading.Lock()
        self._gpu = Gpu(self._name)
        library = _load_library(engine)
        engine.check_version(str(library.__version__))
        engine.check_gpu(self._gpu.capability, self._gpu.name)
        self.library = f"{engine.library} {library.__version__}, {self._gpu.name}"
        self._log = _open_log(library)
        self._runtime = library.Runtime(self._log)
        if engine.version_compatible:  # these carry code of their own; the checksum has vouched for the file
            self._runtime.engine_host_code_allowed = True
        self._engine = self._runtime.deserialize_cuda_engine(engine.content)
        if self._engine is None:
            raise RunnerError(f"{self.library} cannot load {self._name}: {self._reasons()}", REBUILD)
        self._types = self._output_types(library, len(engine.classes))
        self._context = self._open_context(library, engine.kind)
        if self._context is None:
            raise RunnerError(f"too little free memory on the {self._gpu.name} for {self._name}: {self._reasons()}")
        self._memory = {name: GpuMemory(self._gpu) for name in ("images", *self._types)}
        self._shape: tuple[int, ...] = ()

    def run(self, images: np.ndarray) -> np.ndarray:
        """Class maps of a contiguous batch that the profile allows."""
        with self._lock:
            self._gpu.use()
            if images.shape != self._shape:
                self._place(images.shape)
            class_maps = np.empty(tuple(self._context.get_tensor_shape("class_map")), self._types["class_map"])
            self._gpu.copy_in(self._memory["images"], images)
            if not self._context.execute_async_v3(self._gpu.stream):
                raise RunnerError(f"{self._name} failed while running: {self._reasons()}")
            self._gpu.copy_out(class_maps, self._memory["class_map"])
            self._gpu.wait()
            return class_maps

    def _place(self, shape: tuple[int, ...]) -> None:
        """Memory for a batch of another shape and for all outputs, which the library asks for."""
        self._shape = ()
        if not self._context.set_input_shape("images", shape):
            raise RunnerError(f"{self._name} does not take {list(shape)}: {self._reasons()}")
        types = {"images": np.uint8, **self._types}
        for name, memory in self._memory.items():
            sides = shape if name == "images" else tuple(self._context.get_tensor_shape(name))
            memory.reserve(int(np.prod(sides)) * np.dtype(types[name]).itemsize)
            self._context.set_tensor_address(name, memory.address)
        self._shape = shape

    def _output_types(self, library: Any, classes: int) -> dict[str, type]:
        """NumPy types of the outputs by name; inputs and outputs must be those that `protoseg build` writes."""
        engine, kinds = self._engine, library.DataType
        types = {kinds.UINT8: np.uint8, kinds.INT32: np.int32, kinds.FLOAT: np.float32}
        inputs, outputs = {}, {}
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            ports = outputs if engine.get_tensor_mode(name) == library.TensorIOMode.OUTPUT else inputs
            dtype = engine.get_tensor_dtype(name)
            ports[name] = (types.get(dtype, dtype), len(engine.get_tensor_shape(name)))
        class_map = (np.uint8 if classes <= 256 else np.int32, 3)
        known = {"class_map": class_map, "confidence": (np.uint8, 3), "logits": (np.float32, 4)}
        wrong = [name for name, port in outputs.items() if known.get(name) != port]
        if inputs != {"images": (np.uint8, 4)} or "class_map" not in outputs or wrong:
            raise RunnerError(f"{self._name} takes {inputs} and gives {outputs}", REBUILD)
        return {name: dtype for name, (dtype, _) in outputs.items()}

    def _open_context(self, library: Any, kind: str) -> Any:
        if kind == "tensorrt":
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # Finish the kernels of a shape when it first comes: else the first results come from others than later ones.
        config.dynamic_shapes_kernel_specialization_strategy = library.DynamicShapesKernelSpecializationStrategy.EAGER
        return self._engine.create_execution_context(config)

    def _reasons(self) -> str:
        return "; ".join(" ".join(one.split())[:300] for one in self._log.errors[:2]) or "the library gives no reason"


def _load_library(engine: EngineFile) -> Any:
    name, module, oldest, install = LIBRARIES[engine.kind]
    try:
        library = importlib.import_module(module)
    except ModuleNotFoundError:
        raise RunnerError(
            f"{name} is not installed, which {engine.path} needs", f"{install}=={engine.version}"
        ) from None
    except (ImportError, OSError) as error:
        raise RunnerError(f"{name} is installed but cannot be loaded: {_line(error)}") from None
    if _version(str(library.__version__)) < (oldest,):
        raise RunnerError(f"{name} {library.__version__} is too old: {oldest} or newer is needed", install)
    return library


def _open_log(library: Any) -> Any:
    """A logger that keeps errors and prints nothing."""

    class Log(library.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (library.ILogger.ERROR, library.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Log()


class Gpu:
    """The first visible GPU by the library of its driver, which is there wherever a GPU is; with a stream.

    Functions, types and numbers are those of ``cuda.h``. What is queued on the stream runs in order.

    Args:
        needed_by: for messages.

    Raises:
        RunnerError: there is no driver or no GPU.
    """

    def __init__(self, needed_by: str) -> None:
        file = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
        device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
        try:
            self._driver = ctypes.CDLL(file)
            self._call("cuInit", ctypes.c_uint(0))
            self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        except (OSError, RunnerError) as error:
            raise RunnerError(
                f"{needed_by} runs on an NVIDIA GPU, and there is none here: {_line(error)}",
                "Run it on the machine it was built for, or a graph of the bundle (without --engine).",
            ) from None
        self._call("cuDeviceGetName", name, ctypes.c_int(len(name)), device)
        self.name = name.value.decode(errors="replace")
        self.capability = (self._attribute(device, 75), self._attribute(device, 76))
        # The context that the library and other programs of this process share; it stays until the process ends.
        self._context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), device)
        self.use()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(1))  # it waits for no other stream
        self.stream = int(stream.value or 0)

    def use(self) -> None:
        """Make it the GPU of the calling thread."""
        self._call("cuCtxSetCurrent", self._context)

    def allocate(self, size: int) -> int:
        """Address of so many bytes of its memory."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(size))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give memory back."""
        self.use()
        self._call("cuMemFree_v2", ctypes.c_uint64(address))

    def copy_in(self, target: GpuMemory, array: np.ndarray) -> None:
        """Queue a copy of a contiguous array to the GPU."""
        place = ctypes.c_void_p(array.ctypes.data)
        size, stream = ctypes.c_size_t(array.nbytes), ctypes.c_void_p(self.stream)
        self._call("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(target.address), place, size, stream)

    def copy_out(self, array: np.ndarray, source: GpuMemory) -> None:
        """Queue a copy from the GPU into a contiguous array, which is complete after `wait`."""
        place = ctypes.c_void_p(array.ctypes.data)
        size, stream = ctypes.c_size_t(array.nbytes), ctypes.c_void_p(self.stream)
        self._call("cuMemcpyDtoHAsync_v2", place, ctypes.c_uint64(source.address), size, stream)

    def wait(self) -> None:
        """Until everything that was queued is done."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.stream))

    def _attribute(self, device: ctypes.c_int, number: int) -> int:
        value = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(value), ctypes.c_int(number), device)
        return value.value

    def _call(self, function: str, *arguments: Any) -> None:
        status = getattr(self._driver, function)(*arguments)
        if status:
            text = ctypes.c_char_p()
            self._driver.cuGetErrorString(ctypes.c_int(status), ctypes.byref(text))
            reason = (text.value or b"unknown error").decode(errors="replace")
            raise RunnerError(f"CUDA: {function}: {reason} ({status})", "Use smaller images, tiles or batches.")


class GpuMemory:
    """Memory of a GPU that is as large as the largest use of it so far."""

    def __init__(self, gpu: Gpu) -> None:
        self._gpu, self._bytes, self.address = gpu, 0, 0

    def reserve(self, size: int) -> None:
        """Have at least so many bytes; what was in it is lost if it grows."""
        if size > self._bytes:
            self.release()
            self.address, self._bytes = self._gpu.allocate(size), size

    def release(self) -> None:
        """Give it back."""
        if self.address:
            address, self.address, self._bytes = self.address, 0, 0
            self._gpu.free(address)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the driver may be gone by then
            self.release()


def _content(path: Path, otherwise: str) -> bytes:
    """The bytes of a file that no manifest lists."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunnerError(f"{otherwise}: {_line(error)}", "Copy the engine and its .json file.") from None


def _version(text: str) -> tuple[int, ...]:
    """``10.13.3.9.post1`` as (10, 13, 3, 9)."""
    return tuple(int(part) for part in text.split(".")[:4] if part.isdecimal())


def check_reading(reading: dict) -> None:
    """Refuse a manifest whose images are read in a way that is not implemented here.

    Raises:
        RunnerError: it names bands, a value range, or something unknown.
    """
    known = {"bands": [None], "value_range": [None], "alpha": ["auto", "apply", "ignore"], "exif": ["apply", "ignore"]}
    for key, value in reading.items():
        if value not in known.get(key, []):
            raise RunnerError(
                f"this network's images are read with {key} = {json.dumps(value)}, which the runner does not do",
                "Pass what `protoseg` reads as .npy files or arrays: uint8 RGB [H,W,3]; or use `protoseg predict`.",
            )


def read_image(path: str | Path, reading: dict | None = None) -> np.ndarray:
    """An image file as ``[H,W,3]`` uint8 RGB; a `.npy` file as it is.

    Grey is repeated; 16-bit grey is scaled by its full range; palettes are looked up; transparency is composited on
    black unless ``alpha`` is ``ignore``; it is turned as its EXIF orientation says unless ``exif`` is ``ignore``.

    Args:
        path: the file.
        reading: `input.reading` of a manifest.

    Raises:
        RunnerError: it cannot be read, or not in this way; the message names it.
    """
    path, reading = Path(path), reading or {}
    if path.suffix.lower() == ".npy":
        return _read_array(path)
    check_reading(reading)
    try:
        from PIL import Image
    except ImportError:
        raise RunnerError(f"{path}: Pillow is needed to decode it", "pip install pillow, or use .npy files.") from None
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            image = stack.enter_context(Image.open(path, formats=formats))
            # What a header claims beyond that is refused before memory is asked for.
            if image.width * image.height > min(MOST_PIXELS, max(2**26, 100_000 * path.stat().st_size)):
                raise RunnerError(f"{path}: too large or damaged: {image.width}x{image.height} pixels")
            if image.format != "MPO" and getattr(image, "is_animated", False):
                raise RunnerError(f"{path}: {image.format} with several frames; one image a file is expected")
            if image.mode in ("P", "PA") and (image.palette is None or not image.palette.palette):
                raise RunnerError(f"{path}: it shows a palette but has none")
            # The base class looks no further than the header; the one of PNG would decode the image first.
            orientation = Image.Image.getexif(image).get(0x0112, 1) if reading.get("exif") != "ignore" else 1
            turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(orientation)  # numbers of PIL.Image.Transpose
            pixels = _rgb(image, path, reading.get("alpha", "auto"))
            return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(Image.Transpose(turn)))
    except RunnerError:
        raise
    except FileNotFoundError:
        raise RunnerError(f"{path}: no such file") from None
    except MemoryError:
        raise RunnerError(f"{path}: too large for the memory") from None
    except Exception as error:  # parsers raise anything on damaged files
        kinds = "JPEG, PNG, BMP, GIF, PPM, WebP, AVIF, JPEG 2000 and .npy are read"
        raise RunnerError(f"{path}: not an image that the runner reads, or damaged: {_line(error)}", kinds) from None


def _rgb(image: Any, path: Path, alpha: str) -> np.ndarray:
    from PIL import Image

    image.load()
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        table = np.floor(255.0 * (np.arange(65536) / 65535.0) + 0.5).astype(np.uint8)
        grey = np.take(table, np.clip(np.array(image), 0, 65535))
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode not in ("RGB", "L", "LA", "La", "P", "PA", "1", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"):
        raise RunnerError(f"{path}: images of Pillow mode {image.mode} are not read", "Convert it to 8-bit RGB.")
    if image.has_transparency_data and alpha != "ignore":
        layers = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(layers.convert("RGB"), mask=layers.getchannel("A"))
        return np.array(black)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _read_array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise RunnerError(f"{path}: cannot be read: {_line(error)}") from None
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise RunnerError(f"{path}: not a uint8 RGB array [H,W,3]")
    return array


def palette_png(class_map: np.ndarray, colors: np.ndarray, digest: str) -> bytes:
    """A class map as PNG: 8-bit indices with the class colours as palette; 16-bit grey above 256 classes."""
    height, width = class_map.shape
    indexed = len(colors) <= 256
    samples = class_map.astype(">u1" if indexed else ">u2").view(np.uint8).reshape(height, -1)
    rows = np.zeros((height, samples.shape[1] + 1), np.uint8)  # a filter type of 0 in front of every row
    rows[:, 1:] = samples
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8 if indexed else 16, 3 if indexed else 0, 0, 0, 0))]
    chunks.append((b"tEXt", MARK + b"\0" + digest.encode("ascii")))
    chunks += [(b"PLTE", colors.tobytes())] if indexed else []
    chunks += [(b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name[:100]}.{os.getpid()}.tmp")
    try:
        with scratch.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def plan_outputs(inputs: Iterable[Path], out: Path, bundle: Path | None) -> list[tuple[Path, Path]]:
    """Every image with the mask that is written for it, before anything is written.

    Folders are searched recursively and keep their layout. Images that would get the same name keep their ending in it.

    Raises:
        RunnerError: an input is not there, or a mask would replace a file that the runner has not written.
    """
    found: dict[Path, tuple[Path, Path]] = {}  # by absolute path: as given, relative to the folder that was given
    results = out.resolve()
    for given in inputs:
        if given.is_dir():
            if given.resolve() == results:
                raise RunnerError(f"--out is the folder of images {given}", "Choose another --out.", 2)
            for path in sorted(given.rglob("*")):
                dangling = path.is_symlink() and not path.exists()
                if path.suffix.lower() not in SUFFIXES or not (path.is_file() or dangling):
                    continue
                if results not in path.resolve().parents:
                    found.setdefault(path.absolute(), (path, path.relative_to(given)))
        elif given.is_file():
            found.setdefault(given.absolute(), (given, Path(given.name)))
        else:
            raise RunnerError(f"{given}: no such file or folder", exit_code=2)
    if not found:
        raise RunnerError("no images there", f"Endings that are looked for: {' '.join(sorted(SUFFIXES))}", 2)
    if bundle is not None and bundle.resolve() in (results, *results.parents):
        raise RunnerError(f"{out} lies in the bundle", "Choose another --out.", exit_code=2)
    count = Counter(str(name.with_suffix(".png")).casefold() for _, name in found.values())
    plan, taken = [], set()
    for path, name in found.values():
        target = name.with_suffix(".png")
        if count[str(target).casefold()] > 1:
            target = name.with_name(name.name + ".png")
        for number in itertools.count(2):
            if str(target).casefold() not in taken:
                break
            target = name.with_name(f"{name.name}-{number}.png")
        taken.add(str(target).casefold())
        plan.append((path, out / target))
    sources = {_identity(path) for path, _ in plan}
    for _, target in plan:
        if os.path.lexists(target) and (_identity(target) in sources or not _is_result(target)):
            raise RunnerError(f"{target} is there and not a mask of an earlier call", "Choose another --out.", 2)
    return plan


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _is_result(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return MARK in file.read(200)


def segment_files(segmenter: Segmenter, arguments: argparse.Namespace) -> tuple[list[dict], list[dict]]:
    """Write a mask for every image; those that cannot be done do not stop the others."""
    done: list[dict] = []
    failed: list[dict] = []
    plan = plan_outputs(arguments.images, arguments.out, segmenter.bundle and segmenter.folder)
    if any(path.suffix.lower() != ".npy" for path, _ in plan):
        check_reading(segmenter.reading)
    for path, target in plan:
        try:
            image = segmenter.read(path)
            class_map = segmenter.segment(image, arguments.tile, arguments.overlap, arguments.batch)
            counts = np.bincount(class_map.ravel(), minlength=len(segmenter.classes)).tolist()
            write_atomically(target, palette_png(class_map, segmenter.colors, segmenter.sha256))
        except (RunnerError, MemoryError) as error:
            if getattr(error, "exit_code", 1) == 2:
                raise
            failed.append({"image": str(path), "reason": str(error) or "not enough memory"})
            continue
        height, width = class_map.shape
        pixels = dict(zip(segmenter.classes, counts))
        done.append({"image": str(path), "mask": str(target), "height": height, "width": width, "class_pixels": pixels})
    return done, failed


def measure(segmenter: Segmenter, calls: int, batch: int, size: tuple[int, int]) -> dict:
    """Latency of `predict` from arrays to arrays on noise, after 5 calls that do not count."""
    images = np.random.default_rng(0).integers(0, 256, (batch, *size, 3), dtype=np.uint8)
    times = []
    for _ in range(calls + 5):
        start = time.perf_counter()
        segmenter.predict(images)
        times.append(1000 * (time.perf_counter() - start))
    median, p99 = np.percentile(times[5:], [50, 99])
    return {"calls": calls, "batch": batch, "size": list(size), "median_ms": float(median), "p99_ms": float(p99)}


def main(words: Sequence[str] | None = None) -> int:
    arguments = _parse(words)
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are no text
    with contextlib.suppress(ImportError):
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow's own limit refuses orthophotos
    try:
        return _run(arguments)
    except RunnerError as error:
        print(f"Error: {error}" + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"Error: {error.filename or 'output'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int:
    if bool(arguments.images) != (arguments.out is not None):
        raise RunnerError("images and --out belong together", exit_code=2)
    segmenter = Segmenter(
        arguments.bundle,
        arguments.precision,
        arguments.provider,
        arguments.threads,
        arguments.allow_unverified,
        arguments.engine,
    )
    for warning in segmenter.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    document: dict[str, Any] = {
        "bundle": str(arguments.bundle), "graph": None if segmenter.profile else segmenter.file,
        "engine": segmenter.file if segmenter.profile else None, "precision": segmenter.precision,
        "sha256": segmenter.sha256, "verified": segmenter.verified, "provider": segmenter.provider,
        "classes": list(segmenter.classes),
    }  # fmt: skip
    verified = {True: "verified", False: "FAILED verification", None: "not verified"}[segmenter.verified]
    lines = [f"{segmenter.folder / segmenter.file}: {verified}, SHA-256 {segmenter.sha256}"]
    failed: list[dict] = []
    if arguments.images:
        done, failed = segment_files(segmenter, arguments)
        document.update(images=done, failed=failed)
        lines.append(f"{len(done)} masks in {arguments.out}")
        for one in failed:
            print(f"Error: {one['reason']}", file=sys.stderr)
    if arguments.bench:
        best = segmenter.profile.best[1:] if segmenter.profile else (512, 512)
        size = arguments.size or segmenter.fixed_size or best
        document["bench"] = bench = measure(segmenter, arguments.bench, arguments.batch, size)
        what = f"{arguments.batch}x{size[0]}x{size[1]}, {arguments.bench} calls"
        lines.append(f"{what}: median {bench['median_ms']:.2f} ms, p99 {bench['p99_ms']:.2f} ms")
    print(json.dumps(document) if arguments.json else "\n".join(lines))
    return 1 if failed else 0


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Segment images with a bundle of `protoseg export`.",
        epilog="Exit codes: 0 success; 1 failure, or an image could not be segmented; 2 invalid command line.",
    )
    add = parser.add_argument
    add("bundle", type=Path, help="bundle folder, with its manifest.json; or an .engine file")
    add("images", type=Path, nargs="*", help="image files and folders; .npy files hold uint8 RGB [H,W,3]")
    add("--out", type=Path, help="folder for the masks, palette PNGs; created if missing")
    add("--precision", choices=PRECISIONS, help="graph of the bundle (default: fp32)")
    add("--engine", metavar="NAME", help="engine of the bundle instead of a graph, such as fp16-sm86")
    add("--provider", choices=sorted(PROVIDERS), help="of ONNX Runtime (default: cpu)")
    add("--threads", type=_count, default=0, help="threads of the CPU (default: ONNX Runtime's choice)")
    add("--tile", type=_size, metavar="N|HxW", help="segment in overlapping tiles of this size")
    add("--overlap", type=_count, help="of the tiles, in pixels (default: a quarter of the tile)")
    add("--batch", type=_positive, default=1, help="tiles, or images of --bench, per call (default: 1)")
    add("--allow-unverified", action="store_true", help="compute although verification failed")
    add("--bench", type=_positive, metavar="CALLS", help="measure the latency of so many calls")
    add(
        "--size",
        type=_size,
        metavar="N|HxW",
        help="of the images of --bench (default: its fixed or best size, or 512x512)",
    )
    add("--json", action="store_true", help="print one JSON document")
    return parser.parse_args(words)


def _class_table(classes: dict) -> tuple[tuple[str, ...], np.ndarray]:
    names = tuple(str(name) for name in classes["names"])
    return names, np.array(classes["colors"], dtype=np.uint8).reshape(len(names), 3)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def _positive(text: str) -> int:
    if _count(text) < 1:
        raise argparse.ArgumentTypeError("starts at 1")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    sides = [_positive(side) for side in text.split("x")]
    if len(sides) > 2:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 512 or 512x1024")
    return sides[0], sides[-1]


def _line(error: BaseException) -> str:
    """In one line, without the place in the source of ONNX Runtime."""
    text = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())
    return re.sub(r"\S+\.cc:\d+ \S+ [^(]*\([^)]*\) ", "", text)[:300]


if __name__ == "__main__":
    sys.exit(main())
