"""Finds out whether flipped or transposed positions explain a scan better than those given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
import scipy.fft
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ..scan.resampling import crop_scan
from ..scan.scan import Scan, calibrate_probe, split_positions
from ..simulation.reference_model import take_patches

__all__ = ['ORIENTATIONS', 'OrientationErrors', 'compare_orientations', 'orient_positions']

ORIENTATIONS: dict[str, tuple[bool, bool, bool]] = {
    'as given': (False, False, False),
    'y flipped': (False, True, False),
    'x flipped': (False, False, True),
    'y and x flipped': (False, True, True),
    'y and x exchanged': (True, False, False),
    'y and x exchanged, then y flipped': (True, True, False),
    'y and x exchanged, then x flipped': (True, False, True),
    'y and x exchanged, then both flipped': (True, True, True),
}
"""Exchange of the axes, flip of y, flip of x, by name."""

_NUM_FRAMES = 48
_NUM_MODES = 2
_NUM_EPOCHS = 12
_BATCH = 8
_REGULARIZATION = 0.05
_MAX_SIZE = 128


@dataclass(frozen=True)
class OrientationErrors:
    """Relative amplitude errors after a few physics steps, by orientation."""

    errors: dict[str, float]

    @property
    def best(self) -> str:
        """The orientation with the least error."""
        return min(self.errors, key=lambda name: self.errors[name])

    @property
    def gain(self) -> float:
        """How many times smaller the least error is than that of the positions as given."""
        return self.errors['as given'] / max(self.errors[self.best], 1e-12)


def orient_positions(
    positions_px: NDArray[numpy.float64], orientation: str
) -> NDArray[numpy.float64]:
    """Returns the positions (N, 2), flipped or transposed about the middle of their box."""
    is_exchanged, flips_y, flips_x = ORIENTATIONS[orientation]
    middle = (positions_px.max(axis=0) + positions_px.min(axis=0)) / 2.0
    moved = positions_px - middle
    if is_exchanged:
        moved = moved[:, ::-1]
    return moved * numpy.where([flips_y, flips_x], -1.0, 1.0) + middle


def compare_orientations(scan: Scan) -> OrientationErrors:
    """Returns how well each of the eight orientations of the positions explains the counts.

    Neighbouring patterns in the middle of the scan are reconstructed from a flat object by a few
    batched steps of the extended ptychographical iterative engine (Maiden and Rodenburg,
    Ultramicroscopy 109, 1256, 2009).
    """
    part = _take_middle(scan)
    counts = numpy.asarray(part.patterns, dtype=numpy.float32) * part.good_pixels
    amplitude = scipy.fft.ifftshift(numpy.sqrt(counts), axes=(-2, -1))
    good = scipy.fft.ifftshift(part.good_pixels)
    probe = _strongest_modes(part)
    errors = {
        name: _reconstruct(orient_positions(part.positions_px, name), amplitude, good, probe)
        for name in ORIENTATIONS
    }
    return OrientationErrors(errors)


def _take_middle(scan: Scan) -> Scan:
    middle = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2.0
    count = min(_NUM_FRAMES, scan.num_patterns)
    _, nearest = KDTree(scan.positions_px).query(middle, k=count)
    part = scan.select(numpy.sort(numpy.atleast_1d(nearest)))
    size = part.pattern_shape[0]
    return crop_scan(part, _MAX_SIZE) if size > _MAX_SIZE else part


def _strongest_modes(part: Scan) -> NDArray[numpy.complex64]:
    """Returns the strongest modes of the calibrated probe, with the power of all."""
    probe, _ = calibrate_probe(part)
    strongest = probe[:_NUM_MODES]
    factor = numpy.linalg.norm(probe) / numpy.linalg.norm(strongest)
    return (strongest * factor).astype(numpy.complex64)


def _reconstruct(
    positions_px: NDArray[numpy.float64],
    amplitude: NDArray[numpy.float32],
    good: NDArray[numpy.bool_],
    probe: NDArray[numpy.complex64],
) -> float:
    """Returns the error of the last epoch, taken before each update."""
    size = probe.shape[-1]
    corners, _ = split_positions(positions_px, (size, size))
    corners -= corners.min(axis=0)
    shape = tuple(int(length) + size for length in corners.max(axis=0))
    object_ = numpy.ones(shape, dtype=numpy.complex64)
    power = numpy.sum(probe.real**2 + probe.imag**2, axis=0)
    num_subsets = -(-len(corners) // _BATCH)
    error = 0.0
    for _ in range(_NUM_EPOCHS):
        error = 0.0
        for subset in range(num_subsets):
            rows = numpy.arange(subset, len(corners), num_subsets)
            error += _step(object_, corners[rows], amplitude[rows], good, probe, power)
    return error / max(float(numpy.sum(amplitude**2)), 1e-12)


def _step(
    object_: NDArray[numpy.complex64],
    corners: NDArray[Any],
    amplitude: NDArray[numpy.float32],
    good: NDArray[numpy.bool_],
    probe: NDArray[numpy.complex64],
    power: NDArray[numpy.float32],
) -> float:
    """Updates the object with one batch and returns the squared amplitude difference before."""
    size = probe.shape[-1]
    patches = take_patches(object_, corners, (size, size))
    wave = scipy.fft.fft2(probe * patches[:, None], norm='ortho', overwrite_x=True)
    expected = numpy.sqrt((wave.real**2 + wave.imag**2).sum(axis=1))
    difference = (amplitude - expected) * good
    wave *= (difference / (expected + 1e-3))[:, None]
    residual = scipy.fft.ifft2(wave, norm='ortho', overwrite_x=True)
    update = (probe.conj() * residual).sum(axis=1)
    total = numpy.zeros_like(object_)
    coverage = numpy.zeros(object_.shape, dtype=numpy.float32)
    for patch, (y, x) in zip(update, corners, strict=True):
        total[y : y + size, x : x + size] += patch
        coverage[y : y + size, x : x + size] += power
    object_ += total / (coverage + _REGULARIZATION * coverage.max())
    return float(numpy.sum(difference**2))
