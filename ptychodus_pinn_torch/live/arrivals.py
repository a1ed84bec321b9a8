"""What arrives is checked before anything of it is kept."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

__all__ = ['check_frames', 'check_positions', 'check_type']

logger = logging.getLogger(__name__)

MAX_NAMED = 5


def check_frames(
    ids: ArrayLike, frames: ArrayLike, window: tuple[int, ...]
) -> tuple[NDArray[numpy.int64], NDArray[Any]]:
    """Returns numbers (n,) and frames (n, H, W), or of a single frame (H, W), as arrays.

    Frames with counts that are not finite, or whose sum would not be in single precision, in which
    the image is computed, are named and left out.

    Raises:
        ValueError: frames of another shape, that are no numbers, or negative.
    """
    numbers, counts = _numbers(ids), numpy.asarray(frames)
    counts = counts[None] if counts.ndim == 2 and len(numbers) == 1 else counts
    wanted = (len(numbers), *window)
    if counts.shape != wanted or counts.dtype.kind not in 'iuf':
        raise ValueError(
            f'frames have shape {counts.shape} and type {counts.dtype} but numbers of shape '
            f'{wanted} are needed.'
        )
    if counts.dtype.kind != 'u' and (counts < 0).any():
        raise ValueError('frames hold counts that are negative: correct them first.')
    if counts.dtype.kind == 'f':
        limit = float(numpy.finfo(numpy.float32).max) / max(1, math.prod(window))
        is_good = numpy.asarray((counts <= limit).all(axis=(1, 2)))
        numbers, counts = _leave_out(numbers, counts, is_good, 'counts that are no finite numbers')
    return numbers, counts


def _leave_out(
    numbers: NDArray[numpy.int64], values: NDArray[Any], is_good: NDArray[numpy.bool_], why: str
) -> tuple[NDArray[numpy.int64], NDArray[Any]]:
    """Returns what is good, and names the frames of the rest."""
    if is_good.all():
        return numbers, values
    bad = numbers[~is_good].tolist()
    named = ', '.join(map(str, bad[:MAX_NAMED]))
    more = f' and {len(bad) - MAX_NAMED} more' if len(bad) > MAX_NAMED else ''
    logger.warning('of frame %s%s came %s: that is left out.', named, more, why)
    return numbers[is_good], values[is_good]


def check_positions(
    ids: ArrayLike, positions: ArrayLike
) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
    """Returns numbers (n,) and positions (n, 2) of (y, x), or of a single one (2,), as arrays.

    Positions that are not finite are named and left out.

    Raises:
        ValueError: another shape.
    """
    numbers, places = _numbers(ids), numpy.asarray(positions, dtype=numpy.float64)
    places = places[None] if places.shape == (2,) and len(numbers) == 1 else places
    if places.shape != (len(numbers), 2):
        raise ValueError(
            f'positions have shape {places.shape} but {len(numbers)} (y, x) are needed.'
        )
    is_good = numpy.asarray(numpy.isfinite(places).all(axis=1))
    return _leave_out(numbers, places, is_good, 'a position that is not finite')


def check_type(frames: NDArray[Any], dtype: numpy.dtype[Any] | None) -> None:
    """Refuses counts that the type of the first ones cannot hold.

    Raises:
        ValueError: names both types.
    """
    if dtype is None or numpy.can_cast(frames.dtype, dtype, 'safe'):
        return
    if 'f' in (frames.dtype.kind, dtype.kind) or frames.max() > numpy.iinfo(dtype).max:
        raise ValueError(
            f'frames are of type {frames.dtype} but the first ones were {dtype}: give all of them '
            'in one type.'
        )


def _numbers(ids: ArrayLike) -> NDArray[numpy.int64]:
    numbers = numpy.atleast_1d(numpy.asarray(ids))
    if numbers.ndim != 1 or numbers.dtype.kind not in 'iu':
        raise ValueError(
            f'numbers of frames have shape {numbers.shape} and type {numbers.dtype}: whole numbers '
            '(n,) are needed.'
        )
    known = numbers.astype(numpy.int64)  # in which those from 2**63 on are negative
    if (known < 0).any():
        raise ValueError(
            f'a frame has the number {numbers[known < 0][0]}: numbers from 0 to 2**63 - 1 are needed.'
        )
    return known
