"""Square roots of many numbers, zeros among them."""

from __future__ import annotations

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ['square_root']


def square_root(values: Float[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """Returns the roots of values that are not negative.

    On one CPU core, and where no gradient is wanted, by numpy: zeros, of which counts are full, take
    torch several times as long as other numbers. Several cores are torch's.
    """
    needs_torch = values.device.type != 'cpu' or values.requires_grad
    if needs_torch or values.dtype != torch.float32 or torch.get_num_threads() > 1:
        return torch.sqrt(values)
    return torch.from_numpy(numpy.asarray(numpy.sqrt(values.numpy())))
