"""What arrives is checked before anything of it is kept."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

__all__ = ['check_frames', 'check_positions', 'check_type']


def check_frames(
    ids: ArrayLike, frames: ArrayLike, window: tuple[int, ...]
) -> tuple[NDArray[numpy.int64], NDArray[Any]]:
    """Returns numbers (n,) and frames (n, H, W), or of a single frame (H, W), as arrays.

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
    if counts.dtype.kind != 'u' and not (counts >= 0).all():
        raise ValueError('frames hold counts that are negative or no numbers: mend them first.')
    return numbers, counts


def check_positions(
    ids: ArrayLike, positions: ArrayLike
) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
    """Returns numbers (n,) and positions (n, 2) of (y, x), or of a single one (2,), as arrays.

    Raises:
        ValueError: another shape, or values that are not finite.
    """
    numbers, places = _numbers(ids), numpy.asarray(positions, dtype=numpy.float64)
    places = places[None] if places.shape == (2,) and len(numbers) == 1 else places
    if places.shape != (len(numbers), 2) or not numpy.isfinite(places).all():
        raise ValueError(
            f'positions have shape {places.shape} but {len(numbers)} finite (y, x) are needed.'
        )
    return numbers, places


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
    return numbers.astype(numpy.int64)
