"""Whether the patterns want all positions farther apart, or nearer: a wrong unit, step or distance."""

from __future__ import annotations

import torch
from torch import Tensor

from ..physics.forward_model import expose
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..solver.position_step import position_change
from ..solver.state import SolverState

__all__ = ['is_stretched', 'measure_stretch']

LEAST_STRETCH, LEAST_SIGMA = 0.003, 5.0
"""Part of the distances, and multiple of its standard error, from which on it is not by chance. Right
scans stay below 0.002, of few photons below 0.008; of an error of 10 % the image takes up the greatest part,
0.004 to 0.013 stay."""

SPREAD_PX = 1.0
"""Errors of positions that are expected: a frame that says little asks for little."""


def is_stretched(state: SolverState, measurement: Measurement, indices: Tensor) -> bool:
    """Returns whether the patterns (J,), on the host, want positions of another scale."""
    return abs(measure_stretch(state, measurement, indices)) > LEAST_STRETCH


@torch.no_grad()
def measure_stretch(state: SolverState, measurement: Measurement, indices: Tensor) -> float:
    """Returns how far steps of the positions, the image held, point away from the middle.

    It is a part of their distances; 0.0 where it is not told from chance.

    The image of a scan whose positions have the wrong scale has the wrong scale as well, and explains
    its counts nearly as well as the right one. What is left asks for the right positions.

    Args:
        state: A refined image.
        measurement: With the counts.
        indices: (J,) of the patterns that are asked, on the host.
    """

    def steps_of(part: Measurement) -> Tensor:
        steps = []
        for chunk in part.chunks(indices):
            still = torch.zeros_like(chunk.shifts)
            spread = still.new_tensor(SPREAD_PX)
            steps.append(position_change(expose(state.canvas, chunk), chunk, still, spread).cpu())
        return torch.cat(steps)

    seen = state.seen(measurement)
    wanted = with_chunks_that_fit(seen, steps_of).to(torch.float64)
    places = (seen.corners + seen.shifts.cpu())[indices].to(torch.float64)
    ways = places - places.mean(dim=0)
    wanted = wanted - wanted.mean(dim=0)
    size = ways.square().sum()
    if not size:
        return 0.0
    stretch = (wanted * ways).sum() / size
    left = (wanted - stretch * ways).square().mean()
    error = torch.sqrt(left / size)
    return float(stretch) if stretch.abs() > LEAST_SIGMA * error else 0.0
