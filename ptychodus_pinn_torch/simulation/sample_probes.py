"""Probes for simulated scans: a defocused disc, a zone plate, a mirror pair, with modes."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy
from numpy.typing import NDArray

__all__ = ['PROBE_KINDS', 'ProbeKind', 'make_probe']

ProbeKind = Literal['disk', 'fzp', 'kb']
PROBE_KINDS: tuple[str, ...] = get_args(ProbeKind)

_MODE_DECAY = 0.25


def make_probe(
    kind: ProbeKind,
    size: int,
    *,
    num_modes: int,
    photons: float,
    pixel_size_m: float,
    wavelength_m: float,
) -> NDArray[numpy.complex64]:
    """Returns modes (P, N, N), brightest first, with `sum |P|**2` equal to `photons`.

    Every kind has an rms radius of about 0.16 N, so that a step of N / 16 is an overlap of 80 %.
    """
    if kind == 'disk':
        array = _soft_disk(size)
    elif kind == 'fzp':
        array = _zone_plate(size, pixel_size_m, wavelength_m)
    else:
        array = _mirror_pair(size, pixel_size_m, wavelength_m)
    modes = _add_modes(array, num_modes, pixel_size_m)
    modes *= numpy.sqrt(photons / numpy.sum(numpy.abs(modes) ** 2))
    return modes.astype(numpy.complex64)


def _soft_disk(size: int) -> NDArray[Any]:
    unit = size / 64.0
    axis = numpy.arange(size) - (size - 1.0) / 2.0
    radius = numpy.hypot(axis[:, None], axis[None, :])
    disk = 1.0 / (1.0 + numpy.exp((radius - 9.3 * unit) / (1.5 * unit)))
    # A defocused beam is curved: 4.5 rad at 13 px, a few depths of focus away.
    disk = disk * numpy.exp(4.5j * (radius / (13.0 * unit)) ** 2)
    frequency = numpy.fft.fftfreq(size)
    squared = frequency[:, None] ** 2 + frequency[None, :] ** 2
    # Free space over a distance z: exp(-i pi lambda z f^2), in pixels (Goodman 2005, eq. 3-74).
    propagator = numpy.exp(-1j * numpy.pi * 60.0 * unit**2 * squared)
    return numpy.fft.ifft2(numpy.fft.fft2(disk) * propagator)


def _geometry(size: int, pixel_size_m: float) -> Any:
    from ptychodus.api.probe import ProbeGeometry

    return ProbeGeometry(size, size, pixel_size_m, pixel_size_m)


def _zone_plate(size: int, pixel_size_m: float, wavelength_m: float) -> NDArray[Any]:
    from ptychodus.api.simulate.probe import FresnelZonePlate, generate_fresnel_zone_plate_probe

    zone_m = 3.0 * pixel_size_m
    zone_plate = FresnelZonePlate(
        zone_plate_diameter_m=1e-4,
        outermost_zone_width_m=zone_m,
        central_beamstop_diameter_m=4e-5,
    )
    # Behind the focus the beam opens by wavelength / (2 zone) on either side.
    defocus_m = 0.2 * size * pixel_size_m * 2.0 * zone_m / wavelength_m
    probe = generate_fresnel_zone_plate_probe(
        _geometry(size, pixel_size_m),
        zone_plate,
        photon_wavelength_m=wavelength_m,
        defocus_distance_m=defocus_m,
    )
    return probe.get_array()[0]


def _mirror_pair(size: int, pixel_size_m: float, wavelength_m: float) -> NDArray[Any]:
    from ptychodus.api.simulate.probe import (
        KirkpatrickBaezMirror,
        KirkpatrickBaezMirrorPair,
        generate_kb_mirror_probe,
    )

    aperture = wavelength_m / (2.0 * 4.0 * pixel_size_m)
    horizontal, vertical = (
        KirkpatrickBaezMirror.from_numerical_aperture(
            aperture, focus_distance_m=distance_m, grazing_angle_rad=3e-3
        )
        for distance_m in (0.1, 0.2)
    )
    half_width_m = 0.17 * size * pixel_size_m
    probe = generate_kb_mirror_probe(
        _geometry(size, pixel_size_m),
        KirkpatrickBaezMirrorPair(horizontal=horizontal, vertical=vertical),
        photon_wavelength_m=wavelength_m,
        defocus_distance_m=half_width_m / aperture,
    )
    return probe.get_array()[0]


def _add_modes(array: NDArray[Any], num_modes: int, pixel_size_m: float) -> NDArray[Any]:
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.probe import Probe
    from ptychodus.api.simulate.probe import (
        ProbeModeDecayType,
        ProbeMomentPolynomialStrategy,
        generate_incoherent_probe_modes,
    )

    probe = Probe(array.astype(complex), PixelGeometry(pixel_size_m, pixel_size_m))
    if num_modes > 1:
        strategy = ProbeMomentPolynomialStrategy(
            decay_type=ProbeModeDecayType.EXPONENTIAL, decay_ratio=_MODE_DECAY
        )
        probe = generate_incoherent_probe_modes(probe, num_modes, strategy=strategy)
    modes: NDArray[Any] = numpy.array(probe.get_array(), dtype=complex)
    powers = numpy.sum(numpy.abs(modes) ** 2, axis=(1, 2))
    return modes[numpy.argsort(-powers, kind='stable')]
