"""The trained network itself as a runtime."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from protoseg_deploy.errors import UsageError
from protoseg_deploy.models import DeployedSegmenter, WindowedSegmenter, Windows, count_parameters, load_network
from protoseg_deploy.run_folder import RunFolder, network_file
from protoseg_deploy.runtimes.base import RuntimeInfo, TimedPrediction, UInt8Array, check_images
from protoseg_deploy.runtimes.stopwatch import Mark, no_mark, timed_on_gpu, timed_on_host
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
        self._deployed = self._module if isinstance(self._module, DeployedSegmenter) else None
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

    def predict(self, images: UInt8Array) -> UInt8Array:
        """See `Runtime.predict`."""
        return self._predict(images, no_mark)

    def predict_timed(self, images: UInt8Array) -> TimedPrediction:
        """See `Runtime.predict_timed`."""
        if self._device.type == "cuda":
            return timed_on_gpu(lambda mark: self._predict(images, mark), torch.cuda.current_stream(self._device))
        return timed_on_host(lambda mark: self._predict(images, mark))

    @torch.inference_mode()
    def confidence(self, images: UInt8Array) -> UInt8Array | None:
        """Probability of the predicted class, ``[B,H,W]`` uint8 0..255, for ``[B,H,W,3]`` uint8 RGB.

        None in windows, whose averaged logits are not kept. It is what the output ``confidence`` of a graph is.
        """
        if self._deployed is None:
            return None
        check_images(images, self._info)
        telling = DeployedSegmenter(self._deployed.segmenter, self._deployed.input_scale, confidence=True).eval()
        placed = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self._device)
        with time_limit(f"a call of {self._info.path}"):
            found: UInt8Array = telling(placed)[1].cpu().numpy()
        return found

    @torch.inference_mode()
    def _predict(self, images: UInt8Array, mark: Mark) -> UInt8Array:
        check_images(images, self._info)
        held = torch.from_numpy(np.require(images, requirements=["C", "W"]))
        with time_limit(f"a call of {self._info.path}"):
            mark()
            placed = held.to(self._device)
            mark()
            class_map: Tensor = self._module(placed)[0]
            mark()
            found: UInt8Array = class_map.cpu().numpy()
            mark()
        return found


def recipe_windows(path: Path) -> Windows | None:
    """The windows in which a run is evaluated while it is trained; None: whole images, or no recipe beside a network.

    Args:
        path: a run folder, or a network file inside one.

    Raises:
        UsageError: the recipe of the run cannot be read.
    """
    run = RunFolder.around(path)
    return Windows.of_recipe(run.recipe().train) if run.exists() else None


def _pick_device(device: str) -> torch.device:
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("--device cuda: PyTorch finds no GPU", "Use --device cpu, or check driver and installation.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)
