"""The momentum of the solver (Maiden, Johnson & Li, Optica 4, 736, 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .state import SolverState
from .tiles import EVERYWHERE

__all__ = ['Momentum', 'TileMomentum', 'Way']

MOMENTUM_INTERVAL = 9
"""Batches between two steps of the momentum."""


class Momentum:
    """Carries object and probe on along the way that they have come since the last time.

    `v <- f v + (O - O_before); O <- O + f v`, for the probe with half the factor. It makes the
    low spatial frequencies, which single batches hardly see, arrive early. Annealing must follow:
    what is carried on is noise as well. Every tile of a large canvas has a momentum of its own.

    Args:
        state: Where it starts; a new phase of the solver starts with a new momentum.
        factor: f, between 0 and 1.
    """

    def __init__(self, state: SolverState, factor: float = 0.9) -> None:
        self._factor, self.probe = factor, Way(state.probe, 0.5 * factor)
        self._whole: Way | None = None
        self._velocities: dict[int, Tensor] = {}
        self._counters: dict[int, _Counter] = {}

    def of(
        self, tile: int, box: tuple[slice, slice], state: SolverState, probe: Way | None = None
    ) -> TileMomentum:
        """Returns the momentum of a tile, whose patterns see that box of the canvas.

        What has moved the object there since the tile was left is no way of its own.

        Args:
            tile: Its number.
            box: Of the canvas.
            state: At present.
            probe: The way of the probe, where the tile has its own.
        """
        canvas, counter = state.canvas[:, *box], self._counters.setdefault(tile, _Counter())
        if box == EVERYWHERE:
            way = self._whole = self._whole or Way(canvas, self._factor)
        else:
            way = Way(canvas, self._factor, self._velocities.get(tile))
            self._velocities[tile] = way.velocity
        return TileMomentum(box, way, probe or self.probe, counter)

    def follow(self, state: SolverState) -> None:
        """Goes on from a state that something else has moved, which is no way of its own."""
        self.probe.before.copy_(state.probe)
        if self._whole is not None:
            self._whole.before.copy_(state.canvas)


class Way:
    """What something has come since the last time, and how fast.

    Args:
        start: Where it is.
        factor: What is left of the velocity after a step.
        velocity: That it has already, changed in place.
    """

    def __init__(self, start: Tensor, factor: float, velocity: Tensor | None = None) -> None:
        self.before, self.factor = start.clone(), factor
        self.velocity = torch.zeros_like(start) if velocity is None else velocity

    def clone(self) -> Way:
        """Returns an independent copy."""
        return Way(self.before, self.factor, self.velocity.clone())

    def carry_on(self, present: Tensor) -> None:
        """Moves what is at present there on along its way."""
        self.velocity.mul_(self.factor).add_(present - self.before)
        present.add_(self.velocity, alpha=self.factor)
        self.before.copy_(present)


@dataclass
class _Counter:
    batches: int = 0


@dataclass(frozen=True)
class TileMomentum:
    """That of one tile: of its box of the canvas, and of the probe."""

    box: tuple[slice, slice]
    canvas: Way
    probe: Way
    counter: _Counter

    def count_batch(self, state: SolverState, *, update_probe: bool) -> None:
        """Takes notice of a batch, and moves the state when it is time."""
        self.counter.batches += 1
        if self.counter.batches % MOMENTUM_INTERVAL == 0:
            self.canvas.carry_on(state.canvas[:, *self.box])
            if update_probe:
                self.probe.carry_on(state.probe)
