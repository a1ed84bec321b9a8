"""What belongs to all patterns, moved by each of several tiles by itself, and then by their mean."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .momentum import Momentum, Way
from .state import Freed, SolverState

__all__ = ['CommonChange']


@dataclass
class CommonChange:
    """The probe, its variations and the background, as tiles beside each other move them.

    Attributes:
        start: The state before; object and what belongs to single frames are shared by all tiles.
        freed: What is moved.
        momentum: Whose way of the probe goes on.
    """

    start: SolverState
    freed: Freed
    momentum: Momentum | None
    _sums: list[Tensor] = field(default_factory=list)
    _number: int = 0

    @property
    def _is_moved(self) -> bool:
        return self.freed.probe or self.freed.background

    def lend(self) -> tuple[SolverState, Way | None]:
        """Returns a state for a tile to change, and the way of its probe."""
        state, way = self.start, None
        if not self._is_moved:
            return state, way
        if self.momentum is not None:
            way = self.momentum.probe.clone()
        variation, background = state.variation, state.background
        return replace(
            state,
            probe=state.probe.clone(),
            background=None if background is None else background.clone(),
            variation=None if variation is None else replace(variation),
        ), way

    def add(self, own: SolverState, way: Way | None, number: int) -> None:
        """Adds what a tile has made of it, which has so many patterns."""
        if not self._is_moved:
            return
        changes = [
            torch.view_as_real(after - before) if after.is_complex() else after - before
            for before, after in zip(_values(self.start, self._way()), _values(own, way))
        ]
        if not self._sums:
            self._sums = [torch.zeros_like(change) for change in changes]
        for total, change in zip(self._sums, changes):
            total += number * change
        self._number += number

    def apply(self) -> None:
        """Moves the state by the mean of what the tiles have made of it."""
        if not self._sums:
            return
        way = self._way()
        state = self.start
        if state.variation is not None:  # whose modes are never changed in place
            modes = state.variation.modes.clone()
            state.variation = replace(state.variation, modes=modes)
        for value, total in zip(_values(state, way), self._sums):
            mean = total / self._number
            value += torch.view_as_complex(mean) if value.is_complex() else mean
        if way is not None:
            way.before.copy_(state.probe)

    def _way(self) -> Way | None:
        return None if self.momentum is None else self.momentum.probe


def _values(state: SolverState, way: Way | None) -> list[Tensor]:
    """Returns what of it belongs to all patterns."""
    found = [state.probe]
    if state.background is not None:
        found.append(state.background)
    if state.variation is not None and len(state.variation.modes):
        found.append(state.variation.modes)
    return found if way is None else [*found, way.velocity]
