"""Positions and brightness of single frames, the object held: fitted, and searched on a grid."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..physics.chunk import Chunk
from ..physics.forward_model import expected_counts
from ..physics.measurement import Measurement
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import Freed, SolverState
from .misfit import misfit

__all__ = ['fit_frames', 'relocate']

FIT_BATCH, FIT_EPOCHS = 64, 4

LOST = 2.5
"""A frame is lost when its error, in units of photon noise, is that of the median times this."""

FOUND = 0.7
"""It is found where its error falls by this factor."""

RADIUS_PX, STEP_PX = 16, 2
MOST_FRAMES = 64
"""The worst are looked for; more than these are no outliers."""


def fit_frames(
    state: SolverState, measurement: Measurement, indices: Tensor, freed: Freed
) -> SolverState:
    """Returns a copy in which what belongs to these frames alone is fitted to them.

    Where positions, factors or a varying probe are free, those of held-out frames must follow
    before they judge. `indices` are (J,), on the host.
    """
    varies = freed.probe and state.variation is not None
    own = Freed(positions=freed.positions, factors=freed.factors, weights=varies)
    if not (own.names() and len(indices)):
        return state
    fitted, settings = state.clone(), RpieSettings(step=0.0, freed=own)
    for epoch in range(FIT_EPOCHS):
        rpie_epoch(fitted, measurement, indices.split(FIT_BATCH), settings)
        if own.positions and epoch == FIT_EPOCHS // 2 - 1:
            relocate(fitted, measurement, indices)
    return fitted


@torch.no_grad()
def relocate(state: SolverState, measurement: Measurement, indices: Tensor) -> Tensor:
    """Moves frames that nothing explains where they are; returns the numbers of those that moved.

    Every second pixel within 16 pixels of the given position is tried, with any brightness.

    Args:
        state: Changed in place.
        measurement: With the given positions.
        indices: (J,) frames that may move, on the host.
    """
    seen = misfit(state, measurement, indices)
    errors = (seen.errors / seen.noise.clamp(min=1e-9)).cpu()
    worst = torch.argsort(errors, descending=True)[:MOST_FRAMES]
    lost = indices[worst[errors[worst] > LOST * max(1.0, float(errors.median()))]]
    is_found = [_search(state, measurement, frame[None]) for frame in lost]
    return lost[torch.tensor(is_found, dtype=torch.bool)]


def _search(state: SolverState, measurement: Measurement, frame: Tensor) -> bool:
    """Returns whether a frame (1,) was found elsewhere."""
    ways = torch.arange(-RADIUS_PX, RADIUS_PX + 1, STEP_PX)
    limit = torch.tensor(state.canvas.shape[1:]) - torch.tensor(measurement.window)
    there = measurement.corners[frame] + torch.cartesian_prod(ways, ways)
    there = torch.unique(torch.minimum(there.clamp(min=0), limit), dim=0)
    given = replace(state.seen(measurement), shifts=measurement.shifts)
    chunk = given.chunk(frame)
    here = _scaled_error(state, state.seen(measurement).chunk(frame), state.corners[frame])
    errors = torch.cat([_scaled_error(state, chunk, part) for part in there.split(64)])
    best = int(errors.argmin())
    if errors[best] > FOUND * here[0]:
        return False
    state.corners[frame] = there[best]
    state.shifts[frame.to(state.shifts.device)] = chunk.shifts
    return True


def _scaled_error(state: SolverState, chunk: Chunk, corners: Tensor) -> Tensor:
    """Returns `1 - cos**2` of the angle between measured and expected amplitudes at each corner."""
    number, device = len(corners), state.canvas.device
    rows = torch.zeros(number, dtype=torch.int64, device=device)
    probe = chunk.probe.expand(number, -1, -1, -1)
    expected = expected_counts(state.canvas, rows, corners.to(device), probe)
    if chunk.background is not None:
        expected = expected + chunk.background
    counts = chunk.good_counts()
    if chunk.good_pixels is not None:
        expected = expected * chunk.good_pixels
    overlap = torch.sqrt(expected * counts).sum(dim=(-2, -1))
    power = expected.sum(dim=(-2, -1)) * counts.sum(dim=(-2, -1))
    return 1.0 - overlap.square() / power.clamp(min=1e-12)
