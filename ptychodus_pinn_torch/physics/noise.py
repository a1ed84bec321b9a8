"""What photon noise does to the roots of counts: the measure of how well counts can be explained."""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ['lost_part', 'root_bias', 'root_noise']

_LOWEST, _HIGHEST, _PER_DECADE = -4, 2, 50
"""Decades of expected counts in the table; noise is twice the counts below it, and 1/4 above."""

_MOST_COUNTS = 400


@cache
def _table(device: torch.device) -> Tensor:
    """Returns `E (sqrt D - sqrt I)**2` for Poisson counts D, at evenly spaced log10 I."""
    steps = (_HIGHEST - _LOWEST) * _PER_DECADE
    expected = torch.logspace(_LOWEST, _HIGHEST, steps + 1, dtype=torch.float64)
    counts = torch.arange(_MOST_COUNTS, dtype=torch.float64)
    log_odds = torch.xlogy(counts, expected[:, None]) - expected[:, None] - torch.lgamma(counts + 1)
    mean_root = (torch.exp(log_odds) * torch.sqrt(counts)).sum(dim=1)
    return (2.0 * expected - 2.0 * torch.sqrt(expected) * mean_root).to(device, torch.float32)


def root_noise(expected: Float[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """Returns `E (sqrt D - sqrt I)**2` for counts D of mean I with Poisson noise.

    1/4 for many counts (Anscombe, Biometrika 35, 246, 1948), twice I for few.
    """
    table = _table(expected.device)
    place = (torch.log10(expected.clamp(min=1e-12)) - _LOWEST) * _PER_DECADE
    lower = place.floor().clamp(0, len(table) - 2)
    part, lower = place - lower, lower.to(torch.int64)
    inside = torch.lerp(table[lower], table[lower + 1], part.clamp(0.0, 1.0))
    return torch.where(place < 0, 2.0 * expected, inside)


def root_bias(expected: Float[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """Returns `I - (E sqrt D)**2`: by how much a fit to the roots of counts comes out too low."""
    noise = root_noise(expected)
    return noise - noise.square() / (4.0 * expected.clamp(min=1e-12))


DIM = 0.3
"""Counts below which the roots of counts are not mended: it would cost more noise than it is worth."""


def lost_part(
    expected: Float[Tensor, '*shape'], background: Float[Tensor, ''] | None = None
) -> Float[Tensor, '*shape']:
    """Returns the part of the root of `expected` that the roots of counts lack on average.

    `1 - E sqrt D / sqrt I`, which is `1/(8 I)` for many counts, fitted to 0.01 by a rational
    function; faded out where what the object sends does not stand out from `background` and
    `DIM`: there an image gains more from a little too few counts than from their noise.
    """
    part = (2.56 * expected).add_(2.59).mul_(expected).add_(1.0)
    part = (0.32 * expected).add_(1.0).div_(part)
    of_object = expected if background is None else (expected - background).clamp_(min=0.0)
    ground = of_object + (DIM if background is None else DIM + background)
    return part.mul_((of_object / ground).square_())
