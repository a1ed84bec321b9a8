"""A scan as tensors, read from its memory map a few patterns at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
import torch
from jaxtyping import Bool, Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from ..networks.unrolled import COUNT_FLOOR, Piece, subset_numbers
from ..scan.scan import Scan, calibrate_probe, split_positions
from .probe import probe_spectrum, shift_spectrum

__all__ = ['ScanReader', 'ScanSource']


class ScanReader:
    """Gives patterns, shifted probes and windows of a scan by index.

    The canvas is the smallest box that holds every window; `origin` is its first pixel on the
    object grid.
    """

    def __init__(
        self,
        scan: Scan,
        *,
        device: torch.device | None = None,
        num_probe_modes: int = 0,
        piece_bytes: int = 2**24,
    ) -> None:
        self.scan = scan
        self._total_counts: float | None = None
        self.device = device or torch.device('cpu')
        probe, self.calibration = calibrate_probe(scan)
        if num_probe_modes and num_probe_modes < len(probe):
            power = float((numpy.abs(probe) ** 2).sum())
            probe = probe[:num_probe_modes]
            probe = probe * numpy.sqrt(power / float((numpy.abs(probe) ** 2).sum()))
        self.probe: Complex[Tensor, 'mode height width'] = torch.from_numpy(
            numpy.ascontiguousarray(probe, dtype=numpy.complex64)
        ).to(self.device)
        corners, shifts = split_positions(scan.positions_px, scan.pattern_shape)
        self.origin = corners.min(axis=0)
        self.corners = torch.from_numpy(corners - self.origin)
        self.shifts = torch.from_numpy(shifts)
        extent = (corners - self.origin).max(axis=0) + numpy.asarray(scan.pattern_shape)
        self.canvas_shape = (1, int(extent[0]), int(extent[1]))
        self.window = scan.pattern_shape
        good = numpy.fft.ifftshift(scan.good_pixels)
        self.good_pixels: Bool[Tensor, 'height width'] | None = (
            None if good.all() else torch.from_numpy(good).to(self.device)
        )
        frame = self.window[0] * self.window[1] * (8 + 16 * len(probe))
        self.piece_size = int(max(1, min(4096, piece_bytes // frame)))

    @property
    def num_patterns(self) -> int:
        """N, the number of patterns."""
        return self.scan.num_patterns

    def counts(self, indices: NDArray[numpy.int64]) -> Float[Tensor, 'pattern height width']:
        """Returns counts in corner order, float32, bad pixels zero."""
        raw = numpy.asarray(self.scan.patterns[indices])
        # two rolls of half the size are an ifftshift of even patterns; slices are faster
        height, width = self.window
        half_y, half_x = height // 2, width // 2
        values = numpy.empty(raw.shape, dtype=numpy.float32)
        values[:, : height - half_y, : width - half_x] = raw[:, half_y:, half_x:]
        values[:, : height - half_y, width - half_x :] = raw[:, half_y:, :half_x]
        values[:, height - half_y :, : width - half_x] = raw[:, :half_y, half_x:]
        values[:, height - half_y :, width - half_x :] = raw[:, :half_y, :half_x]
        counts = torch.from_numpy(values).to(self.device)
        return counts if self.good_pixels is None else counts * self.good_pixels

    def counts_of(self, indices: Tensor) -> Float[Tensor, 'pattern height width']:
        """Returns counts in corner order by a tensor of indices."""
        return self.counts(indices.numpy())

    def split(self, indices: NDArray[numpy.int64]) -> Iterator[NDArray[numpy.int64]]:
        """Yields `indices` in parts that fit the memory budget."""
        for first in range(0, len(indices), self.piece_size):
            yield indices[first : first + self.piece_size]

    def total_counts(self) -> float:
        """Returns the sum of all counts over good pixels; they are added up once."""
        if self._total_counts is not None:
            return self._total_counts
        total = 0.0
        for part in self.split(numpy.arange(self.num_patterns)):
            raw = numpy.asarray(self.scan.patterns[part[0] : part[-1] + 1])
            sums = raw.sum(axis=0, dtype=numpy.float64)
            total += float(sums[self.scan.good_pixels].sum())
        self._total_counts = total
        return total


class ScanSource:
    """A whole scan as one group, for the unrolled network (see `PatternSource`)."""

    def __init__(self, reader: ScanReader, num_subsets: int, indices: NDArray[numpy.int64]) -> None:
        self.reader = reader
        self.indices = indices
        self.num_subsets = max(1, min(num_subsets, len(indices)))
        self.canvas_shape = reader.canvas_shape
        power = float((reader.probe.real.square() + reader.probe.imag.square()).sum())
        mean = reader.total_counts() / max(1, reader.num_patterns)
        self.scale = torch.tensor([max(mean, 1.0) / power], device=reader.device).sqrt()
        corners = reader.corners[torch.from_numpy(indices)]
        rows = torch.zeros(len(indices), dtype=torch.int64)
        self._numbers = subset_numbers(rows, corners, self.num_subsets).numpy()
        self._spectrum = probe_spectrum(reader.probe * self.scale)

    def pieces(self, subset: int) -> Iterator[Piece]:
        """Yields the subset in parts that fit the memory budget."""
        for part in self.reader.split(self.indices[self._numbers == subset]):
            yield self._prepare(part)

    def _prepare(self, part: NDArray[numpy.int64]) -> Piece:
        reader = self.reader
        which = torch.from_numpy(part)
        return Piece(
            rows=torch.zeros(len(part), dtype=torch.int64, device=reader.device),
            corners=reader.corners[which].to(reader.device),
            probe=shift_spectrum(self._spectrum, reader.shifts[which].to(reader.device)),
            roots=torch.sqrt(reader.counts(part) + COUNT_FLOOR),
            good_pixels=reader.good_pixels,
        )
