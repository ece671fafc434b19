"""Class maps on a CPU: logits are upsampled only where classes meet.

A graph ends in the bilinear upsampling of its logits to the size of the image and an argmax over them. On one core that
takes 3.5 ms for 11 classes at 512x512, an eighth of a light network, and more the more classes there are. Nearly all of
it is needless: between four neighbouring logits with the same argmax, every blend of the four has that argmax, too.
So a class map is filled in from the argmax of the small logits, and only the *mixed* cells, whose four corners differ,
are upsampled, in the same arithmetic.

This depends on the data, and a GPU would have to wait for the CPU to know: files keep the plain form, which runs
everywhere, and what ONNX Runtime's CPU provider is given is rewritten as it is loaded. Where many of the cells are
mixed, the plain form is computed as before.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, helper

from protoseg_deploy.bundles.contract import CLASS_MAP, INPUT
from protoseg_deploy.runtimes.onnx_nodes import Nodes

_CHAIN = ("Cast", "ArgMax", "Slice", "Slice", "Reshape", "Resize", "Reshape", "Resize", "Transpose")
"""From the class map back to the logits; the slices are there where images are padded."""


def with_sparse_argmax(model: ModelProto, most_mixed: float) -> ModelProto:
    """A graph for ONNX Runtime's CPU provider that upsamples logits only where classes meet.

    Its class maps are those of the plain form, but for pixels whose two highest logits differ in their last bit.

    Args:
        model: of this program; untouched.
        most_mixed: share of mixed cells from which on all is upsampled.

    Returns:
        `model` itself if there is nothing to rewrite: further outputs, as confidence, need all upsampled logits.
    """
    tail = _find_tail(model.graph)
    if tail is None:
        return model
    rewritten = ModelProto()
    rewritten.CopyFrom(model)
    graph = rewritten.graph
    class_map = graph.output[0]
    dtype = class_map.type.tensor_type.elem_type

    outer = Nodes("sparse_argmax")
    cells = _Cells.between(outer, tail, dtype, most_mixed)
    sparse = Nodes("sparse_argmax_then")
    sparse.op("Identity", _fill(sparse, cells, tail.logits, dtype), output=CLASS_MAP)
    choice = helper.make_node(
        "If",
        [cells.few],
        [CLASS_MAP],
        name="sparse_argmax",
        then_branch=helper.make_graph(sparse.nodes, "sparse", [], [class_map]),
        else_branch=helper.make_graph(tail.nodes, "plain", [], [class_map]),
    )
    moved = {name for node in tail.nodes for name in node.output}
    kept = [node for node in model.graph.node if not moved.intersection(node.output)]
    del graph.node[:]
    graph.node.extend([*kept, *outer.nodes, choice])
    return rewritten


@dataclass(frozen=True)
class _Tail:
    """Upsampling and argmax at the end of a graph; names of values."""

    logits: str
    """``[B,C,h,w]`` float32."""
    height: str
    """int64; its last element is the height that they are upsampled to."""
    width: str
    """int64; its last element is the width."""
    nodes: list[NodeProto]
    """From the logits to the class map; nothing else needs them."""


def _find_tail(graph: GraphProto) -> _Tail | None:
    if [output.name for output in graph.output] != [CLASS_MAP]:
        return None
    makers = {name: node for node in graph.node for name in node.output}
    chain: dict[str, list[NodeProto]] = {}
    name = CLASS_MAP
    for operation in _CHAIN:
        node = makers.get(name)
        if node is not None and node.op_type == operation and node.input:
            chain.setdefault(operation, []).append(node)
            name = node.input[0]
        elif operation != "Slice":
            return None
    (transpose,), (argmax,) = chain["Transpose"], chain["ArgMax"]
    if _attribute(transpose, "perm") != [0, 2, 1, 3] or _attribute(argmax, "axis") != 2:
        return None
    nodes, values = _depending_on(transpose, graph.node)
    height, width = (_size(node, part, makers, values) for node, part in zip(chain["Resize"], (1, -1), strict=True))
    return _Tail(name, height, width, nodes) if height and width else None


def _attribute(node: NodeProto, name: str) -> object:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), None)


def _depending_on(first: NodeProto, nodes: Iterable[NodeProto]) -> tuple[list[NodeProto], set[str]]:
    """`first` and the nodes that need what it gives, and the values of all of them."""
    found, values = [first], set(first.output)
    for node in nodes:
        if values.intersection(node.input) and node is not first:
            found.append(node)
            values.update(node.output)
    return found, values


def _size(resize: NodeProto, part: int, makers: dict[str, NodeProto], after: set[str]) -> str:
    """The part of the sizes that a ``Resize`` is given, if it is known before; else empty."""
    concat = makers.get(resize.input[3]) if len(resize.input) > 3 else None
    if concat is None or concat.op_type != "Concat" or len(concat.input) < 2 or concat.input[part] in after:
        return ""
    return str(concat.input[part])


@dataclass(frozen=True)
class _Side:
    """Cells along one side of the logits, and the output pixels of each.

    Cell i lies between the logits i-1 and i; the first and the last one lie between a logit and itself, outside the
    centres of all others. What is computed of a cell is a block of as many pixels as the largest cell has, from its
    first one on; some of those of the first cell lie before the image.
    """

    size: str
    """int64 ``[1]``: of the logits."""
    full: str
    """int64 ``[1]``: of the upsampled logits."""
    times: str
    """int64 ``[1]``: pixels of a block."""
    cells: str
    """int64 ``[1]``."""
    numbers: str
    """int64 ``[cells]``: 0, 1, and so on."""
    first: str
    """int64 ``[cells]``: the logit before a cell."""
    second: str
    """int64 ``[cells]``: the logit behind it."""

    @classmethod
    def of(cls, nodes: Nodes, logits: str, axis: int, target: str) -> "_Side":
        size = nodes.op("Shape", logits, start=axis, end=axis + 1)
        full = nodes.op("Gather", target, [-1])
        cells = nodes.op("Add", size, 1)
        numbers = nodes.op("Range", 0, nodes.op("Squeeze", cells), 1)
        return cls(
            size=size,
            full=full,
            times=nodes.op("Div", nodes.op("Sub", nodes.op("Add", full, size), 1), size),
            cells=cells,
            numbers=numbers,
            first=nodes.op("Max", nodes.op("Sub", numbers, 1), 0),
            second=nodes.op("Min", numbers, nodes.op("Sub", size, 1)),
        )

    def start(self, nodes: Nodes) -> str:
        """int64 ``[cells]``: first pixel of each block, the first one at or behind the centre of logit i-1.

        Pixel o lies at (o + 0.5) * size / full - 0.5.
        """
        odd = nodes.op("Sub", nodes.op("Mul", self.numbers, 2), 1)
        least = nodes.op("Sub", nodes.op("Mul", odd, self.full), self.size)
        double = nodes.op("Mul", self.size, 2)
        # Integers are divided towards zero, which rounds negative ones up.
        up = nodes.op("Where", nodes.op("Less", least, 0), 0, nodes.op("Sub", double, 1))
        return nodes.op("Div", nodes.op("Add", least, up), double)

    def weights(self, nodes: Nodes, start: str) -> tuple[str, str]:
        """``[cells, times]`` float32: of the first and of the second logit, in the arithmetic of `Resize`."""
        within = nodes.op("Range", 0, nodes.op("Squeeze", self.times), 1)
        pixel = nodes.as_float(nodes.op("Add", nodes.op("Unsqueeze", start, [1]), within))
        scale = nodes.op("Div", nodes.as_float(self.full), nodes.as_float(self.size))
        place = nodes.op("Sub", nodes.op("Div", nodes.op("Add", pixel, 0.5), scale), 0.5)
        first, second = (nodes.op("Unsqueeze", nodes.as_float(each), [1]) for each in (self.first, self.second))
        place = nodes.op("Min", nodes.op("Max", place, first), second)
        return nodes.op("Sub", nodes.op("Add", first, 1.0), place), nodes.op("Sub", place, first)

    def places(self, nodes: Nodes, start: str, image_axis: int) -> str:
        """int64: where each pixel of an image lies in the blocks, laid one behind the other."""
        count = nodes.op("Squeeze", nodes.op("Shape", INPUT, start=image_axis, end=image_axis + 1))
        pixel = nodes.op("Range", 0, count, 1)
        center = nodes.op("Mul", nodes.op("Add", nodes.op("Mul", pixel, 2), 1), self.size)
        cell = nodes.op("Div", nodes.op("Add", center, self.full), nodes.op("Mul", self.full, 2))
        within = nodes.op("Sub", pixel, nodes.op("Gather", start, cell))
        return nodes.op("Add", nodes.op("Mul", cell, self.times), within)


@dataclass(frozen=True)
class _Cells:
    """All cells between neighbouring logits."""

    rows: _Side
    columns: _Side
    corner: str
    """``[B,rows,columns]`` class at the first corner of each cell."""
    mixed: str
    """``[B,rows,columns]`` bool: the classes at the corners of a cell differ."""
    few: str
    """bool: few enough cells are mixed."""

    @classmethod
    def between(cls, nodes: Nodes, tail: _Tail, dtype: int, most_mixed: float) -> "_Cells":
        rows = _Side.of(nodes, tail.logits, 2, tail.height)
        columns = _Side.of(nodes, tail.logits, 3, tail.width)
        winner = nodes.op("Cast", nodes.op("ArgMax", _channels_last(nodes, tail.logits), axis=3, keepdims=0), to=dtype)
        lines = [nodes.op("Gather", winner, side, axis=1) for side in (rows.first, rows.second)]
        corner, *others = (
            nodes.op("Gather", line, side, axis=2) for line in lines for side in (columns.first, columns.second)
        )
        below, beside, across = (nodes.op("Equal", corner, other) for other in others)
        mixed = nodes.op("Not", nodes.op("And", nodes.op("And", below, beside), across))
        share = nodes.op("ReduceMean", nodes.as_float(mixed), keepdims=0)
        return cls(rows, columns, corner, mixed, nodes.op("Less", share, most_mixed))


def _channels_last(nodes: Nodes, logits: str) -> str:
    """``[B,h,w,C]``: an argmax over neighbouring numbers is the quickest."""
    return nodes.op("Transpose", logits, perm=[0, 2, 3, 1])


def _fill(nodes: Nodes, cells: _Cells, logits: str, dtype: int) -> str:
    """``[B,H,W]``: every block of the class of its corner, the mixed ones replaced.

    Blocks have pixels to spare where the size of the image is no multiple of that of the logits: those that count are
    picked, whole lines first.
    """
    rows, columns = cells.rows, cells.columns
    row_start, column_start = rows.start(nodes), columns.start(nodes)
    mixed = nodes.op("Reshape", nodes.op("NonZero", nodes.op("Reshape", cells.mixed, [-1])), [-1])
    weights = rows.weights(nodes, row_start), columns.weights(nodes, column_start)
    upsampled = _blend(nodes, cells, logits, mixed, *weights)
    replaced = nodes.op("Cast", nodes.op("ArgMax", upsampled, axis=3, keepdims=0), to=dtype)

    # A block is repeated as a column, and all columns transposed: quicker than to expand each of them.
    block = nodes.op("Concat", rows.times, columns.times, axis=0)
    repeats = nodes.op("Concat", nodes.op("ReduceProd", block), [1], axis=0)
    repeated = nodes.op("Expand", nodes.op("Reshape", cells.corner, [1, -1]), repeats)
    plain = nodes.op("Reshape", nodes.op("Transpose", repeated), nodes.op("Concat", [-1], block, axis=0))
    blocks = nodes.op("ScatterND", plain, nodes.op("Unsqueeze", mixed, [1]), replaced)
    shape = nodes.op("Concat", [-1], rows.cells, columns.cells, block, axis=0)
    lines = nodes.op("Transpose", nodes.op("Reshape", blocks, shape), perm=[0, 1, 3, 2, 4])
    sides = [nodes.op("Mul", side.cells, side.times) for side in (rows, columns)]
    lines = nodes.op("Reshape", lines, nodes.op("Concat", [-1], *sides, axis=0))
    lines = nodes.op("Gather", lines, rows.places(nodes, row_start, 1), axis=1)
    return _pick_columns(nodes, lines, columns, columns.places(nodes, column_start, 2), dtype)


def _pick_columns(nodes: Nodes, lines: str, columns: _Side, places: str, dtype: int) -> str:
    """Those at some places of all lines; a part of each line where they are neighbours."""
    neighbours = nodes.op("Squeeze", nodes.op("Equal", nodes.op("Mul", columns.times, columns.size), columns.full))
    part, every = Nodes(f"{nodes.prefix}_part"), Nodes(f"{nodes.prefix}_every")
    begin = part.op("Gather", places, [0])
    end = part.op("Add", begin, part.op("Shape", INPUT, start=2, end=3))
    picked = [part.op("Slice", lines, begin, end, [2]), every.op("Gather", lines, places, axis=2)]
    branches = [
        helper.make_graph(some.nodes, name, [], [helper.make_tensor_value_info(output, dtype, None)])
        for some, name, output in zip((part, every), ("part", "every"), picked, strict=True)
    ]
    return nodes.op("If", neighbours, then_branch=branches[0], else_branch=branches[1])


def _blend(
    nodes: Nodes, cells: _Cells, logits: str, mixed: str, along_rows: tuple[str, str], along_columns: tuple[str, str]
) -> str:
    """``[M,times,times,C]`` upsampled logits of the mixed cells: first along the width, as the plain form does it.

    Rows come before columns: a weight is then multiplied with many neighbouring numbers.
    """
    rows, columns = cells.rows, cells.columns
    column = nodes.op("Mod", mixed, columns.cells)
    line = nodes.op("Div", mixed, columns.cells)
    row = nodes.op("Mod", line, rows.cells)
    image = nodes.op("Mul", nodes.op("Div", line, rows.cells), rows.size)
    # Transposed once more: ONNX Runtime crashes on int8 graphs if a branch needs the other transpose (QDQPropagation).
    classes = nodes.op("Shape", logits, start=1, end=2)
    flat = nodes.op("Reshape", _channels_last(nodes, logits), nodes.op("Concat", [-1], classes, axis=0))
    left, right = (nodes.op("Unsqueeze", nodes.op("Gather", each, column), [2]) for each in along_columns)
    blended = []
    for vertical in (rows.first, rows.second):
        begin = nodes.op("Mul", nodes.op("Add", image, nodes.op("Gather", vertical, row)), columns.size)
        parts = []
        for horizontal, weight in ((columns.first, left), (columns.second, right)):
            corner = nodes.op("Gather", flat, nodes.op("Add", begin, nodes.op("Gather", horizontal, column)))
            parts.append(nodes.op("Mul", nodes.op("Unsqueeze", corner, [1]), weight))
        blended.append(nodes.op("Unsqueeze", nodes.op("Add", *parts), [1]))
    top, bottom = (nodes.op("Unsqueeze", nodes.op("Gather", each, row), [2, 3]) for each in along_rows)
    # To `Resize` the second step of the plain form is an image one pixel wide, whose only column is also its next one:
    # it adds either of the two lines twice, with half of its weight.
    half = nodes.op("Mul", blended[1], nodes.op("Mul", bottom, 0.5))
    return nodes.op("Add", nodes.op("Add", nodes.op("Mul", blended[0], top), half), half)
