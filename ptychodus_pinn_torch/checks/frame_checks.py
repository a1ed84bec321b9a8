"""Examines what the detector recorded: counts, frames unlike their neighbours, bad pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

from ..scan.pattern_store import block_slices
from ..scan.scan import Scan
from ..scan.triage import Triage, examine_frames, name_frames
from .findings import Finding, found_error, found_ok, found_warning

__all__ = ['Frames', 'examine_counts', 'examine_pixels', 'sort_frames']

_MIN_COUNTS = 200.0
_MAX_PATTERNS = 256
_NEIGHBOURHOOD_PX = 5
_MIN_NEIGHBOUR_COUNTS = 50.0
_HOT_FACTOR = 20.0
_BEAM_RADIUS = 1.0 / 16.0


@dataclass(frozen=True)
class Frames:
    """Which frames of a scan can be believed.

    Attributes:
        scan: As read.
        triage: Of frames and pixels that are not like their neighbours.
        dark: (n,) numbers of further frames that hold no counts at all.
        broken: (n,) numbers of frames with counts that are not finite; if any, all else is empty.
    """

    scan: Scan
    triage: Triage
    dark: NDArray[numpy.int64]
    broken: NDArray[numpy.int64]

    def kept(self) -> NDArray[numpy.int64]:
        """Returns the numbers (J,) of the frames that can be believed."""
        return numpy.setdiff1d(self.triage.kept(self.scan.num_patterns), self.dark)

    def take(self, frames: NDArray[numpy.int64]) -> Scan:
        """Returns the scan of some frames (J,), in memory, zero where a single pixel spiked."""
        part = self.scan.select(frames)
        frame, y, x = self.triage.spikes.T
        row, of_spike = numpy.nonzero(frames[:, None] == frame)
        if not len(row):
            return part
        patterns = numpy.array(part.patterns)
        patterns[row, y[of_spike], x[of_spike]] = 0
        return replace(part, patterns=patterns)

    def sample(self) -> NDArray[Any]:
        """Returns patterns (n, H, W) that are spread evenly over those that can be believed."""
        kept = self.kept()
        return numpy.asarray(self.take(kept[:: max(1, len(kept) // _MAX_PATTERNS)]).patterns)


def sort_frames(scan: Scan) -> Frames:
    """Returns which frames of the scan can be believed; reads it twice."""
    broken, dark = [], []
    for rows in block_slices(scan.num_patterns, scan.patterns[0].nbytes):
        good = numpy.asarray(scan.patterns[rows])[:, scan.good_pixels]
        dark.append(~(good > 0).any(axis=1))
        is_float = good.dtype.kind == 'f'
        broken.append(~numpy.isfinite(good).all(axis=1) if is_float else numpy.zeros_like(dark[-1]))
    wrong, nothing = numpy.flatnonzero(numpy.concatenate(broken)), numpy.empty(0, numpy.int64)
    if len(wrong):
        triage = Triage(nothing, nothing, nothing.reshape(0, 3), 0.0, 0.0)
        return Frames(scan, triage, nothing, wrong)
    triage = examine_frames(scan)
    further = numpy.setdiff1d(numpy.flatnonzero(numpy.concatenate(dark)), triage.empty)
    return Frames(scan, triage, further, wrong)


def examine_counts(frames: Frames) -> Iterator[Finding]:
    """Yields what is said of brightness, and of frames that are not like the others."""
    scan, triage = frames.scan, frames.triage
    if len(frames.broken):
        yield found_error(
            'counts',
            f'{len(frames.broken)} patterns hold values that are not finite '
            f'({name_frames(frames.broken)}): mask them.',
        )
        return
    if len(frames.dark):
        yield found_warning(
            'frames',
            f'{len(frames.dark)} of {scan.num_patterns} frames hold no counts at all '
            f'({name_frames(frames.dark)}): check the shutter, or leave them out of the file.',
        )
    if triage.describe():
        yield found_warning(
            'frames',
            f'Of {scan.num_patterns} frames, {triage.describe()}: check and reconstruct leave that '
            'out, train does not; take those frames out of the file before it.',
        )
    elif not len(frames.dark):
        yield found_ok('frames', 'No frame is empty or far brighter than its neighbours.')
    if not len(frames.kept()):
        yield found_error('counts', 'No frame can be believed: check shutter and mask.')
        return
    mean = frames.sample()[:, scan.good_pixels].sum(axis=-1, dtype=numpy.float64).mean()
    if mean < _MIN_COUNTS:
        yield found_warning(
            'counts',
            f'The patterns hold {mean:.3g} counts on average, which is very little: if they were '
            'normalised, export counts; if they are amplitudes, say --diffraction-kind amplitude.',
        )
    else:
        yield found_ok('counts', f'The patterns hold {mean:.4g} counts on average.')


def examine_pixels(frames: Frames) -> Iterator[Finding]:
    """Yields what hints at pixels that the mask should name but does not."""
    good, sample = frames.scan.good_pixels, frames.sample()
    is_well = True
    for what, is_suspicious in zip(('dead', 'hot'), _find_dead_and_hot_pixels(sample, good)):
        pixels = numpy.argwhere(is_suspicious)
        if len(pixels):
            y, x = pixels[0]
            is_well = False
            yield found_warning(
                'pixels',
                f'{len(pixels)} detector pixels look {what} but are not in the mask, the first at '
                f'(y {y}, x {x}): mark them as bad.',
            )
    num_saturated = 0
    if sample.dtype.kind in 'iu':
        limit = numpy.iinfo(sample.dtype).max
        num_saturated = int(numpy.count_nonzero(sample[:, good] == limit))
    if num_saturated:
        yield found_warning(
            'pixels',
            f'{num_saturated} counts are at the limit of {sample.dtype}: the detector saturated; '
            'mask those pixels or attenuate the beam.',
        )
    elif is_well:
        masked = int(numpy.count_nonzero(~good))
        yield found_ok('pixels', f'No dead or hot pixels; the mask leaves out {masked} pixels.')


def _find_dead_and_hot_pixels(
    sample: NDArray[Any], good: NDArray[numpy.bool_]
) -> tuple[NDArray[numpy.bool_], NDArray[numpy.bool_]]:
    """Returns (H, W) of what never counted, and of what is far above, unlike its neighbours."""
    total = filled = sample.sum(axis=0, dtype=numpy.float64) * good
    if not good.all():  # bad pixels count nothing and would drag a median down
        _, nearest = ndimage.distance_transform_edt(~good, return_indices=True)
        filled = total[tuple(nearest)]
    around = ndimage.median_filter(filled, _NEIGHBOURHOOD_PX, mode='nearest')
    dead = good & (total == 0.0) & (around > _MIN_NEIGHBOUR_COUNTS)
    y, x = numpy.indices(total.shape)
    middle = ndimage.center_of_mass(total) if total.any() else (0.0, 0.0)
    is_beam = numpy.hypot(y - middle[0], x - middle[1]) < _BEAM_RADIUS * len(total) + 1.0
    floor = _HOT_FACTOR * (around + 1.0) + 10.0 * numpy.sqrt(around + 1.0)
    return dead, good & ~is_beam & (total > floor) & (total > 2.0 * len(sample))
