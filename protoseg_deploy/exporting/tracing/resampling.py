"""How resampling is written into a graph where the exporter's own way is refused by an engine, or slow.

*Antialiased bicubic*: timm resamples the position embeddings of ViTs with it. The exporter would write an antialiased
``Resize``, which TensorRT does not take. The filter is separable and linear: with one weight matrix a side it is two
products, ``rows @ embedding @ columns.T``, of operators every engine has, exact for larger and smaller images alike.

*Bilinear along the height alone* (see `protoseg_deploy.models.deployed.upsample_rows`): written as a ``Resize`` of
``[B,h,1,N]``, channels last. ONNX Runtime blends such rows in one vectorised loop over ``N``; a ``Resize`` of
``[B,N,h,1]``, which is what the exporter would write, it computes number by number.

*Adaptive average pooling* to more than one pixel: the exporter would write the cells of the traced size. Like the
antialiased filter it is a product with one matrix a side.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18
from onnxscript.function_libs.torch_lib.ops.core import aten_as_strided
from onnxscript.function_libs.torch_lib.ops.nn import aten_upsample_bilinear2d_vec

# The operators' own type variables cannot be satisfied from outside.
op: Any = opset18

_INT64, _FLOAT = 7, 1
# Keys' cubic convolution (1981) with a = -1/2, what PyTorch uses when it antialiases.
_A = -0.5


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Custom translations for `torch.onnx.export`."""
    return {
        torch.ops.aten._adaptive_avg_pool2d.default: _adaptive_average,
        torch.ops.aten._upsample_bicubic2d_aa.default: _bicubic_antialiased,
        torch.ops.aten.upsample_bilinear2d.vec: _bilinear,
        torch.ops.aten.as_strided.default: _as_strided,
    }


def _bilinear(
    input: Any,
    output_size: Sequence[Any] | None,
    align_corners: bool,
    scale_factors: Sequence[float] | None = None,
) -> Any:
    """``aten::upsample_bilinear2d.vec(Tensor input, SymInt[]? output_size, bool align_corners, ...)``."""
    one_column = output_size is not None and input.shape[3] == 1 and output_size[1] == 1
    if align_corners or output_size is None or not one_column:
        return aten_upsample_bilinear2d_vec(input, output_size, align_corners, scale_factors)
    # The network's own permutations around it are the inverse ones; the exporter cancels each pair.
    rows = op.Transpose(input, perm=[0, 2, 3, 1])
    height = op.Reshape(_side(output_size[0]), op.Constant(value_ints=[1]))
    sizes = op.Concat(op.Shape(rows, start=0, end=1), height, op.Shape(rows, start=2, end=4), axis=0)
    blended = op.Resize(rows, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel")
    return op.Transpose(blended, perm=[0, 3, 1, 2])


def _as_strided(self: Any, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None) -> Any:
    """``aten::as_strided``: a global average leaves one behind that changes nothing; then nothing is written."""
    sides = list(self.shape)
    contiguous = [1]
    for side in reversed(sides[1:]):
        contiguous.insert(0, contiguous[0] * side if isinstance(side, int) else 0)
    # A side of one element may have any stride, and the batch, which comes first, may have any length.
    moved = [side for side, mine, asked in zip(sides, contiguous, stride, strict=False) if side != 1 and mine != asked]
    if len(size) == len(sides) and list(size)[1:] == sides[1:] and not storage_offset and not moved:
        return op.Identity(self)
    return aten_as_strided(self, size, stride, storage_offset)


def _adaptive_average(self: Any, output_size: Sequence[Any]) -> Any:
    """``aten::_adaptive_avg_pool2d(Tensor self, SymInt[2] output_size)``."""
    sides = op.Shape(self, start=2, end=4)
    rows = _cells(op.Gather(sides, op.Constant(value_int=0)), _side(output_size[0]))
    columns = _cells(op.Gather(sides, op.Constant(value_int=1)), _side(output_size[1]))
    return op.MatMul(op.MatMul(rows, self), op.Transpose(columns, perm=[1, 0]))


def _cells(source: Any, target: Any) -> Any:
    """``[target, source]`` weights of one side: cell ``i`` averages from ``floor(i s / t)`` to below
    ``ceil((i + 1) s / t)``.
    """
    zero, one, last = (op.Constant(value_int=value) for value in (0, 1, -1))
    cells = op.Unsqueeze(op.Range(zero, target, one), op.Constant(value_ints=[1]))
    first = op.Div(op.Mul(cells, source), target)
    end = op.Div(op.Add(op.Mul(op.Add(cells, one), source), op.Add(target, last)), target)
    places = op.Range(zero, source, one)
    inside = op.And(op.GreaterOrEqual(places, first), op.Less(places, end))
    return op.Div(op.Cast(inside, to=_FLOAT), op.Cast(op.Sub(end, first), to=_FLOAT))


def _bicubic_antialiased(
    self: Any,
    output_size: Sequence[Any],
    align_corners: bool,
    scales_h: float | None = None,
    scales_w: float | None = None,
) -> Any:
    """``aten::_upsample_bicubic2d_aa(Tensor self, SymInt[2] output_size, bool align_corners, ...)``."""
    if align_corners:
        raise NotImplementedError("antialiased bicubic resampling with aligned corners")
    rows = _weights(int(self.shape[2]), _side(output_size[0]))
    columns = _weights(int(self.shape[3]), _side(output_size[1]))
    return op.MatMul(op.MatMul(rows, self), op.Transpose(columns, perm=[1, 0]))


def _side(side: Any) -> Any:
    """An output side as an INT64 scalar: the exporter hands over numbers where they are known, else tensors."""
    return op.Constant(value_int=side) if isinstance(side, int) else op.Cast(side, to=_INT64)


def _weights(source: int, target: Any) -> Any:
    """``[target, source]`` weights of one side; each row sums to one."""
    one = op.Constant(value_float=1.0)
    step = op.Div(op.Constant(value_float=float(source)), op.Cast(target, to=_FLOAT))
    numbers = op.Range(op.Constant(value_int=0), target, op.Constant(value_int=1))
    centres = op.Mul(op.Add(op.Cast(numbers, to=_FLOAT), op.Constant(value_float=0.5)), step)
    cells = op.Constant(value_floats=[index + 0.5 for index in range(source)])
    distance = op.Abs(op.Sub(cells, op.Unsqueeze(centres, op.Constant(value_ints=[1]))))
    # Shrinking widens the filter: that is the antialiasing.
    distance = op.Div(distance, op.Max(step, one))
    inner = op.Add(
        op.Mul(op.Mul(distance, distance), op.Add(op.Mul(distance, _number(_A + 2)), _number(-(_A + 3)))), one
    )
    outer = op.Mul(
        op.Add(op.Mul(op.Add(op.Mul(op.Add(distance, _number(-5)), distance), _number(8)), distance), _number(-4)),
        _number(_A),
    )
    outer = op.Where(op.Less(distance, _number(2)), outer, _number(0))
    weights = op.Where(op.Less(distance, one), inner, outer)
    return op.Div(weights, op.ReduceSum(weights, op.Constant(value_ints=[1]), keepdims=1))


def _number(value: float) -> Any:
    return op.Constant(value_float=float(value))
