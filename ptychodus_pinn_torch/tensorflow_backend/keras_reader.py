"""A scan as numpy arrays, read from its memory map a few patterns at a time."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy
from numpy.typing import NDArray

from ..scan.scan import Scan, calibrate_probe, split_positions

__all__ = ['ScanReader']


class ScanReader:
    """Gives patterns and windows of a scan by index.

    The canvas is the smallest box that holds every window; `origin` is its first pixel on the
    object grid.

    Attributes:
        probe: (P, H, W), calibrated to counts, brightest mode first.
        corners: (N, 2) on the canvas, and `shifts` (N, 2) the sub-pixel rest.
        good_pixels: (H, W), 1.0 where the detector can be trusted, corner order.
    """

    def __init__(self, scan: Scan, *, num_probe_modes: int = 0, memory_bytes: int = 2**27) -> None:
        self.scan = scan
        probe, self.calibration = calibrate_probe(scan)
        if num_probe_modes and num_probe_modes < len(probe):
            power = power_of(probe)
            probe = probe[:num_probe_modes]
            probe = probe * numpy.sqrt(power / power_of(probe))
        self.probe: NDArray[numpy.complex64] = numpy.ascontiguousarray(probe, numpy.complex64)
        corners, self.shifts = split_positions(scan.positions_px, scan.pattern_shape)
        self.origin = corners.min(axis=0)
        self.corners: NDArray[numpy.int64] = corners - self.origin
        self.window = scan.pattern_shape
        extent = self.corners.max(axis=0) + numpy.asarray(self.window)
        self.canvas_shape = (int(extent[0]), int(extent[1]))
        self.good_pixels = numpy.fft.ifftshift(scan.good_pixels).astype(numpy.float32)
        # exit waves, far fields and differences of a piece live at the same time
        frame = self.window[0] * self.window[1] * (8 + 64 * len(self.probe))
        self.piece_size = int(max(1, min(4096, memory_bytes // frame)))

    def with_probe(self, probe: NDArray[numpy.complex64]) -> ScanReader:
        """Returns the scan as seen through another calibrated probe."""
        reader = copy.copy(self)
        reader.probe = probe
        return reader

    def around(self, indices: NDArray[numpy.int64]) -> ScanReader:
        """Returns the scan with a canvas that is just large enough for some patterns."""
        reader = copy.copy(self)
        first = self.corners[indices].min(axis=0)
        extent = self.corners[indices].max(axis=0) - first + numpy.asarray(self.window)
        reader.corners, reader.origin = self.corners - first, self.origin + first
        reader.canvas_shape = (int(extent[0]), int(extent[1]))
        return reader

    @property
    def num_patterns(self) -> int:
        """N, the number of patterns."""
        return self.scan.num_patterns

    def counts(self, indices: NDArray[numpy.int64]) -> NDArray[numpy.float32]:
        """Returns counts in corner order, float32, bad pixels zero."""
        raw = numpy.asarray(self.scan.patterns[indices])
        return numpy.fft.ifftshift(raw, axes=(-2, -1)).astype(numpy.float32) * self.good_pixels

    def split(self, indices: NDArray[numpy.int64]) -> Iterator[NDArray[numpy.int64]]:
        """Yields `indices` in parts that fit the memory budget."""
        for first in range(0, len(indices), self.piece_size):
            yield indices[first : first + self.piece_size]

    def mean_level(self, indices: NDArray[numpy.int64] | None = None) -> float:
        """Returns the amplitude of the flat object that counts and probe imply."""
        which = numpy.arange(self.num_patterns) if indices is None else indices
        total = 0.0
        for part in self.split(which):
            raw = numpy.asarray(self.scan.patterns[part])
            total += float(raw.sum(axis=0, dtype=numpy.float64)[self.scan.good_pixels].sum())
        return float(numpy.sqrt(max(total / max(1, len(which)), 1.0) / power_of(self.probe)))


def power_of(probe: NDArray[numpy.complex64]) -> float:
    """Returns the photons of all modes."""
    return float(numpy.sum(probe.real.astype(float) ** 2 + probe.imag.astype(float) ** 2))
