"""The Fourier ring correlation of two images, on areas of any shape."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ['find_crossing', 'ring_correlation']

_TAPER_FRACTION = 0.1


def ring_correlation(
    test: NDArray[Any], reference: NDArray[Any], area: NDArray[numpy.bool_], pixel_m: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns ring frequencies as fractions of Nyquist, and the correlation on them.

    Both images are (Y, X), pixels (y, x) in metres. The area is tapered to zero at its own border, so its shape does not correlate. Rings on which
    the image has nothing at all count as uncorrelated.
    """

    from ptychodus.api.metrics import compute_fourier_ring_correlation

    width_px = max(2.0, _TAPER_FRACTION * min(area.shape))
    depth_px = ndimage.distance_transform_edt(numpy.pad(area, 1))[1:-1, 1:-1]
    window = numpy.sin(numpy.pi / 2.0 * numpy.clip(depth_px / width_px, 0.0, 1.0)) ** 2
    curve = compute_fourier_ring_correlation(
        reference, test, float(pixel_m[1]), float(pixel_m[0]), window=window, workers=1
    )
    nyquist_per_m = 0.5 / float(pixel_m.max())
    correlation = numpy.nan_to_num(curve.correlation, nan=0.0)
    return curve.spatial_frequency_per_m[1:] / nyquist_per_m, correlation[1:]


def find_crossing(frequency: NDArray[Any], correlation: NDArray[Any]) -> float:
    """Returns where a correlation (J,) first falls below one half; 1.0 where it never does."""
    below = numpy.flatnonzero(correlation < 0.5)
    if below.size == 0:
        return 1.0
    first = int(below[0])
    if first == 0:
        return float(frequency[0])
    high, low = correlation[first - 1], correlation[first]
    part = (high - 0.5) / (high - low)
    return float(frequency[first - 1] + part * (frequency[first] - frequency[first - 1]))
