"""PtychoPINN's stitching of patches, as it is there."""

from __future__ import annotations

import numpy
from numpy.typing import ArrayLike, NDArray

__all__ = ['reassemble_position']


def reassemble_position(
    obj_tensor: ArrayLike,
    global_offsets: ArrayLike,
    M: int = 10,  # noqa: N803
) -> NDArray[numpy.complex64]:
    """Returns the mean of the central M x M pixels of patches, each at its offset.

    PtychoPINN's stitching: bilinear, unweighted, centred on the mean offset, zero where no patch
    is. `ptychodus_pinn_torch.reconstruct` weights by the probe and keeps the object's grid.

    Args:
        obj_tensor: (n, N, N, 1) complex patches.
        global_offsets: (n, 1, 2, 1) float64, [x, y].
        M: Even side of the part of a patch that is used.

    Raises:
        ValueError: shapes that do not fit, or M larger than the patches.
    """
    patches = numpy.asarray(obj_tensor)
    if patches.ndim == 4:
        patches = patches[..., 0]
    offsets = numpy.asarray(global_offsets, dtype=numpy.float64).reshape(-1, 2)
    if patches.ndim != 3 or len(patches) != len(offsets):
        raise ValueError(f'{patches.shape} patches do not fit {len(offsets)} offsets.')
    if patches.shape[1] < M or M < 1:
        raise ValueError(f'M = {M} does not fit patches of {patches.shape[1]} px.')
    first = patches.shape[1] // 2 - M // 2
    crops = patches[:, first : first + M, first : first + M].astype(numpy.complex128)
    shifts = offsets - offsets.mean(axis=0)
    pad = int(numpy.ceil(numpy.abs(shifts).max()))
    pad += pad % 2
    total = numpy.zeros((M + 2 * pad + 1,) * 2, dtype=numpy.complex128)
    number = numpy.zeros(total.shape)
    for crop, (x, y) in zip(crops, shifts):
        top, left = int(numpy.floor(y)), int(numpy.floor(x))
        for down, weight_y in ((0, 1.0 - (y - top)), (1, y - top)):
            for right, weight_x in ((0, 1.0 - (x - left)), (1, x - left)):
                y0, x0 = pad + top + down, pad + left + right
                weight = weight_y * weight_x
                if weight == 0.0:
                    continue
                total[y0 : y0 + M, x0 : x0 + M] += weight * crop
                number[y0 : y0 + M, x0 : x0 + M] += weight
    return (total / (1e-9 + number))[:-1, :-1].astype(numpy.complex64)
