"""What is said of brightness and frames, and of pixels, before a long run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy

from ..scan.findings import Finding, found_error, found_ok, found_warning
from ..scan.scan import Scan
from ..scan.triage import Triage

__all__ = ['examine_counts', 'examine_pixels']

_MIN_COUNTS = 200.0

_RIM = 0.3
"""Mean counts at the border of the detector over those of all of it, from which on the patterns do
not end on it: as in the near field, where they are images of the sample, or cut off."""


def examine_counts(scan: Scan, triage: Triage) -> Iterator[Finding]:
    """Yields what is said of brightness, and of frames that are not like the others."""
    if triage.describe():
        yield found_warning(
            'frames', f'Of {scan.num_patterns} frames, {triage.describe()}: left out everywhere.'
        )
    else:
        yield found_ok('frames', 'No frame is empty or far brighter than its neighbours.')
    kept = triage.kept(scan.num_patterns)
    if not len(kept):
        yield found_error('counts', 'No frame can be believed: check shutter and mask.')
        return
    mean = triage.mean
    if mean < _MIN_COUNTS:
        yield found_warning(
            'counts',
            f'The patterns hold {mean:.3g} counts on average, which is very little: if they were '
            'normalised, export counts; if they are amplitudes, say --diffraction-kind amplitude.',
        )
    else:
        yield found_ok('counts', f'The patterns hold {mean:.4g} counts on average.')


def examine_pixels(scan: Scan) -> Iterator[Finding]:
    """Yields what is said of the detector as a whole; single pixels were judged when it was read."""
    masked = int(numpy.count_nonzero(~scan.good_pixels))
    yield found_ok('pixels', f'{masked} of {scan.good_pixels.size} detector pixels are left out.')
    frames = scan.frames()
    sample = numpy.asarray(scan.patterns[frames[:: max(1, len(frames) // 64)]])
    mean = numpy.where(scan.good_pixels, sample.mean(axis=0, dtype=numpy.float64), numpy.nan)
    rim = numpy.concatenate(
        [mean[:2].ravel(), mean[-2:].ravel(), mean[:, :2].ravel(), mean[:, -2:].ravel()]
    )
    if numpy.nanmean(rim) > _RIM * numpy.nanmean(mean):
        yield found_warning(
            'far field',
            'The patterns are bright up to the border of the detector: either they are cut off, or '
            'they were measured in the near field, which this program does not image: it takes '
            'patterns of the far field.',
        )
