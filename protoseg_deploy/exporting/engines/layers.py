"""In which precision an engine computes: read from the network it is built from, then from the engine itself.

A library that lacks a kernel may fall back to float32 silently, and a graph may hold less of a precision than its
name says. So convolutions and matrix products, which decide what a network costs, are counted by precision.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from protoseg_deploy.bundles.precisions import SPECS
from protoseg_deploy.choices import Precision
from protoseg_deploy.errors import ProtosegError
from protoseg_deploy.runtimes.tensorrt import LayerTable

HEAVY_KINDS = frozenset({"CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY"})
_NAMES = {spec.tensorrt_name: precision for precision, spec in SPECS.items()}
# Layers that move values without computing: quantised values stay quantised through them.
_MOVING = frozenset({"SHUFFLE", "SLICE", "CONCATENATION", "SQUEEZE", "UNSQUEEZE", "IDENTITY"})
_NARROW_FIRST: tuple[Precision, ...] = ("int8", "bf16", "fp16", "fp32")
_SMALLEST_SHARE = 0.5


@dataclass(frozen=True)
class Layer:
    """One layer of a network or an engine."""

    name: str
    kind: str
    precision: str
    """Of what it computes; the type's own name where it is no precision, such as ``INT64``."""
    heavy: bool


def network_layers(network: Any) -> list[Layer]:
    """Layers of a strongly typed network definition, which an engine's types have to follow."""
    layers = [network.get_layer(number) for number in range(network.num_layers)]
    makers = {layer.get_output(number).name: layer for layer in layers for number in range(layer.num_outputs)}
    return [
        Layer(layer.name, layer.type.name, _network_precision(layer, makers), layer.type.name in HEAVY_KINDS)
        for layer in layers
    ]


def _network_precision(layer: Any, makers: dict[str, Any]) -> str:
    if layer.type.name in HEAVY_KINDS:
        factors = [tensor for tensor in (layer.get_input(0), layer.get_input(1)) if tensor is not None]
        if len(factors) == 2 and all(_quantised(tensor, makers) for tensor in factors):
            return "int8"
    dtype = str(layer.get_output(0).dtype.name)
    return _NAMES.get(dtype, dtype)


def _quantised(tensor: Any, makers: dict[str, Any]) -> bool:
    """Whether a tensor comes out of a dequantisation: a builder joins that with what reads it."""
    maker = makers.get(tensor.name)
    while maker is not None and maker.type.name in _MOVING:
        maker = makers.get(maker.get_input(0).name)
    return maker is not None and maker.type.name == "DEQUANTIZE"


def engine_layers(inspection: str, heavy_names: Collection[str]) -> list[Layer]:
    """Layers of a built engine.

    Args:
        inspection: what the library's engine inspector writes as JSON with detailed profiling verbosity. TensorRT 10
            calls the type of a tensor ``Format/Datatype``, 11 ``DataType``.
        heavy_names: of the convolutions and matrix products of the network. An engine's layer joins many of them and
            keeps their names in its metadata.

    Returns:
        Empty if the inspector gives names only.
    """
    described = [layer for layer in json.loads(inspection).get("Layers", []) if isinstance(layer, dict)]
    wanted = frozenset(heavy_names)
    layers = []
    for layer in described:
        origin = f"{layer.get('Name', '')}\x1f{layer.get('Metadata', '')}"
        words = frozenset(re.findall(r"[^\s\[\]{}()+,;:\x1e\x1f]+", origin))
        layers.append(
            Layer(str(layer.get("Name", "")), str(layer.get("LayerType", "")), _narrowest(layer), bool(wanted & words))
        )
    return layers


def _narrowest(layer: dict[str, Any]) -> str:
    """The narrowest type a layer reads: what its products are computed in, whatever wider values it adds."""
    read = [str(tensor.get("DataType") or tensor.get("Format/Datatype") or "") for tensor in layer.get("Inputs", [])]
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        read.append(str(weights.get("Type", "")))
    found = {_narrowest_in(text) for text in read}
    return next((name for name in _NARROW_FIRST if name in found), "other")


def _narrowest_in(text: str) -> str | None:
    """A description of a format may name float32 beside the type that it is about."""
    return next((name for name in _NARROW_FIRST if SPECS[name].tensorrt_text.search(text)), None)


def layer_table(layers: Sequence[Layer], evidence: Literal["engine", "network"], precision: Precision) -> LayerTable:
    """Count layers by kind and precision."""
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for layer in layers:
        kinds[layer.kind][layer.precision] += 1
    heavy = [layer for layer in layers if layer.heavy]
    return LayerTable(
        evidence=evidence,
        heavy=dict(sorted(Counter(layer.precision for layer in heavy).items())),
        layers={kind: dict(sorted(counts.items())) for kind, counts in sorted(kinds.items())},
        wider=tuple(layer.name for layer in heavy if layer.precision != precision),
    )


def check_precision(source: str, table: LayerTable, precision: Precision, network: LayerTable | None = None) -> None:
    """Refuse a network or an engine that computes in a higher precision than asked for.

    Half of the convolutions and matrix products of an fp16 or bf16 network have to be of that precision; casting keeps
    few in float32. How many of an int8 network are was settled by measuring when it was exported: one is enough. An
    engine has to reach half the share of its network; kernels join layers, so numbers cannot be compared one to one.

    Args:
        source: for the message.
        table: what was found.
        precision: what was asked for.
        network: of the network, when `table` is of its engine.

    Raises:
        ProtosegError: it does.
    """
    share = _share(table, precision)
    least = _SMALLEST_SHARE * _share(network, precision) if network is not None else _SMALLEST_SHARE
    enough = share > 0 if precision == "int8" and network is None else share >= least
    if enough:
        return
    counts = ", ".join(f"{count} {name}" for name, count in table.heavy.items()) or "none at all"
    hint = (
        "The library has no kernels of that precision for this network and target: build another precision."
        if network is not None
        else f"The graph does not match its metadata: export it again with --precision {precision}."
    )
    raise ProtosegError(
        f"{source}: asked for {precision}, but its convolutions and matrix products compute in {counts}", hint
    )


def _share(table: LayerTable, precision: Precision) -> float:
    total = sum(table.heavy.values())
    return table.heavy.get(precision, 0) / total if total else 0.0
