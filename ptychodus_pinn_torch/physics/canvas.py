"""The canvas: a part of the object grid, and the only two ways between it and patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor

__all__ = [
    'Canvas',
    'add_patches',
    'blank_sum',
    'check_windows',
    'put_patches',
    'take_patches',
]


@dataclass(frozen=True)
class Canvas:
    """What a network answers: parts of the object, and how well the probe covered them.

    Attributes:
        object_: (B, Y, X) complex.
        coverage: (B, Y, X) photons that all patterns sent through each pixel.
        earlier: The object after each earlier stage, for deep supervision.
        uncorrected: Where a network corrects what is good already: the object before it did, of the
            earlier stages and of the last.
    """

    object_: Complex[Tensor, 'group y x']
    coverage: Float[Tensor, 'group y x']
    earlier: tuple[Complex[Tensor, 'group y x'], ...] = ()
    uncorrected: tuple[Complex[Tensor, 'group y x'], ...] = ()


def take_patches(
    canvas: Inexact[Tensor, 'batch height width'],
    rows: Int[Tensor, ' patch'],
    corners: Int[Tensor, 'patch 2'],
    shape: tuple[int, int],
) -> Inexact[Tensor, 'patch window_height window_width']:
    """Returns the windows of the canvases, one per patch.

    The exact adjoint of `put_patches`, differentiable to any order.

    Args:
        canvas: Real or complex canvases.
        rows: Which canvas of the batch a patch looks at.
        corners: First pixel (y, x) of the window.
        shape: Size of the window.

    Raises:
        IndexError: a window leaves its canvas.
    """
    if not torch.is_grad_enabled():
        return _gather(canvas, rows, corners, shape)
    return _TakePatches.apply(canvas, rows, corners, shape)


def put_patches(
    patches: Inexact[Tensor, 'patch window_height window_width'],
    rows: Int[Tensor, ' patch'],
    corners: Int[Tensor, 'patch 2'],
    shape: tuple[int, int, int],
) -> Inexact[Tensor, 'batch height width']:
    """Returns canvases of `shape` onto which the patches were added.

    The exact adjoint of `take_patches`, differentiable to any order.

    Raises:
        IndexError: a window leaves its canvas.
    """
    if not torch.is_grad_enabled():
        canvas = torch.zeros(shape, dtype=patches.dtype, device=patches.device)
        return _scatter_into(canvas, patches, rows, corners)
    return _PutPatches.apply(patches, rows, corners, shape)


def add_patches(
    canvas: Inexact[Tensor, 'batch height width'],
    patches: Inexact[Tensor, 'patch window_height window_width'],
    rows: Int[Tensor, ' patch'],
    corners: Int[Tensor, 'patch 2'],
) -> Inexact[Tensor, 'batch height width']:
    """Returns the canvases with the patches added.

    Without gradients this happens in place and pattern by pattern, so that the sum does not
    depend on how the patterns were cut into chunks, not even in its last bit; the canvases may
    then have a higher precision (see `blank_sum`).

    Raises:
        IndexError: a window leaves its canvas.
    """
    if torch.is_grad_enabled():
        shape = (canvas.shape[0], canvas.shape[1], canvas.shape[2])
        return canvas + put_patches(patches, rows, corners, shape)
    return _scatter_into(canvas, patches, rows, corners)


def blank_sum(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Inexact[Tensor, '*shape']:
    """Returns zeros that many patches are to be added to, in any order.

    On the CPU and without gradients they are of double precision: rounded to `dtype` at the end, the
    sum is the same whoever has added up which part of it.
    """
    if not torch.is_grad_enabled() and device.type == 'cpu':  # others are slow at it, or cannot
        dtype = torch.complex128 if dtype.is_complex else torch.float64
    return torch.zeros(shape, dtype=dtype, device=device)


def check_windows(corners: Int[Tensor, 'patch 2'], window: Any, canvas: Any) -> None:
    """Refuses windows that leave their canvas.

    Args:
        corners: First pixels (y, x), on the host.
        window: (H, W) of a window; `canvas` (Y, X) likewise.

    Raises:
        IndexError: says where the windows lie, and how large the canvas is.
    """
    if corners.numel() == 0:
        return
    low, high = corners.amin(dim=0).tolist(), corners.amax(dim=0).tolist()
    last = [first + length for first, length in zip(high, window)]
    if min(low) < 0 or last[0] > canvas[0] or last[1] > canvas[1]:
        raise IndexError(
            f'a window of {tuple(window)} at {low} to {last} leaves the canvas of {tuple(canvas)}: '
            'make the canvas larger or drop the position.'
        )


def _places(
    rows: Tensor, corners: Tensor, window: Any, canvas: Any
) -> list[tuple[int, slice, slice]]:
    """Returns for each patch, on the host, the canvas and where on it the window lies."""
    (height, width), (last_y, last_x) = window, (c - w for c, w in zip(canvas, window))
    places = []
    for row, (y, x) in zip(rows.tolist(), corners.tolist()):
        if not (0 <= y <= last_y and 0 <= x <= last_x):
            check_windows(corners, window, canvas)
        places.append((row, slice(y, y + height), slice(x, x + width)))
    return places


def _gather(canvas: Tensor, rows: Tensor, corners: Tensor, shape: tuple[int, int]) -> Tensor:
    if canvas.device.type != 'cpu':
        return canvas.reshape(-1)[_flat_indices(canvas.shape, rows, corners, shape)]
    patches = torch.empty((len(rows), *shape), dtype=canvas.dtype)
    source, target = canvas.detach().resolve_conj().resolve_neg().numpy(), patches.numpy()
    for patch, place in zip(target, _places(rows, corners, shape, canvas.shape[-2:])):
        patch[...] = source[place]
    return patches


def _scatter_into(canvas: Tensor, patches: Tensor, rows: Tensor, corners: Tensor) -> Tensor:
    height, width = patches.shape[-2:]
    if patches.device.type != 'cpu':
        indices = _flat_indices(canvas.shape, rows, corners, (height, width))
        # sorted by place, and not by atomic additions, which come in another order each time
        places = (indices.reshape(-1),)
        canvas.view(-1).index_put_(places, patches.reshape(-1), accumulate=True)
        return canvas
    source, target = patches.detach().resolve_conj().resolve_neg().numpy(), canvas.numpy()
    for patch, place in zip(source, _places(rows, corners, (height, width), canvas.shape[-2:])):
        target[place] += patch
    return canvas


def _flat_indices(
    canvas_shape: Any, rows: Tensor, corners: Tensor, shape: tuple[int, int]
) -> Tensor:
    height, width = canvas_shape[-2:]
    first = (rows * height + corners[:, 0]) * width + corners[:, 1]
    inside = (
        torch.arange(shape[0], device=rows.device)[:, None] * width
        + torch.arange(shape[1], device=rows.device)[None, :]
    )
    return first[:, None, None] + inside


class _TakePatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, canvas: Tensor, rows: Tensor, corners: Tensor, shape: Any) -> Tensor:
        ctx.save_for_backward(rows, corners)
        ctx.canvas_shape = tuple(canvas.shape)
        return _gather(canvas, rows, corners, shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        rows, corners = ctx.saved_tensors
        return _PutPatches.apply(gradient, rows, corners, ctx.canvas_shape), None, None, None


class _PutPatches(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, patches: Tensor, rows: Tensor, corners: Tensor, shape: Any) -> Tensor:
        ctx.save_for_backward(rows, corners)
        ctx.window = tuple(patches.shape[-2:])
        canvas = torch.zeros(tuple(shape), dtype=patches.dtype, device=patches.device)
        return _scatter_into(canvas, patches, rows, corners)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        rows, corners = ctx.saved_tensors
        return _TakePatches.apply(gradient, rows, corners, ctx.window), None, None, None
