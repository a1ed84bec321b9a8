"""Probes for simulated scans: a defocused disc, a zone plate, a mirror pair, with modes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy
from numpy.typing import NDArray

from .beams import focus_beam, normalize_power, paint_disk

__all__ = ['PROBE_KINDS', 'ProbeKind', 'make_probe']

ProbeKind = Literal['disk', 'fzp', 'kb']
PROBE_KINDS: tuple[str, ...] = get_args(ProbeKind)

_MODE_DECAY = 0.25


def make_probe(
    kind: ProbeKind, size: int, *, num_modes: int, photons: float
) -> NDArray[numpy.complex64]:
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
