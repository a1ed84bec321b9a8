"""What the numbers of patterns are: counts or amplitudes, in which unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

__all__ = ['PatternKind', 'recognise_kind']

LARGEST, ENOUGH, SMALLEST_COUNTS = 1000.0, 200, 3
"""Counts up to which single precision tells whole numbers from others; values that must be there; and
counts that the smallest value may stand for."""

LARGEST_DOUBT, MOST_CHANGES = 0.1, 30.0
"""Rounding up to which a value tells whether it is whole, and units of the changes that do."""

MOST_UNITS, NUDGE, FEWEST_GAPS = 64, 0.03, 4
"""Whole numbers among which rounded multiples of a unit are looked for, and how near to the next a
multiple must be to be rounded to either: what half a step of the tried units makes of the largest;
and numbers that must be impossible, since by chance alone one may be missing."""


@dataclass(frozen=True)
class PatternKind:
    """How values become counts: `factor * values`, or of amplitudes `factor * values**2`."""

    is_amplitude: bool = False
    factor: float = 1.0

    def to_counts(
        self, values: Shaped[NDArray[Any], '*shape']
    ) -> Float[NDArray[numpy.float32], '*shape']:
        """Returns the counts of values (N, H, W), or of any other shape."""
        found = numpy.square(values, dtype=numpy.float32) if self.is_amplitude else values
        return (found * numpy.float32(self.factor)).astype(numpy.float32, copy=False)

    @property
    def is_plain(self) -> bool:
        """Whether the values are counts as they are."""
        return not self.is_amplitude and self.factor == 1.0

    def describe(self) -> str:
        """Returns what is done to the values, in a sentence; nothing for plain counts."""
        if self.is_amplitude and self.factor == 1.0:
            return 'The patterns are amplitudes: they are squared to counts.'
        if self.is_amplitude:
            return (
                f'The patterns are amplitudes in units of {self.factor**-0.5:.6g}: they are made counts '
                f'(--gain {1.0 / self.factor:.6g}, of their squares).'
            )
        if self.factor != 1.0:
            unit = 1.0 / self.factor
            return f'A photon is {unit:.6g} in the patterns: they are divided by that (--gain).'
        return ''


def recognise_kind(
    values: NDArray[Any], kinds: Sequence[bool] = (False, True)
) -> PatternKind | None:
    """Returns what values of patterns hold: what is whole, or whose square is, in its unit.

    None where they do not tell.

    Args:
        values: (n,), or (J, n) of the same good pixels in some frames, which tells more.
        kinds: What they may be: not amplitudes, amplitudes.
    """
    positive = values[values > 0].astype(numpy.float64)
    if not positive.size:
        return PatternKind()
    if values.dtype.kind in 'iub':
        is_amplitude = False not in kinds
        return PatternKind(is_amplitude, 1.0 if is_amplitude else 1.0 / _unit_of_whole(positive))
    for is_amplitude in kinds:
        tried = positive**2 if is_amplitude else positive
        if tried.max() > 0.5 and _is_whole(tried, 1e-5):
            return PatternKind(is_amplitude, 1.0 / _unit_of_whole(numpy.rint(tried)))
    found = _in_own_unit(positive, kinds)
    unit = _unit_of_changes(values) if False in kinds and values.ndim > 1 else None
    if unit is not None and (found is None or not found.is_amplitude and unit * found.factor > 1.5):
        return PatternKind(factor=1.0 if abs(unit - 1.0) < 1e-3 else 1.0 / unit)
    return found


def _unit_of_changes(values: NDArray[Any]) -> float | None:
    """Returns the unit in which pixels change from frame to frame (J, n), where they have one.

    A background that was taken off pixel by pixel makes values that are not whole; changes are.
    """
    before, after = values[:-1].astype(numpy.float64), values[1:].astype(numpy.float64)
    changes = numpy.abs(after - before)[(before * after != 0.0) & (before != after)]
    if len(changes) < ENOUGH:
        return None
    ratios = changes / changes.min()
    ratios = ratios[ratios < MOST_CHANGES]
    if len(ratios) < ENOUGH or numpy.abs(ratios - numpy.rint(ratios)).max() > 1e-3 * MOST_CHANGES:
        return None
    return float(changes.min() * numpy.median(ratios / numpy.rint(ratios)))


def _unit_of_whole(positive: NDArray[numpy.float64]) -> float:
    """Returns what of whole numbers stands for one photon.

    The common divisor, where enough numbers have it; or the unit whose multiples, rounded or cut
    to whole numbers, leave gaps among the small ones: photons come in all numbers.
    """
    if len(positive) < ENOUGH:
        return 1.0
    usual = numpy.unique(positive[positive <= numpy.quantile(positive, 0.999)])  # without spikes
    divisor = int(numpy.gcd.reduce(usual.astype(numpy.int64)))
    if divisor > 1 and len(usual) > 1:
        return float(divisor)
    small = positive[positive <= MOST_UNITS].astype(int)
    seen = numpy.bincount(small, minlength=MOST_UNITS + 1)[1:] > 0
    if len(small) < ENOUGH or seen.mean() > 0.8 or seen[: small.max()].all():
        return 1.0  # photons come in all numbers, and of units up to 1.25 nothing can be told
    found = [_find_unit(seen[: small.max()], rounded) for rounded in (numpy.rint, numpy.floor)]
    unit, agreement = max(found, key=lambda pair: pair[1])
    return unit if agreement else 1.0


def _find_unit(seen: NDArray[numpy.bool_], rounded: Callable[[Any], Any]) -> tuple[float, int]:
    """Returns the unit whose rounded multiples are the whole numbers 1, 2, ... that were seen.

    And how many of these numbers agree; none where no unit explains all of them.
    """
    tried = numpy.arange(1.25, 16.0, 0.001)
    multiples = tried[:, None] * numpy.arange(1, MOST_UNITS)
    rows = numpy.broadcast_to(numpy.arange(len(tried))[:, None], multiples.shape)
    low, exact, high = (
        numpy.minimum(rounded(multiples + nudge).astype(int), len(seen) + 1) - 1
        for nudge in (-NUDGE, 0.0, NUDGE)
    )
    certain, made, possible = numpy.zeros((3, len(tried), len(seen) + 1), bool)  # the last: beyond
    certain[rows[low == high], low[low == high]] = True
    made[rows, exact] = True
    possible[rows, low] = possible[rows, high] = True
    certain, made, possible = (array[:, :-1] for array in (certain, made, possible))
    fits = ((possible | ~seen) & (~certain | seen)).all(axis=1)
    fits &= (~possible).sum(axis=1) >= FEWEST_GAPS
    agreement = (made == seen).sum(axis=1) * fits
    return float(tried[agreement == agreement.max()].mean()), int(agreement.max())


def _in_own_unit(positive: NDArray[numpy.float64], kinds: Sequence[bool]) -> PatternKind | None:
    """Returns what positive values are of which the smallest stands for a few counts, if it does."""
    unit = float(positive.min())
    for is_amplitude in kinds:
        ratios = (positive / unit) ** (2 if is_amplitude else 1)
        for counts in range(1, SMALLEST_COUNTS + 1):
            small = ratios[ratios * counts < LARGEST] * counts
            if len(small) >= ENOUGH and small.max() > 1.5 and _is_whole(small, 1e-4):
                return PatternKind(is_amplitude, counts / (unit**2 if is_amplitude else unit))
    return None


def _is_whole(values: NDArray[numpy.float64], tolerance: float) -> bool:
    """Returns whether all values are whole that are small enough to tell; some must be."""
    allowed = tolerance * numpy.maximum(1.0, numpy.abs(values))
    tells = allowed < LARGEST_DOUBT
    is_near = numpy.abs(values - numpy.rint(values)) <= allowed
    return bool(tells.any() and is_near[tells].all())
