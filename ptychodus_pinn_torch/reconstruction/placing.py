"""From the canvas back onto the grid of the object that came in."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

__all__ = ['place_map', 'place_on_grid']

COVERED = 1e-3
"""Pixels with less than this part of the highest coverage keep the input object's value."""


def place_on_grid(
    image: NDArray[numpy.complex64],
    coverage: NDArray[numpy.float32],
    origin: NDArray[numpy.int64],
    object_: NDArray[numpy.complex64],
) -> tuple[NDArray[numpy.complex64], NDArray[numpy.float32]]:
    """Returns the image on the object's grid (Y, X), and its coverage there.

    Args:
        image: On the canvas.
        coverage: On the canvas, at most 1.
        origin: (2,) first pixel (y, x) of the canvas on the grid.
        object_: What pixels keep that were not scanned.
    """
    placed = numpy.array(object_, dtype=numpy.complex64)
    covered = numpy.zeros(placed.shape, dtype=numpy.float32)
    target, source = _common(origin, image.shape, placed.shape)
    covered[target] = coverage[source]
    is_seen = coverage[source] > COVERED
    placed[target] = numpy.where(is_seen, image[source], placed[target])
    return placed, covered


def place_map(
    values: NDArray[numpy.float32], origin: NDArray[numpy.int64], shape: tuple[int, int]
) -> NDArray[numpy.float32]:
    """Returns values of the canvas on a grid of `shape` (Y, X), NaN beside the canvas.

    Args:
        values: On the canvas.
        origin: (2,) first pixel (y, x) of the canvas on the grid.
        shape: Of the grid.
    """
    placed = numpy.full(shape, numpy.nan, dtype=numpy.float32)
    target, source = _common(origin, values.shape, shape)
    placed[target] = values[source]
    return placed


def _common(
    origin: NDArray[numpy.int64], canvas: tuple[int, ...], grid: tuple[int, ...]
) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Returns what canvas and grid have in common, on the grid and on the canvas."""
    first = numpy.maximum(origin, 0)
    last = numpy.maximum(first, numpy.minimum(grid, origin + numpy.asarray(canvas)))
    target = tuple(slice(low, high) for low, high in zip(first, last))
    return target, tuple(slice(low, high) for low, high in zip(first - origin, last - origin))
