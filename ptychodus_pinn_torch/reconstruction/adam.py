"""Adam on the amplitude loss, as an alternative to the solver's own update rule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..physics.forward_model import predict
from ..physics.losses import amplitude_loss, relative_amplitude_error
from ..physics.measurement import Measurement
from ..physics.propagation import squared_modulus
from ..solver.state import SolverState

__all__ = ['AdamRefiner']


class AdamRefiner:
    """Adam on object, and where asked probe and positions; its moments are kept over epochs.

    Args:
        state: Where it starts; its object changes in place. `present` tells all.
        learning_rate: Of the object, in units of its amplitude; of positions, in pixels.
        update_probe: Adjust the probe as well; `update_positions` likewise.
    """

    def __init__(
        self,
        state: SolverState,
        *,
        learning_rate: float = 0.01,
        update_probe: bool = False,
        update_positions: bool = False,
    ) -> None:
        self.state = state
        self.unit = float(squared_modulus(state.probe).mean().sqrt())
        state.canvas.requires_grad_(True)
        groups: list[dict[str, Any]] = [{'params': [state.canvas], 'lr': learning_rate}]
        self.change = torch.zeros_like(state.probe, requires_grad=update_probe)
        self.moves = torch.zeros_like(state.shifts, requires_grad=update_positions)
        if update_probe:
            groups.append({'params': [self.change], 'lr': 0.2 * learning_rate})
        if update_positions:
            groups.append({'params': [self.moves], 'lr': learning_rate})
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def epoch(
        self,
        measurement: Measurement,
        batches: Iterable[Tensor],
        after_batch: Callable[[int], None] | None = None,
    ) -> float:
        """Takes one step per batch and returns the mean relative amplitude error met.

        `batches` are the numbers (J,) of the patterns of each step, on the host.
        """
        errors = []
        for indices in batches:
            chunk = replace(
                self.state.seen(measurement),
                probe=self.state.probe + self.unit * self.change,
                shifts=self.state.shifts + self.moves,
            ).chunk(indices)
            expected = predict(self.state.canvas, chunk)
            loss = amplitude_loss(expected, chunk.counts, chunk.good_pixels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            with torch.no_grad():
                errors.append(relative_amplitude_error(expected, chunk.counts, chunk.good_pixels))
            if after_batch is not None:
                after_batch(len(indices))
        return float(torch.stack(errors).mean()) if errors else 0.0

    @torch.no_grad()
    def present(self) -> SolverState:
        """Returns a copy of object, probe and positions as they are now."""
        return replace(
            self.state.clone(),
            canvas=self.state.canvas.detach().clone(),
            probe=self.state.probe + self.unit * self.change.detach(),
            shifts=self.state.shifts + self.moves.detach(),
        )
