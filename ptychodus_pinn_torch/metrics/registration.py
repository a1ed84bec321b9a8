"""Removes from an image what diffraction cannot tell: a factor, a phase ramp, a sub-pixel shift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from ..scan.io.products import ProductArrays, product_of_arrays

__all__ = ['Registration', 'register', 'relative_distance']

_FADE_PX = 32
_NUM_ITERATIONS = 8
_TOLERANCE_PX = 1e-4
_MAX_SHIFT_PX = 16.0


@dataclass(frozen=True)
class Registration:
    """An image brought as close to a reference as the ambiguities allow.

    Attributes:
        array: (Y, X) image without factor, ramp and shift; outside the area, the reference.
        weights: (Y, X) weights, zero also where the shift brought in what lies outside the area.
        shift_px: By which the image was moved, (y, x).
        distance: `relative_distance` that is left.
    """

    array: NDArray[numpy.complex128]
    weights: NDArray[numpy.float64]
    shift_px: tuple[float, float]
    distance: float


def relative_distance(test: NDArray[Any], reference: NDArray[Any], weights: NDArray[Any]) -> float:
    """Returns the weighted norm of the difference relative to that of the reference.

    All three are (Y, X).
    """
    difference = numpy.sum(weights * numpy.abs(test - reference) ** 2)
    return float(numpy.sqrt(difference / numpy.sum(weights * numpy.abs(reference) ** 2)))


def register(
    test: NDArray[Any], reference: NDArray[Any], weights: NDArray[Any], pixel_m: NDArray[Any]
) -> Registration:
    """Returns the image `test` (Y, X) registered to `reference`, judged where `weights` > 0.

    Ptychodus estimates factor, ramp and shift; from there, and from no shift at all, weighted
    Gauss-Newton steps find the least distance. What lies outside the area has no influence.
    """
    factor, ramp = _estimate_ambiguities(test, reference, weights, pixel_m)
    state = (factor, ramp, numpy.zeros(2))
    best = _descend(test, reference, weights, state)
    shift = _estimate_shift(best.array, reference, pixel_m)
    if 0.5 < float(numpy.hypot(*shift)) < _MAX_SHIFT_PX:
        other = _descend(test, reference, weights, (factor, ramp, shift))
        best = min(best, other, key=lambda item: item.distance)
    return best


def _coordinates(shape: tuple[int, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    y, x = (numpy.arange(length) - (length - 1) / 2.0 for length in shape)
    return y[:, None], x[None, :]


def _as_product(array: NDArray[Any], pixel_m: NDArray[Any]) -> Any:
    return product_of_arrays(
        ProductArrays(
            positions_px=numpy.empty((0, 2)),
            probe=numpy.ones((1, 2, 2), dtype=complex),
            object_=array,
            pixel_size_m=(float(pixel_m[0]), float(pixel_m[1])),
        )
    )


def _estimate_ambiguities(
    test: NDArray[Any], reference: NDArray[Any], weights: NDArray[Any], pixel_m: NDArray[Any]
) -> tuple[complex, NDArray[numpy.float64]]:
    from ptychodus.api.metrics import estimate_reconstruction_ambiguities

    if not numpy.any(test[weights > 0.0] * reference[weights > 0.0]):
        return 1.0 + 0.0j, numpy.zeros(2)
    found = estimate_reconstruction_ambiguities(
        _as_product(test, pixel_m), reference=_as_product(reference, pixel_m), weights=weights
    )
    ramp = -numpy.asarray([found.phase_ramp_y_rad_per_m, found.phase_ramp_x_rad_per_m]) * pixel_m
    y, x = _coordinates(test.shape)
    flat = test * numpy.exp(1j * (ramp[0] * y + ramp[1] * x))
    power = float(numpy.sum(weights * numpy.abs(flat) ** 2))
    return complex(numpy.sum(weights * flat.conj() * reference) / power), ramp


def _estimate_shift(
    test: NDArray[Any], reference: NDArray[Any], pixel_m: NDArray[Any]
) -> NDArray[numpy.float64]:
    from ptychodus.api.object import estimate_object_alignment_shift

    if not numpy.ptp(numpy.abs(test)) > 0.0 or not numpy.ptp(numpy.abs(reference)) > 0.0:
        return numpy.zeros(2)
    objects = [_as_product(array, pixel_m).object_ for array in (reference, test)]
    return numpy.asarray(estimate_object_alignment_shift(*objects))


def _descend(
    test: NDArray[Any],
    reference: NDArray[Any],
    weights: NDArray[Any],
    state: tuple[complex, NDArray[numpy.float64], NDArray[numpy.float64]],
) -> Registration:
    """Returns the best of a few Gauss-Newton steps on factor, ramp and shift."""
    area = weights > 0.0
    y, x = _coordinates(test.shape)
    factor, ramp, shift = state
    best: Registration | None = None
    for _ in range(_NUM_ITERATIONS):
        flat = factor * numpy.exp(1j * (ramp[0] * y + ramp[1] * x)) * test
        filled = numpy.where(area, flat, _shift(reference, -shift))
        moved = _shift(filled, shift)
        inside = weights * _move_mask(area, shift)
        if not inside.any():
            break
        distance = relative_distance(moved, reference, inside)
        if best is None or distance < best.distance:
            array, shift_px = numpy.where(inside > 0.0, moved, reference), tuple(shift.tolist())
            best = Registration(array, inside, shift_px, distance)
        step = _solve_step(moved, reference, inside)
        factor = factor * numpy.exp(step[0] + 1j * step[1])
        ramp = ramp + step[2:4]
        shift = shift - numpy.clip(step[4:6], -1.0, 1.0)
        size_px = 0.5 * max(test.shape)
        change = max(abs(step[0]), abs(step[1]), *(abs(step[2:4]) * size_px), *abs(step[4:6]))
        if not math.isfinite(change) or change < _TOLERANCE_PX:
            break
    assert best is not None
    return best


def _move_mask(
    area: NDArray[numpy.bool_], shift_px: NDArray[numpy.float64]
) -> NDArray[numpy.bool_]:
    """Returns where the area moved by whole pixels covers itself."""
    return ndimage.shift(area, numpy.rint(shift_px), order=0) & area


def _solve_step(
    moved: NDArray[Any], reference: NDArray[Any], weights: NDArray[Any]
) -> NDArray[numpy.float64]:
    """Returns the least-squares step: log factor (re, im), ramp (y, x), gradient weight (y, x)."""
    y, x = _coordinates(moved.shape)
    gradient_y, gradient_x = numpy.gradient(moved)
    columns = numpy.stack(
        (moved, 1j * moved, 1j * y * moved, 1j * x * moved, gradient_y, gradient_x)
    ).reshape(6, -1)
    weighted = weights.ravel() * columns.conj()
    normal = (weighted @ columns.T).real
    right = (weighted @ (reference - moved).ravel()).real
    scale = numpy.sqrt(numpy.maximum(numpy.diag(normal), 1e-300))
    solution = numpy.linalg.lstsq(normal / numpy.outer(scale, scale), right / scale, rcond=1e-8)[0]
    step: NDArray[numpy.float64] = solution / scale
    return step


def _shift(array: NDArray[Any], shift_px: NDArray[numpy.float64]) -> NDArray[Any]:
    """Returns the array moved by (y, x); its borders fade into each other, so nothing rings."""
    from ptychodus.api.fourier import fourier_shift_2d

    if not numpy.any(shift_px):
        return array
    padded = array
    for axis in (0, 1):
        length = padded.shape[axis]
        extra = scipy.fft.next_fast_len(length + _FADE_PX) - length
        index = numpy.arange(extra)
        after = numpy.take(padded, numpy.maximum(length - 1 - index, 0), axis=axis)
        before = numpy.take(padded, numpy.minimum(extra - 1 - index, length - 1), axis=axis)
        fade = ((index + 1.0) / (extra + 1.0)).reshape((-1, 1) if axis == 0 else (1, -1))
        padded = numpy.concatenate([padded, after * (1.0 - fade) + before * fade], axis=axis)
    moved = fourier_shift_2d(padded, dx=float(shift_px[1]), dy=float(shift_px[0]))
    return moved[: array.shape[0], : array.shape[1]]
