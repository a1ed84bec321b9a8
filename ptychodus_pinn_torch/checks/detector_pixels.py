"""Finds detector pixels that the bad-pixel mask should name but does not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

from ..scan.scan import Scan

__all__ = ['SuspiciousPixels', 'find_suspicious_pixels']

_MAX_PATTERNS = 256
_NEIGHBOURHOOD_PX = 5
_MIN_NEIGHBOUR_COUNTS = 50.0
_HOT_FACTOR = 20.0
_SMOOTH_RADIUS = 1.0 / 16.0


@dataclass(frozen=True)
class SuspiciousPixels:
    """Pixels (k, 2) as (y, x) that are good by the mask but hardly so by their counts.

    Attributes:
        dead: Never counted anything where their neighbours did.
        hot: Far above their neighbours, away from the direct beam.
        num_saturated: Counts at the largest value of the data type.
    """

    dead: NDArray[numpy.int64]
    hot: NDArray[numpy.int64]
    num_saturated: int


def find_suspicious_pixels(scan: Scan) -> SuspiciousPixels:
    """Returns dead, hot and saturated pixels, judged by evenly spread patterns."""
    step = max(1, scan.num_patterns // _MAX_PATTERNS)
    sample = numpy.asarray(scan.patterns[::step])
    good = scan.good_pixels
    total = sample.sum(axis=0, dtype=numpy.float64) * good
    # Bad pixels count nothing and would drag a median down: fill them from around first.
    around = ndimage.median_filter(_fill(total, good), _NEIGHBOURHOOD_PX, mode='nearest')
    dead = good & (total == 0.0) & (around > _MIN_NEIGHBOUR_COUNTS)
    y, x = numpy.indices(total.shape)
    middle = ndimage.center_of_mass(total) if total.any() else (0.0, 0.0)
    is_beam = numpy.hypot(y - middle[0], x - middle[1]) < _SMOOTH_RADIUS * total.shape[0] + 1.0
    floor = _HOT_FACTOR * (around + 1.0) + 10.0 * numpy.sqrt(around + 1.0)
    hot = good & ~is_beam & (total > floor) & (total > 2.0 * len(sample))
    return SuspiciousPixels(
        numpy.argwhere(dead), numpy.argwhere(hot), _count_saturated(sample, good)
    )


def _fill(total: NDArray[Any], good: NDArray[numpy.bool_]) -> NDArray[Any]:
    if good.all():
        return total
    _, nearest = ndimage.distance_transform_edt(~good, return_indices=True)
    filled: NDArray[Any] = total[tuple(nearest)]
    return filled


def _count_saturated(sample: NDArray[Any], good: NDArray[numpy.bool_]) -> int:
    if sample.dtype.kind not in 'iu':
        return 0
    limit = numpy.iinfo(sample.dtype).max
    return int(numpy.count_nonzero(sample[:, good] == limit))
