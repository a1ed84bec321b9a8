"""Objects for simulated scans: amplitude and phase painted from fields between zero and one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ['OBJECT_KINDS', 'ObjectKind', 'make_object']

ObjectKind = Literal['independent', 'leaves', 'star', 'photo', 'noise']
OBJECT_KINDS: tuple[str, ...] = get_args(ObjectKind)

_LOWEST_AMPLITUDE = 0.65
_PHASE_RAD = 0.6

Field = NDArray[numpy.float64]


def make_object(
    rng: Generator, kind: ObjectKind, shape: tuple[int, int]
) -> NDArray[numpy.complex64]:
    """Returns an object (Y, X) with amplitude from 0.65 to 1 and phase within 0.6 rad.

    Args:
        rng: The only source of chance.
        kind: leaves: discs and a star, amplitude and phase tied; independent: amplitude and phase
            from different discs; star: a Siemens star; photo: photographs of coins (amplitude) and
            of a cameraman (phase); noise: smooth random fields, independent.
        shape: (Y, X).
    """
    amplitude, phase = _FIELDS[kind](rng, shape)
    values = (_LOWEST_AMPLITUDE + (1.0 - _LOWEST_AMPLITUDE) * amplitude) * numpy.exp(
        1j * _PHASE_RAD * (2.0 * phase - 1.0)
    )
    return values.astype(numpy.complex64)


def _normalize(field: NDArray[Any]) -> Field:
    low, high = float(field.min()), float(field.max())
    return (numpy.asarray(field, dtype=float) - low) / max(high - low, 1e-12)


def _paint_leaves(rng: Generator, shape: tuple[int, int]) -> Field:
    """Returns a dead-leaves field: discs of power-law radii, each hiding what is below."""
    field = numpy.full(shape, 0.5)
    largest_px = max(6.0, min(shape) / 7.0)
    count = int(10.0 * shape[0] * shape[1] / largest_px**2) + 40
    radii = 2.0 * (1.0 - rng.random(count) * (1.0 - (2.0 / largest_px) ** 1.2)) ** (-1.0 / 1.2)
    centers = rng.random((count, 2)) * (numpy.asarray(shape) + 8.0) - 4.0
    for radius, (y, x), value in zip(radii, centers, rng.random(count), strict=True):
        rows = _span(y, radius, shape[0])
        columns = _span(x, radius, shape[1])
        distance = numpy.hypot(rows[:, None] - y, columns[None, :] - x)
        cover = numpy.clip(radius - distance + 0.5, 0.0, 1.0)
        part = field[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if cover.size else None
        if part is not None:
            part += cover * (value - part)
    return field


def _span(center: float, radius: float, length: int) -> NDArray[numpy.int64]:
    first = max(0, int(center - radius) - 1)
    return numpy.arange(first, max(first, min(length, int(center + radius) + 2)))


def _star_field(shape: tuple[int, int], num_spokes: int) -> NDArray[Any]:
    """Returns a Siemens star between zero and one, from Ptychodus."""
    from ptychodus.api.object import ObjectGeometry
    from ptychodus.api.simulate.object import generate_siemens_star_object

    geometry = ObjectGeometry(shape[1], shape[0], 1.0, 1.0, 0.0, 0.0)
    star = generate_siemens_star_object(
        geometry,
        num_spokes=num_spokes,
        outer_radius_fraction=0.7,
        spoke_amplitude=1.0,
        background_amplitude=0.0,
        spoke_phase_tr=0.0,
        background_phase_tr=0.0,
    )
    return numpy.abs(star.get_layer(0))


def _leaves(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = _paint_leaves(rng, shape)
    star = _star_field(shape, 18)
    y, x = numpy.indices(shape) - (numpy.asarray(shape).reshape(2, 1, 1) - 1.0) / 2.0
    inside = ndimage.gaussian_filter((numpy.hypot(y, x) < min(shape) / 5.0).astype(float), 0.7)
    field = _normalize(field * (1.0 - inside) + star * inside)
    return 1.0 - field, field


def _independent(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    return _normalize(_paint_leaves(rng, shape)), _normalize(_paint_leaves(rng, shape))


def _star(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = _star_field(shape, int(rng.integers(14, 22)))
    return 1.0 - field, field


def _photo(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    from skimage.data import camera, coins

    del rng  # photographs are what they are
    return _fit_photo(coins(), shape), _fit_photo(camera(), shape)


def _fit_photo(photo: NDArray[Any], shape: tuple[int, int]) -> Field:
    from skimage.transform import resize

    return _normalize(resize(photo.astype(float), shape, anti_aliasing=True))


def _noise(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    from ptychodus.api.object import ObjectGeometry
    from ptychodus.api.simulate.object import generate_gaussian_random_field_object

    geometry = ObjectGeometry(shape[1], shape[0], 1.0, 1.0, 0.0, 0.0)
    field = generate_gaussian_random_field_object(rng, geometry, correlation_length_px=3.0)
    values = field.get_layer(0)
    return _normalize(values.real), _normalize(values.imag)


_FIELDS: dict[str, Callable[[Generator, tuple[int, int]], tuple[Field, Field]]] = {
    'independent': _independent,
    'leaves': _leaves,
    'star': _star,
    'photo': _photo,
    'noise': _noise,
}
