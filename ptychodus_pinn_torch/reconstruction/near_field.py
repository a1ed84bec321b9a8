"""Tells patterns that were taken in the near field: they are images, and move with the sample."""

from __future__ import annotations

from typing import Any

import numpy
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ..scan.scan import Scan
from ..scan.triage import Triage

__all__ = ['describe_near_field']

NUM_FRAMES, NUM_NEIGHBOURS, NUM_TRIALS = 64, 3, 256
"""Frames that are compared with their neighbours, and pairs of pairs that say how both move."""

AGREE_PX, MOST = 2.0, 0.5
"""Detector pixels to which a motion is as one linear law says, and the part of the pairs that must be."""

MOST_WINDOWS = 2.0
"""A beam of the far field fits into the window of a pattern, if it is to be told by its pattern. Shadows
of a bent beam move, too, but say that it fits: 0.8 of it on the measured Siemens star, where the
measured scan of the near field has 2.8."""


def describe_near_field(scan: Scan, triage: Triage) -> str:
    """Returns a sentence where the patterns are images of a sample in a beam wider than the window.

    Neighbouring frames are the same structure, moved by a common linear law times the distance of
    their positions: object pixels become so many detector pixels. That law, and the width of the light
    on the detector, say how wide the beam is at the sample.
    """
    kept = triage.kept(scan.num_patterns)
    if len(kept) <= 2 * NUM_NEIGHBOURS:
        return ''
    mean = numpy.asarray(scan.patterns[kept[:: max(1, len(kept) // NUM_FRAMES)]]).mean(axis=0)
    mean = numpy.asarray(mean * scan.good_pixels, numpy.float64)
    usual = numpy.sqrt(mean)
    positions = scan.positions_px[kept]
    chosen = numpy.arange(0, len(kept), max(1, len(kept) // NUM_FRAMES))
    _, near = KDTree(positions).query(positions[chosen], NUM_NEIGHBOURS + 1)
    moves, ways = [], []
    for number, others in zip(chosen, near):
        counts = scan.patterns[kept[[number, *others[others != number][:NUM_NEIGHBOURS]]]]
        roots = numpy.sqrt(numpy.maximum(counts, 0) * scan.good_pixels)
        first, *rest = numpy.fft.fft2(roots - usual)
        for k, other in zip(others[others != number], rest):
            likeness = numpy.fft.ifft2(first * other.conj()).real
            moves.append(_signed(int(likeness.argmax()), likeness.shape))
            ways.append(positions[number] - positions[k])
    law, part = _find_law(numpy.asarray(ways), numpy.asarray(moves, numpy.float64))
    scales = numpy.linalg.svd(law, compute_uv=False)
    windows = _width(mean) / max(float(scales[0]), 1e-9) / min(scan.pattern_shape)
    if part <= MOST or windows <= MOST_WINDOWS:
        return ''
    return (
        f'The patterns move with the sample, by {scales[0]:.2g} detector pixels for one of the object: '
        f'they are images of it, taken in the near field, or with a beam {windows:.2g} times as wide as the '
        'window of a pattern. This program takes patterns of the far field: it will not make an image of '
        'them.'
    )


def _signed(place: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shift that a place in a cross-correlation stands for."""
    index = numpy.unravel_index(place, shape)
    return tuple((int(at) + n // 2) % n - n // 2 for at, n in zip(index, shape))


def _find_law(ways: NDArray[Any], moves: NDArray[Any]) -> tuple[NDArray[Any], float]:
    """Returns the matrix (2, 2) that makes motions (n, 2) of ways, and the part that it explains."""
    rng, best, law = numpy.random.default_rng(0), 0.0, numpy.zeros((2, 2))
    has_moved = numpy.abs(moves).max(axis=1) > AGREE_PX
    for _ in range(NUM_TRIALS):
        pair = rng.choice(len(ways), 2, replace=False)
        tried = numpy.linalg.lstsq(ways[pair], moves[pair])[0]
        agrees = (numpy.abs(ways @ tried - moves) < AGREE_PX).all(axis=1) & has_moved
        if agrees.mean() > best:
            best, law = float(agrees.mean()), tried
    return law, best


def _width(mean: NDArray[numpy.float64]) -> float:
    """Returns the diameter of the ring that is as wide as the light, by its standard deviation."""
    profiles = mean.sum(axis=1), mean.sum(axis=0)
    variances = []
    for profile in profiles:
        places = numpy.arange(len(profile)) - (profile @ numpy.arange(len(profile))) / profile.sum()
        variances.append(profile @ places**2 / profile.sum())
    return float(numpy.sqrt(8.0 * numpy.mean(variances)))
