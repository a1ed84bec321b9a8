"""From patches to one canvas, in numpy: phases brought in step, then a mean by probe power."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import KDTree

__all__ = ['PatchSum', 'blend', 'find_stacks', 'first_places', 'phase_factors', 'support_box']

FILL = 1e-6
"""Where the probe is weaker than this part of its peak, the canvas tends to the flat object."""

NUM_NEIGHBORS = 10
SUPPORT_POWER = 0.999
SMALL_MATRIX = 32


def blend(
    numerator: NDArray[numpy.complex64], coverage: NDArray[numpy.float32]
) -> NDArray[numpy.complex64]:
    """Returns the weighted mean of patches (Y, X); one where no probe has been."""
    floor = FILL * coverage.max() + 1e-20
    return ((numerator + floor) / (coverage + floor)).astype(numpy.complex64)


def support_box(power: NDArray[numpy.floating]) -> tuple[slice, slice]:
    """Returns the smallest centred box, cut by multiples of 4, with 99.9 % of a probe's power."""
    height, width = power.shape
    wanted = SUPPORT_POWER * float(power.sum())
    for cut in range((min(height, width) - 8) // 8 * 4, 0, -4):
        box = (slice(cut, height - cut), slice(cut, width - cut))
        if float(power[box].sum()) >= wanted:
            return box
    return slice(0, height), slice(0, width)


@dataclass
class PatchSum:
    """Patches times their weights, kept in the box that holds the probe, until all are there.

    Adding patches in parts of any size, in any order, gives the same sum.

    Attributes:
        shape: (Y, X) of the canvas.
        box: Part of the window that is kept (see `support_box`).
    """

    shape: tuple[int, int]
    box: tuple[slice, slice]
    _parts: list[NDArray[numpy.complex64]] = field(default_factory=list)
    _corners: list[NDArray[numpy.int64]] = field(default_factory=list)
    _numbers: list[NDArray[numpy.int64]] = field(default_factory=list)

    def __post_init__(self) -> None:
        # in double precision, so that the order in which patterns come does not show
        self._coverage = numpy.zeros(self.shape)

    def add(
        self,
        numbers: NDArray[numpy.int64],
        corners: NDArray[numpy.int64],
        patches: NDArray[numpy.complex64],
        weights: NDArray[numpy.float32],
    ) -> None:
        """Adds patches (J, H, W) with their weights at their corners (J, 2).

        `numbers` (J,) say which patterns they belong to; all is summed in their order.
        """
        self._numbers.append(numbers)
        self._corners.append(corners)
        self._parts.append(numpy.ascontiguousarray((patches * weights)[:, *self.box]))
        height, width = weights.shape[1:]
        for weight, (y, x) in zip(weights, corners.tolist()):
            self._coverage[y : y + height, x : x + width] += weight

    def merge(
        self, *, is_synchronised: bool = True
    ) -> tuple[NDArray[numpy.complex64], NDArray[numpy.float32]]:
        """Returns the weighted mean (Y, X) and the coverage (Y, X)."""
        order = numpy.argsort(numpy.concatenate(self._numbers), kind='stable')
        corners = numpy.concatenate(self._corners)[order]
        patches = numpy.concatenate(self._parts)[order]
        start = numpy.array([self.box[0].start, self.box[1].start])
        factors = numpy.ones(len(patches), dtype=numpy.complex64)
        if is_synchronised:
            factors = phase_factors(patches, corners + start)
        canvas = numpy.zeros(self.shape, dtype=numpy.complex64)
        height, width = patches.shape[1:]
        for patch, factor, (y, x) in zip(patches, factors, (corners + start).tolist()):
            canvas[y : y + height, x : x + width] += factor * patch
        coverage = self._coverage.astype(numpy.float32)
        return blend(canvas, coverage), coverage


def phase_factors(
    patches: NDArray[numpy.complex64], corners: NDArray[numpy.int64]
) -> NDArray[numpy.complex64]:
    """Returns the unit phasor for each weighted patch that makes overlapping patches agree.

    A diffraction pattern does not tell the phase of its patch as a whole. The phasors are those
    of the leading eigenvector of the degree-normalised matrix of overlaps `sum conj(o_j) o_k`
    (angular synchronisation: Singer, Appl. Comput. Harmon. Anal. 30, 2011).
    """
    factors = numpy.ones(len(patches), dtype=numpy.complex64)
    matrix = _overlap_matrix(patches, corners)
    num_parts, labels = connected_components(abs(matrix), directed=False)
    for label in range(num_parts):
        members = numpy.flatnonzero(labels == label)
        if len(members) > 1:
            factors[members] = _leading_phases(matrix[members][:, members])
    return factors


def _overlap_matrix(patches: NDArray[numpy.complex64], corners: NDArray[numpy.int64]) -> csr_matrix:
    number, height, width = patches.shape
    near = KDTree(corners).query(corners, k=min(number, NUM_NEIGHBORS + 1))[1]
    pairs = numpy.stack(
        [numpy.arange(number).repeat(near.size // number), near.reshape(-1)], axis=1
    )
    pairs = numpy.unique(numpy.sort(pairs, axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    steps = corners[pairs[:, 1]] - corners[pairs[:, 0]]
    is_over = (numpy.abs(steps) < (height, width)).all(axis=1)
    pairs, steps = pairs[is_over], steps[is_over]
    values = numpy.zeros(len(pairs), dtype=numpy.complex128)
    for index, ((j, k), (dy, dx)) in enumerate(zip(pairs.tolist(), steps.tolist())):
        own = patches[j, max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
        other = patches[k, max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
        values[index] = numpy.vdot(own, other)
    half = csr_matrix((values, (pairs[:, 0], pairs[:, 1])), shape=(number, number))
    half.eliminate_zeros()
    return (half + half.conj().T).tocsr()


def _leading_phases(matrix: csr_matrix) -> NDArray[numpy.complex64]:
    degree = numpy.asarray(abs(matrix).sum(axis=1)).ravel()
    root = 1.0 / numpy.sqrt(numpy.maximum(degree, 1e-300))
    scaled = matrix.multiply(root[:, None]).multiply(root[None, :]).tocsr()
    if len(degree) <= SMALL_MATRIX:
        vector = numpy.linalg.eigh(scaled.toarray())[1][:, -1]
    else:
        start = numpy.sqrt(degree).astype(numpy.complex128)
        vector = eigsh(scaled, k=1, which='LA', v0=start)[1][:, 0]
    size = numpy.abs(vector)
    phasors = numpy.where(size > 0.0, vector / numpy.maximum(size, 1e-300), 1.0)
    mean = phasors.sum()
    if abs(mean) > 1e-9:
        phasors = phasors * (abs(mean) / mean)
    return phasors.astype(numpy.complex64)


def find_stacks(
    rows: NDArray[numpy.int64], corners: NDArray[numpy.int64], num_channels: int
) -> NDArray[numpy.int64]:
    """Returns stacks (S, C) of near patterns of one group, such that every pattern is in one.

    Each stack is ordered by place, from the top, left to right within each part, so that a
    channel means a direction.
    """
    if num_channels == 1:
        return numpy.arange(len(rows))[:, None]
    found = []
    for row in numpy.unique(rows):
        members = numpy.flatnonzero(rows == row)
        found.append(members[_cover(corners[members], num_channels)])
    return numpy.concatenate(found)


def _cover(corners: NDArray[numpy.int64], size: int) -> NDArray[numpy.int64]:
    number = len(corners)
    near = KDTree(corners).query(corners, k=min(size, number))[1].reshape(number, -1)
    is_open = numpy.ones(number, dtype=bool)
    stacks = []
    for seed in numpy.lexsort((corners[:, 1], corners[:, 0])):
        if not is_open[seed]:
            continue
        row = near[seed] if seed in near[seed] else numpy.array([seed, *near[seed][1:]])
        row = numpy.resize(row, size)
        is_open[row] = False
        stacks.append(_order(row, corners))
    return numpy.stack(stacks)


def _order(row: NDArray[numpy.int64], corners: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    by_y = row[numpy.argsort(corners[row, 0], kind='stable')]
    side = max(1, round(len(row) ** 0.5))
    parts = [by_y[first : first + side] for first in range(0, len(row), side)]
    return numpy.concatenate([p[numpy.argsort(corners[p, 1], kind='stable')] for p in parts])


def first_places(stacks: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """Returns for each pattern where it comes first among the flattened stacks."""
    return numpy.unique(stacks.reshape(-1), return_index=True)[1]
