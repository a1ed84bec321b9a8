"""The solver: ordered subsets of patterns move object, and where asked probe and positions.

rPIE in batches, with the momentum of mPIE (both Maiden, Johnson & Li, Optica 4, 736, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..physics.canvas import put_patches
from ..physics.chunk import Chunk
from ..physics.forward_model import Exposure, expose
from ..physics.losses import amplitude_misfit
from ..physics.measurement import Measurement
from ..physics.noise import lost_part, root_bias
from ..physics.probe import unshift_probe
from ..physics.propagation import intensity, squared_modulus, to_detector
from ..physics.update_rule import (
    DARK,
    amplitude_ratio,
    divide_by_coverage,
    exit_waves,
    likelihood_ratio,
    object_update,
    unbiased_ratio,
)
from .momentum import Momentum
from .state import NOTHING, Freed, SolverState
from .varying import update_varying_probe, update_weights

__all__ = ['RpieSettings', 'position_change', 'rpie_epoch']

COUNT_FLOOR = 0.01
"""Counts added before the root of measured over expected is taken."""

BACKGROUND_INTERVAL, BACKGROUND_STEP = 4, 0.3
"""Batches between two steps of the background; part of the way that a batch asks for."""

UNEXPLAINED = 0.6
"""Part of the unexplained counts that a fit without background is allowed."""

FIRST_SPREAD_PX, LEAST_SPREAD_PX = 1.0, 0.1
"""Errors that positions are expected to have before any has moved; and at least, afterwards."""

ROOT_VARIANCE = 0.25
"""Of the root of a Poisson count."""


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


def rpie_epoch(
    state: SolverState,
    measurement: Measurement,
    batches: Iterable[Tensor],
    settings: RpieSettings,
    after_batch: Callable[[int], None] | None = None,
    momentum: Momentum | None = None,
) -> float:
    """Updates `state` by one pass over the batches and returns the relative amplitude error met.

    Args:
        state: Changed in place.
        measurement: The patterns; its own probe and shifts are not looked at.
        batches: Indices (J,) of the patterns of each update, in order, on the host.
        settings: Step sizes, and what is updated.
        after_batch: Called with the number of patterns of a batch; may raise to stop.
        momentum: Of the phase that the epoch belongs to, if it has one.
    """
    if settings.freed.factors and state.factors is None:
        state.factors = torch.ones(measurement.num_patterns, device=measurement.device)
    if settings.freed.background and state.background is None:
        state.background = torch.zeros((), device=measurement.device)
    seen = state.seen(measurement)
    misfit = torch.zeros(2, device=measurement.device)
    spread = _spread(state.moves(measurement))
    floor = DARK if settings.is_likely else COUNT_FLOOR
    for number, indices in enumerate(batches):
        chunk = seen.chunk(indices)
        exposure = expose(state.canvas, chunk)
        ratio = amplitude_ratio(exposure, chunk, floor)
        if number % settings.measured_every == 0:
            seen_misfit = amplitude_misfit(exposure.expected, chunk.counts, chunk.good_pixels)
            misfit += torch.stack(seen_misfit)
        wanted = (
            likelihood_ratio(ratio, exposure, chunk)
            if settings.is_likely
            else unbiased_ratio(ratio, exposure, chunk, floor)
        )
        difference = exit_waves(wanted, exposure, chunk)
        if settings.freed.positions:
            _update_positions(state, measurement, exposure, chunk, spread, settings)
        _update_brightness(state, exposure, chunk, settings)
        is_time = settings.freed.background and number % BACKGROUND_INTERVAL == 0
        if is_time and state.background is not None:
            _update_background(state.background, exposure, chunk)
        _update_object(state, chunk, difference, seen.corners[indices], settings)
        if settings.freed.probe:
            _update_probe(state, exposure, difference, chunk, settings)
        if momentum is not None:
            momentum.count_batch(state, update_probe=settings.freed.probe)
        if settings.freed.probe:
            seen = state.seen(measurement)
        if after_batch is not None:
            after_batch(len(indices))
    if settings.freed.positions:
        state.move_windows()
    if settings.freed.probe and state.variation is not None:
        state.orthogonalise()
        if momentum is not None:
            momentum.follow(state)
    error, counts = misfit.tolist()
    return error / max(counts, 1e-9)


def _update_positions(
    state: SolverState,
    measurement: Measurement,
    exposure: Exposure,
    chunk: Chunk,
    spread: Tensor,
    settings: RpieSettings,
) -> None:
    """Moves the positions of a batch; see `position_change`."""
    indices = chunk.indices
    there = indices.to(state.shifts.device, non_blocking=True)
    moved = (state.corners - measurement.corners)[indices].to(there.device, non_blocking=True)
    moved = moved + (state.shifts - measurement.shifts)[there]
    change = settings.position_step * position_change(exposure, chunk, moved, spread)
    limit = settings.max_position_change_px
    state.shifts[there] += change.clamp(-limit, limit)


def _update_object(
    state: SolverState,
    chunk: Chunk,
    difference: Tensor,
    corners: Tensor,
    settings: RpieSettings,
) -> None:
    """Adds the update of a batch inside of the box of its windows; `corners` are on the host."""
    (y, x), (last_y, last_x) = corners.amin(dim=0).tolist(), corners.amax(dim=0).tolist()
    height, width = chunk.window
    size = (1, last_y - y + height, last_x - x + width)
    local = (corners - torch.tensor([y, x])).to(chunk.corners.device, non_blocking=True)
    numerator = put_patches(object_update(chunk.probe, difference), chunk.rows, local, size)
    coverage = put_patches(_power(state, chunk), chunk.rows, local, size)
    box = state.canvas[:, y : y + size[1], x : x + size[2]]
    box += settings.step * divide_by_coverage(numerator, coverage, settings.alpha)


def _power(state: SolverState, chunk: Chunk) -> Float[Tensor, 'pattern height width']:
    """Returns the power of the probe at each pattern; sub-pixel shifts and variations left out."""
    power = intensity(state.probe)
    if state.factors is None:
        return power.expand(len(chunk.indices), -1, -1)
    there = chunk.indices.to(power.device, non_blocking=True)
    return power * state.factors[there, None, None]


def _update_probe(
    state: SolverState,
    exposure: Exposure,
    difference: Tensor,
    chunk: Chunk,
    settings: RpieSettings,
) -> None:
    patches, alpha = exposure.patches, max(settings.alpha, 0.5)
    if state.variation is not None:
        update_varying_probe(state, exposure, difference, chunk, settings.probe_step, alpha)
        return
    update = unshift_probe(patches.conj().resolve_conj()[:, None] * difference, chunk.shifts)
    power = squared_modulus(patches).sum(dim=0)[None]
    state.probe += settings.probe_step * divide_by_coverage(update.sum(dim=0), power, alpha)


def _update_brightness(
    state: SolverState, exposure: Exposure, chunk: Chunk, settings: RpieSettings
) -> None:
    """Fits brightness of each frame, and weights of a varying probe, where these are free."""
    freed = settings.freed
    if freed.factors and state.factors is not None:
        _update_factors(state.factors, exposure, chunk)
    if state.variation is not None and (freed.probe or freed.weights):
        has_scale = not freed.factors
        update_weights(state, exposure, chunk, settings.probe_step, has_scale=has_scale)


def _update_factors(factors: Tensor, exposure: Exposure, chunk: Chunk) -> None:
    """Fits the brightness of each frame to its amplitudes, their mean over the scan kept."""
    background = 0.0 if chunk.background is None else chunk.background
    expected = exposure.expected - background
    if chunk.good_pixels is not None:
        expected = expected * chunk.good_pixels
    wanted = torch.sqrt((chunk.counts - background).clamp(min=0.0) * expected)
    ratio = wanted.sum(dim=(-2, -1)) / expected.sum(dim=(-2, -1)).clamp(min=1e-6)
    factors[chunk.indices.to(factors.device, non_blocking=True)] *= ratio.square().clamp(0.5, 2.0)
    factors /= factors.mean()


def _update_background(background: Tensor, exposure: Exposure, chunk: Chunk) -> None:
    """Moves the background towards what the counts of the batch say, each weighted by its noise.

    A fit to roots leaves a part of the mean counts unexplained, which is not background; the
    object, in turn, explains a part of the background. `UNEXPLAINED` weighs the two.
    """
    expected = exposure.expected.clamp(min=1e-6)
    root = torch.sqrt((expected - root_bias(expected)).clamp(min=0.0))
    mended = root + torch.sqrt(expected) * lost_part(expected, background)
    unexplained = expected - mended.square()
    weight = 1.0 / (expected + 1.0)
    if chunk.good_pixels is not None:
        weight = weight * chunk.good_pixels
    wanted = (chunk.counts - expected - UNEXPLAINED * unexplained) * weight
    step = BACKGROUND_STEP * wanted.sum() / weight.sum().clamp(min=1e-6)
    background.add_(step).clamp_(min=0.0)


def _spread(moves: Tensor) -> Tensor:
    """Returns the standard deviation, per axis, of the errors that positions seem to have."""
    squares = moves.square().mean(dim=1)
    usual = torch.minimum(squares, 9.0 * squares.median()).mean().sqrt()
    return torch.where((moves == 0.0).all(), FIRST_SPREAD_PX, usual.clamp(min=LEAST_SPREAD_PX))


def position_change(
    exposure: Exposure, chunk: Chunk, moved: Tensor, spread: Tensor
) -> Float[Tensor, 'pattern 2']:
    """Returns one Gauss-Newton step of the positions on the detector amplitudes, in pixels.

    It is drawn back towards the given position as strongly as photon noise could have `moved` (J, 2)
    it, if errors of positions have a certain `spread`: a frame that says little stays.

    The amplitude A changes with the position by `sum_p Re(conj(F_p) F[dP_p O]) / A`; the two
    slopes are fitted to `sqrt(D) - A`, pattern by pattern. In the sample plane the same fit would
    be dominated by the phase ramp that a shift puts on the far field, and that no detector sees.
    """
    slopes = _amplitude_slopes(exposure, chunk)
    residual = chunk.roots(0.0) - torch.sqrt(exposure.expected)
    if chunk.good_pixels is not None:
        residual = residual * chunk.good_pixels
        slopes = [slope * chunk.good_pixels for slope in slopes]

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=(-2, -1))

    a, b, c = dot(slopes[0], slopes[0]), dot(slopes[0], slopes[1]), dot(slopes[1], slopes[1])
    hold = ROOT_VARIANCE / spread**2
    p = dot(slopes[0], residual) - hold * moved[:, 0]
    q = dot(slopes[1], residual) - hold * moved[:, 1]
    # over a flat object the slopes are rounding noise and must not move anything
    damping = 1e-3 * (a + c) + 1e-6 * exposure.expected.sum(dim=(-2, -1)) + hold
    a, c = a + damping, c + damping
    determinant = a * c - b * b
    return torch.stack([(c * p - b * q) / determinant, (a * q - b * p) / determinant], dim=1)


def _amplitude_slopes(exposure: Exposure, chunk: Chunk) -> Sequence[Tensor]:
    """Returns by how much the amplitudes (J, H, W) change per pixel of shift in y and in x."""
    height, width = chunk.window
    spectrum = torch.fft.fft2(chunk.probe)
    frequencies = (
        torch.fft.fftfreq(height, device=spectrum.device)[:, None],
        torch.fft.fftfreq(width, device=spectrum.device)[None, :],
    )
    amplitude = torch.sqrt(exposure.expected) + 1e-6
    slopes, far_field = [], exposure.far_field
    for frequency in frequencies:
        derivative = torch.fft.ifft2(spectrum * (-2j * torch.pi * frequency))
        change = to_detector(derivative * exposure.patches[:, None])
        real = (far_field.real * change.real + far_field.imag * change.imag).sum(dim=1)
        slopes.append(real / amplitude)
    return slopes
