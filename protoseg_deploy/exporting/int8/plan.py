"""Which nodes of a float32 graph are computed in int8, and which of them belong together.

The network lies between its first layer that sees the image and its linear head. Scaling and normalising the image
comes before, upsampling and comparing the logits after: they stay as they are. Inside, int8 is for what engines have
kernels for: layers with constant weights, and what stands between such layers without looking closely at the numbers
(sums, concatenations, maxima). Softmax, normalisations, gates and smooth activations work on float32.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto

from protoseg_deploy.bundles.element_types import element_types

_NETWORK = "segmenter."
HEAD_WEIGHT = f"{_NETWORK}head.weight"
"""Weight of the linear head in every exported graph."""

_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
FLOAT_RESULT = frozenset({"ConvTranspose", "Gemm", "MatMul"})
"""Layers whose result stays float32: in transformers a normalisation, softmax or smooth activation comes next."""
_RECTIFIERS = frozenset({"Relu", "Clip"})
_JOINTS = frozenset({"Add", "Concat"})
_POOLS = frozenset({"MaxPool", "AveragePool", "GlobalAveragePool"})
_COMPUTED = _LAYERS | _JOINTS | _POOLS | _RECTIFIERS
# Interpolates between its inputs: as a rounded value the result would be no smaller, as float32 it is more exact.
_TRANSPARENT = frozenset({"Resize"})
# Their result says how large something is, not what is in it.
_SIZES = frozenset({"Shape", "Size"})
_NUMBERED = re.compile(r"(.+?\.\d+(?:\.\d+)*)\.")


@dataclass(frozen=True)
class Int8Plan:
    """What to quantise in a graph."""

    groups: dict[str, tuple[str, ...]]
    """Names of the nodes to quantise by part of the network: ``blocks.1.0``, ``decoder.aspp.convs.2.0``, ``head``."""
    values: frozenset[str]
    """Float32 values that are rounded and need a range."""
    rectified: dict[str, str]
    """The output of a layer by the output of the ReLU behind it; only the latter is rounded."""
    logits: str
    """The output of the head."""

    @property
    def nodes(self) -> list[str]:
        return [name for names in self.groups.values() for name in names]


def plan_int8(model: ModelProto, keep: frozenset[str] = frozenset()) -> Int8Plan:
    """Choose the nodes of a float32 graph to quantise.

    Args:
        model: a float32 graph of this program; every node has a name of its own.
        keep: groups to leave in float32, as `Int8Plan.groups` calls them.
    """
    graph = _Graph(model)
    chosen = graph.chosen(keep)
    groups: dict[str, list[str]] = defaultdict(list)
    values: set[str] = set()
    rectified: dict[str, str] = {}
    for node in chosen:
        groups[graph.group[node.name]].append(node.name)
        if node.op_type in _RECTIFIERS:
            rectified[node.output[0]] = node.input[0]
        values.update(graph.data(node), () if node.op_type in FLOAT_RESULT else node.output)
    return Int8Plan(
        {name: tuple(nodes) for name, nodes in groups.items()},
        frozenset(values - set(rectified.values())),
        rectified,
        graph.head.output[0],
    )


class _Graph:
    """The graph of a model, indexed."""

    def __init__(self, model: ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.types = element_types(model)
        self.weights = {weight.name for weight in model.graph.initializer}
        self.source = {name: node for node in self.nodes for name in node.output if name}
        self.readers: dict[str, int] = defaultdict(int)
        for name in (*(name for node in self.nodes for name in node.input), *(v.name for v in model.graph.output)):
            self.readers[name] += 1
        pixels = self._descendants(value.name for value in model.graph.input)
        layers = [node for node in self.nodes if self._is_layer(node, pixels)]
        self.head = next((node for node in reversed(layers) if HEAD_WEIGHT in node.input), layers[-1])
        beyond = self._descendants(self.head.output)
        self.layers = [node for node in layers if node.output[0] not in beyond or node is self.head]
        self.group = self._groups()

    def chosen(self, keep: frozenset[str]) -> list[NodeProto]:
        """Layers, and the nodes between layers that go along; in the order of the graph."""
        before = self._ancestors(self.layers)
        layers = {layer.name for layer in self.layers}
        chosen: set[str] = set()
        for node in self.nodes:
            if self.group[node.name] in keep or node.op_type not in _COMPUTED:
                continue
            if node.name in layers or (node.name in before and self._goes_along(node, chosen)):
                chosen.add(node.name)
        return [node for node in self.nodes if node.name in chosen]

    def data(self, node: NodeProto) -> list[str]:
        """Inputs that are neither weights nor settings."""
        return list(node.input) if node.op_type in _JOINTS else list(node.input[:1])

    def _goes_along(self, node: NodeProto, chosen: set[str]) -> bool:
        """Whether a node between layers gains from int8: all it reads was computed in int8."""
        origins = [self._origin(name) for name in self.data(node)]
        if any(o is None or o.name not in chosen or o.op_type in FLOAT_RESULT for o in origins):
            return False
        if node.op_type not in _RECTIFIERS:
            return True
        # The range of a rounded value is what rectifies it; alone, a rectifier would only be one more rounding.
        value = node.input[0]
        return self.source[value].op_type in {"Conv", "Add"} and self.readers[value] == 1

    def _origin(self, value: str) -> NodeProto | None:
        node = self.source.get(value)
        while node is not None and node.op_type in _TRANSPARENT:
            node = self.source.get(node.input[0])
        return node

    def _is_layer(self, node: NodeProto, pixels: set[str]) -> bool:
        return (
            node.op_type in _LAYERS
            and node.input[0] in pixels
            and node.input[1] in self.weights
            and self.types.get(node.output[0]) == TensorProto.FLOAT
        )

    def _descendants(self, values: Iterable[str]) -> set[str]:
        """Values whose content depends on some values, and these."""
        found = set(values)
        for node in self.nodes:
            if node.op_type not in _SIZES and found.intersection(node.input):
                found.update(node.output)
        return found

    def _ancestors(self, nodes: list[NodeProto]) -> set[str]:
        """Names of the nodes that some nodes depend on, and of these."""
        found = {node.name for node in nodes}
        waiting = list(nodes)
        while waiting:
            for name in waiting.pop().input:
                source = self.source.get(name)
                if source is not None and source.name not in found:
                    found.add(source.name)
                    waiting.append(source)
        return found

    def _groups(self) -> dict[str, str]:
        """Part of the network by node: as its weights are called, else that of the node before."""
        groups: dict[str, str] = {}
        for node in self.nodes:
            own = next((name for name in node.input if name in self.weights and name.startswith(_NETWORK)), None)
            sources = [self.source[name].name for name in node.input if name in self.source]
            groups[node.name] = _part(own) if own else next((groups[name] for name in sources), "stem")
        return groups


def _part(weight: str) -> str:
    """``segmenter.backbone.net.blocks.1.0.conv_pw.weight`` belongs to ``blocks.1.0``."""
    path = weight.removeprefix(_NETWORK).removeprefix("backbone.net.")
    match = _NUMBERED.match(path)
    return match[1] if match else path.rpartition(".")[0] or path
