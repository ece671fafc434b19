"""From an engine file to something that can be launched."""

from pathlib import Path
from typing import Any

import torch

from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.tensorrt.library import reasons
from protoseg_deploy.runtimes.tensorrt.sidecar import EngineSidecar


def deserialize(library: Any, log: Any, path: Path, sidecar: EngineSidecar) -> tuple[Any, Any]:
    """The library's runtime, which must live as long as the engine, and the engine.

    Raises:
        ProtosegError: the library refuses the file.
    """
    runtime = library.Runtime(log)
    if sidecar.version_compatible:
        # Such engines carry code of the version they were built with; the checksum has vouched for the file.
        runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise ProtosegError(
            f"{sidecar.library} cannot load {path}: {reasons(log)}", "Build it again with `protoseg build`."
        )
    return runtime, engine


def open_context(library: Any, engine: Any, sidecar: EngineSidecar) -> Any:
    """An execution context: the state of one engine on one stream.

    Raises:
        ProtosegError: its memory does not fit the GPU.
    """
    context = engine.create_execution_context() if sidecar.engine == "tensorrt" else _rtx_context(library, engine)
    if context is None:
        raise ProtosegError(
            "the GPU has too little free memory for the engine", "Close other programs, or build a smaller --profile."
        )
    return context


def _rtx_context(library: Any, engine: Any) -> Any:
    config = engine.create_runtime_config()
    config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    # Finish the kernels of a shape when it first comes rather than in the background: else the first results come
    # from other kernels than later ones, and a benchmark measures the change.
    config.dynamic_shapes_kernel_specialization_strategy = library.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)


def output_types(library: Any, engine: Any) -> dict[str, torch.dtype]:
    """Names and types of the outputs."""
    dtypes = {
        library.DataType.UINT8: torch.uint8,
        library.DataType.INT32: torch.int32,
        library.DataType.FLOAT: torch.float32,
    }
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    return {
        name: dtypes[engine.get_tensor_dtype(name)]
        for name in names
        if engine.get_tensor_mode(name) == library.TensorIOMode.OUTPUT
    }
