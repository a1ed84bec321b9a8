"""The solver: ordered subsets of patterns move object, and where asked probe and positions.

rPIE in batches, with the momentum of mPIE (both Maiden, Johnson & Li, Optica 4, 736, 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ..physics.canvas import put_patches
from ..physics.forward_model import Exposure, expose, predict
from ..physics.losses import amplitude_misfit
from ..physics.measurement import Chunk, Measurement
from ..physics.probe import unshift_probe
from ..physics.propagation import intensity, squared_modulus, to_detector
from ..physics.update_rule import divide_by_coverage, object_update, wave_difference

__all__ = ['Momentum', 'RpieSettings', 'SolverState', 'relative_error', 'rpie_epoch']

COUNT_FLOOR = 0.01
"""Counts added before the root of measured over expected is taken."""

MOMENTUM_INTERVAL = 9
"""Batches between two steps of the momentum."""


@dataclass
class SolverState:
    """What the solver changes in place.

    Attributes:
        canvas: (1, Y, X) object.
        probe: (P, H, W) modes, calibrated to counts.
        shifts: (N, 2) sub-pixel positions, pixels.
    """

    canvas: Complex[Tensor, '1 y x']
    probe: Complex[Tensor, 'mode height width']
    shifts: Float[Tensor, 'pattern 2']

    @classmethod
    def start(cls, canvas: Tensor, measurement: Measurement) -> SolverState:
        """Returns an independent state with the given probe and positions of a measurement."""
        probe, shifts = measurement.probe.clone(), measurement.shifts.clone()
        return cls(canvas.detach().clone(), probe, shifts)

    def clone(self) -> SolverState:
        """Returns an independent copy."""
        return SolverState(self.canvas.clone(), self.probe.clone(), self.shifts.clone())

    def is_finite(self) -> bool:
        """Returns whether all of it are numbers."""
        values = (self.canvas, self.probe, self.shifts)
        return all(bool(torch.isfinite(value).all()) for value in values)

    def seen(self, measurement: Measurement) -> Measurement:
        """Returns the measurement under the present probe and positions."""
        return replace(measurement, probe=self.probe, shifts=self.shifts)


@dataclass(frozen=True)
class RpieSettings:
    """How an rPIE epoch goes.

    Attributes:
        alpha: Regularisation: 1 divides by the peak of the coverage (ePIE), 0 by the coverage.
        step: Factor on the object update.
        update_probe: Adjust the probe as well; `probe_step` is its factor.
        update_positions: Adjust the positions as well.
    """

    alpha: float = 0.3
    step: float = 1.0
    update_probe: bool = False
    probe_step: float = 0.5
    update_positions: bool = False
    position_step: float = 1.0
    max_position_change_px: float = 0.5


class Momentum:
    """Carries object and probe on along the way that they have come since the last time.

    `v <- f v + (O - O_before); O <- O + f v`, for the probe with half the factor. It makes the
    low spatial frequencies, which single batches hardly see, arrive early. Annealing must follow:
    what is carried on is noise as well.

    Args:
        state: Where it starts; a new phase of the solver starts with a new momentum.
        factor: f, between 0 and 1.
    """

    def __init__(self, state: SolverState, factor: float = 0.9) -> None:
        self._ways = [_Way(state.canvas, factor), _Way(state.probe, 0.5 * factor)]
        self._batches = 0

    def count_batch(self, state: SolverState, *, update_probe: bool) -> None:
        """Takes notice of a batch, and moves the state when it is time."""
        self._batches += 1
        if self._batches % MOMENTUM_INTERVAL == 0:
            self._ways[0].carry_on(state.canvas)
            if update_probe:
                self._ways[1].carry_on(state.probe)


class _Way:
    def __init__(self, start: Tensor, factor: float) -> None:
        self.before, self.velocity, self.factor = start.clone(), torch.zeros_like(start), factor

    def carry_on(self, present: Tensor) -> None:
        self.velocity.mul_(self.factor).add_(present - self.before)
        present.add_(self.velocity, alpha=self.factor)
        self.before.copy_(present)


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
        after_batch: Called with the number of patterns done; may raise to stop.
        momentum: Of the phase that the epoch belongs to, if it has one.
    """
    seen, done = state.seen(measurement), 0
    misfit = torch.zeros(2, device=measurement.device)
    for indices in batches:
        chunk = seen.chunk(indices)
        exposure = expose(state.canvas, chunk)
        misfit += torch.stack(amplitude_misfit(exposure.expected, chunk.counts, chunk.good_pixels))
        difference = wave_difference(exposure, chunk, floor=COUNT_FLOOR)
        if settings.update_positions:
            change = settings.position_step * _position_change(exposure, chunk)
            limit = settings.max_position_change_px
            there = indices.to(state.shifts.device, non_blocking=True)
            state.shifts[there] += change.clamp(-limit, limit)
        _update_object(state, chunk, difference, seen.corners[indices], settings)
        if settings.update_probe:
            _update_probe(state, exposure, difference, chunk, settings)
        if momentum is not None:
            momentum.count_batch(state, update_probe=settings.update_probe)
        if settings.update_probe:
            seen = state.seen(measurement)
        done += len(indices)
        if after_batch is not None:
            after_batch(done)
    return _ratio(misfit)


def relative_error(
    state: SolverState, measurement: Measurement, indices: Tensor | None = None
) -> float:
    """Returns `sum (sqrt I - sqrt D)**2 / sum D` over good pixels of some patterns, or of all.

    `indices` are (J,), on the host.
    """
    misfit = torch.zeros(2, device=measurement.device)
    for chunk in state.seen(replace(measurement, after_chunk=None)).chunks(indices):
        expected = predict(state.canvas, chunk)
        misfit += torch.stack(amplitude_misfit(expected, chunk.counts, chunk.good_pixels))
    return _ratio(misfit)


def _ratio(misfit: Tensor) -> float:
    error, counts = misfit.tolist()
    return error / max(counts, 1e-9)


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
    coverage = put_patches(intensity(chunk.probe), chunk.rows, local, size)
    box = state.canvas[:, y : y + size[1], x : x + size[2]]
    box += settings.step * divide_by_coverage(numerator, coverage, settings.alpha)


def _update_probe(
    state: SolverState,
    exposure: Exposure,
    difference: Tensor,
    chunk: Chunk,
    settings: RpieSettings,
) -> None:
    patches = exposure.patches
    update = unshift_probe(patches.conj().resolve_conj()[:, None] * difference, chunk.shifts)
    power = squared_modulus(patches).sum(dim=0)[None]
    alpha = max(settings.alpha, 0.5)
    state.probe += settings.probe_step * divide_by_coverage(update.sum(dim=0), power, alpha)


def _position_change(exposure: Exposure, chunk: Chunk) -> Float[Tensor, 'pattern 2']:
    """Returns one Gauss-Newton step of the positions on the detector amplitudes, in pixels.

    The amplitude A changes with the position by `sum_p Re(conj(F_p) F[dP_p O]) / A`; the two
    slopes are fitted to `sqrt(D) - A`, pattern by pattern. In the sample plane the same fit would
    be dominated by the phase ramp that a shift puts on the far field, and that no detector sees.
    """
    slopes = _amplitude_slopes(exposure, chunk)
    residual = chunk.roots(0.0) - torch.sqrt(exposure.expected)
    if chunk.good_pixels is not None:
        residual = residual * chunk.good_pixels

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=(-2, -1))

    a, b, c = dot(slopes[0], slopes[0]), dot(slopes[0], slopes[1]), dot(slopes[1], slopes[1])
    p, q = dot(slopes[0], residual), dot(slopes[1], residual)
    # over a flat object the slopes are rounding noise and must not move anything
    damping = 1e-3 * (a + c) + 1e-6 * exposure.expected.sum(dim=(-2, -1)) + 1e-20
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
