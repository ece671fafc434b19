"""From an engine file to something that can be launched."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from protoseg_deploy.bundles.contract import INPUT, Port, check_ports
from protoseg_deploy.bundles.metadata import GraphMetadata
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.tensorrt.library import reasons
from protoseg_deploy.runtimes.tensorrt.sidecar import EngineSidecar
from protoseg_deploy.time_limit import time_limit


def deserialize(library: Any, log: Any, path: Path, sidecar: EngineSidecar) -> tuple[Any, Any]:
    """The library's runtime, which must live as long as the engine, and the engine.

    Raises:
        ProtosegError: the library refuses the file.
    """
    runtime = library.Runtime(log)
    if sidecar.version_compatible:
        # Such engines carry code of the version they were built with; the checksum has vouched for the file.
        runtime.engine_host_code_allowed = True
    with time_limit(f"opening {path}"):
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ProtosegError(
            f"{sidecar.library} cannot load {path}: {reasons(log)}", "Build it again with `protoseg build`."
        )
    return runtime, engine


def open_context(library: Any, engine: Any, sidecar: EngineSidecar, cuda_graph: bool) -> Any:
    """An execution context: the state of one engine on one stream.

    Args:
        library: see `load_library`.
        engine: see `deserialize`.
        sidecar: of the engine.
        cuda_graph: whether TensorRT-RTX records launches; for TensorRT the `Launcher` does.

    Raises:
        ProtosegError: its memory does not fit the GPU.
    """
    context = (
        engine.create_execution_context() if sidecar.engine == "tensorrt" else _rtx_context(library, engine, cuda_graph)
    )
    if context is None:
        raise ProtosegError(
            "the GPU has too little free memory for the engine", "Close other programs, or build a smaller --profile."
        )
    return context


def _rtx_context(library: Any, engine: Any, cuda_graph: bool) -> Any:
    config = engine.create_runtime_config()
    strategies = library.CudaGraphStrategy
    config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
    # Finish the kernels of a shape when it first comes rather than in the background: else the first results come
    # from other kernels than later ones, and a benchmark measures the change.
    config.dynamic_shapes_kernel_specialization_strategy = library.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def output_types(library: Any, engine: Any, path: Path, metadata: GraphMetadata) -> dict[str, torch.dtype]:
    """Names and types of the outputs, after comparing inputs and outputs with the contract of artefacts.

    Raises:
        ProtosegError: they are others than the metadata promise.
    """
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    ports = {name: _port(library, engine, name) for name in names}
    outputs = [name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.OUTPUT]
    inputs = [ports[name] for name in names if name not in outputs]
    # Which batches and sizes it takes is the matter of its profile.
    check_ports(path, inputs, [ports[name] for name in outputs], metadata.model_copy(update={"fixed_size": None}))
    return {name: _DTYPES[ports[name].dtype] for name in outputs}


def _port(library: Any, engine: Any, name: str) -> Port:
    dtypes: Mapping[Any, str] = {
        library.DataType.UINT8: "uint8",
        library.DataType.INT32: "int32",
        library.DataType.FLOAT: "float32",
    }
    dtype = engine.get_tensor_dtype(name)
    channels = {INPUT: 3, "logits": 1}.get(name)
    sides = enumerate(engine.get_tensor_shape(name))
    shape = tuple(int(side) if axis == channels else None for axis, side in sides)
    return Port(name, dtypes.get(dtype, str(dtype)), shape)


_DTYPES = {"uint8": torch.uint8, "int32": torch.int32, "float32": torch.float32}
