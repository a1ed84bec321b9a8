"""What belongs to all patterns, moved by each of several tiles by itself, and then by their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..physics.canvas import blank_sum
from ..physics.team import Team
from .momentum import Momentum, Way
from .state import Freed, SolverState
from .tiles import Part

__all__ = ['CommonChange', 'exchange']


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
    _sums: list[Tensor] = field(init=False)
    _number: Tensor = field(init=False)

    def __post_init__(self) -> None:
        values = _values(self.start, self._way())
        device = self.start.canvas.device
        self._sums = [blank_sum(_real(value).shape, torch.float32, device) for value in values]
        self._number = torch.zeros((), device=device)

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
        pairs = zip(_values(self.start, self._way()), _values(own, way))
        for total, (before, after) in zip(self._sums, pairs):
            total += number * _real(after - before)
        self._number += number

    def apply(self, team: Team) -> None:
        """Moves the state by the mean of what the tiles of all processes have made of it."""
        if not self._is_moved:
            return
        state, way = self.start, self._way()
        for total in (*self._sums, self._number):
            team.add_up(total)
        if state.variation is not None:  # whose modes are never changed in place
            modes = state.variation.modes.clone()
            state.variation = replace(state.variation, modes=modes)
        for value, total in zip(_values(state, way), self._sums):
            mean = (total / self._number.clamp(min=1.0)).float()
            value += torch.view_as_complex(mean) if value.is_complex() else mean
        if way is not None:
            way.before.copy_(state.probe)

    def _way(self) -> Way | None:
        return None if self.momentum is None else self.momentum.probe


def exchange(
    state: SolverState, parts: Sequence[Part], mine: Sequence[Part], freed: Freed, team: Team
) -> None:
    """Brings to all processes what each has made of the boxes and the frames of its own parts.

    Args:
        state: Changed in place.
        parts: Whose boxes do not overlap.
        mine: Those of them that this process has run.
        freed: What is moved beside the object.
        team: The processes.
    """
    canvas = torch.zeros_like(state.canvas)
    for part in mine:
        canvas[:, *part.box] = state.canvas[:, *part.box]
    team.add_up(canvas)
    for part in parts:
        state.canvas[:, *part.box] = canvas[:, *part.box]
    frames = []
    if freed.positions:
        frames.append(state.shifts)
    if freed.factors and state.factors is not None:
        frames.append(state.factors)
    if state.variation is not None and (freed.probe or freed.weights):
        frames.append(state.variation.weights)
    own, every = (
        torch.cat([part.indices for part in some] or [torch.zeros(0, dtype=torch.int64)])
        for some in (mine, parts)
    )
    for values in frames:
        here, there = (x.to(values.device, non_blocking=True) for x in (own, every))
        found = torch.zeros_like(values)
        found[here] = values[here]
        values[there] = team.add_up(found)[there]


def _real(value: Tensor) -> Tensor:
    return torch.view_as_real(value) if value.is_complex() else value


def _values(state: SolverState, way: Way | None) -> list[Tensor]:
    """Returns what of it belongs to all patterns."""
    found = [state.probe]
    if state.background is not None:
        found.append(state.background)
    if state.variation is not None and len(state.variation.modes):
        found.append(state.variation.modes)
    return found if way is None else [*found, way.velocity]
