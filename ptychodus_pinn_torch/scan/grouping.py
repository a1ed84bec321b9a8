"""Groups of overlapping patterns: rows of indices, never copies."""

from __future__ import annotations

import numpy
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.spatial import KDTree

__all__ = ['choose_held_out', 'draw_groups']

_SAME_PLACE_PX = 0.01


def choose_held_out(
    positions_px: NDArray[numpy.float64], fraction: float, rng: Generator
) -> NDArray[numpy.int64]:
    """Returns sorted pattern numbers to keep out of training, scattered over the scan.

    One pattern is drawn from each of as many compact cells as there are patterns to hold out;
    all others at its position go with it, since a repeated frame would tell what it holds. Fewer
    than 8 patterns are never held out from. `positions_px` is (N, 2), the result (J,).
    """
    number = int(round(fraction * len(positions_px)))
    if number < 1 or len(positions_px) < 8:
        return numpy.empty(0, dtype=numpy.int64)
    cells = _cells(positions_px, numpy.arange(len(positions_px)), number)
    chosen = numpy.sort(numpy.asarray([rng.choice(cell) for cell in cells], dtype=numpy.int64))
    places = numpy.rint(positions_px / _SAME_PLACE_PX)
    _, place = numpy.unique(places, axis=0, return_inverse=True)
    repeated = numpy.flatnonzero(numpy.isin(place, place[chosen]))
    # where most of the scan is one place, there is nothing to judge by
    return repeated if 2 * len(repeated) <= len(positions_px) else chosen


def _cells(
    positions_px: NDArray[numpy.float64], members: NDArray[numpy.int64], number: int
) -> list[NDArray[numpy.int64]]:
    """Returns `members` in `number` compact cells, split along the longer side."""
    if number <= 1 or len(members) <= 1:
        return [members]
    points = positions_px[members]
    axis = int(numpy.argmax(points.max(axis=0) - points.min(axis=0)))
    ordered = members[numpy.argsort(points[:, axis], kind='stable')]
    left = number // 2
    cut = max(1, round(len(members) * left / number))
    return _cells(positions_px, ordered[:cut], left) + _cells(
        positions_px, ordered[cut:], number - left
    )


def draw_groups(
    positions_px: NDArray[numpy.float64],
    group_size: int,
    rng: Generator,
    *,
    members: NDArray[numpy.int64] | None = None,
    neighbor_pool: float = 1.25,
    max_distance_px: float = 0.0,
) -> NDArray[numpy.int64]:
    """Returns groups (G, C) of pattern numbers that together contain every member at least once.

    The first of a row is the seed. A row may name a pattern twice where fewer than C lie within
    the distance limit.

    Seeds are drawn among the patterns that no group has yet; a group is its seed and C - 1 of the
    nearest `neighbor_pool * C` within a distance of the seed, of which 0 is no limit. Positions are
    (N, 2), C is the group size; members, all patterns by default, are those to group.

    Raises:
        ValueError: fewer members than the group size.
    """
    candidates = numpy.arange(len(positions_px)) if members is None else numpy.asarray(members)
    if len(candidates) < group_size:
        raise ValueError(
            f'a group takes {group_size} patterns but only {len(candidates)} can be trained on: '
            'set --grouping.group-size lower or use a longer scan.'
        )
    if group_size == 1:
        return rng.permutation(candidates)[:, None]
    tree = KDTree(positions_px[candidates])
    pool = min(len(candidates), max(group_size, round(neighbor_pool * group_size)))
    is_open = numpy.ones(len(candidates), dtype=bool)
    rows = []
    for seed in rng.permutation(len(candidates)):
        if not is_open[seed]:
            continue
        distances, near = tree.query(positions_px[candidates[seed]], k=pool)
        near = (
            near[near != seed][: pool - 1]
            if max_distance_px <= 0.0
            else near[(distances <= max_distance_px) & (near != seed)]
        )
        others = rng.choice(near, min(group_size - 1, len(near)), replace=False)
        row = numpy.resize([seed, *others], group_size)
        is_open[row] = False
        rows.append(candidates[row])
    return numpy.stack(rows)
