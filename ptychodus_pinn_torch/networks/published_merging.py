"""How the `main` torch code of PtychoPINN merges patches, as it is there."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = ['extract_patches', 'merge_patches']

CENTRAL_FLOOR, PROBE_FLOOR, SEEN = 1e-3, 1e-12, 1e-6
"""Added to the number of patches whose central half covers a pixel; least weight by the probe; and
what a weight must exceed, as a number and as a part of the highest one."""


def merge_patches(
    patches: Complex[Tensor, 'group channel height width'],
    coords_relative: Float[Tensor, 'group channel 1 2'],
    padded_size: int,
    probe: Complex[Tensor, 'group channel mode height width'] | None = None,
) -> Complex[Tensor, 'group y x']:
    """Returns the canvases (B, M, M) onto which the `main` torch code puts patches (B, C, N, N).

    Bilinear, weighted by the central half of each patch, or by the power of a `probe`. It blurs, and
    beyond the central halves it amplifies: images of this package are not made so.

    Args:
        patches: Of groups of C.
        coords_relative: [x, y] as that code has them, the middle of the group less the position;
            `latent` and `torchapi` have the opposite sign.
        padded_size: M, at least N.
        probe: (B, C, P, N, N), whose power weighs.

    Raises:
        ValueError: M below N.
    """
    number, channels, size = patches.shape[0], patches.shape[1], patches.shape[-1]
    if padded_size < size:
        raise ValueError(f'a canvas of {padded_size} px cannot hold patches of {size} px.')
    if probe is None:
        weights = torch.zeros(size, size, device=patches.device)
        weights[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 1.0
        weights = weights.expand(number, channels, -1, -1)
    else:
        weights = probe.abs().square().sum(dim=2)
    moves = -coords_relative.reshape(-1, 2)
    moved, covers = (_move(_padded(x, padded_size), moves) for x in (patches, weights))
    shape = (number, channels, padded_size, padded_size)
    total, cover = (moved * covers).reshape(shape).sum(dim=1), covers.reshape(shape).sum(dim=1)
    if probe is None:
        return torch.where(cover > SEEN, total / (cover + CENTRAL_FLOOR), 0.0)
    return torch.where(cover > SEEN * cover.max(), total / cover.clamp(min=PROBE_FLOOR), 0.0)


def extract_patches(
    canvas: Complex[Tensor, 'group y x'],
    coords_relative: Float[Tensor, 'group channel 1 2'],
    size: int,
) -> Complex[Tensor, 'group channel height width']:
    """Returns the patches (B, C, N, N) of canvases (B, M, M) at the places of `merge_patches`."""
    number, channels = coords_relative.shape[:2]
    copies = canvas[:, None].expand(-1, channels, -1, -1).flatten(0, 1)
    moved = _move(copies, coords_relative.reshape(-1, 2))
    first = (canvas.shape[-1] - size) // 2
    inside = moved[:, first : first + size, first : first + size]
    return inside.reshape(number, channels, size, size)


def _padded(x: Tensor, size: int) -> Tensor:
    """Returns maps (B C, M, M) with zeros around."""
    before = (size - x.shape[-1]) // 2
    after = size - x.shape[-1] - before
    return F.pad(x.flatten(0, 1), (before, after, before, after))


def _move(x: Tensor, moves: Tensor) -> Tensor:
    """Returns maps (n, M, M) moved by [x, y] pixels, bilinear, zeros from outside."""
    height, width = x.shape[-2:]
    y, last_y = torch.arange(height, device=x.device)[None, :, None], max(1, height - 1)
    columns, last_x = torch.arange(width, device=x.device)[None, None], max(1, width - 1)
    grid_x = 2.0 * (columns - moves[:, 0, None, None]) / last_x - 1.0
    grid_y = 2.0 * (y - moves[:, 1, None, None]) / last_y - 1.0
    grid = torch.stack(torch.broadcast_tensors(grid_x, grid_y), dim=-1).to(torch.float32)

    def sample(part: Tensor) -> Tensor:
        found = F.grid_sample(part[:, None], grid, align_corners=True)
        return found[:, 0]

    return torch.complex(sample(x.real), sample(x.imag)) if x.is_complex() else sample(x)
