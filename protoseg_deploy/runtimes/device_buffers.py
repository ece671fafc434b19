"""Memory on a device that a graph under ONNX Runtime reads from and writes to."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime as ort

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT
from protoseg_deploy.runtimes.base import UInt8Array
from protoseg_deploy.runtimes.stopwatch import Mark


class DeviceBuffers:
    """Memory on the device for a batch of one shape and its class map, bound to a session."""

    def __init__(
        self,
        session: Any,
        shape: tuple[int, ...],
        dtype: type[np.generic],
        device: str,
        call: Callable[[Callable[[Any], Any]], Any],
    ) -> None:
        self.shape = shape
        self._session = session
        self._call = call
        self._source = ort.OrtValue.ortvalue_from_shape_and_type(list(shape), np.uint8, device, 0)
        self._target = ort.OrtValue.ortvalue_from_shape_and_type(list(shape[:3]), dtype, device, 0)
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(INPUT, self._source)
        self._binding.bind_ortvalue_output(CLASS_MAP, self._target)

    def compute(self, images: UInt8Array, mark: Mark) -> UInt8Array:
        """Class map in memory of its own. ONNX Runtime's calls return when the device has finished."""
        contiguous = np.ascontiguousarray(images)
        mark()
        self._source.update_inplace(contiguous)
        mark()
        self._call(lambda options: self._session.run_with_iobinding(self._binding, options))
        self._binding.synchronize_outputs()
        mark()
        class_map: UInt8Array = np.array(self._target.numpy())
        mark()
        return class_map
