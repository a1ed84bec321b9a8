"""Detector pixels that cannot be trusted, and where the zero frequency is, told by the patterns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

from .pattern_store import block_slices

__all__ = [
    'Survey',
    'corner_axes',
    'find_wrong_values',
    'odd_pixels',
    'survey_patterns',
    'unlike_pixels',
]

NUM_FRAMES, FEWEST = 256, 8
"""Frames that are looked at, spread over the scan; fewer than `FEWEST` tell nothing."""

PLATEAU = 5
"""Counts that share the highest value of the scan, one less than a power of two, where a counter ends:
photons that hit it so often by chance have neighbours above."""

BRIGHT = 50.0
"""Counts, all frames together, on both sides of a pixel in its row or column, from which on none at
all are too few: by chance that has a probability of exp(-50)."""

HOT, NEIGHBOURHOOD_PX = 20.0, 5
"""A pixel is hot from so many times the brightest but one of its eight neighbours on: light of a beam
in a window wider than itself falls off by less, in streaks too. And the neighbourhood of stuck ones."""

OUTSIDE = 3.0
"""Counts in the outer half of an axis over those in the inner one, from which on the zero frequency
lies in the corner: a ring at the border of the detector has twice as many outside, noise as many."""

BROKEN = 0.1
"""A frame is broken where that part of its pixels, or more, holds no count at all."""


@dataclass(frozen=True)
class Survey:
    """What a part of the frames holds, pixel by pixel (H, W).

    Attributes:
        num_frames: That were looked at.
        total: Sum of the values, those that are no numbers left out; `power` of their squares.
        lowest: Value; `highest` likewise.
        num_wrong: Frames in which it is no count; `num_full` in which it is at the limit.
        limit: Value from which on the detector is saturated; infinite where there is none.
        has_noise: Whether negative values are noise about zero, and not marks.
    """

    num_frames: int
    total: NDArray[numpy.float64]
    power: NDArray[numpy.float64]
    lowest: NDArray[numpy.float64]
    highest: NDArray[numpy.float64]
    num_wrong: NDArray[numpy.int64]
    num_full: NDArray[numpy.int64]
    limit: float
    has_noise: bool


def _blocks(patterns: NDArray[Any], frames: NDArray[numpy.int64]) -> Iterator[NDArray[Any]]:
    for part in block_slices(len(frames), max(1, patterns[0].nbytes)):
        yield numpy.asarray(patterns[frames[part]])


def _spread(patterns: NDArray[Any]) -> NDArray[numpy.int64]:
    number = min(NUM_FRAMES, len(patterns))
    return numpy.unique(numpy.linspace(0, len(patterns) - 1, number).astype(numpy.int64))


def survey_patterns(
    patterns: NDArray[Any], good: NDArray[numpy.bool_], saturation: float | None
) -> Survey:
    """Returns what frames that are spread over the scan (N, H, W) hold."""
    is_whole = patterns.dtype.kind in 'iu'
    limit = float(numpy.iinfo(patterns.dtype).max) if is_whole else numpy.inf
    found = _survey(patterns, min(limit, saturation or numpy.inf))
    seen = good & (2 * found.num_full < found.num_frames) & (found.lowest < found.highest)
    highest = float(found.highest[seen].max(initial=0.0))
    is_end = highest >= 255.0 and (highest + 1.0) == 2.0 ** round(numpy.log2(highest + 1.0))
    if saturation is None and is_end and highest < found.limit:
        again = _survey(patterns, highest)
        if again.num_full[seen].sum() >= PLATEAU:
            return again
    return found


def _survey(patterns: NDArray[Any], limit: float) -> Survey:
    frames, shape = _spread(patterns), patterns.shape[1:]
    total, power = numpy.zeros(shape), numpy.zeros(shape)
    lowest, highest = numpy.full(shape, numpy.inf), numpy.full(shape, -numpy.inf)
    num_wrong, num_full = numpy.zeros(shape, numpy.int64), numpy.zeros(shape, numpy.int64)
    marks: set[float] = set()
    for block in _blocks(patterns, frames):
        if block.dtype.kind != 'u':
            finite = numpy.isfinite(block)
            negative = block[finite & (block < 0)]
            if len(marks) <= 2:  # a detector has one mark for gaps and one for dead pixels
                marks |= set(numpy.unique(negative[:4096]).tolist()[:4])
            num_wrong += (~finite | (block < 0)).sum(axis=0)
            block = numpy.where(finite, block, 0)
        total += block.sum(axis=0, dtype=numpy.float64)
        power += numpy.einsum('ijk,ijk->jk', block, block, dtype=numpy.float64)
        numpy.minimum(lowest, block.min(axis=0), out=lowest)
        numpy.maximum(highest, block.max(axis=0), out=highest)
        num_full += (block >= limit).sum(axis=0)
    return Survey(
        len(frames), total, power, lowest, highest, num_wrong, num_full, limit, len(marks) > 2
    )


def find_wrong_values(
    patterns: NDArray[Any], good: NDArray[numpy.bool_], *, has_noise: bool
) -> tuple[NDArray[numpy.int64], NDArray[numpy.bool_]]:
    """Returns broken frames (n,), and pixels (H, W) that are no counts in any of the others.

    Reads all patterns, unless their type can hold nothing else.
    """
    broken, wrong_pixels = [], numpy.zeros(good.shape, bool)
    if patterns.dtype.kind == 'u':
        return numpy.empty(0, numpy.int64), wrong_pixels
    num_good = max(1, int(good.sum()))
    for rows in block_slices(len(patterns), max(1, patterns[0].nbytes)):
        block = numpy.asarray(patterns[rows])
        wrong = ~numpy.isfinite(block) if has_noise else ~((block >= 0) & (block < numpy.inf))
        if not wrong.any():
            continue
        wrong &= good
        is_broken = wrong.sum(axis=(1, 2)) > BROKEN * num_good
        broken.append(rows.start + numpy.flatnonzero(is_broken))
        wrong_pixels |= wrong[~is_broken].any(axis=0)
    return numpy.concatenate([*broken, numpy.empty(0, numpy.int64)]), wrong_pixels


def odd_pixels(survey: Survey) -> dict[str, NDArray[numpy.bool_]]:
    """Returns by what is wrong with them pixels (H, W) whose values cannot be counts."""
    number = survey.num_frames
    spread = survey.highest - survey.lowest
    is_same = (spread == 0.0) & (ndimage.median_filter(spread, NEIGHBOURHOOD_PX) > 0.0)
    is_full = 2 * survey.num_full >= number
    return {
        f'at the limit of {survey.limit:.10g}': is_full,
        'without counts': ~is_full
        & (survey.lowest <= 0.0)
        & (2 * survey.num_wrong >= number)
        & (is_same | (not survey.has_noise)),
        'stuck': ~is_full & is_same & (survey.highest > 0.0) & (number >= FEWEST),
    }


def unlike_pixels(
    counts: NDArray[numpy.float64],
    highest: NDArray[numpy.float64],
    num_frames: int,
    good: NDArray[numpy.bool_],
    beam: NDArray[numpy.float64] | None,
) -> dict[str, NDArray[numpy.bool_]]:
    """Returns by what is wrong with them pixels (H, W) that are dark or bright unlike all around.

    Args:
        counts: Of each pixel, all frames together.
        highest: The most that a pixel has in a frame: what single frames make is no hot pixel.
        num_frames: So many.
        good: Pixels that are not known to be bad.
        beam: What the probe alone would send there, in any unit; where it is dark, dark is right.
    """
    expected = numpy.full(counts.shape, numpy.inf)
    if beam is not None and beam.sum() > 0.0:
        expected = ndimage.maximum_filter(beam * (counts[good].sum() / beam.sum()), 3)
    filled, dead = counts * good, numpy.zeros(counts.shape, bool)
    for _ in range(2):  # where gaps cross, they are enclosed by gaps
        around = _enclosing(filled, filled > 0.0)
        found = (filled == 0.0) & (around > BRIGHT) & (expected > BRIGHT)
        filled = numpy.where(found, around, filled)
        dead |= found
    for axis in (0, 1):  # a gap between modules goes on where light is too weak to tell
        is_empty = (counts * good == 0.0).all(axis=axis, keepdims=True)
        dead |= is_empty & dead.any(axis=axis, keepdims=True)
    ring = numpy.ones((3, 3), bool)
    ring[1, 1] = False
    near = ndimage.rank_filter(_fill(counts, good & ~dead), -2, footprint=ring, mode='nearest')
    floor = HOT * (near + 1.0) + 10.0 * numpy.sqrt(near + 1.0)
    hot = good & (counts > floor) & (counts > 2.0 * num_frames)
    hot &= counts > min(FEWEST, 0.5 * num_frames) * highest
    return {'dead': dead & good, 'hot': hot}


def _fill(values: NDArray[numpy.float64], good: NDArray[numpy.bool_]) -> NDArray[numpy.float64]:
    """Returns values (H, W) where those of bad pixels are those of the nearest good one."""
    if good.all() or not good.any():
        return values
    _, nearest = ndimage.distance_transform_edt(~good, return_indices=True)
    return values[tuple(nearest)]


def _enclosing(
    values: NDArray[numpy.float64], is_known: NDArray[numpy.bool_]
) -> NDArray[numpy.float64]:
    """Returns the lower of the nearest known values on both sides, in the row or the column."""
    best = numpy.zeros(values.shape)
    for turned, known, out in ((values, is_known, best), (values.T, is_known.T, best.T)):
        places = numpy.arange(turned.shape[1])
        sides = []
        for order in (slice(None), slice(None, None, -1)):
            last = numpy.maximum.accumulate(numpy.where(known[:, order], places, -1), axis=1)
            side = numpy.take_along_axis(turned[:, order], numpy.maximum(last, 0), axis=1)
            sides.append(numpy.where(last < 0, 0.0, side)[:, order])
        numpy.maximum(out, numpy.minimum(*sides), out=out)
    return best


def corner_axes(counts: NDArray[numpy.float64], good: NDArray[numpy.bool_]) -> tuple[bool, ...]:
    """Returns along which axes (y, x) the zero frequency lies at the border of the patterns."""
    filled = _fill(counts, good)
    shares = []
    for axis in (1, 0):
        profile = filled.sum(axis=axis)
        quarter = len(profile) // 4
        inner = profile[quarter:-quarter].sum()
        shares.append(bool(profile.sum() - inner > OUTSIDE * inner))
    return tuple(shares)
