"""The momentum of the solver (Maiden, Johnson & Li, Optica 4, 736, 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from .state import SolverState

__all__ = ['Momentum']

MOMENTUM_INTERVAL = 9
"""Batches between two steps of the momentum."""


class Momentum:
    """Carries object and probe on along the way that they have come since the last time.

    `v <- f v + (O - O_before); O <- O + f v`, for the probe with half the factor. It makes the
    low spatial frequencies, which single batches hardly see, arrive early. Annealing must follow:
    what is carried on is noise as well.

    Args:
        state: Where it starts; a new phase of the solver starts with a new momentum.
        factor: f, between 0 and 1.
    """

    def __init__(self, state: SolverState, factor: float = 0.9) -> None:
        self._ways = [_Way(state.canvas, factor), _Way(state.probe, 0.5 * factor)]
        self._batches = 0

    def count_batch(self, state: SolverState, *, update_probe: bool) -> None:
        """Takes notice of a batch, and moves the state when it is time."""
        self._batches += 1
        if self._batches % MOMENTUM_INTERVAL == 0:
            self._ways[0].carry_on(state.canvas)
            if update_probe:
                self._ways[1].carry_on(state.probe)

    def follow(self, state: SolverState) -> None:
        """Goes on from a state that something else has moved, which is no way of its own."""
        for way, present in zip(self._ways, (state.canvas, state.probe)):
            way.before.copy_(present)


class _Way:
    def __init__(self, start: Tensor, factor: float) -> None:
        self.before, self.velocity, self.factor = start.clone(), torch.zeros_like(start), factor

    def carry_on(self, present: Tensor) -> None:
        self.velocity.mul_(self.factor).add_(present - self.before)
        present.add_(self.velocity, alpha=self.factor)
        self.before.copy_(present)
