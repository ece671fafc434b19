"""Where half precision would not do."""

import torch
from torch import Tensor


def at_least_single(values: Tensor) -> Tensor:
    """Half precision to float32; float32 and float64 as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
