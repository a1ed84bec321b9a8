"""Objects (Y, X): painters of real fields, and the kinds of objects that `simulate` makes of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    'OBJECT_KINDS',
    'Field',
    'make_object',
    'paint_blobs',
    'paint_gaussian_field',
    'paint_grid',
    'paint_leaves',
    'paint_lines',
    'paint_star',
    'radius_about',
]

Field = NDArray[numpy.float64]
OBJECT_KINDS = ('independent', 'leaves', 'star', 'photo', 'noise', 'grid')

_MARGIN_PX = 4.0
_LOWEST_AMPLITUDE = 0.65
_PHASE_RAD = 0.6
_CORRELATION_PX = 3.0


def _normalize(field: NDArray[Any]) -> Field:
    """Returns the field stretched to reach from zero to one."""
    low, high = float(field.min()), float(field.max())
    return (numpy.asarray(field, dtype=float) - low) / max(high - low, 1e-12)


def _offsets(shape: tuple[int, int], center: NDArray[Any]) -> tuple[Field, Field]:
    """Returns the distances (Y, 1) and (1, X) of the pixels from a point (y, x)."""
    y, x = (numpy.arange(length) - middle for length, middle in zip(shape, center, strict=True))
    return y[:, None], x[None, :]


def radius_about(center: NDArray[Any], shape: tuple[int, int]) -> Field:
    """Returns the distances (Y, X) of the pixels from a point (y, x)."""
    return numpy.hypot(*_offsets(shape, center))


def _cover(depth_px: Field) -> Field:
    """Returns the part of each pixel that a shape covers whose edge is that far away."""
    return numpy.clip(depth_px + 0.5, 0.0, 1.0)


def paint_leaves(
    rng: Generator,
    shape: tuple[int, int],
    count: int,
    radii_px: tuple[float, float],
    exponent: float,
    *,
    box_odds: float = 0.0,
    background: float = 0.5,
) -> Field:
    """Returns a dead-leaves field (Y, X) in [0, 1]: random shapes, each hiding what is below.

    Radii lie between the smallest and the largest by a power law: the number of those above r
    falls as r to minus the exponent. `box_odds` is the part of the leaves that are turned boxes
    instead of discs, `background` the value below all leaves.
    """
    smallest, largest = radii_px
    field = numpy.full(shape, background)
    above = 1.0 - rng.random(count) * (1.0 - (smallest / largest) ** exponent)
    radii = smallest * above ** (-1.0 / exponent)
    centers = rng.random((count, 2)) * (numpy.asarray(shape) + 2.0 * _MARGIN_PX) - _MARGIN_PX
    values = rng.random(count)
    is_box = rng.random(count) < box_odds if box_odds else numpy.zeros(count, dtype=bool)
    for radius, center, value, has_corners in zip(radii, centers, values, is_box, strict=True):
        reach = 1.5 * radius if has_corners else radius
        first = numpy.maximum(0, (center - reach).astype(int) - 1)
        last = numpy.minimum(shape, (center + reach).astype(int) + 2)
        if (first >= last).any():
            continue
        part = field[first[0] : last[0], first[1] : last[1]]
        y, x = _offsets((part.shape[0], part.shape[1]), center - first)
        inside = _depth_in_box(rng, y, x, radius) if has_corners else radius - numpy.hypot(y, x)
        part += _cover(inside) * (value - part)
    return field


def _depth_in_box(rng: Generator, y: Field, x: Field, half_px: float) -> Field:
    """Returns how far pixels lie inside of a box of random angle and aspect, in pixels."""
    angle, aspect = rng.uniform(0.0, math.pi), rng.uniform(0.3, 1.0)
    along = numpy.abs(math.cos(angle) * y + math.sin(angle) * x)
    across = numpy.abs(math.cos(angle) * x - math.sin(angle) * y)
    return numpy.minimum(half_px - along, half_px * aspect - across)


def paint_star(
    shape: tuple[int, int],
    num_spokes: int,
    *,
    outer_px: float,
    inner_px: float = 0.0,
    center: NDArray[Any] | None = None,
    angle_rad: float = 0.0,
    outside: float = 0.0,
    inside: float = 0.0,
) -> Field:
    """Returns a Siemens star (Y, X): smooth spokes of one on zero, between two radii.

    Beyond the outer radius the field is `outside`, within the inner one `inside`. The centre (y, x)
    is in pixels, by default the middle of the field.
    """
    middle = (numpy.asarray(shape) - 1.0) / 2.0 if center is None else center
    y, x = _offsets(shape, middle)
    radius = numpy.hypot(y, x)
    turned = numpy.cos(num_spokes * numpy.arctan2(y, x) + angle_rad)
    field = _cover(radius * numpy.arcsin(turned) / num_spokes)
    field += _cover(radius - outer_px) * (outside - field)
    field += _cover(inner_px - radius) * (inside - field)
    return field


def paint_gaussian_field(
    rng: Generator, shape: tuple[int, int], amplitude: Callable[[Field], Field]
) -> Field:
    """Returns a Gaussian random field (Y, X) in [0, 1].

    `amplitude` is that of the spectrum, at frequencies in cycles per pixel; the mean is left out.
    """
    frequency = numpy.hypot(numpy.fft.fftfreq(shape[0])[:, None], numpy.fft.rfftfreq(shape[1]))
    frequency[0, 0] = 1.0
    spectrum = amplitude(frequency)
    spectrum[0, 0] = 0.0
    noise = rng.standard_normal(spectrum.shape) + 1j * rng.standard_normal(spectrum.shape)
    return _normalize(numpy.fft.irfft2(noise * spectrum, s=shape))


def paint_lines(rng: Generator, shape: tuple[int, int], count: int) -> Field:
    """Returns bars and gratings at random angles, on zero."""
    field = numpy.zeros(shape)
    size = max(shape)
    for _ in range(count):
        angle = rng.uniform(0.0, math.pi)
        y, x = _offsets(shape, rng.uniform(0.0, 1.0, 2) * shape)
        across = math.cos(angle) * y + math.sin(angle) * x
        along = math.cos(angle) * x - math.sin(angle) * y
        if rng.random() < 0.6:
            width, length = rng.uniform(1.0, 6.0), size * rng.uniform(0.1, 1.0)
            covers = (numpy.abs(across) < width) & (numpy.abs(along) < length)
        else:
            period, extent = rng.uniform(3.0, 16.0), size * rng.uniform(0.05, 0.3)
            covers = numpy.mod(across, period) < period * rng.uniform(0.3, 0.7)
            covers &= (numpy.abs(across) < extent) & (numpy.abs(along) < extent)
        field[covers] = rng.random()
    return field


def paint_grid(rng: Generator, shape: tuple[int, int]) -> Field:
    """Returns a grid (Y, X) of crossing lines of one on zero, a little turned, with smooth edges."""
    angle = rng.uniform(-0.1, 0.1)
    y, x = _offsets(shape, (numpy.asarray(shape) - 1.0) / 2.0)
    field = numpy.zeros(shape)
    for along in (
        math.cos(angle) * y + math.sin(angle) * x,
        math.cos(angle) * x - math.sin(angle) * y,
    ):
        period, half_px = rng.uniform(8.0, 24.0), rng.uniform(0.75, 2.0)
        place = numpy.mod(along + rng.uniform(0.0, period), period)
        depth_px = half_px - numpy.minimum(place, period - place)
        field = numpy.maximum(field, _cover(depth_px))
    return field


def paint_blobs(rng: Generator, shape: tuple[int, int], count: int) -> Field:
    """Returns the sum of Gaussian spots and of the projected thickness of spheres, in [0, 1]."""
    field = numpy.zeros(shape)
    for _ in range(count):
        y, x = _offsets(shape, rng.uniform(0.0, 1.0, 2) * shape)
        squared = (y**2 + x**2) / rng.uniform(1.5, 14.0) ** 2
        if rng.random() < 0.5:
            field += rng.random() * numpy.exp(-squared)
        else:
            field += rng.random() * numpy.sqrt(numpy.clip(1.0 - squared, 0.0, None))
    return _normalize(field)


def make_object(rng: Generator, kind: str, shape: tuple[int, int]) -> NDArray[numpy.complex64]:
    """Returns an object (Y, X) with amplitude from 0.65 to 1 and phase within 0.6 rad.

    leaves: discs and a star, amplitude and phase tied; independent: amplitude and phase from
    different discs; star: a Siemens star; photo: photographs of coins (amplitude) and of a
    cameraman (phase); noise: smooth Gaussian random fields, independent; grid: lines that cross,
    amplitude and phase tied.
    """
    amplitude, phase = _FIELDS[kind](rng, shape)
    values = (_LOWEST_AMPLITUDE + (1.0 - _LOWEST_AMPLITUDE) * amplitude) * numpy.exp(
        1j * _PHASE_RAD * (2.0 * phase - 1.0)
    )
    return values.astype(numpy.complex64)


def _discs(rng: Generator, shape: tuple[int, int]) -> Field:
    largest_px = max(6.0, min(shape) / 7.0)
    count = int(10.0 * shape[0] * shape[1] / largest_px**2) + 40
    return paint_leaves(rng, shape, count, (2.0, largest_px), 1.2)


def _leaves(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = _discs(rng, shape)
    star = paint_star(shape, 18, outer_px=0.35 * min(shape))
    is_inside = radius_about((numpy.asarray(shape) - 1.0) / 2.0, shape) < min(shape) / 5.0
    inside = ndimage.gaussian_filter(is_inside.astype(float), 0.7)
    field = _normalize(field * (1.0 - inside) + star * inside)
    return 1.0 - field, field


def _independent(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    return _normalize(_discs(rng, shape)), _normalize(_discs(rng, shape))


def _star(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = paint_star(shape, int(rng.integers(14, 22)), outer_px=0.35 * min(shape))
    return 1.0 - field, field


def _photo(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    from skimage.data import camera, coins
    from skimage.transform import resize

    del rng  # photographs are what they are
    photos = coins().astype(float), camera().astype(float)
    first, second = (_normalize(resize(photo, shape, anti_aliasing=True)) for photo in photos)
    return first, second


def _noise(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    def amplitude(frequency: Field) -> Field:
        return numpy.exp(-((numpy.pi * _CORRELATION_PX * frequency) ** 2))

    first = paint_gaussian_field(rng, shape, amplitude)
    return first, paint_gaussian_field(rng, shape, amplitude)


def _grid(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = paint_grid(rng, shape)
    return 1.0 - field, field


_FIELDS: dict[str, Callable[[Generator, tuple[int, int]], tuple[Field, Field]]] = {
    'independent': _independent,
    'leaves': _leaves,
    'star': _star,
    'photo': _photo,
    'noise': _noise,
    'grid': _grid,
}
