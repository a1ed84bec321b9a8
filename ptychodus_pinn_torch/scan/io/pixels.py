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
    'BROKEN',
    'MOST_COUNTS',
    'Survey',
    'corner_axes',
    'fill_wrong_values',
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
in a window wider than itself falls off by less, in streaks too. And the side of the square whose
median tells where light is, whatever single pixels and columns hold."""

OUTSIDE = 3.0
"""Counts in the outer half of an axis over those in the inner one, from which on the zero frequency
lies in the corner: a ring at the border of the detector has twice as many outside, noise as many."""

MOST_COUNTS = 1e15
"""No detector holds more: such a value is no number, nor is its square in single precision."""

BROKEN = 0.1
"""A frame is broken where that part of its pixels, or more, holds no count at all; a pixel is bad where
that part of its frames does not; and values below zero are noise in that part of the pixels."""


@dataclass(frozen=True)
class Survey:
    """What a part of the frames holds, pixel by pixel (H, W).

    Attributes:
        num_frames: That were looked at, those without the broken ones.
        total: Sum of the values, those that are no numbers left out; `power` of their squares.
        lowest: Value; `highest` likewise.
        num_wrong: Frames in which it is no count; `num_full` in which it is at the limit, `num_lit` in
            which it is not zero.
        limit: Value from which on the detector is saturated; infinite where there is none.
        num_at_limit: Values at the limit, those of broken frames included.
        has_noise: Whether negative values are noise about zero, and not marks.
    """

    num_frames: int
    total: NDArray[numpy.float64]
    power: NDArray[numpy.float64]
    lowest: NDArray[numpy.float64]
    highest: NDArray[numpy.float64]
    num_wrong: NDArray[numpy.int64]
    num_full: NDArray[numpy.int64]
    num_lit: NDArray[numpy.int64]
    limit: float
    num_at_limit: int
    has_noise: bool


def _blocks(patterns: NDArray[Any], frames: NDArray[numpy.int64]) -> Iterator[NDArray[Any]]:
    for part in block_slices(len(frames), max(1, patterns[0].nbytes)):
        yield numpy.asarray(patterns[frames[part]])


def survey_patterns(
    patterns: NDArray[Any], good: NDArray[numpy.bool_], saturation: float | None
) -> Survey:
    """Returns what frames that are spread over the scan (N, H, W) hold."""
    is_whole = patterns.dtype.kind in 'iu'
    limit = float(numpy.iinfo(patterns.dtype).max) if is_whole else numpy.inf
    found = _survey(patterns, good, min(limit, saturation or numpy.inf))
    for is_varying in (False, True):  # the mark of gaps may lie above the end of a counter
        known = good & (2 * found.num_full < found.num_frames)
        known &= (found.lowest < found.highest) | (not is_varying)
        highest = float(found.highest[known].max(initial=0.0))
        if saturation is None and highest < found.limit and _ends_a_counter(highest):
            again = _survey(patterns, good, highest)
            found = again if again.num_at_limit >= PLATEAU else found
    return found


def _ends_a_counter(value: float) -> bool:
    """Returns whether a value is one less than a power of two; or the root of it, or rounded to it."""
    if value != round(value):
        value *= value
    power = 2.0 ** round(numpy.log2(value + 1.0))
    return value >= 255.0 and abs(value + 1.0 - power) <= (1.0 if power >= 2.0**16 else 1e-3)


def _is_wrong(values: NDArray[Any], *, has_noise: bool = False) -> NDArray[numpy.bool_]:
    """Returns where values are no counts; those below zero are, where they are noise."""
    if values.dtype.kind == 'u':
        return numpy.zeros(values.shape, bool)
    return ~((values >= (-MOST_COUNTS if has_noise else 0)) & (values < MOST_COUNTS))


def _survey(patterns: NDArray[Any], good: NDArray[numpy.bool_], limit: float) -> Survey:
    number, shape = min(NUM_FRAMES, len(patterns)), patterns.shape[1:]
    frames = numpy.unique(numpy.linspace(0, len(patterns) - 1, number).astype(numpy.int64))
    odd, num_at_limit = [], 0
    for block in _blocks(patterns, frames):
        full = (block >= limit) & good
        num_at_limit += int(full.sum())
        odd.append((full | (_is_wrong(block) & good)).mean(axis=(1, 2)))
    parts = numpy.concatenate(odd)  # gaps are in all frames
    frames = frames[parts <= numpy.quantile(parts, BROKEN) + BROKEN * good.mean()]
    total, power = numpy.zeros(shape), numpy.zeros(shape)
    lowest, highest = numpy.full(shape, numpy.inf), numpy.full(shape, -numpy.inf)
    num_wrong, num_below, num_full, num_lit = numpy.zeros((4, *shape), numpy.int64)
    for block in _blocks(patterns, frames):
        if block.dtype.kind != 'u':
            is_number = numpy.abs(block) < MOST_COUNTS
            num_wrong += _is_wrong(block).sum(axis=0)
            num_below += (is_number & (block < 0)).sum(axis=0)
            block = numpy.where(is_number, block, 0)
        total += block.sum(axis=0, dtype=numpy.float64)
        power += numpy.einsum('ijk,ijk->jk', block, block, dtype=numpy.float64)
        numpy.minimum(lowest, block.min(axis=0), out=lowest)
        numpy.maximum(highest, block.max(axis=0), out=highest)
        num_full += (block >= limit).sum(axis=0)
        num_lit += (block != 0).sum(axis=0)
    # marks are where they are; noise is below zero here and there
    is_noise = (num_below > 0) & (num_below < len(frames)) & good
    has_noise = bool(is_noise.sum() > BROKEN * good.sum())
    return Survey(
        len(frames), total, power, lowest, highest, num_wrong, num_full, num_lit, limit,
        num_at_limit, has_noise
    )  # fmt: skip


def find_wrong_values(
    patterns: NDArray[Any], good: NDArray[numpy.bool_], *, has_noise: bool
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Returns broken frames (n,), and in how many of the others a good pixel (H, W) is no count.

    Reads all patterns, unless their type can hold nothing else.
    """
    broken, num_wrong = [], numpy.zeros(good.shape, numpy.int64)
    if patterns.dtype.kind == 'u':
        return numpy.empty(0, numpy.int64), num_wrong
    for rows in block_slices(len(patterns), max(1, patterns[0].nbytes)):
        wrong = _is_wrong(numpy.asarray(patterns[rows]), has_noise=has_noise)
        if not wrong.any():
            continue
        wrong &= good
        is_broken = wrong.sum(axis=(1, 2)) > BROKEN * max(1, int(good.sum()))
        broken.append(rows.start + numpy.flatnonzero(is_broken))
        num_wrong += wrong[~is_broken].sum(axis=0)
    return numpy.concatenate([*broken, numpy.empty(0, numpy.int64)]), num_wrong


def fill_wrong_values(
    values: NDArray[Any], filling: NDArray[numpy.float64], *, has_noise: bool
) -> NDArray[Any]:
    """Returns values (J, H, W) with those of `filling` (H, W) where they are no counts."""
    wrong = _is_wrong(values, has_noise=has_noise)
    return numpy.where(wrong, filling, values).astype(values.dtype) if wrong.any() else values


def odd_pixels(survey: Survey) -> dict[str, NDArray[numpy.bool_]]:
    """Returns by what is wrong with them pixels (H, W) whose values cannot be counts."""
    number = survey.num_frames
    varies = survey.highest > survey.lowest
    is_same = ~varies & (survey.lowest != 0.0)
    is_same &= bool(varies.sum() > BROKEN * is_same.sum())  # else there is no noise at all
    is_full = 2 * survey.num_full >= number
    return {
        f'at the limit of {survey.limit:.10g}': is_full,
        'without counts': ~is_full
        & (2 * survey.num_wrong >= number)
        & (is_same | (not survey.has_noise)),
        'stuck': ~is_full & is_same & (survey.highest > 0.0) & (number >= FEWEST),
    }


def unlike_pixels(
    survey: Survey,
    counts: NDArray[numpy.float64],
    highest: NDArray[numpy.float64],
    good: NDArray[numpy.bool_],
    beam: NDArray[numpy.float64] | None,
) -> dict[str, NDArray[numpy.bool_]]:
    """Returns by what is wrong with them pixels (H, W) that are dark or bright unlike all around.

    Args:
        survey: Of the patterns, in their unit.
        counts: Of each pixel, all frames together.
        highest: The most that a pixel has in a frame: what single frames make is no hot pixel.
        good: Pixels that are not known to be bad.
        beam: What the probe alone would send there, in any unit; where it is dark, dark is right.
    """
    number = survey.num_frames
    # frames that are far too bright have many counts, but no more zeros than others
    proof = numpy.where(survey.num_lit > (1.0 - BROKEN) * number, counts, survey.num_lit)
    expected = numpy.full(counts.shape, numpy.inf)
    if beam is not None and beam.sum() > 0.0:
        expected = beam * (counts[good].sum() / beam.sum())
        scattered = proof[good & (expected < BRIGHT)]  # where the beam alone would leave it dark
        expected = numpy.maximum(expected, numpy.median(scattered) if scattered.size else 0.0)
    filled, dead = proof * good, numpy.zeros(counts.shape, bool)
    for _ in range(2):  # where gaps cross, they are enclosed by gaps
        around = _enclosing(filled, filled > 0.0)
        found = (filled == 0.0) & (highest <= 0.0) & (around > BRIGHT) & (expected > BRIGHT)
        filled = numpy.where(found, around, filled)
        dead |= found
    for axis in (0, 1):  # a gap between modules goes on where light is too weak to tell
        is_empty = (proof * good == 0.0).all(axis=axis, keepdims=True)
        dead |= is_empty & dead.any(axis=axis, keepdims=True)
    ring = numpy.ones((3, 3), bool)
    ring[1, 1] = False
    near = ndimage.rank_filter(_fill(counts, good & ~dead), -2, footprint=ring, mode='nearest')
    floor = HOT * (near + 1.0) + 10.0 * numpy.sqrt(near + 1.0)
    hot = good & (counts > floor) & (counts > 2.0 * number)
    hot &= counts > min(FEWEST, 0.5 * number) * highest
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
    """Returns along which axes (y, x) the zero frequency lies at the border of the patterns.

    There is light at both ends of such an axis, then: a beam that is off the middle has one.
    """
    light = numpy.maximum(_fill(counts, good), 0.0)
    light = ndimage.median_filter(light, NEIGHBOURHOOD_PX, mode='wrap')
    found = []
    for axis in (1, 0):
        first, *middle, last = numpy.array_split(light.sum(axis=axis), 4)
        inner, ends = sum(part.sum() for part in middle), (first.sum(), last.sum())
        found.append(bool(sum(ends) > OUTSIDE * inner and min(ends) > inner))
    return tuple(found)
