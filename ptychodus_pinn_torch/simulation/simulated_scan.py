"""Simulated scans with known truth, from Ptychodus' probes, objects and scan paths."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy
from jaxtyping import Complex
from numpy.random import Generator, default_rng
from numpy.typing import NDArray

from ..scan.io.pattern_store import stage_blocks
from ..scan.scan import Scan
from .reference_model import iter_expected_counts
from .sample_objects import OBJECT_KINDS, make_object
from .sample_probes import PROBE_KINDS, make_probe

__all__ = ['PATH_KINDS', 'SimulationSpec', 'simulate_scan', 'simulate_scans']

PATH_KINDS = ('raster', 'snake', 'spiral', 'concentric', 'lissajous', 'random')

_BORDER_PX = 4
_PLANCK_EV_M = 1.2398419843320026e-06


@dataclass(frozen=True)
class SimulationSpec:
    """What to simulate.

    Attributes:
        pattern_size: N, even, 32 to 512.
        num_positions: Patterns; a raster of this many fills whole rows where it can.
        step_px: Distance of neighbours in object pixels.
        jitter_px: Largest random move of a position, per axis.
        path: The path of the probe over the object.
        object_kind: See `make_object`.
        probe_kind: A defocused disc, a zone plate, or a mirror pair.
        num_modes: Incoherent probe modes.
        photons: Photons in a frame without object.
        has_noise: Whether the counts are Poisson distributed.
        beamstop_px: Radius of a central beamstop on the detector, marked as bad pixels.
        position_error_px: Standard deviation of the error of the positions that are told.
        seed: Of everything; `object_seed`, where given, of object and noise.
    """

    pattern_size: int = 64
    num_positions: int = 400
    step_px: float = 4.0
    jitter_px: float = 1.0
    path: str = 'raster'
    object_kind: str = 'independent'
    probe_kind: str = 'disk'
    num_modes: int = 1
    photons: float = 1e6
    has_noise: bool = True
    beamstop_px: float = 0.0
    position_error_px: float = 0.0
    seed: int = 0
    object_seed: int | None = None
    pixel_size_m: float = 1e-8
    photon_energy_eV: float = 1e4  # noqa: N815
    detector_pixel_m: float = 7.5e-5

    def __post_init__(self) -> None:
        if self.pattern_size % 2 or not 32 <= self.pattern_size <= 512:
            raise ValueError(
                f'pattern size is {self.pattern_size}: an even number from 32 to 512 is needed.'
            )
        for name, choices in (
            ('path', PATH_KINDS),
            ('object_kind', OBJECT_KINDS),
            ('probe_kind', PROBE_KINDS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f'{name} is {getattr(self, name)!r}: choose one of {", ".join(choices)}.'
                )
        for name in ('num_positions', 'num_modes', 'step_px', 'photons', 'pixel_size_m'):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ValueError(f'{name} is {getattr(self, name)}: it must be positive.')
        for name in ('jitter_px', 'beamstop_px', 'position_error_px', 'seed'):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ValueError(f'{name} is {getattr(self, name)}: it must not be negative.')


def simulate_scan(
    spec: SimulationSpec,
    *,
    object_: Complex[NDArray[Any], 'y x'] | None = None,
    probe: Complex[NDArray[Any], 'mode height width'] | None = None,
) -> Scan:
    """Returns the scan that the specification describes; the same one every time.

    Args:
        spec: What to simulate.
        object_: (Y, X) in the place of one of the kinds; the path lies in its middle.
        probe: (P, H, W) in the place of one of the kinds, which gets the photons of the specification.

    Raises:
        ValueError: an object that is too small for the path, a probe of another size than the
            patterns, or one that is zero or not finite.
    """
    object_seed = spec.seed if spec.object_seed is None else spec.object_seed
    object_rng, noise_rng = default_rng([object_seed, 1]), default_rng([object_seed, spec.seed, 2])
    path_rng = default_rng([spec.seed, 3])
    if probe is None:
        probe = make_probe(
            spec.probe_kind, spec.pattern_size, num_modes=spec.num_modes, photons=spec.photons
        )
    else:
        probe = _scaled_probe(probe, spec)
    positions_px, shape = _place(_make_path(path_rng, spec), spec)
    if object_ is None:
        truth, what = make_object(object_rng, spec.object_kind, shape), spec.object_kind
    else:
        truth, what = _checked_object(object_, shape), 'object'
        positions_px = positions_px + (numpy.asarray(truth.shape) - shape) / 2.0
        shape = (truth.shape[0], truth.shape[1])
    good_pixels = _make_mask(spec)
    error_px = path_rng.normal(size=positions_px.shape) * spec.position_error_px
    half_px = (spec.pattern_size - 1.0) / 2.0
    limit_px = numpy.asarray(shape) - 1.0 - half_px
    return Scan(
        name=f'simulated {what}',
        patterns=_expose(noise_rng, spec, truth, probe, positions_px, good_pixels),
        positions_px=numpy.clip(positions_px + error_px, half_px, limit_px),
        probe=probe,
        object_=numpy.ones(shape, dtype=numpy.complex64),
        good_pixels=good_pixels,
        pixel_size_m=(spec.pixel_size_m, spec.pixel_size_m),
        truth=truth,
        metadata={
            'name': f'simulated {what}',
            'photon_energy_eV': spec.photon_energy_eV,
            'detector_distance_m': _detector_distance_m(spec),
            'detector_pixel_m': spec.detector_pixel_m,
            'probe_photon_count': spec.photons,
        },
    )


def _scaled_probe(probe: NDArray[Any], spec: SimulationSpec) -> NDArray[numpy.complex64]:
    size = spec.pattern_size
    if probe.ndim != 3 or probe.shape[1:] != (size, size):
        raise ValueError(
            f'the probe has shape {probe.shape}, but patterns of {size} px want (modes, {size}, {size}).'
        )
    power = float(numpy.sum(numpy.abs(probe.astype(numpy.complex128)) ** 2))
    if not 0.0 < power < math.inf:
        raise ValueError('the probe is zero or not finite: give another one.')
    return (probe * math.sqrt(spec.photons / power)).astype(numpy.complex64)


def _checked_object(object_: NDArray[Any], needed: tuple[int, int]) -> NDArray[numpy.complex64]:
    shape = object_.shape
    if object_.ndim != 2 or shape[0] < needed[0] or shape[1] < needed[1]:
        raise ValueError(
            f'the object has {" x ".join(map(str, shape))} pixels, but the scan wants '
            f'{needed[0]} x {needed[1]}: take fewer positions, smaller steps, or a larger object.'
        )
    if not numpy.isfinite(object_).all() or not numpy.any(object_):
        raise ValueError('the object is zero or not finite: give another one.')
    return object_.astype(numpy.complex64)


def simulate_scans(spec: SimulationSpec, object_seeds: list[int]) -> Iterator[Scan]:
    """Yields scans of different objects under one probe and one path."""
    for object_seed in object_seeds:
        yield simulate_scan(replace(spec, object_seed=object_seed))


def _detector_distance_m(spec: SimulationSpec) -> float:
    wavelength_m = _PLANCK_EV_M / spec.photon_energy_eV
    return spec.pattern_size * spec.pixel_size_m * spec.detector_pixel_m / wavelength_m


def _make_path(rng: Generator, spec: SimulationSpec) -> NDArray[numpy.float64]:
    """Returns positions (n, 2) as (y, x) in object pixels about zero."""
    number, step = spec.num_positions, spec.step_px
    if spec.path == 'random':
        half = 0.5 * step * math.sqrt(number)
        return rng.uniform(-half, half, (number, 2))
    points = _host_path(spec.path, number, step)
    path = numpy.asarray([(point.y_m, point.x_m) for point in points][:number])
    return path + rng.uniform(-1.0, 1.0, path.shape) * spec.jitter_px


def _host_path(path: str, number: int, step: float) -> Iterator[Any]:
    from ptychodus.api.simulate import probe_positions as host

    if path in ('raster', 'snake'):
        rows = max(1, round(math.sqrt(number)))
        columns = math.ceil(number / rows)
        return host.generate_cartesian_probe_positions(
            columns, rows, step, step, snake=path == 'snake'
        )
    if path == 'spiral':
        return host.generate_spiral_probe_positions(number, step / math.sqrt(math.pi))
    if path == 'concentric':
        first = 6
        shells = math.ceil((math.sqrt(1.0 + 8.0 * number / first) - 1.0) / 2.0)
        return host.generate_concentric_probe_positions(step, max(1, shells), first)
    half = 0.5 * step * math.sqrt(number)
    turns = math.sqrt(number) / 2.0
    return host.generate_lissajous_probe_positions(
        number, half, half, turns / number, (turns + 1.0) / number, 0.25
    )


def _place(
    path_px: NDArray[numpy.float64], spec: SimulationSpec
) -> tuple[NDArray[numpy.float64], tuple[int, int]]:
    """Returns the path on an object that covers it with a border, and the object's shape."""
    border = spec.pattern_size / 2.0 + _BORDER_PX + 3.0 * spec.position_error_px
    size = numpy.ceil(numpy.ptp(path_px, axis=0) + 2.0 * border).astype(int)
    middle = (path_px.max(axis=0) + path_px.min(axis=0)) / 2.0
    return path_px - middle + (size - 1.0) / 2.0, (int(size[0]), int(size[1]))


def _make_mask(spec: SimulationSpec) -> NDArray[numpy.bool_]:
    axis = numpy.arange(spec.pattern_size) - spec.pattern_size // 2
    has_stop = spec.beamstop_px > 0.0
    return (numpy.hypot(axis[:, None], axis) > spec.beamstop_px) | (not has_stop)


def _expose(
    rng: Generator,
    spec: SimulationSpec,
    truth: NDArray[Any],
    probe: NDArray[Any],
    positions_px: NDArray[numpy.float64],
    good_pixels: NDArray[numpy.bool_],
) -> NDArray[Any]:
    """Returns the counts, in the smallest unsigned type that holds them, on disk."""
    shape = (len(positions_px), spec.pattern_size, spec.pattern_size)
    highest = 0

    def read_block(rows: slice) -> NDArray[Any]:
        nonlocal highest
        blocks = [
            rng.poisson(expected * good_pixels) if spec.has_noise else expected * good_pixels
            for _, expected in iter_expected_counts(truth, probe, positions_px[rows])
        ]
        counts = numpy.rint(numpy.concatenate(blocks)).astype(numpy.uint32)
        highest = max(highest, int(counts.max()))
        return counts

    counts = stage_blocks(shape, numpy.dtype(numpy.uint32), read_block)
    if highest >= 2**16:
        return counts
    return stage_blocks(shape, numpy.dtype(numpy.uint16), lambda rows: counts[rows])
