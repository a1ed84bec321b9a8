"""How well an object explains the counts, frame by frame, and compared with photon noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..physics.forward_model import predict
from ..physics.measurement import Measurement
from ..physics.noise import root_noise
from ..solver.state import SolverState

__all__ = ['UNDER_NOISE', 'Misfit', 'misfit']

UNDER_NOISE = 0.5
"""Error over that of photon noise below which counts are not photons: their noise is not known."""


@dataclass(frozen=True)
class Misfit:
    """Sums over the good pixels of each of some frames.

    Attributes:
        errors: (J,) `sum (sqrt I - sqrt D)**2`.
        noise: (J,) what photon noise alone would make of it.
        counts: (J,) `sum D`.
    """

    errors: Float[Tensor, ' pattern']
    noise: Float[Tensor, ' pattern']
    counts: Float[Tensor, ' pattern']

    @property
    def relative(self) -> float:
        """The error of all frames, as a part of their counts."""
        return float(self.errors.sum() / self.counts.sum().clamp(min=1e-9))

    @property
    def to_noise(self) -> float:
        """The error of all frames over that of photon noise: 1 where all is explained."""
        return float(self.errors.sum() / self.noise.sum().clamp(min=1e-9))


@torch.no_grad()
def misfit(state: SolverState, measurement: Measurement, indices: Tensor | None = None) -> Misfit:
    """Returns the misfit of some patterns, or of all; `indices` are (J,), on the host."""
    found: list[Tensor] = []
    for chunk in state.seen(replace(measurement, after_chunk=None)).chunks(indices):
        expected, counts = predict(state.canvas, chunk).clamp(min=0.0), chunk.good_counts()
        error, noise = (torch.sqrt(expected) - torch.sqrt(counts)).square(), root_noise(expected)
        if chunk.good_pixels is not None:
            error, noise = error * chunk.good_pixels, noise * chunk.good_pixels
        found.append(torch.stack([value.sum(dim=(-2, -1)) for value in (error, noise, counts)]))
    return Misfit(*torch.cat(found, dim=1).unbind(0))
