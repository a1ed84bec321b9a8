"""Steps of all patterns at once along the Poisson likelihood of their counts: noise of batches fades."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..physics.canvas import add_patches, blank_sum
from ..physics.forward_model import expose
from ..physics.losses import amplitude_misfit
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..physics.update_rule import exit_waves, object_update
from .state import SolverState

__all__ = ['Together']

STEP, MOMENTUM = 0.3, 0.5
"""Of Newton's step, with the coverage for the curvature (Thibault & Guizar-Sicairos, New J. Phys. 14, 063004,
2012); and of the way of the last one, which doubles the pace."""

OWN_NOISE = 0.02
"""Counts per pixel that the noise of the image itself adds to what it is expected to send there. Without them
single photons in the dark are believed, and the steps add noise (docs/benchmarks.md: 0.002 to 0.5 on scans of
200 to 1e6 photons, 0.01 to 0.04 are as good)."""

LEAST_COVERAGE = 0.02
"""Part of the highest coverage that a pixel is divided by at least: below it data support no image."""


class Together:
    """Moves the object of a state as the counts of many patterns want, all at once.

    Args:
        state: Its object changes with every step; nothing else does.
        measurement: The patterns.
    """

    def __init__(self, state: SolverState, measurement: Measurement) -> None:
        self._state, self._measurement, self._before = state, measurement, state.canvas
        coverage = state.seen(replace(measurement, after_chunk=None)).coverage()
        self._coverage = coverage.clamp(min=LEAST_COVERAGE * float(coverage.max()) + 1e-20)

    @torch.no_grad()
    def step(
        self, indices: Int[Tensor, ' pattern'], after_chunk: Callable[[int], None] | None = None
    ) -> float:
        """Makes a step, and returns the relative amplitude error met.

        `d / dO*` of `sum I + b - D log(I + b)`, the likelihood of counts `D` over a background `b` that is
        the noise of the image.

        Args:
            indices: (J,) of the patterns that are asked, on the host.
            after_chunk: Called with the number of patterns of a chunk; may raise to stop.
        """
        state, here = self._state, self._state.canvas
        state.canvas = here + MOMENTUM * (here - self._before)
        seen, mine = state.seen(self._measurement), self._measurement.team.share(indices)

        def wanted(part: Measurement) -> tuple[Tensor, Float[Tensor, ' 2']]:
            found = blank_sum(part.canvas_shape, here.dtype, part.device)
            misfit = torch.zeros(2, device=part.device)
            for chunk in part.chunks(mine):
                exposure = expose(state.canvas, chunk)
                ratio = chunk.counts / (exposure.expected + OWN_NOISE) - 1.0
                update = object_update(chunk.probe, exit_waves(ratio, exposure, chunk))
                found = add_patches(found, update, chunk.rows, chunk.corners)
                misfit += torch.stack(
                    amplitude_misfit(exposure.expected, chunk.counts, chunk.good_pixels)
                )
                if after_chunk is not None:
                    after_chunk(len(chunk.indices))
            return found, misfit

        try:
            change, misfit = with_chunks_that_fit(seen, wanted)
        except BaseException:
            state.canvas = here
            raise
        self._before, team = here, self._measurement.team
        change = team.add_up(change).to(here.dtype) / self._coverage
        state.canvas = state.canvas + STEP * change
        error, counts = team.add_up(misfit).tolist()
        return error / max(counts, 1e-9)
