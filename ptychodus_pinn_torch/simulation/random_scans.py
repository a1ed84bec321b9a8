"""Random objects, probes and positions: what the shipped model was trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import scipy.ndimage
from numpy.random import Generator
from numpy.typing import NDArray

from .sample_objects import (
    Field,
    paint_blobs,
    paint_gaussian_field,
    paint_leaves,
    paint_lines,
    paint_star,
    radius_about,
)
from .sample_probes import focus_beam, normalize_power, paint_disk, rms_radius_px

__all__ = ['RandomScan', 'random_object', 'random_probe', 'random_scan']


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


def _leaves(rng: Generator, shape: tuple[int, int]) -> Field:
    radii_px = 1.5 + 2.0 * rng.random(), shape[0] * (0.1 + 0.25 * rng.random())
    exponent, count = 1.0 + 2.0 * rng.random(), int(rng.integers(40, 220))
    background = rng.random()
    return paint_leaves(rng, shape, count, radii_px, exponent, box_odds=0.5, background=background)


def _gaussian_field(rng: Generator, shape: tuple[int, int]) -> Field:
    exponent = rng.uniform(0.8, 4.0)
    field = paint_gaussian_field(rng, shape, lambda f: f ** (-0.5 * exponent))
    if rng.random() < 0.3:
        field = (field > numpy.quantile(field, rng.uniform(0.2, 0.8))).astype(float)
    return field


def _star(rng: Generator, shape: tuple[int, int]) -> Field:
    center = rng.uniform(0.1, 0.9, 2) * shape[0]
    outer_px = rng.uniform(0.2, 1.2) * shape[0]
    field = paint_star(
        shape,
        int(rng.integers(6, 60)),
        outer_px=outer_px,
        inner_px=outer_px * rng.uniform(0.0, 0.3),
        center=center,
        angle_rad=rng.uniform(0, 6.3),
        outside=float(rng.integers(0, 2)),
        inside=float(rng.integers(0, 2)),
    )
    radius = radius_about(center, shape)
    for _ in range(int(rng.integers(0, 4))):
        ring_px, width_px = rng.uniform(0.1, 1.0) * outer_px, rng.uniform(1.0, 5.0)
        field[numpy.abs(radius - ring_px) < width_px] = rng.integers(0, 2)
    return field


def _textured_leaves(rng: Generator, shape: tuple[int, int]) -> Field:
    """Returns leaves of all sizes, each with a texture: what photographs are made of."""
    smallest, largest = rng.uniform(1.5, 4.0), shape[0] * rng.uniform(0.15, 0.5)
    count = int(rng.integers(60, 600))
    base = paint_leaves(rng, shape, count, (smallest, largest), rng.uniform(1.0, 2.5), box_odds=0.4)
    textures = []
    for _ in range(4):
        exponent, contrast = rng.uniform(0.3, 1.6), rng.uniform(0.0, 0.7)
        texture = paint_gaussian_field(rng, shape, lambda f, e=exponent: f**-e)  # type: ignore[misc]
        textures.append(contrast * (texture - 0.5))
    which = (base * 997.0).astype(int) % len(textures)
    shade = rng.uniform(0.0, 0.6) * (paint_gaussian_field(rng, shape, lambda f: f**-2.0) - 0.5)
    field = base + numpy.choose(which, textures) + shade
    field -= field.min()
    return field / max(float(field.max()), 1e-9)


_FIELDS: tuple[Callable[[Generator, tuple[int, int]], Field], ...] = (
    _leaves,
    _gaussian_field,
    _star,
    lambda rng, shape: paint_lines(rng, shape, int(rng.integers(2, 14))),
    lambda rng, shape: paint_blobs(rng, shape, int(rng.integers(5, 40))),
    lambda rng, shape: numpy.full(shape, rng.random()),
    _textured_leaves,
)
_FIELD_ODDS = (0.15, 0.20, 0.10, 0.10, 0.07, 0.03, 0.35)


def _random_field(rng: Generator, size: int) -> Field:
    """Returns a field in [0, 1] of one of the families, or a mixture of two."""
    field = _FIELDS[rng.choice(len(_FIELDS), p=_FIELD_ODDS)](rng, (size, size))
    if rng.random() < 0.35:
        other = _FIELDS[rng.choice(len(_FIELDS), p=_FIELD_ODDS)](rng, (size, size))
        share = rng.uniform(0.2, 0.8)
        field = share * field + (1.0 - share) * other
    if rng.random() < 0.8:
        field = scipy.ndimage.gaussian_filter(field, rng.uniform(0.3, 1.2))
    return 1.0 - field if rng.random() < 0.5 else field


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


def _random_beam(rng: Generator, size: int) -> NDArray[numpy.complex128]:
    """Returns a defocused beam of crossed mirrors, of a lens, or of a zone plate with a stop."""
    kind = rng.random()
    edge, outer = rng.uniform(0.003, 0.02), rng.uniform(0.06, 0.30)
    aperture: float | tuple[float, float] = outer
    if kind < 0.15:
        half = outer * rng.uniform(0.5, 1.0, 2)
        aperture = (float(half[0]), float(half[1]))
    spread_px = rng.uniform(0.0, 0.26) * size * (1.0 if rng.random() < 0.5 else -1.0)
    return focus_beam(
        size,
        aperture=aperture,
        edge=edge,
        stop=outer * rng.uniform(0.2, 0.7) if kind > 0.55 else 0.0,
        spread_px=spread_px,
        astigmatism=rng.normal(0.0, 0.1),
        coma=rng.normal(0.0, 1.5),
        angle_rad=rng.uniform(0.0, math.pi),
    )


def _random_disk(rng: Generator, size: int) -> NDArray[numpy.complex128]:
    return paint_disk(
        size,
        radius_px=rng.uniform(0.08, 0.28) * size,
        edge_px=rng.uniform(0.5, 3.0),
        bend_rad=rng.uniform(-10.0, 10.0),
        stretch=rng.uniform(0.8, 1.25),
    )


def random_probe(rng: Generator, size: int, num_modes: int) -> NDArray[numpy.complex64]:
    """Returns random probe modes (P, size, size) of unit total power, brightest first.

    A defocused soft disk, a zone plate, or crossed mirrors; modes of a partially coherent
    beam are products of the main mode with low-order polynomials, orthogonalised.
    """
    margin = max(2, size * 12 // 64)
    for _ in range(50):
        main = _random_disk(rng, size) if rng.random() < 0.3 else _random_beam(rng, size)
        main = normalize_power(main)
        inner = numpy.sum(numpy.abs(main[margin:-margin, margin:-margin]) ** 2)
        if inner > 0.985 and rms_radius_px(main) > 0.07 * size:
            break
    axis = (numpy.arange(size) - (size - 1) / 2.0) / rms_radius_px(main)
    factors = [axis[:, None], axis[None, :]]
    order = rng.permutation(2)
    modes, powers = [main], [1.0]
    for index in range(num_modes - 1):
        mode = main * factors[order[index]]
        for other in modes:
            mode = mode - other * numpy.vdot(other, mode)
        modes.append(normalize_power(mode))
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
        points = numpy.stack([y, x], axis=1)[:num]
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
    radius = rms_radius_px(probe[0])
    share = rng.uniform(0.65, 1.1) if rng.random() < 0.6 else rng.uniform(0.25, 0.7)
    positions = _random_positions(rng, num_patterns, share * radius)
    room = canvas_size - pattern_size - 2.0
    extent = float((positions.max(axis=0) - positions.min(axis=0)).max())
    if extent > room:
        positions = positions * (room / extent)
    middle = 0.5 * (positions.max(axis=0) + positions.min(axis=0))
    positions = positions - middle + (canvas_size - 1) / 2.0 + rng.uniform(-0.5, 0.5, 2)
    photons = 10.0 ** rng.uniform(2.7, 7.0)
    return RandomScan(
        object_=random_object(rng, canvas_size),
        probe=(probe * math.sqrt(photons)).astype(numpy.complex64),
        positions_px=positions,
    )
