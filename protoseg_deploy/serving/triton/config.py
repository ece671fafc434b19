"""``config.pbtxt`` of a model, generated from its artefact: names, types and shapes are those of the graph."""

from collections.abc import Mapping, Sequence
from typing import Any

from protoseg_deploy.bundles.contract import INPUT, Port
from protoseg_deploy.bundles.service import PARAMETER, ServiceFacts
from protoseg_deploy.errors import UsageError
from protoseg_deploy.serving.triton.artefact import TritonArtefact
from protoseg_deploy.serving.triton.library import config_types
from protoseg_deploy.serving.triton.options import MAX_BATCH, ModelOptions

LABELS_FILE = "labels.txt"
WARMUP_FILE = "images"
"""In the folder ``warmup`` of a model."""
DECODE_SUFFIX, ENSEMBLE_SUFFIX = "_decode", "_encoded"
"""Names of the models that take encoded images, behind the name of the model."""
_TYPES = {"uint8": "TYPE_UINT8", "int32": "TYPE_INT32", "float32": "TYPE_FP32"}
_PLATFORMS = {"onnxruntime": "onnxruntime_onnx", "tensorrt": "tensorrt_plan"}
_THREADS = {"onnxruntime": "intra_op_thread_count", "openvino": "INFERENCE_NUM_THREADS", "python": "threads"}
_FILES = {"tensorrt": "model.plan", "python": "model.py"}


def model_config(
    name: str, artefact: TritonArtefact, options: ModelOptions, versions: Mapping[int, ServiceFacts]
) -> Any:
    """The ``ModelConfig`` of an artefact.

    Args:
        name: of the model.
        artefact: what its latest version serves.
        options: how it is run.
        versions: facts of every version in its folder. The parameter ``protoseg`` holds those of the latest, which
            answers requests that name no version, and ``protoseg.3`` those of version 3.

    Raises:
        UsageError: the batch is larger than an engine takes, or `tritonclient` is not installed.
    """
    types = config_types()
    config = types.ModelConfig(name=name, backend=options.backend, max_batch_size=_max_batch(artefact, options))
    config.platform = _PLATFORMS.get(options.backend, "")
    config.default_model_filename = _FILES.get(options.backend, "model.onnx")
    config.version_policy.all.SetInParent()
    config.input.extend(_tensor(types.ModelInput, port) for port in artefact.inputs)
    config.output.extend(_tensor(types.ModelOutput, port) for port in artefact.outputs)
    config.dynamic_batching.max_queue_delay_microseconds = options.queue_delay_us
    kind = types.ModelInstanceGroup.KIND_GPU if options.on_gpu else types.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(kind=kind, count=options.instances)
    if options.cache:
        config.response_cache.enable = True
    warmup = config.model_warmup.add(name="image", batch_size=1)
    image = warmup.inputs[INPUT]
    image.data_type, image.input_data_file = types.TYPE_UINT8, WARMUP_FILE
    image.dims.extend((*artefact.warmup_size(options), 3))
    _describe(config, versions)
    if options.threads is not None and options.backend in _THREADS:
        config.parameters[_THREADS[options.backend]].string_value = str(options.threads)
    if options.backend == "python":
        config.parameters["max_pixels"].string_value = str(options.max_pixels)
    return config


def decode_config(name: str, artefact: TritonArtefact, options: ModelOptions) -> Any:
    """The ``ModelConfig`` of the model that decodes images for the model `name`."""
    types = config_types()
    config = types.ModelConfig(name=name + DECODE_SUFFIX, backend="python", default_model_filename="model.py")
    config.input.add(name=INPUT, data_type=types.TYPE_STRING, dims=[-1])
    config.output.add(name="pixels", data_type=types.TYPE_UINT8, dims=[-1, -1, -1, 3])
    config.instance_group.add(kind=types.ModelInstanceGroup.KIND_CPU, count=max(2, options.instances))
    reading = artefact.facts.metadata.reading
    for key, value in (
        ("exif", reading.exif),
        ("alpha", reading.alpha),
        ("max_pixels", str(options.max_pixels)),
        ("max_images", str(_max_batch(artefact, options))),
    ):
        config.parameters[key].string_value = value
    return config


def ensemble_config(name: str, artefact: TritonArtefact, facts: ServiceFacts) -> Any:
    """The ``ModelConfig`` that joins decoding with the model `name`: encoded images in, its outputs out.

    Args:
        name: of the model.
        artefact: what it serves.
        facts: of its latest version, which the ensemble answers with.
    """
    types = config_types()
    config = types.ModelConfig(name=name + ENSEMBLE_SUFFIX, platform="ensemble")
    config.input.add(name=INPUT, data_type=types.TYPE_STRING, dims=[-1])
    for port in artefact.outputs:
        output = config.output.add(name=port.name, data_type=types.DataType.Value(_TYPES[port.dtype]))
        output.dims.extend((-1, *_dims(port)))
    decode = config.ensemble_scheduling.step.add(model_name=name + DECODE_SUFFIX, model_version=-1)
    decode.input_map[INPUT], decode.output_map["pixels"] = INPUT, "pixels"
    model = config.ensemble_scheduling.step.add(model_name=name, model_version=-1)
    model.input_map[INPUT] = "pixels"
    for port in artefact.outputs:
        model.output_map[port.name] = port.name
    _describe(config, {1: facts})
    return config


def check_decodable(name: str, artefact: TritonArtefact) -> None:
    """Refuse an ensemble where images are read in a way that its decoder does not know.

    Raises:
        UsageError: the network was trained on chosen bands, or on another range of values.
    """
    reading = artefact.facts.metadata.reading
    if reading.bands is not None or reading.value_range is not None:
        what = "chosen bands" if reading.bands is not None else "a range of values of its own"
        raise UsageError(
            f"--ensemble: {name} reads {what} of image files, which its decoder for JPEG and PNG does not",
            "Leave --ensemble out: clients then decode as input.reading in the manifest says.",
        )


def kind_of(config: Any) -> str | None:
    """Which of the models around one a configuration of this program is of, by its suffix; None: it made none such."""
    if PARAMETER in config.parameters:
        return ENSEMBLE_SUFFIX if config.HasField("ensemble_scheduling") else ""
    decodes = config.name.endswith(DECODE_SUFFIX) and {"exif", "alpha", "max_pixels"} <= set(config.parameters)
    return DECODE_SUFFIX if decodes else None


def versions_of(config: Any, source: str) -> dict[int, ServiceFacts]:
    """Facts by version, as a configuration of this program notes them.

    Raises:
        ProtosegError: a parameter is damaged.
    """
    found = {}
    for key, value in config.parameters.items():
        number = key.removeprefix(f"{PARAMETER}.")
        if number != key and number.isdecimal():
            content = {PARAMETER: value.string_value}
            found[int(number)] = ServiceFacts.from_parameters(content, f"{source}, version {number}")
    return found


def tensors_of(config: Any) -> list[tuple[str, int, tuple[int, ...]]]:
    """Name, type and shape of every input and output, which all versions of a model share."""
    return [(tensor.name, tensor.data_type, tuple(tensor.dims)) for tensor in (*config.input, *config.output)]


def _max_batch(artefact: TritonArtefact, options: ModelOptions) -> int:
    if artefact.profile is None:
        return options.max_batch or MAX_BATCH
    most = artefact.profile.max[0]
    if options.max_batch is not None and options.max_batch > most:
        raise UsageError(
            f"--max-batch {options.max_batch}: {artefact.graph.file} takes batches of {most} at most",
            f"Use --max-batch {most}, or build the engine with another --profile.",
        )
    return options.max_batch or min(MAX_BATCH, most)


def _tensor(kind: Any, port: Port) -> Any:
    return kind(name=port.name, data_type=config_types().DataType.Value(_TYPES[port.dtype]), dims=_dims(port))


def _dims(port: Port) -> Sequence[int]:
    """Without the batch; -1 is any length."""
    assert port.shape is not None  # the contract of graphs
    return [axis if isinstance(axis, int) else -1 for axis in port.shape[1:]]


def _describe(config: Any, versions: Mapping[int, ServiceFacts]) -> None:
    latest = versions[max(versions)]
    parameters = latest.to_parameters() | {"labels": LABELS_FILE}
    for number, facts in versions.items():
        parameters[f"{PARAMETER}.{number}"] = facts.to_parameters()[PARAMETER]
    for key, value in parameters.items():
        config.parameters[key].string_value = value
