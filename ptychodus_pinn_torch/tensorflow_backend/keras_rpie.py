"""Refinement by rPIE in numpy (Maiden, Johnson and Li, Optica 4, 736, 2017)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import scipy.fft
from numpy.typing import NDArray

from ..simulation.reference_model import take_patches
from .keras_reader import ScanReader

__all__ = ['RefinementState', 'RpieSettings', 'relative_error', 'rpie_epoch']

COUNT_FLOOR = 0.01
"""Counts added before the root of measured over expected is taken."""

PROBE_STEP = 0.5
MAX_POSITION_CHANGE_PX = 0.5

Waves = NDArray[numpy.complex64]


@dataclass
class RefinementState:
    """What the refinement changes in place: canvas (Y, X), probe (P, H, W), shifts (N, 2)."""

    canvas: Waves
    probe: Waves
    shifts: NDArray[numpy.float64]

    def clone(self) -> RefinementState:
        """Returns an independent copy."""
        return RefinementState(self.canvas.copy(), self.probe.copy(), self.shifts.copy())


@dataclass(frozen=True)
class RpieSettings:
    """How an rPIE epoch goes.

    Attributes:
        alpha: Regularisation: 1 divides by the peak of the coverage (ePIE), 0 by the coverage.
        update_probe: Adjust the probe as well; `update_positions` likewise.
    """

    alpha: float = 0.3
    update_probe: bool = False
    update_positions: bool = False


def _frequencies(probe: Waves) -> tuple[NDArray[Any], NDArray[Any]]:
    return scipy.fft.fftfreq(probe.shape[-2]), scipy.fft.fftfreq(probe.shape[-1])


def _shift(spectrum: Waves, shifts: NDArray[numpy.float64]) -> Waves:
    """Returns modes, given by their spectrum, moved by each shift, in single precision."""
    y, x = _frequencies(spectrum)
    ramp_y = numpy.exp(-2j * numpy.pi * shifts[:, :1] * y).astype(numpy.complex64)
    ramp_x = numpy.exp(-2j * numpy.pi * shifts[:, 1:] * x).astype(numpy.complex64)
    ramp = ramp_y[:, None, :, None] * ramp_x[:, None, None, :]
    shifted: Waves = scipy.fft.ifft2(spectrum * ramp, overwrite_x=True)
    return shifted


def _power(waves: Waves) -> NDArray[numpy.float32]:
    return numpy.square(waves.real) + numpy.square(waves.imag)


@dataclass(frozen=True)
class _Exposure:
    """Patterns as the present state explains them."""

    corners: NDArray[numpy.int64]
    probe: Waves
    patches: Waves
    far_field: Waves
    expected: NDArray[numpy.float32]
    counts: NDArray[numpy.float32]
    misfit: float


def _expose(
    state: RefinementState, spectrum: Waves, reader: ScanReader, indices: NDArray[numpy.int64]
) -> _Exposure:
    probe = _shift(spectrum, state.shifts[indices])
    corners = reader.corners[indices]
    patches = take_patches(state.canvas, corners, reader.window)
    far_field = scipy.fft.fft2(probe * patches[:, None], norm='ortho', overwrite_x=True)
    expected, counts = _power(far_field).sum(axis=1), reader.counts(indices)
    difference = numpy.square(numpy.sqrt(expected) - numpy.sqrt(counts)) * reader.good_pixels
    misfit = float(difference.sum(dtype=numpy.float64))
    return _Exposure(corners, probe, patches, far_field, expected, counts, misfit)


def relative_error(
    state: RefinementState, reader: ScanReader, batches: Sequence[NDArray[numpy.int64]]
) -> float:
    """Returns `sum (sqrt I - sqrt D)**2 / sum D` over the patterns of the batches."""
    misfit, counts = 0.0, 0.0
    spectrum = scipy.fft.fft2(state.probe)
    for indices in batches:
        exposure = _expose(state, spectrum, reader, indices)
        misfit += exposure.misfit
        counts += float(exposure.counts.sum(dtype=numpy.float64))
    return misfit / max(counts, 1e-9)


def rpie_epoch(
    state: RefinementState,
    reader: ScanReader,
    batches: Sequence[NDArray[numpy.int64]],
    settings: RpieSettings,
    after_batch: Callable[[int], None] | None = None,
) -> float:
    """Updates `state` by one pass over the batches; returns the relative amplitude error met.

    Args:
        state: Changed in place.
        reader: The measurement.
        batches: Indices of the patterns of each update, in order.
        settings: Step size, and what is updated.
        after_batch: Called with the number of patterns done; may raise to stop.
    """
    misfit, counts, done = 0.0, 0.0, 0
    spectrum = scipy.fft.fft2(state.probe)
    for indices in batches:
        exposure = _expose(state, spectrum, reader, indices)
        misfit += exposure.misfit
        counts += float(exposure.counts.sum(dtype=numpy.float64))
        ratio = numpy.sqrt((exposure.counts + COUNT_FLOOR) / (exposure.expected + COUNT_FLOOR))
        ratio = (ratio - 1.0) * reader.good_pixels
        difference = scipy.fft.ifft2(exposure.far_field * ratio[:, None], norm='ortho')
        shifts = state.shifts[indices]
        if settings.update_positions:
            state.shifts[indices] += _find_moves(exposure, reader.good_pixels)
        _update_object(state, exposure, difference, settings)
        if settings.update_probe:
            _update_probe(state, exposure, difference, shifts, settings)
            spectrum = scipy.fft.fft2(state.probe)
        done += len(indices)
        if after_batch is not None:
            after_batch(done)
    return misfit / max(counts, 1e-9)


def _divide(numerator: Waves, weight: NDArray[numpy.float32], alpha: float) -> Waves:
    peak = weight.max()
    quotient: Waves = numerator / (alpha * peak + (1.0 - alpha) * weight + 1e-9 * peak + 1e-20)
    return quotient.astype(numpy.complex64)


def _update_object(
    state: RefinementState, exposure: _Exposure, difference: Waves, settings: RpieSettings
) -> None:
    update = (exposure.probe.conj() * difference).sum(axis=1)
    power = _power(exposure.probe).sum(axis=1)
    low = exposure.corners.min(axis=0)
    height, width = update.shape[-2:]
    size = exposure.corners.max(axis=0) - low + (height, width)
    numerator = numpy.zeros(size, dtype=numpy.complex64)
    weight = numpy.zeros(size, dtype=numpy.float32)
    for index, (y, x) in enumerate((exposure.corners - low).tolist()):
        numerator[y : y + height, x : x + width] += update[index]
        weight[y : y + height, x : x + width] += power[index]
    window = state.canvas[low[0] : low[0] + size[0], low[1] : low[1] + size[1]]
    window += _divide(numerator, weight, settings.alpha)


def _update_probe(
    state: RefinementState,
    exposure: _Exposure,
    difference: Waves,
    shifts: NDArray[numpy.float64],
    settings: RpieSettings,
) -> None:
    update = scipy.fft.fft2(exposure.patches.conj()[:, None] * difference)
    y, x = _frequencies(update)
    angle = shifts[:, :1, None] * y[None, :, None] + shifts[:, 1:, None] * x[None, None, :]
    back = numpy.exp(2j * numpy.pi * angle).astype(numpy.complex64)
    total = scipy.fft.ifft2((update * back[:, None]).sum(axis=0))
    weight = _power(exposure.patches).sum(axis=0)
    state.probe += PROBE_STEP * _divide(total, weight, max(settings.alpha, 0.5))


def _find_moves(exposure: _Exposure, good_pixels: NDArray[numpy.float32]) -> NDArray[numpy.float64]:
    """Returns the shift (n, 2) of one Gauss-Newton step on the detector amplitudes.

    The amplitude A changes with the position by `sum_p Re(conj(F_p) F[dP_p O]) / A`; the two
    slopes are fitted to `sqrt(D) - A`, pattern by pattern.
    """
    spectrum = scipy.fft.fft2(exposure.probe)
    y, x = _frequencies(spectrum)
    amplitude = numpy.sqrt(exposure.expected)
    blame = (numpy.sqrt(exposure.counts) - amplitude) * good_pixels
    slopes = []
    for frequency in (y[:, None], x[None, :]):
        ramp = (-2j * numpy.pi * frequency).astype(numpy.complex64)
        derivative = scipy.fft.ifft2(spectrum * ramp) * exposure.patches[:, None]
        change = scipy.fft.fft2(derivative, norm='ortho')
        slope = (exposure.far_field.conj() * change).real.sum(axis=1)
        slopes.append(slope / (amplitude + 1e-6))

    def dot(a: NDArray[numpy.float32], b: NDArray[numpy.float32]) -> NDArray[numpy.float64]:
        total: NDArray[numpy.float64] = (a * b).sum(axis=(-2, -1), dtype=numpy.float64)
        return total

    a, b, c = dot(slopes[0], slopes[0]), dot(slopes[0], slopes[1]), dot(slopes[1], slopes[1])
    p, q = dot(slopes[0], blame), dot(slopes[1], blame)
    # the absolute part keeps patterns in place that see a flat object, whose slopes are noise
    damping = 1e-3 * (a + c) + 1e-6 * exposure.expected.sum(axis=(-2, -1)) + 1e-20
    a, c = a + damping, c + damping
    determinant = a * c - b * b
    moves = numpy.stack([(c * p - b * q) / determinant, (a * q - b * p) / determinant], axis=1)
    return numpy.clip(moves, -MAX_POSITION_CHANGE_PX, MAX_POSITION_CHANGE_PX)
