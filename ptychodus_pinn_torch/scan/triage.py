"""Frames and single pixels that are not what the others are: empty, glaring, hit by a particle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .pattern_store import block_slices
from .scan import Scan

__all__ = ['Triage', 'examine_frames', 'name_frames']

NUM_NEIGHBOURS = 8
EMPTY, GLARING, SPIKE = 0.02, 2.5, 3.0
"""Counts of a frame, and of its brightest pixel, over those of its neighbours."""

ABOVE_ALL = 1.5
"""A glaring frame or pixel is that much brighter than nearly all others as well."""

MOST_GLARING = 0.1
"""Where more frames than this part are glaring, the beam flickers, and nothing is wrong."""


@dataclass(frozen=True)
class Triage:
    """What must not be believed.

    Attributes:
        empty: Numbers of frames (n,) without counts.
        glaring: Of those that are far brighter than their neighbours.
        spikes: (n, 3) frame, row and column of single pixels that are.
        brightest: Counts of the brightest frame of the others, over good pixels.
        total: Counts of all others together, spikes included.
    """

    empty: NDArray[numpy.int64]
    glaring: NDArray[numpy.int64]
    spikes: NDArray[numpy.int64]
    brightest: float
    total: float

    def kept(self, num_patterns: int) -> NDArray[numpy.int64]:
        """Returns the numbers of all other frames."""
        left_out = numpy.concatenate([self.empty, self.glaring])
        return numpy.setdiff1d(numpy.arange(num_patterns), left_out)

    def describe(self) -> str:
        """Returns how many frames and pixels, and which frames, in words; or nothing."""
        found = []
        for what, frames in (('empty', self.empty), ('far too bright', self.glaring)):
            if len(frames):
                verb = 'frame is' if len(frames) == 1 else 'frames are'
                found.append(f'{len(frames)} {verb} {what} ({name_frames(frames)})')
        if len(self.spikes):
            verb = 'pixel spikes' if len(self.spikes) == 1 else 'pixels spike'
            shown = name_frames(numpy.unique(self.spikes[:, 0]))
            found.append(f'{len(self.spikes)} {verb} in single frames ({shown})')
        return ', '.join(found)

    def sentence(self) -> str:
        """Returns what is left out, or nothing."""
        found = self.describe()
        return f'{found}: they are left out.' if found else ''


def name_frames(frames: NDArray[numpy.int64]) -> str:
    """Returns the first numbers of some frames (n,), for a sentence."""
    shown = ', '.join(str(frame) for frame in frames[:8])
    noun = 'number' if len(frames) == 1 else 'numbers'
    return f'{noun} {shown}{", ..." if len(frames) > 8 else ""}'


def examine_frames(scan: Scan) -> Triage:
    """Returns which frames and pixels of a scan are not like their neighbours; reads it once."""
    totals, peaks, places = _measure(scan)
    nothing = numpy.empty(0, dtype=numpy.int64)
    if scan.num_patterns <= NUM_NEIGHBOURS:
        spikes, brightest = nothing.reshape(0, 3), float(totals.max(initial=0.0))
        return Triage(nothing, nothing, spikes, brightest, float(totals.sum()))
    _, near = KDTree(scan.positions_px).query(scan.positions_px, k=NUM_NEIGHBOURS + 1)
    around = numpy.median(totals[near[:, 1:]], axis=1)
    usual_peak = numpy.median(peaks[near[:, 1:]], axis=1)
    is_spike = (peaks > SPIKE * numpy.maximum(usual_peak, 1.0) + 10.0) & (
        peaks > ABOVE_ALL * numpy.quantile(peaks, 0.95)
    )
    # without its brightest pixel, a frame with a spike is like its neighbours
    is_spike &= totals - peaks < GLARING * around
    rest = totals - numpy.where(is_spike, peaks, 0.0)
    is_empty = rest < EMPTY * around
    is_glaring = (rest > GLARING * around) & (rest > ABOVE_ALL * numpy.quantile(rest, 0.95))
    if is_glaring.mean() > MOST_GLARING:
        is_glaring[:] = False
    hit = numpy.flatnonzero(is_spike & ~is_empty & ~is_glaring)
    y, x = numpy.divmod(places[hit], scan.pattern_shape[1])
    is_well = ~(is_empty | is_glaring)
    return Triage(
        numpy.flatnonzero(is_empty),
        numpy.flatnonzero(is_glaring),
        numpy.stack([hit, y, x], axis=1),
        float(rest[is_well].max(initial=0.0)),
        float(totals[is_well].sum()),
    )


def _measure(
    scan: Scan,
) -> tuple[NDArray[numpy.float64], NDArray[numpy.float64], NDArray[numpy.int64]]:
    """Returns counts over good pixels, the most in a pixel, and where, of each frame (N,)."""
    totals = numpy.zeros(scan.num_patterns)
    peaks, places = numpy.zeros(scan.num_patterns), numpy.zeros(scan.num_patterns, numpy.int64)
    has_bad = not scan.good_pixels.all()
    for rows in block_slices(scan.num_patterns, scan.patterns[0].nbytes):
        counts = numpy.asarray(scan.patterns[rows])
        if has_bad:
            counts = counts * scan.good_pixels
        flat = counts.reshape(len(counts), -1)
        totals[rows] = flat.sum(axis=1, dtype=numpy.float64)
        places[rows] = flat.argmax(axis=1)
        peaks[rows] = numpy.take_along_axis(flat, places[rows, None], axis=1)[:, 0]
    return totals, peaks, places
