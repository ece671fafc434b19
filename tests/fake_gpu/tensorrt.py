"""The parts of TensorRT and TensorRT-RTX that run engines; those of `fake_plan`, computed by ONNX Runtime.

Where ``libcuda.so.1`` is the fake one, launches are queued on its stream and memory is its; else they run at once, in
main memory. FAKE_VERSION: that of the library. FAKE_ERROR: makes ``load`` or ``run`` fail.
"""

import ctypes
import enum
import math
import os

import numpy as np
import onnxruntime

__version__ = os.environ.get("FAKE_VERSION", "10.13.3.9")
_TAG = 1 << 60
_TYPES = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}
_KERNEL = ctypes.CFUNCTYPE(None)


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING = range(3)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class DataType(enum.Enum):
    FLOAT, INT32, UINT8 = np.float32, np.int32, np.uint8


class CudaGraphStrategy(enum.Enum):
    DISABLED, WHOLE_GRAPH_CAPTURE = range(2)


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY, EAGER, NONE = range(3)


class IRuntimeConfig:
    cuda_graph_strategy = CudaGraphStrategy.DISABLED
    dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY


class Runtime:
    engine_host_code_allowed = False

    def __init__(self, log):
        self._log = log

    def deserialize_cuda_engine(self, content):
        if not content.startswith(b"fake plan") or os.environ.get("FAKE_ERROR") == "load":
            self._log.log(ILogger.WARNING, "not told")
            self._log.log(ILogger.ERROR, "magic tag\n  failed")
            return None
        return ICudaEngine(content.removeprefix(b"fake plan"), self._log)


class ICudaEngine:
    def __init__(self, graph, log):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self.log, self.config = log, None
        self.ports = {port.name: port for port in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.num_io_tensors = len(self.ports)

    def get_tensor_name(self, number):
        return list(self.ports)[number]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "images" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType(_TYPES[self.ports[name].type])

    def get_tensor_shape(self, name):
        return tuple(side if isinstance(side, int) else -1 for side in self.ports[name].shape)

    def create_runtime_config(self):
        return IRuntimeConfig()

    def create_execution_context(self, config=None):
        assert config is None or (
            config.cuda_graph_strategy is CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            and config.dynamic_shapes_kernel_specialization_strategy is DynamicShapesKernelSpecializationStrategy.EAGER
        )
        return IExecutionContext(self)


class IExecutionContext:
    def __init__(self, engine):
        self._engine, self._shape, self._addresses = engine, (), {}
        self._launched = _KERNEL(self._run)
        try:
            self._driver = ctypes.CDLL("libcuda.so.1").fakeLaunch
        except (OSError, AttributeError):
            self._driver = None

    def set_input_shape(self, name, shape):
        self._shape = tuple(shape)
        return name == "images" and os.environ.get("FAKE_ERROR") != "shape"

    def get_tensor_shape(self, name):
        if name == "logits":
            return (self._shape[0], self._engine.get_tensor_shape(name)[1], *self._shape[1:3])
        return self._shape if name == "images" else self._shape[:3]

    def set_tensor_address(self, name, address):
        assert address % 256 == 0 or self._driver is None
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        if os.environ.get("FAKE_ERROR") == "run":
            self._engine.log.log(ILogger.ERROR, "an illegal memory access")
            return False
        if self._driver is None:
            self._run()
            return True
        return self._driver(self._launched, ctypes.c_void_p(stream)) == 0

    def _run(self):
        names = [port.name for port in self._engine.session.get_outputs()]
        found = self._engine.session.run(names, {"images": self._memory("images")})
        for name, array in zip(names, found, strict=True):
            self._memory(name)[...] = array

    def _memory(self, name):
        """The array that lies at the address of an input or output."""
        shape = tuple(self.get_tensor_shape(name))
        dtype = np.dtype(self._engine.get_tensor_dtype(name).value)
        address = self._addresses[name]
        assert (self._driver is not None) == bool(address & _TAG)
        content = (ctypes.c_uint8 * (math.prod(shape) * dtype.itemsize)).from_address(address & ~_TAG)
        return np.frombuffer(content, dtype).reshape(shape)
