"""A probe where a file has none: what the mean pattern says of it."""

from __future__ import annotations

from typing import Any

import numpy
from jaxtyping import Bool, Complex, Shaped
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ['estimate_probe']

NUM_FRAMES = 256
"""Frames whose mean is taken."""


def estimate_probe(
    patterns: Shaped[NDArray[Any], 'pattern height width'],
    good_pixels: Bool[NDArray[numpy.bool_], 'height width'],
) -> Complex[NDArray[numpy.complex64], '1 height width']:
    """Returns a probe (1, H, W) in focus whose far field has the amplitude of the mean pattern.

    An object scatters each way as often as the other, so the mean of many patterns is nearly that of
    the empty beam, a little blurred. Its phases, which is to say its defocus, nobody has seen:
    the reconstruction has to find them. Bad pixels have the mean of the nearest good one.

    Args:
        patterns: (N, H, W) counts, zero frequency in the middle.
        good_pixels: (H, W).

    Raises:
        ValueError: the patterns are dark.
    """
    step = max(1, len(patterns) // NUM_FRAMES)
    mean = numpy.asarray(patterns[::step]).mean(axis=0, dtype=numpy.float64)
    if not good_pixels.all():
        _, nearest = ndimage.distance_transform_edt(~good_pixels, return_indices=True)
        mean = mean[tuple(nearest)]
    if not mean.sum() > 0.0:
        raise ValueError('the patterns are dark: no probe can be estimated from them.')
    far_field = numpy.fft.ifftshift(numpy.sqrt(mean))
    probe = numpy.fft.fftshift(numpy.fft.ifft2(far_field, norm='ortho'))
    return probe[None].astype(numpy.complex64)
