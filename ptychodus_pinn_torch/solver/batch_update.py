"""What the patterns of one batch want: added up part by part, and done at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..physics.canvas import add_patches, put_patches
from ..physics.chunk import Chunk
from ..physics.forward_model import Exposure, expose
from ..physics.losses import amplitude_misfit
from ..physics.measurement import Measurement
from ..physics.noise import lost_part, root_bias
from ..physics.probe import unshift_probe
from ..physics.propagation import intensity, squared_modulus
from ..physics.update_rule import (
    DARK,
    amplitude_ratio,
    divide_by_coverage,
    exit_waves,
    likelihood_ratio,
    object_update,
    unbiased_ratio,
)
from .position_step import position_change
from .state import NOTHING, Freed, SolverState
from .varying import VaryingProbeUpdate, update_weights

__all__ = ['BatchUpdate', 'RpieSettings']

COUNT_FLOOR = 0.01
"""Counts added before the root of measured over expected is taken."""

BACKGROUND_INTERVAL, BACKGROUND_STEP = 4, 0.3
"""Batches between two steps of the background; part of the way that a batch asks for."""

UNEXPLAINED = 0.6
"""Part of the unexplained counts that a fit without background is allowed."""


@dataclass(frozen=True)
class RpieSettings:
    """How an rPIE epoch goes.

    Attributes:
        alpha: Regularisation: 1 divides by the peak of the coverage (ePIE), 0 by the coverage.
        step: Factor on the object update.
        probe_step: Factor on the update of the probe.
        position_step: Factor on the update of the positions.
        max_position_change_px: Bound on one update of a position, per axis.
        is_likely: Steps follow the Poisson likelihood of counts, instead of their roots.
        measured_every: Of so many batches, one says what error was met.
        freed: What is adjusted beside the object.
    """

    alpha: float = 0.3
    step: float = 1.0
    probe_step: float = 0.5
    position_step: float = 1.0
    max_position_change_px: float = 1.0
    is_likely: bool = False
    measured_every: int = 1
    freed: Freed = NOTHING


class BatchUpdate:
    """What the patterns of one batch want to change, as they find the state.

    Args:
        state: Changed by `apply`; what belongs to single frames, already by `add`.
        measurement: The patterns with their given positions.
        indices: (J,) of the batch, on the host.
        settings: Step sizes, and what is updated.
        number: Of the batch in its epoch.
        spread: Standard deviation of the errors that positions seem to have, pixels.
    """

    def __init__(
        self,
        state: SolverState,
        measurement: Measurement,
        indices: Int[Tensor, ' pattern'],
        settings: RpieSettings,
        number: int,
        spread: Float[Tensor, ''],
    ) -> None:
        self._state, self._measurement, self._indices = state, measurement, indices
        self._settings, self._spread = settings, spread
        self._is_measured = number % settings.measured_every == 0
        self._wants_background = settings.freed.background and number % BACKGROUND_INTERVAL == 0
        corners = state.corners[indices]
        self._first = corners.amin(dim=0)
        extent = (corners.amax(dim=0) - self._first).tolist()
        self._shape = (1, extent[0] + measurement.window[0], extent[1] + measurement.window[1])
        self._local = corners - self._first
        self._numerator: Tensor | None = None
        self._done = 0
        self._whole: tuple[Tensor, Chunk] | None = None
        self._varying: VaryingProbeUpdate | None = None
        # what is added up takes the shape of what comes
        zero = torch.zeros((), device=measurement.device)
        self._probe = self._power = self._background = self.misfit = zero

    def add(self, chunk: Chunk) -> None:
        """Adds what some of the patterns want, in their order; changes nothing before its end."""
        state, settings, freed = self._state, self._settings, self._settings.freed
        if len(chunk.indices) < len(self._indices) and self._numerator is None:
            self._numerator = state.canvas.new_zeros(self._shape)
        exposure = expose(state.canvas, chunk)
        misfit = None
        if self._is_measured:
            misfit = torch.stack(
                amplitude_misfit(exposure.expected, chunk.counts, chunk.good_pixels)
            )
        difference = exit_waves(self._wanted_ratio(exposure, chunk), exposure, chunk)
        update = object_update(chunk.probe, difference)
        change = self._position_change(exposure, chunk) if freed.positions else None
        factors = _wanted_factors(exposure, chunk) if freed.factors else None
        background = _wanted_background(exposure, chunk) if self._wants_background else None
        probe = self._probe_update(exposure, difference, chunk) if freed.probe else None
        if state.variation is not None and (freed.probe or freed.weights):
            has_scale = not freed.factors
            update_weights(state, exposure, chunk, settings.probe_step, has_scale=has_scale)
        there = chunk.indices.to(state.shifts.device, non_blocking=True)
        if change is not None:
            state.shifts[there] += change
        if factors is not None and state.factors is not None:
            state.factors[there] *= factors
        if background is not None:
            self._background = self._background + background
        if probe is not None:
            self._add_probe(*probe)
        if misfit is not None:
            self.misfit = self.misfit + misfit
        self._add_object(update, chunk)

    def apply(self) -> None:
        """Changes object, probe and background."""
        state, settings = self._state, self._settings
        if state.background is not None and self._wants_background:
            wanted, weight = self._background
            state.background.add_(BACKGROUND_STEP * wanted / weight.clamp(min=1e-6)).clamp_(min=0.0)
        self._apply_object()
        if not settings.freed.probe:
            return
        step, alpha = settings.probe_step, max(settings.alpha, 0.5)
        if self._varying is not None:
            self._varying.apply(state, self._indices, step, alpha)
        else:
            state.probe += step * divide_by_coverage(self._probe, self._power[None], alpha)

    def _wanted_ratio(self, exposure: Exposure, chunk: Chunk) -> Tensor:
        """Returns by which part the amplitudes shall change."""
        if self._settings.is_likely:
            return likelihood_ratio(amplitude_ratio(exposure, chunk, DARK), exposure, chunk)
        return unbiased_ratio(
            amplitude_ratio(exposure, chunk, COUNT_FLOOR), exposure, chunk, COUNT_FLOOR
        )

    def _position_change(self, exposure: Exposure, chunk: Chunk) -> Tensor:
        """Returns by how much the positions of some patterns move; see `position_change`."""
        state, given, indices = self._state, self._measurement, chunk.indices
        there = indices.to(state.shifts.device, non_blocking=True)
        moved = (state.corners - given.corners)[indices].to(there.device, non_blocking=True)
        moved = moved + (state.shifts - given.shifts)[there]
        change = position_change(exposure, chunk, moved, self._spread)
        limit = self._settings.max_position_change_px
        return (self._settings.position_step * change).clamp(-limit, limit)

    def _probe_update(
        self, exposure: Exposure, difference: Tensor, chunk: Chunk
    ) -> tuple[Tensor, Tensor]:
        """Returns what each pattern, or all of them, want of the probe, and the power of patches."""
        patches = exposure.patches
        update = unshift_probe(patches.conj().resolve_conj()[:, None] * difference, chunk.shifts)
        power = squared_modulus(patches).sum(dim=0)
        return (update if self._state.variation is not None else update.sum(dim=0)), power

    def _add_probe(self, update: Tensor, power: Tensor) -> None:
        if self._state.variation is None:
            self._probe, self._power = self._probe + update, self._power + power
            return
        if self._varying is None:
            self._varying = VaryingProbeUpdate()
        self._varying.add(update, power)

    def _add_object(self, update: Tensor, chunk: Chunk) -> None:
        """Adds what the patches want; a batch that fits into memory as a whole is kept as it is."""
        if self._numerator is None:
            self._whole = update, chunk
            return
        local = self._local[self._done : self._done + len(update)]
        self._done += len(update)
        there = local.to(update.device, non_blocking=True)
        self._numerator = add_patches(self._numerator, update, chunk.rows, there)

    def _apply_object(self) -> None:
        """Adds the update of the batch inside of the box of its windows."""
        state, settings = self._state, self._settings
        device = state.canvas.device
        local = self._local.to(device, non_blocking=True)
        rows = torch.zeros(len(local), dtype=torch.int64, device=device)
        coverage = put_patches(self._probe_power(), rows, local, self._shape)
        (y, x), (height, width) = self._first.tolist(), self._shape[1:]
        box = state.canvas[:, y : y + height, x : x + width]
        if self._whole is not None and settings.alpha == 1.0 and device.type == 'cpu':
            # every pixel is divided by the same: no need of a sum over the box
            update, chunk = self._whole
            factor = settings.step / (coverage.amax() * (1.0 + 1e-9) + 1e-20)
            add_patches(state.canvas, update * factor, chunk.rows, chunk.corners)
            return
        numerator = self._numerator
        if self._whole is not None:
            numerator = put_patches(self._whole[0], rows, local, self._shape)
        assert numerator is not None
        box += settings.step * divide_by_coverage(numerator, coverage, settings.alpha)

    def _probe_power(self) -> Float[Tensor, 'pattern height width']:
        """Returns the power of the probe at each pattern; shifts and variations left out."""
        state = self._state
        power = intensity(state.probe)
        if state.factors is None:
            return power.expand(len(self._indices), -1, -1)
        there = self._indices.to(power.device, non_blocking=True)
        return power * state.factors[there, None, None]


def _wanted_factors(exposure: Exposure, chunk: Chunk) -> Float[Tensor, ' pattern']:
    """Returns by which factor the brightness of each frame changes, to fit its amplitudes."""
    background = 0.0 if chunk.background is None else chunk.background
    expected = exposure.expected - background
    if chunk.good_pixels is not None:
        expected = expected * chunk.good_pixels
    wanted = torch.sqrt((chunk.counts - background).clamp(min=0.0) * expected)
    ratio = wanted.sum(dim=(-2, -1)) / expected.sum(dim=(-2, -1)).clamp(min=1e-6)
    return ratio.square().clamp(0.5, 2.0)


def _wanted_background(exposure: Exposure, chunk: Chunk) -> Float[Tensor, ' 2']:
    """Returns by how much the counts want the background changed, each weighted by its noise.

    It is the weighted sum, and the sum of the weights. A fit to roots leaves a part of the mean
    counts unexplained, which is not background; the object, in turn, explains a part of the
    background. `UNEXPLAINED` weighs the two.
    """
    expected = exposure.expected.clamp(min=1e-6)
    root = torch.sqrt((expected - root_bias(expected)).clamp(min=0.0))
    mended = root + torch.sqrt(expected) * lost_part(expected, chunk.background)
    unexplained = expected - mended.square()
    weight = 1.0 / (expected + 1.0)
    if chunk.good_pixels is not None:
        weight = weight * chunk.good_pixels
    wanted = (chunk.counts - expected - UNEXPLAINED * unexplained) * weight
    return torch.stack([wanted.sum(), weight.sum()])
