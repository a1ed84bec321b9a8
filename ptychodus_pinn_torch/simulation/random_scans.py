"""Random objects, probes and positions: what the shipped model was trained on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy
import scipy.ndimage
from numpy.random import Generator
from numpy.typing import NDArray

__all__ = ['RandomScan', 'random_object', 'random_probe', 'random_scan']

RealArray = NDArray[numpy.float32]


@dataclass(frozen=True)
class RandomScan:
    """One random group: everything but the noise.

    Attributes:
        object_: (Y, X) complex64, amplitude at most 1.
        probe: (P, N, N) complex64, calibrated to the dose.
        positions_px: (C, 2) window centres on the canvas, (y, x).
    """

    object_: NDArray[numpy.complex64]
    probe: NDArray[numpy.complex64]
    positions_px: NDArray[numpy.float64]


def _normalized(field: NDArray[numpy.floating]) -> RealArray:
    low, high = float(field.min()), float(field.max())
    return ((field - low) / max(high - low, 1e-12)).astype(numpy.float32)


def _grid(size: int) -> tuple[NDArray[numpy.floating], NDArray[numpy.floating]]:
    axis = numpy.arange(size, dtype=numpy.float32)
    return axis[:, None], axis[None, :]


def _leaves(rng: Generator, size: int) -> RealArray:
    field = numpy.full((size, size), rng.random(), dtype=numpy.float32)
    smallest, largest = 1.5 + 2.0 * rng.random(), size * (0.1 + 0.25 * rng.random())
    power = -(1.0 + 2.0 * rng.random())
    for _ in range(int(rng.integers(40, 220))):
        # inverse transform of a power law between the two radii
        span = smallest**power + rng.random() * (largest**power - smallest**power)
        radius = span ** (1.0 / power)
        center = rng.uniform(-radius, size + radius, 2)
        low = numpy.maximum(numpy.floor(center - 1.5 * radius).astype(int), 0)
        high = numpy.minimum(numpy.ceil(center + 1.5 * radius).astype(int) + 1, size)
        if (low >= high).any():
            continue
        y = numpy.arange(low[0], high[0])[:, None] - center[0]
        x = numpy.arange(low[1], high[1])[None, :] - center[1]
        if rng.random() < 0.5:
            inside = y * y + x * x < radius * radius
        else:
            angle = rng.uniform(0.0, math.pi)
            c, s = math.cos(angle), math.sin(angle)
            aspect = rng.uniform(0.3, 1.0)
            inside = (numpy.abs(c * y + s * x) < radius) & (
                numpy.abs(c * x - s * y) < radius * aspect
            )
        field[low[0] : high[0], low[1] : high[1]][inside] = rng.random()
    return field


def _gaussian_field(rng: Generator, size: int) -> RealArray:
    fy = numpy.fft.fftfreq(size)[:, None]
    fx = numpy.fft.rfftfreq(size)[None, :]
    frequency = numpy.sqrt(fy * fy + fx * fx)
    frequency[0, 0] = 1.0
    exponent = rng.uniform(0.8, 4.0)
    spectrum = frequency ** (-0.5 * exponent)
    spectrum[0, 0] = 0.0
    noise = rng.standard_normal(spectrum.shape) + 1j * rng.standard_normal(spectrum.shape)
    field = _normalized(numpy.fft.irfft2(noise * spectrum, s=(size, size)))
    if rng.random() < 0.3:
        field = (field > numpy.quantile(field, rng.uniform(0.2, 0.8))).astype(numpy.float32)
    return field


def _star(rng: Generator, size: int) -> RealArray:
    center = rng.uniform(0.1, 0.9, 2) * size
    y, x = _grid(size)
    y, x = y - center[0], x - center[1]
    radius = numpy.hypot(y, x)
    spokes = int(rng.integers(6, 60))
    field = (numpy.cos(spokes * numpy.arctan2(y, x) + rng.uniform(0, 6.3)) > 0).astype(
        numpy.float32
    )
    outer = rng.uniform(0.2, 1.2) * size
    field[radius > outer] = rng.integers(0, 2)
    field[radius < outer * rng.uniform(0.0, 0.3)] = rng.integers(0, 2)
    for _ in range(int(rng.integers(0, 4))):
        ring, width = rng.uniform(0.1, 1.0) * outer, rng.uniform(1.0, 5.0)
        field[numpy.abs(radius - ring) < width] = rng.integers(0, 2)
    return field


def _lines(rng: Generator, size: int) -> RealArray:
    field = numpy.zeros((size, size), dtype=numpy.float32)
    y, x = _grid(size)
    for _ in range(int(rng.integers(2, 14))):
        angle = rng.uniform(0.0, math.pi)
        along = math.cos(angle) * y + math.sin(angle) * x
        across = math.cos(angle) * x - math.sin(angle) * y
        middle = rng.uniform(0.0, size, 2)
        u = along - (math.cos(angle) * middle[0] + math.sin(angle) * middle[1])
        v = across - (math.cos(angle) * middle[1] - math.sin(angle) * middle[0])
        if rng.random() < 0.6:
            inside = (numpy.abs(u) < rng.uniform(1.0, 6.0)) & (
                numpy.abs(v) < size * rng.uniform(0.1, 1.0)
            )
        else:
            period = rng.uniform(3.0, 16.0)
            extent = size * rng.uniform(0.05, 0.3)
            inside = (
                (numpy.mod(u, period) < period * rng.uniform(0.3, 0.7))
                & (numpy.abs(u) < extent)
                & (numpy.abs(v) < extent)
            )
        field[inside] = rng.random()
    return field


def _blobs(rng: Generator, size: int) -> RealArray:
    field = numpy.zeros((size, size), dtype=numpy.float32)
    y, x = _grid(size)
    for _ in range(int(rng.integers(5, 40))):
        center = rng.uniform(0.0, size, 2)
        radius = rng.uniform(1.5, 14.0)
        squared = ((y - center[0]) ** 2 + (x - center[1]) ** 2) / radius**2
        if rng.random() < 0.5:
            field += rng.random() * numpy.exp(-squared)
        else:
            # the projected thickness of a sphere
            field += rng.random() * numpy.sqrt(numpy.clip(1.0 - squared, 0.0, None))
    return _normalized(field)


def _constant(rng: Generator, size: int) -> RealArray:
    return numpy.full((size, size), rng.random(), dtype=numpy.float32)


_FIELDS = (_leaves, _gaussian_field, _star, _lines, _blobs, _constant)
_FIELD_ODDS = (0.30, 0.25, 0.15, 0.15, 0.10, 0.05)


def _random_field(rng: Generator, size: int) -> RealArray:
    """Returns a field in [0, 1] of one of six families, or a mixture of two."""
    field = _FIELDS[rng.choice(6, p=_FIELD_ODDS)](rng, size)
    if rng.random() < 0.35:
        other = _FIELDS[rng.choice(6, p=_FIELD_ODDS)](rng, size)
        share = rng.uniform(0.2, 0.8)
        field = share * field + (1.0 - share) * other
    if rng.random() < 0.8:
        field = scipy.ndimage.gaussian_filter(field, rng.uniform(0.3, 1.2))
    if rng.random() < 0.5:
        field = 1.0 - field
    return field.astype(numpy.float32)


def random_object(rng: Generator, size: int) -> NDArray[numpy.complex64]:
    """Returns a random object (size, size), amplitude at most 1, phase of zero mean.

    Amplitude and phase are independent in three quarters of the cases, so that a network
    cannot learn one from the other.
    """
    depth = 0.0 if rng.random() < 0.1 else rng.uniform(0.0, 0.7)
    swing = 0.0 if rng.random() < 0.05 else rng.uniform(0.1, 1.7)
    absorption = _random_field(rng, size)
    if rng.random() < 0.75:
        phase = _random_field(rng, size)
    else:
        phase = absorption if rng.random() < 0.5 else 1.0 - absorption
    phase = phase - phase.mean()
    phase = phase / max(float(numpy.abs(phase).max()), 1e-6)
    result = (1.0 - depth * absorption) * numpy.exp(1j * swing * phase)
    return result.astype(numpy.complex64)


def _pupil(rng: Generator, size: int) -> NDArray[numpy.complex128]:
    axis = numpy.fft.fftfreq(size)
    fy, fx = axis[:, None], axis[None, :]
    squared = fy * fy + fx * fx
    radius = numpy.sqrt(squared)
    kind = rng.random()
    edge = rng.uniform(0.003, 0.02)
    outer = rng.uniform(0.06, 0.30)
    if kind < 0.15:  # crossed mirrors: a rectangular pupil, the probe has four arms
        half = outer * rng.uniform(0.5, 1.0, 2)
        aperture = 1.0 / (1.0 + numpy.exp((numpy.abs(fy) - half[0]) / edge))
        aperture = aperture / (1.0 + numpy.exp((numpy.abs(fx) - half[1]) / edge))
    else:
        aperture = 1.0 / (1.0 + numpy.exp((radius - outer) / edge))
    if kind > 0.55:  # a zone plate with a central stop
        inner = outer * rng.uniform(0.2, 0.7)
        aperture = aperture / (1.0 + numpy.exp(-(radius - inner) / edge))
    # defocus moves the rays of the rim to this radius in the sample plane
    spread = rng.uniform(0.0, 0.26) * size
    curvature = spread / outer * (1.0 if rng.random() < 0.5 else -1.0)
    astigmatism = rng.normal(0.0, 0.1) * curvature
    angle = rng.uniform(0.0, math.pi)
    rotated = math.cos(angle) * fy + math.sin(angle) * fx
    phase = math.pi * (curvature * squared + astigmatism * rotated * rotated)
    coma = rng.normal(0.0, 1.5) / outer**3
    return aperture * numpy.exp(1j * (phase + coma * squared * rotated))


def _disk(rng: Generator, size: int) -> NDArray[numpy.complex128]:
    axis = numpy.arange(size) - (size - 1) / 2.0
    y, x = axis[:, None], axis[None, :]
    ratio = rng.uniform(0.8, 1.25)
    squared = y * y * ratio + x * x / ratio
    radius = rng.uniform(0.08, 0.28) * size
    soft = rng.uniform(0.5, 3.0)
    disk = 1.0 / (1.0 + numpy.exp((numpy.sqrt(squared) - radius) / soft))
    phase = rng.uniform(-10.0, 10.0) * squared / radius**2
    return disk * numpy.exp(1j * phase)


def _fits(probe: NDArray[numpy.complexfloating], margin: int) -> bool:
    power = numpy.abs(probe) ** 2
    inner = power[margin:-margin, margin:-margin].sum() / power.sum()
    return bool(inner > 0.985)


def _root_mean_square_radius(probe: NDArray[numpy.complexfloating]) -> float:
    power = numpy.abs(probe) ** 2
    size = probe.shape[-1]
    axis = numpy.arange(size) - (power.sum(0) * numpy.arange(size)).sum() / power.sum()
    ayis = numpy.arange(size) - (power.sum(1) * numpy.arange(size)).sum() / power.sum()
    squared = ayis[:, None] ** 2 + axis[None, :] ** 2
    return float(numpy.sqrt((power * squared).sum() / power.sum()))


def random_probe(rng: Generator, size: int, num_modes: int) -> NDArray[numpy.complex64]:
    """Returns random probe modes (P, size, size) of unit total power, brightest first.

    A defocused soft disk, a zone plate, or crossed mirrors; modes of a partially coherent
    beam are products of the main mode with low-order polynomials, orthogonalised.
    """
    margin = max(2, size * 12 // 64)
    for _ in range(50):
        if rng.random() < 0.3:
            main = _disk(rng, size)
        else:
            main = numpy.fft.fftshift(numpy.fft.ifft2(_pupil(rng, size)))
        main = main / numpy.sqrt((numpy.abs(main) ** 2).sum())
        if _fits(main, margin) and _root_mean_square_radius(main) > 0.07 * size:
            break
    axis = (numpy.arange(size) - (size - 1) / 2.0) / _root_mean_square_radius(main)
    factors = [
        numpy.ones((size, size)),
        axis[:, None] + 0 * axis,
        axis[None, :] + 0 * axis[:, None],
    ]
    rotation = rng.permutation(2) + 1
    modes = [main]
    powers = [1.0]
    for index in range(1, num_modes):
        mode = main * factors[rotation[index - 1]]
        for other in modes:
            mode = mode - other * numpy.vdot(other, mode)
        modes.append(mode / numpy.sqrt((numpy.abs(mode) ** 2).sum()))
        powers.append(powers[-1] * rng.uniform(0.1, 0.6))
    weights = numpy.sqrt(numpy.asarray(powers) / numpy.sum(powers))
    return (numpy.stack(modes) * weights[:, None, None]).astype(numpy.complex64)


def _random_positions(rng: Generator, num: int, step: float) -> NDArray[numpy.float64]:
    """Returns `num` positions around the origin: a jittered grid, rotated, or a spiral."""
    if rng.random() < 0.75:
        side = math.ceil(math.sqrt(num))
        y, x = numpy.mgrid[:side, :side].reshape(2, -1).astype(float)
        if rng.random() < 0.3:
            x = x + 0.5 * (y % 2)
        keep = slice(0, num)
        points = numpy.stack([y, x], axis=1)[keep]
    else:
        index = numpy.arange(num) + 0.5
        golden = math.pi * (3.0 - math.sqrt(5.0))
        radius = numpy.sqrt(index / math.pi)
        points = numpy.stack(
            [radius * numpy.sin(golden * index), radius * numpy.cos(golden * index)], axis=1
        )
    angle = rng.uniform(0.0, 2.0 * math.pi) if rng.random() < 0.3 else 0.0
    turn = numpy.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = (points - points.mean(axis=0)) @ turn.T
    jitter = rng.uniform(0.0, 0.3)
    return step * (points + rng.uniform(-jitter, jitter, points.shape))


def random_scan(
    rng: Generator, *, pattern_size: int, canvas_size: int, num_patterns: int, num_modes: int
) -> RandomScan:
    """Returns a random object under a random probe at random positions, with a random dose.

    The step is 0.25 to 1.1 times the probe's rms radius, two thirds of the draws from the
    upper half (low overlap is the harder case), as far as the canvas allows.
    """
    probe = random_probe(rng, pattern_size, num_modes)
    radius = _root_mean_square_radius(probe[0])
    share = rng.uniform(0.65, 1.1) if rng.random() < 0.6 else rng.uniform(0.25, 0.7)
    positions = _random_positions(rng, num_patterns, share * radius)
    room = canvas_size - pattern_size - 2.0
    extent = float((positions.max(axis=0) - positions.min(axis=0)).max())
    if extent > room:
        positions = positions * (room / extent)
    middle = 0.5 * (positions.max(axis=0) + positions.min(axis=0))
    positions = positions - middle + (canvas_size - 1) / 2.0 + rng.uniform(-0.5, 0.5, 2)
    photons = 10.0 ** rng.uniform(3.7, 6.4)
    return RandomScan(
        object_=random_object(rng, canvas_size),
        probe=(probe * math.sqrt(photons)).astype(numpy.complex64),
        positions_px=positions,
    )
