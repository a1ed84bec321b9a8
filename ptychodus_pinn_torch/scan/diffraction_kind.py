"""What the numbers of patterns are that nobody has named: counts, or amplitudes, in which unit."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

__all__ = ['PatternKind', 'recognise_kind']

logger = logging.getLogger(__name__)

NUM_FRAMES = 32
"""Frames that are looked at."""

LARGEST, ENOUGH, SMALLEST_COUNTS = 1000.0, 200, 3
"""Counts up to which single precision tells whole numbers from others; values that must be there; and
counts that the smallest value may stand for."""


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


def recognise_kind(patterns: NDArray[Any], source: str, remedy: str) -> PatternKind:
    """Returns what patterns (N, H, W) hold: what is whole, or whose square is, in its unit, tells it.

    Args:
        patterns: Of any type.
        source: What a message calls them.
        remedy: What the user can do where their values do not tell.

    Raises:
        ValueError: they do not tell.
    """
    if patterns.dtype.kind != 'f' or patterns.size == 0:
        return PatternKind()
    sample = numpy.asarray(patterns[:: max(1, len(patterns) // NUM_FRAMES)], dtype=numpy.float64)
    sample = sample[numpy.isfinite(sample)]
    positive = sample[sample > 0.0]
    if not positive.size:
        return PatternKind()
    for is_amplitude, values in ((False, sample), (True, sample**2)):
        if values.max() > 0.5 and _is_whole(values, 1e-5):
            return PatternKind(is_amplitude)
    if (found := _in_own_unit(positive)) is not None:
        logger.warning(
            '%s: holds %s in a unit of their own, which its values prove: they are made counts of '
            'photons.',
            source,
            'amplitudes' if found.is_amplitude else 'counts',
        )
        return found
    raise ValueError(
        f'{source}: diff3d may hold counts or amplitudes; {patterns.dtype} values up to '
        f'{sample.max():.4g} do not tell: {remedy}.'
    )


def _in_own_unit(positive: NDArray[numpy.float64]) -> PatternKind | None:
    """Returns what positive values are of which the smallest stands for a few counts, if it does."""
    unit = float(positive.min())
    for is_amplitude, ratios in ((False, positive / unit), (True, (positive / unit) ** 2)):
        for counts in range(1, SMALLEST_COUNTS + 1):
            small = ratios[ratios * counts < LARGEST] * counts
            if len(small) >= ENOUGH and small.max() > 1.5 and _is_whole(small, 1e-4):
                return PatternKind(is_amplitude, counts / (unit**2 if is_amplitude else unit))
    return None


def _is_whole(values: NDArray[numpy.float64], tolerance: float) -> bool:
    allowed = tolerance * numpy.maximum(1.0, numpy.abs(values))
    return bool(numpy.all(numpy.abs(values - numpy.rint(values)) <= allowed))
