"""Painters of probes (N, N): soft discs and focused beams, in pixels of the sample plane."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = ['focus_beam', 'normalize_power', 'paint_disk', 'rms_radius_px']

ComplexArray = NDArray[numpy.complex128]


def _soft_step(depth: NDArray[Any]) -> NDArray[Any]:
    return 1.0 / (1.0 + numpy.exp(-depth))


def paint_disk(
    size: int, *, radius_px: float, edge_px: float, bend_rad: float = 0.0, stretch: float = 1.0
) -> ComplexArray:
    """Returns a disc about the middle with a soft edge, as of a beam cut by a pinhole.

    Args:
        size: N.
        radius_px: Where the amplitude is a half.
        edge_px: Over which it falls.
        bend_rad: Phase of the curved wave front at that radius.
        stretch: Square of the ratio of the axes, x to y.
    """
    axis = numpy.arange(size) - (size - 1.0) / 2.0
    squared = axis[:, None] ** 2 * stretch + axis**2 / stretch
    disk = _soft_step((radius_px - numpy.sqrt(squared)) / edge_px)
    return disk * numpy.exp(1j * bend_rad * squared / radius_px**2)


def focus_beam(
    size: int,
    *,
    aperture: float | tuple[float, float],
    edge: float,
    stop: float = 0.0,
    spread_px: float = 0.0,
    astigmatism: float = 0.0,
    coma: float = 0.0,
    angle_rad: float = 0.0,
) -> ComplexArray:
    """Returns the beam of a lens near its focus, from its pupil (Goodman 2005, chapter 6).

    Args:
        size: N.
        aperture: Radius of a round pupil, as of a zone plate, or half height and half width of a
            rectangular one, as of a pair of mirrors; cycles per pixel.
        edge: Over which the pupil falls.
        stop: Radius of a central stop in the pupil.
        spread_px: How far defocus moves the rays of the rim; the sign says before or behind.
        astigmatism: Part of the defocus that acts along one axis only.
        coma: Phase at the rim, in rad.
        angle_rad: Of the axis of astigmatism and coma.
    """
    axis = numpy.fft.fftfreq(size)
    fy, fx = axis[:, None], axis[None, :]
    squared = fy**2 + fx**2
    if isinstance(aperture, tuple):
        outer = max(aperture)
        pupil = _soft_step((aperture[0] - numpy.abs(fy)) / edge)
        pupil = pupil * _soft_step((aperture[1] - numpy.abs(fx)) / edge)
    else:
        outer = aperture
        pupil = _soft_step((outer - numpy.sqrt(squared)) / edge)
    if stop > 0.0:
        pupil = pupil * _soft_step((numpy.sqrt(squared) - stop) / edge)
    turned = numpy.cos(angle_rad) * fy + numpy.sin(angle_rad) * fx
    curvature = spread_px / outer
    phase = numpy.pi * curvature * (squared + astigmatism * turned**2)
    phase = phase + coma / outer**3 * squared * turned
    return numpy.fft.fftshift(numpy.fft.ifft2(pupil * numpy.exp(1j * phase)))


def normalize_power(probe: NDArray[Any], photons: float = 1.0) -> NDArray[Any]:
    """Returns the probe with `sum |P|**2` equal to `photons`."""
    return probe * numpy.sqrt(photons / numpy.sum(numpy.abs(probe) ** 2))


def rms_radius_px(mode: NDArray[Any]) -> float:
    """Returns the root-mean-square distance of the power of a mode (N, N) from its centroid."""
    power = numpy.abs(mode) ** 2
    y, x = (numpy.arange(length) for length in power.shape)
    rows, columns = power.sum(axis=1) / power.sum(), power.sum(axis=0) / power.sum()
    variance_y = (rows * y**2).sum() - (rows * y).sum() ** 2
    variance_x = (columns * x**2).sum() - (columns * x).sum() ** 2
    return float(numpy.sqrt(variance_y + variance_x))
