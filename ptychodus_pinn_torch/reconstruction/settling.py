"""When a search is over: the image hardly changes, its large scales included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..physics.measurement import Measurement
from ..solver.state import Freed, SolverState

__all__ = ['Settling']

SMALLEST_CHANGE, SMALLEST_MOVING_CHANGE = 0.0015, 0.001
"""A search is over when an epoch changes the means over squares of the object by less than this; and
where something else moves along, which it does slowly."""

SQUARE_PX = 16
"""Side of the squares: larger than what single batches see, smaller than a window."""

PATIENCE = 4
"""Epochs without a new lowest error that a search goes on."""


class Settling:
    """Follows a search, epoch by epoch.

    Args:
        measurement: The patterns; only what the probe covers is looked at.
        start: The state before the first epoch.
        freed: What is moved beside the object.
    """

    def __init__(self, measurement: Measurement, start: SolverState, freed: Freed) -> None:
        coverage = measurement.coverage()
        self._is_covered = coverage > 0.1 * coverage.max()
        self._smallest = SMALLEST_MOVING_CHANGE if freed.names() else SMALLEST_CHANGE
        self._squares = self._squares_of(start)

    def has_settled(self, state: SolverState, errors: Sequence[float]) -> bool:
        """Returns whether the means over squares hardly change, or errors have long not fallen.

        The errors hardly see large scales, which come last.

        Args:
            state: After another epoch.
            errors: Of all epochs so far.
        """
        before, self._squares = self._squares, self._squares_of(state)
        change = torch.linalg.vector_norm(self._squares - before)
        is_still = bool(change < self._smallest * torch.linalg.vector_norm(self._squares))
        return is_still or len(errors) - errors.index(min(errors)) > PATIENCE

    def _squares_of(self, state: SolverState) -> Float[Tensor, '1 2 y x']:
        """Returns the means of the object over squares that the probe has covered."""
        parts = torch.view_as_real(state.canvas * self._is_covered).movedim(-1, 1)
        size = min(SQUARE_PX, *parts.shape[-2:])
        return torch.nn.functional.avg_pool2d(parts, size)
