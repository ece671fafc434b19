"""The trained network itself as a runtime."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.models import DeployedSegmenter, WindowedSegmenter, Windows, count_parameters, load_network
from protoseg_deploy.recipe import load_recipe
from protoseg_deploy.runtimes.base import RuntimeInfo, UInt8Array, check_images
from protoseg_deploy.time_limit import time_limit


class PyTorchRuntime:
    """A network file computed by PyTorch in float32.

    Args:
        path: a run folder, or a network file (``.safetensors``).
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: of the CPU; PyTorch knows only one number for the whole process. None leaves it as it is.
        which: ``best`` or ``last`` network of a run folder.
        windows: average the logits of overlapping windows; None computes whole images, as what is exported does. The
            class maps are all that leaves the device either way.

    Raises:
        ProtosegError: there is no such network, or it is damaged.
        UsageError: ``cuda`` is asked for and there is none.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        threads: int | None = None,
        which: str = "best",
        windows: Windows | None = None,
    ) -> None:
        network = network_file(path, which)
        segmenter, spec = load_network(network)
        if threads is not None:
            torch.set_num_threads(threads)
        self._device = _pick_device(device)
        self._module: torch.nn.Module = DeployedSegmenter(segmenter, spec.input_scale).eval()
        if windows is not None:
            self._module = WindowedSegmenter(segmenter, spec.input_scale, windows).eval()
        self._module.to(self._device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._info = RuntimeInfo(
            kind="pytorch",
            path=path,
            classes=spec.classes,
            ignore_index=spec.ignore_index,
            precision="fp32",
            device=self._device.type,
            backend=f"PyTorch {torch.__version__}",
            threads=torch.get_num_threads(),
            parameters=count_parameters(segmenter),
            file_bytes=network.stat().st_size,
            files=(network,),
            reading=spec.reading,
        )

    @property
    def info(self) -> RuntimeInfo:
        return self._info

    @torch.inference_mode()
    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`."""
        check_images(images, self._info)
        with time_limit(f"a call of {self._info.path}"):
            class_map: UInt8Array = self._compute(self._place(images)).cpu().numpy()
        return class_map

    def bind(self, images: UInt8Array) -> Callable[[], Tensor]:
        """See `Runtime.bind`; the call returns the class map as a tensor on the device."""
        check_images(images, self._info)
        placed = self._place(images)

        @torch.inference_mode()
        def run() -> Tensor:
            with time_limit(f"a call of {self._info.path}"):
                class_map = self._compute(placed)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
            return class_map

        return run

    def _place(self, images: UInt8Array) -> Tensor:
        return torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self._device)

    def _compute(self, images: Tensor) -> Tensor:
        class_map: Tensor = self._module(images)[0]
        return class_map


def network_file(path: Path, which: str = "best") -> Path:
    """The network file a path means: itself, or ``best``/``last`` of a run folder.

    Raises:
        ProtosegError: there is none.
    """
    if path.is_file():
        return path
    file = path / f"{which}.safetensors"
    if file.is_file():
        return file
    if not path.is_dir():
        if path.exists():
            raise ProtosegError(f"{path} is neither a run folder nor a regular file")
        raise ProtosegError(f"no run folder and no network file at {path}")
    others = sorted(other.name for other in path.glob("*.safetensors") if other.stem in {"best", "last"})
    if others:
        raise ProtosegError(f"{path} has no {file.name}, but {', '.join(others)}")
    raise ProtosegError(
        f"{path} holds no {file.name}: no run, or none that has reached its first evaluation",
        "Train it with `protoseg train RECIPE --run DIR`.",
    )


def recipe_windows(path: Path) -> Windows | None:
    """The windows in which a run is evaluated while it is trained; None: whole images, or no recipe beside a network.

    Args:
        path: a run folder, or a network file inside one.

    Raises:
        UsageError: the recipe of the run cannot be read.
    """
    recipe = (path if path.is_dir() else path.parent) / "recipe.yaml"
    return Windows.of_recipe(load_recipe(recipe).train) if recipe.is_file() else None


def _pick_device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU", "Use --device cpu, or check driver and installation.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
