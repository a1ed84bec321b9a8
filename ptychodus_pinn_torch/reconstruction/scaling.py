"""The scale that positions, free one by one, share with their image: slow to come right by steps.

Positions that are all a little too far apart, with an image as much too large, explain the counts
nearly as well as the right ones: what tells them apart is only how the image looks under a probe
whose size is known. Steps pattern by pattern creep along that valley; here both are stretched at
once, in both directions, and the errors say which way and how far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy
import torch
from scipy.ndimage import affine_transform
from torch import Tensor

from ..physics.measurement import Measurement
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import Freed, SolverState
from .misfit import misfit

__all__ = ['SCALING_EPOCHS', 'settle_scale', 'stretched']

TRIED = 0.01
"""Part of the distances by which both are stretched, and compressed, in trials."""

STEPS, BATCH = (0.3, 0.15), 16
"""Of the epochs that a trial has to come to itself; patterns per update."""

SCALING_EPOCHS = 3 * len(STEPS)
"""Passes over the patterns that it takes."""

GAIN = 4.5
"""After so few epochs a trial has kept most of what it began with, and the errors point at a sixth to
a third of the way: eleven scans of 3e4 to 1.4e6 photons, 196 and 1024 patterns, 3 px off. A second
try soon after the first points back, for the same reason."""

MOST, LEAST = 0.02, 5e-4
"""Bounds on what is believed; less is not worth a resampling."""

SPLINE_ORDER = 5
"""The highest that scipy has: an image that is stretched and compressed again loses the least."""


def settle_scale(
    state: SolverState,
    measurement: Measurement,
    indices: Tensor,
    *,
    seed: int,
    after_batch: Callable[[int], None] | None = None,
) -> float:
    """Stretches positions and image together as the patterns want; returns by which part.

    Args:
        state: Changed in place, where it is stretched.
        measurement: With the counts.
        indices: (J,) of the patterns that are asked, on the host.
        seed: Of the order in which they are gone through.
        after_batch: Called with the number of patterns of a batch; may raise to stop.
    """
    asked = replace(measurement, after_chunk=None)
    wider, same, narrower = (
        _error_after(stretched(state, part), asked, indices, seed, after_batch)
        for part in (TRIED, 0.0, -TRIED)
    )
    bend = wider + narrower - 2.0 * same
    if not bend > 0.0:  # nothing is known of it
        return 0.0
    part = GAIN * TRIED * (narrower - wider) / (2.0 * bend)
    part = float(numpy.clip(part, -MOST, MOST))
    if abs(part) < LEAST:
        return 0.0
    better = stretched(state, part)
    state.canvas, state.shifts, state.corners = better.canvas, better.shifts, better.corners
    return part


def stretched(state: SolverState, part: float) -> SolverState:
    """Returns a state whose positions are farther apart by a part of their distances, and its image."""
    found, window = state.clone(), numpy.asarray(state.probe.shape[-2:])
    places = (state.corners + state.shifts.cpu()).to(torch.float64)
    middle = places.mean(dim=0)
    if part:
        center = middle.numpy() + (window - 1) / 2
        matrix = numpy.eye(2) / (1.0 + part)
        image = state.canvas[0].cpu().numpy()
        parts = [
            affine_transform(
                x, matrix, center - matrix @ center, order=SPLINE_ORDER, mode='nearest'
            )
            for x in (image.real, image.imag)
        ]
        found.canvas = torch.complex(*map(torch.from_numpy, parts))[None].to(state.canvas.device)
    wanted = middle + (places - middle) * (1.0 + part) - state.corners
    found.shifts = wanted.to(state.shifts.device, state.shifts.dtype)
    found.move_windows()
    return found


def _error_after(
    state: SolverState,
    measurement: Measurement,
    indices: Tensor,
    seed: int,
    after_batch: Callable[[int], None] | None,
) -> float:
    """Returns the error of some patterns after a few epochs, over that of photon noise."""
    for epoch, step in enumerate(STEPS):
        rng = numpy.random.default_rng([seed, 8, epoch])
        order = indices[torch.from_numpy(rng.permutation(len(indices)))]
        settings = RpieSettings(alpha=1.0, step=step, freed=Freed(positions=True))
        rpie_epoch(state, measurement, order.split(BATCH), settings, after_batch)
    return misfit(state, measurement, indices).to_noise
