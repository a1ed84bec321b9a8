"""Probes (..., N, N): soft discs and focused beams, and the kinds that `simulate` knows."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = [
    'PROBE_KINDS',
    'focus_beam',
    'make_probe',
    'normalize_power',
    'paint_disk',
    'rms_radius_px',
]

ComplexArray = NDArray[numpy.complex128]

PROBE_KINDS = ('disk', 'fzp', 'kb')

_MODE_DECAY = 0.25


def _soft_step(depth: NDArray[Any]) -> NDArray[Any]:
    return 1.0 / (1.0 + numpy.exp(-depth))


def paint_disk(
    size: int, *, radius_px: float, edge_px: float, bend_rad: float = 0.0, stretch: float = 1.0
) -> ComplexArray:
    """Returns a disc (N, N) about the middle with a soft edge, as of a beam cut by a pinhole.

    At the radius, the amplitude is a half and the phase of the curved wave front `bend_rad`.
    `stretch` is the square of the ratio of the axes, x to y.
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


def make_probe(kind: str, size: int, *, num_modes: int, photons: float) -> NDArray[numpy.complex64]:
    """Returns modes (P, N, N), brightest first, with `sum |P|**2` equal to `photons`.

    disk: behind a pinhole; fzp: behind the focus of a zone plate of three-pixel zones with a
    central stop; kb: behind the focus of a pair of mirrors. Every kind has an rms radius of about
    0.16 N, so that a step of N / 16 is an overlap of 80 %.
    """
    if kind == 'disk':
        mode = _propagated_disk(size)
    elif kind == 'fzp':
        mode = focus_beam(size, aperture=1 / 6, stop=1 / 15, edge=0.003, spread_px=0.2 * size)
    else:
        mode = focus_beam(size, aperture=(1 / 8, 1 / 8), edge=0.003, spread_px=0.17 * size)
    return normalize_power(_add_modes(mode, num_modes), photons).astype(numpy.complex64)


def _propagated_disk(size: int) -> NDArray[Any]:
    unit = size / 64.0
    # A defocused beam is curved: 4.5 rad at 13 px, a few depths of focus away.
    bend_rad = 4.5 * (9.3 / 13.0) ** 2
    disk = paint_disk(size, radius_px=9.3 * unit, edge_px=1.5 * unit, bend_rad=bend_rad)
    frequency = numpy.fft.fftfreq(size)
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    # Free space over a distance z: exp(-i pi lambda z f^2), in pixels (Goodman 2005, eq. 3-74).
    propagator = numpy.exp(-1j * numpy.pi * 60.0 * unit**2 * squared)
    return numpy.fft.ifft2(numpy.fft.fft2(disk) * propagator)


def _add_modes(main: NDArray[Any], num_modes: int) -> NDArray[Any]:
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.probe import Probe
    from ptychodus.api.simulate.probe import (
        ProbeModeDecayType,
        ProbeMomentPolynomialStrategy,
        generate_incoherent_probe_modes,
    )

    probe = Probe(main.astype(complex), PixelGeometry(1e-8, 1e-8))
    if num_modes > 1:
        strategy = ProbeMomentPolynomialStrategy(
            decay_type=ProbeModeDecayType.EXPONENTIAL, decay_ratio=_MODE_DECAY
        )
        probe = generate_incoherent_probe_modes(probe, num_modes, strategy=strategy)
    modes: NDArray[Any] = numpy.array(probe.get_array(), dtype=complex)
    powers = numpy.sum(numpy.abs(modes) ** 2, axis=(1, 2))
    return modes[numpy.argsort(-powers, kind='stable')]
