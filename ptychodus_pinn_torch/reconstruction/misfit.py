"""How well an object explains the counts, frame by frame, and compared with photon noise."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..physics.canvas import add_patches
from ..physics.forward_model import predict
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..physics.noise import root_noise
from ..physics.propagation import intensity
from ..physics.roots import square_root
from ..solver.state import SolverState

__all__ = ['SUPPORTED', 'UNDER_NOISE', 'Misfit', 'misfit', 'misfit_map']

UNDER_NOISE = 0.5
"""Error over that of photon noise below which counts are not photons: their noise is not known."""

SUPPORTED = 0.02
"""Part of the highest coverage from which on data support what a pixel of the image shows."""


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
    def ratios(self) -> Float[Tensor, ' pattern']:
        """(J,) the error of each frame over that of photon noise: 1 where it is explained."""
        return self.errors / self.noise.clamp(min=1e-9)

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
    chosen = torch.arange(measurement.num_patterns) if indices is None else indices
    places = measurement.team.share(torch.arange(len(chosen)))
    sums = torch.zeros((3, len(chosen)), device=measurement.device)
    if len(places):
        mine = with_chunks_that_fit(measurement, lambda part: _add_up(state, part, chosen[places]))
        sums[:, places.to(sums.device, non_blocking=True)] = mine
    return Misfit(*measurement.team.add_up(sums).unbind(0))


def _add_up(
    state: SolverState, measurement: Measurement, indices: Tensor
) -> Float[Tensor, '3 pattern']:
    """Returns the errors, the noise and the counts of some patterns."""
    # the sums have their place before: small ones between large ones would hold all of the memory
    found, done = torch.empty((3, len(indices)), device=measurement.device), 0
    for chunk in state.seen(replace(measurement, after_chunk=None)).chunks(indices):
        expected, counts = predict(state.canvas, chunk).clamp(min=0.0), chunk.good_counts()
        error, noise = (square_root(expected) - square_root(counts)).square(), root_noise(expected)
        if chunk.good_pixels is not None:
            error, noise = error * chunk.good_pixels, noise * chunk.good_pixels
        for row, value in zip(found, (error, noise, counts)):
            torch.sum(value, dim=(-2, -1), out=row[done : done + len(value)])
        done += len(counts)
    return found


@torch.no_grad()
def misfit_map(
    state: SolverState, measurement: Measurement, ratios: Float[Tensor, ' pattern']
) -> Float[Tensor, 'y x']:
    """Returns where on the canvas frames are explained well and where badly.

    A pixel has the mean of the `ratios` of all frames, each with the intensity that its probe has
    there; sub-pixel shifts of the probe are left out, and the counts are not read. NaN where the
    coverage is below `SUPPORTED` of its peak.
    """
    seen = state.seen(measurement)
    power, found = intensity(seen.probe), torch.zeros(seen.canvas_shape, device=seen.device)
    mine = seen.team.share(torch.arange(seen.num_patterns))
    for part in mine.split(seen.patterns_at_once):
        rows, corners, there = (
            x.to(seen.device, non_blocking=True)
            for x in (seen.rows[part], seen.corners[part], part)
        )
        found = add_patches(found, power * ratios[there, None, None], rows, corners)
    found, coverage = seen.team.add_up(found), seen.coverage()
    is_supported = coverage > SUPPORTED * coverage.max()
    unknown = torch.full_like(found, torch.nan)
    return torch.where(is_supported, found / coverage.clamp(min=1e-20), unknown)[0]
