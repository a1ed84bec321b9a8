"""Which patterns make the image, and which of them are held out to judge it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from ..physics.measurement import Measurement
from ..scan.grouping import choose_held_out

__all__ = ['Split', 'sample_patterns', 'split_patterns', 'take_middle']

HOLDOUT_FRACTION, MIN_PATTERNS_TO_HOLD_OUT = 0.04, 50
"""Part of the patterns that is held out; and patterns of the smallest scan that can do without two."""

SAMPLED_PATTERNS = 256
"""That speak for all: their mean misfit is known to a few percent."""


@dataclass(frozen=True)
class Split:
    """Numbers of patterns, on the host.

    Attributes:
        everything: (N,) what makes the image.
        held_out: Those of them that judge, until the last phase; few scans are too small for it.
    """

    everything: Int[Tensor, ' pattern']
    held_out: Int[Tensor, ' judge']

    @property
    def judges(self) -> bool:
        """Whether any are held out."""
        return len(self.held_out) > 0

    @property
    def training(self) -> Int[Tensor, ' kept']:
        """Those that are not held out."""
        return self.everything[~torch.isin(self.everything, self.held_out)]

    def whole(self) -> Split:
        """Returns the split that holds nothing out."""
        return replace(self, held_out=self.held_out[:0])


def split_patterns(
    positions_px: Float[NDArray[numpy.float64], 'pattern 2'],
    seed: int,
) -> Split:
    """Returns a split of patterns, scattered over the scan, the same for the same seed.

    Args:
        positions_px: (N, 2) of all patterns.
        seed: Of the choice.
    """
    everything = numpy.arange(len(positions_px))
    held_out = everything[:0]
    if len(everything) >= MIN_PATTERNS_TO_HOLD_OUT:
        rng = numpy.random.default_rng([seed, 5])
        held_out = choose_held_out(positions_px, HOLDOUT_FRACTION, rng)
    return Split(torch.from_numpy(everything), torch.from_numpy(held_out))


def take_middle(
    positions_px: Float[NDArray[numpy.float64], 'pattern 2'], number: int
) -> Int[Tensor, ' chosen']:
    """Returns the patterns nearest to the middle of the scan, at most `number`, in order.

    Positions are (N, 2).
    """
    middle = (positions_px.max(axis=0) + positions_px.min(axis=0)) / 2.0
    _, nearest = KDTree(positions_px).query(middle, k=min(number, len(positions_px)))
    return torch.from_numpy(numpy.sort(numpy.atleast_1d(nearest)).astype(numpy.int64))


def sample_patterns(measurement: Measurement) -> Int[Tensor, ' sample']:
    """Returns the numbers, on the host, of patterns that speak for all: some hundreds, evenly spread."""
    stride = max(1, measurement.num_patterns // SAMPLED_PATTERNS)
    return torch.arange(0, measurement.num_patterns, stride)
