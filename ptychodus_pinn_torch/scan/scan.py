"""A scan: counts, positions, probe and object on one grid, in the package's conventions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .findings import Finding
from .probe_variation import ProbeVariation

__all__ = ['Scan', 'fingerprint', 'split_positions']


@dataclass(frozen=True)
class Scan:
    """A measured or simulated ptychographic scan.

    Convention: arrays are (..., H, W), coordinates (y, x). A position is the centre of a
    pattern's window in object pixels; the window's corner is `position - (N - 1) / 2`
    (Ptychodus' centred-pixel mapping).

    Attributes:
        name: What to call the scan in messages.
        patterns: Counts (N, H, W) in the dtype of the file, zero frequency at [H//2, W//2];
            read only, often a memory map.
        positions_px: Probe centres (N, 2) in object pixels, float64.
        probe: Modes (P, H, W), complex64, brightest first, in the calibration of the file.
        object_: The object that came with the scan (Y, X), complex64; flat when there was none.
        good_pixels: (H, W), True where the detector can be trusted.
        pixel_size_m: Height and width of an object pixel in metres, or None.
        truth: The object that made the scan (Y, X), if it was simulated.
        has_object: Whether `object_` came from the file and is not flat.
        metadata: Ptychodus' product metadata by name (`photon_energy_eV`, ...), what is known.
        source: The file or folder it was read from.
        probe_variation: How the first mode of the probe varies from pattern to pattern, or None.
        findings: What was found and decided when it was read.
        left_out: By the reason, the numbers of patterns that cannot be used, whatever they hold.
        saturation: Counts from which on the detector cannot be trusted.
    """

    name: str
    patterns: NDArray[Any]
    positions_px: NDArray[numpy.float64]
    probe: NDArray[numpy.complex64]
    object_: NDArray[numpy.complex64]
    good_pixels: NDArray[numpy.bool_]
    pixel_size_m: tuple[float, float] | None = None
    object_center_m: tuple[float, float] = (0.0, 0.0)
    truth: NDArray[numpy.complex64] | None = None
    has_object: bool = False
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None
    probe_variation: ProbeVariation | None = None
    findings: tuple[Finding, ...] = ()
    left_out: Mapping[str, NDArray[numpy.int64]] = field(default_factory=dict)
    saturation: float = numpy.inf

    @property
    def num_patterns(self) -> int:
        """N, the number of patterns."""
        return int(self.patterns.shape[0])

    @property
    def pattern_shape(self) -> tuple[int, int]:
        """(H, W) of a pattern."""
        return int(self.patterns.shape[-2]), int(self.patterns.shape[-1])

    @property
    def num_modes(self) -> int:
        """P, the number of probe modes."""
        return int(self.probe.shape[0])

    def select(self, indices: NDArray[Any]) -> Scan:
        """Returns the scan restricted to some patterns, in the order of `indices`."""
        variation = self.probe_variation
        return replace(
            self,
            patterns=self.patterns[indices],
            positions_px=self.positions_px[indices],
            probe_variation=None if variation is None else variation.select(indices),
            left_out={
                why: numpy.flatnonzero(numpy.isin(indices, frames))
                for why, frames in self.left_out.items()
            },
        )

    def frames(self) -> NDArray[numpy.int64]:
        """Returns the numbers of the patterns that are not left out."""
        everything = numpy.arange(self.num_patterns)
        out = list(self.left_out.values())
        return numpy.setdiff1d(everything, numpy.concatenate(out)) if out else everything

    def mean_counts(self) -> float:
        """Returns the mean counts per pattern over good pixels, from evenly spread patterns."""
        frames = self.frames()
        sample = numpy.asarray(self.patterns[frames[:: max(1, len(frames) // 256)]])
        return float(sample[:, self.good_pixels].sum(axis=-1, dtype=numpy.float64).mean())


def split_positions(
    positions_px: NDArray[numpy.float64], pattern_shape: tuple[int, int]
) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
    """Returns integer window corners (N, 2) and the sub-pixel rest (N, 2) in [-0.5, 0.5].

    Convention: (y, x). The window starts at the corner; the rest moves the probe inside it.
    """
    exact = positions_px - (numpy.asarray(pattern_shape, dtype=numpy.float64) - 1.0) / 2.0
    corners = numpy.floor(exact + 0.5)
    return corners.astype(numpy.int64), exact - corners


def fingerprint(scan: Scan) -> str:
    """Returns a text that is the same for the same counts, in whatever file and type they are.

    Positions, probe and object may change without making another measurement of it.
    """
    digest = hashlib.sha256(repr(tuple(scan.patterns.shape)).encode())
    chosen = numpy.unique(numpy.linspace(0, scan.num_patterns - 1, 16).astype(int))
    for index in chosen:
        counts = numpy.asarray(scan.patterns[index], dtype=numpy.float64)
        digest.update(numpy.ascontiguousarray(counts * scan.good_pixels).tobytes())
    return digest.hexdigest()[:32]
