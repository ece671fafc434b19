"""Antialiased bicubic resampling as matrix products, for graphs of any image size.

timm resamples the position embeddings of ViTs with it. The exporter would write an antialiased ``Resize``, which
TensorRT does not take. The filter is separable and linear: with one weight matrix a side it is two products,
``rows @ embedding @ columns.T``, of operators every engine has, exact for larger and smaller images alike.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset18

# The operators' own type variables cannot be satisfied from outside.
op: Any = opset18

_INT64, _FLOAT = 7, 1
# Keys' cubic convolution (1981) with a = -1/2, what PyTorch uses when it antialiases.
_A = -0.5


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Custom translations for `torch.onnx.export`."""
    return {torch.ops.aten._upsample_bicubic2d_aa.default: _bicubic_antialiased}


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
