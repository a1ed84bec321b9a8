"""A sketch: the image that a few epochs of the solver make from nothing, the same for the same data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy
import torch
from jaxtyping import Int
from torch import Tensor

from ..physics.measurement import Measurement
from .annealing import Phase, follows_likelihood, is_low_dose, is_time_to_straighten, search
from .momentum import Momentum
from .rpie import RpieSettings, rpie_epoch
from .state import NOTHING, SolverState

__all__ = [
    'SKETCH_EPOCHS',
    'morton_codes',
    'morton_order',
    'one_group',
    'search_epochs_of',
    'sketch',
    'sketch_epochs_of',
]

SKETCH_EPOCHS = 6
"""Epochs of the sketch of a scan of a thousand patterns or more; smaller ones get more."""

LAST_EPOCHS = 2
"""Epochs of a sketch after its search."""

SEARCH_UPDATES, MIN_SEARCH, MAX_SEARCH = 3072, 3, 20
"""Patterns that the search of a sketch meets; epochs that it has at least and at most."""


def morton_codes(corners: Int[Tensor, 'pattern 2']) -> Int[Tensor, ' pattern']:
    """Returns the places of windows on a Morton curve: neighbours have similar ones."""
    y, x = corners[:, 0].clamp(min=0), corners[:, 1].clamp(min=0)
    code = torch.zeros_like(y)
    for bit in range(16):
        code |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    return code


def morton_order(corners: Int[Tensor, 'pattern 2']) -> Int[Tensor, ' pattern']:
    """Returns the patterns in the order of their places, whatever the order they came in."""
    return torch.argsort(morton_codes(corners), stable=True)


def one_group(measurement: Measurement, row: int) -> Measurement:
    """Returns the patterns of one canvas of a measurement in memory."""
    chosen = measurement.select(measurement.rows == row)
    probe = measurement.probe if measurement.probe.ndim == 3 else measurement.probe[row]
    shape = (1, *measurement.canvas_shape[1:])
    return replace(chosen, rows=torch.zeros_like(chosen.rows), probe=probe, canvas_shape=shape)


def _phases(measurement: Measurement, search_epochs: int) -> Sequence[Phase]:
    is_low = is_low_dose(measurement)
    found = search(search_epochs, is_low=is_low, is_gentle=False)
    steps = [(32, 0.3), (64, 0.2)] if is_low else [(16, 0.5), (16, 0.2)]
    return [found, *(Phase(1, *step, is_last=True) for step in steps)]


def search_epochs_of(num_patterns: int) -> int:
    """Returns how many epochs the search of a sketch has."""
    return min(MAX_SEARCH, max(MIN_SEARCH, SEARCH_UPDATES // num_patterns))


def sketch_epochs_of(num_patterns: int) -> int:
    """Returns how many epochs a sketch has by default."""
    return search_epochs_of(num_patterns) + LAST_EPOCHS


def sketch(
    measurement: Measurement,
    search_epochs: int | None = None,
    which: Int[Tensor, ' seen'] | None = None,
) -> Iterator[SolverState]:
    """Yields the state after each of the phases of a sketch; it goes on in the one that it yields.

    Args:
        measurement: With one canvas.
        search_epochs: Of its first phase; by default what suits the number of patterns.
        which: The patterns that are looked at; by default all.
    """
    state = SolverState.start(measurement.flat(), measurement)
    corners = measurement.corners
    order = morton_order(corners) if which is None else which[morton_order(corners[which])]
    number = len(order)
    is_likely, epoch = follows_likelihood(measurement), 0
    for phase in _phases(measurement, search_epochs or search_epochs_of(number)):
        momentum = Momentum(state)
        settings = RpieSettings(alpha=1.0, step=phase.step, is_likely=phase.is_last and is_likely)
        for turn in range(phase.num_epochs):
            rng = numpy.random.default_rng([7, epoch])
            batches = order[torch.from_numpy(rng.permutation(number))].split(phase.batch)
            rpie_epoch(state, measurement, batches, settings, measurement.after_chunk, momentum)
            epoch += 1
            if not phase.is_last and is_time_to_straighten(turn + 1):
                state.straighten(measurement, order, NOTHING)
                momentum.follow(state)
        yield state
