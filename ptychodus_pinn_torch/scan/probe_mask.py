"""A probe that is dark outside of a disk."""

from __future__ import annotations

from dataclasses import replace

import numpy
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from .scan import Scan

__all__ = ['disk_mask', 'mask_probe']

EDGE_PX = 1.0
"""Standard deviation of the Gaussian that softens the edge."""


def disk_mask(
    shape: tuple[int, int], diameter_px: float
) -> Float[NDArray[numpy.float64], 'height width']:
    """Returns a soft disk (H, W) between 0 and 1 in the middle of a pattern, as PtychoPINN has it.

    Pixel k lies at `k - N // 2 + 1/2`; the edge is that of a Gaussian cut off after three
    deviations.
    """
    y, x = (numpy.arange(number) - number // 2 + 0.5 for number in shape)
    inside = (numpy.hypot(y[:, None], x) < diameter_px / 2.0).astype(numpy.float64)
    radius = int(numpy.ceil(3.0 * EDGE_PX))
    soft = gaussian_filter(inside, EDGE_PX, mode='constant', radius=radius)
    return numpy.clip(soft / max(float(soft.max()), 1e-12), 0.0, 1.0)


def mask_probe(scan: Scan, diameter_px: float) -> Scan:
    """Returns the scan with a probe that is dark outside of a disk; 0 px leaves it as it is."""
    if not diameter_px:
        return scan
    mask = disk_mask(scan.pattern_shape, diameter_px).astype(numpy.float32)
    varying = scan.probe_variation
    if varying is not None:
        varying = replace(varying, modes=varying.modes * mask)
    return replace(scan, probe=scan.probe * mask, probe_variation=varying)
