"""Objects for simulated scans: amplitude and phase painted from fields between zero and one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from .fields import Field, normalize, paint_gaussian_field, paint_leaves, paint_star, radius_about

__all__ = ['OBJECT_KINDS', 'ObjectKind', 'make_object']

ObjectKind = Literal['independent', 'leaves', 'star', 'photo', 'noise']
OBJECT_KINDS: tuple[str, ...] = get_args(ObjectKind)

_LOWEST_AMPLITUDE = 0.65
_PHASE_RAD = 0.6
_CORRELATION_PX = 3.0


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


def _discs(rng: Generator, shape: tuple[int, int]) -> Field:
    largest_px = max(6.0, min(shape) / 7.0)
    count = int(10.0 * shape[0] * shape[1] / largest_px**2) + 40
    return paint_leaves(rng, shape, count, (2.0, largest_px), 1.2)


def _leaves(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = _discs(rng, shape)
    star = paint_star(shape, 18, outer_px=0.35 * min(shape))
    is_inside = radius_about((numpy.asarray(shape) - 1.0) / 2.0, shape) < min(shape) / 5.0
    inside = ndimage.gaussian_filter(is_inside.astype(float), 0.7)
    field = normalize(field * (1.0 - inside) + star * inside)
    return 1.0 - field, field


def _independent(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    return normalize(_discs(rng, shape)), normalize(_discs(rng, shape))


def _star(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    field = paint_star(shape, int(rng.integers(14, 22)), outer_px=0.35 * min(shape))
    return 1.0 - field, field


def _photo(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    from skimage.data import camera, coins

    del rng  # photographs are what they are
    return _fit_photo(coins(), shape), _fit_photo(camera(), shape)


def _fit_photo(photo: NDArray[Any], shape: tuple[int, int]) -> Field:
    from skimage.transform import resize

    return normalize(resize(photo.astype(float), shape, anti_aliasing=True))


def _noise(rng: Generator, shape: tuple[int, int]) -> tuple[Field, Field]:
    def amplitude(frequency: Field) -> Field:
        return numpy.exp(-((numpy.pi * _CORRELATION_PX * frequency) ** 2))

    first = paint_gaussian_field(rng, shape, amplitude)
    return first, paint_gaussian_field(rng, shape, amplitude)


_FIELDS: dict[str, Callable[[Generator, tuple[int, int]], tuple[Field, Field]]] = {
    'independent': _independent,
    'leaves': _leaves,
    'star': _star,
    'photo': _photo,
    'noise': _noise,
}
