"""Turns, mirrors and stretches the positions of a scan, and makes room for them on its object."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from .scan import Scan, split_positions

__all__ = ['MAX_OBJECT_PIXELS', 'PositionTransform', 'find_lone', 'make_room']

logger = logging.getLogger(__name__)

_BORDER_PX = 4
MAX_OBJECT_PIXELS = 2**28
"""Pixels of the largest object that is meant; its arrays take 2 GB each."""

MAIN_PART, MOST_GROWTH = 0.75, 4.0
"""Where so many windows hang together, others that touch none of them are glitches of the encoder if
the object would be so many times larger with them: a second area of a scan is smaller than that."""


@dataclass(frozen=True)
class PositionTransform:
    """What is done to the positions of a scan when it is read.

    Convention: axes are exchanged first, then flipped, then scaled, all about the centre of the
    scan, the middle of the smallest box that holds the positions. Patterns, probe, object and
    truth stay as they are.

    Attributes:
        exchange_axes: Whether y and x change places.
        flip_y: Whether y changes its sign.
        flip_x: Whether x changes its sign.
        scale: What the distances are multiplied with.

    Raises:
        ValueError: the scale is not a positive number.

    Examples:
        >>> import numpy
        >>> from ptychodus_pinn_torch import PositionTransform
        >>> transform = PositionTransform(exchange_axes=True, flip_y=True, scale=2.0)
        >>> transform.describe()
        'axes exchanged, y flipped, scaled by 2'
        >>> transform.apply(numpy.array([[0.0, 0.0], [0.0, 4.0], [2.0, 4.0]])).tolist()
        [[5.0, 0.0], [-3.0, 0.0], [-3.0, 4.0]]
    """

    exchange_axes: bool = False
    flip_y: bool = False
    flip_x: bool = False
    scale: float = 1.0

    def __post_init__(self) -> None:
        if not 0.0 < self.scale < numpy.inf:
            raise ValueError(f'the scale of positions is {self.scale}: it must be positive.')

    @property
    def is_nothing(self) -> bool:
        """Whether the positions stay as they are."""
        return self == PositionTransform()

    @property
    def moves_the_border(self) -> bool:
        """Whether the box around the positions changes; flips leave it where it is."""
        return self.exchange_axes or self.scale != 1.0

    def apply(self, positions_px: NDArray[numpy.float64]) -> NDArray[numpy.float64]:
        """Returns the positions (N, 2), changed about the middle of their box."""
        middle = (positions_px.max(axis=0) + positions_px.min(axis=0)) / 2.0
        moved = positions_px - middle
        if self.exchange_axes:
            moved = moved[:, ::-1]
        return moved * numpy.where([self.flip_y, self.flip_x], -self.scale, self.scale) + middle

    def then(self, other: PositionTransform) -> PositionTransform:
        """Returns what does the same as this one and the other one after it."""
        flip_y, flip_x = self.flip_y, self.flip_x
        if other.exchange_axes:
            flip_y, flip_x = flip_x, flip_y
        return PositionTransform(
            self.exchange_axes != other.exchange_axes,
            flip_y != other.flip_y,
            flip_x != other.flip_x,
            self.scale * other.scale,
        )

    def describe(self) -> str:
        """Returns what is done, in words; nothing where nothing is done."""
        parts = [
            ('axes exchanged', self.exchange_axes),
            ('y flipped', self.flip_y),
            ('x flipped', self.flip_x),
            (f'scaled by {self.scale:.6g}', self.scale != 1.0),
        ]
        return ', '.join(text for text, is_done in parts if is_done)

    def flags(self) -> str:
        """Returns the flags of the command line that do it; nothing where nothing is done."""
        parts = [
            ('--exchange-axes', self.exchange_axes),
            ('--flip-y', self.flip_y),
            ('--flip-x', self.flip_x),
            (f'--scale-positions {self.scale:.6g}', self.scale != 1.0),
        ]
        return ' '.join(text for text, is_done in parts if is_done)


def find_lone(
    positions_px: NDArray[numpy.float64],
    window: tuple[int, int],
    object_shape: tuple[int, ...] | None = None,
) -> NDArray[numpy.int64]:
    """Returns numbers of positions (N, 2) so far from all others that they cannot be meant.

    Their windows (H, W) touch no other window; they lie outside of the object where there is one, else
    one that held them would be much larger than one that holds the rest.
    """
    cells, cell = numpy.unique(numpy.floor(positions_px / window), axis=0, return_inverse=True)
    pairs = KDTree(cells).query_pairs(1.5, p=numpy.inf, output_type='ndarray')
    graph = coo_array((numpy.ones(len(pairs)), pairs.T), shape=(len(cells), len(cells)))
    island = connected_components(graph, directed=False)[1][cell.ravel()]
    number = numpy.bincount(island)
    main = positions_px[island == number.argmax()]
    if len(main) < MAIN_PART * len(positions_px) or len(number) == 1:
        return numpy.empty(0, numpy.int64)
    low, high = main.min(axis=0), main.max(axis=0)
    lone = island != number.argmax()
    if object_shape is not None:
        half = (numpy.asarray(window) - 1.0) / 2.0
        inside = (positions_px >= half - 1.0) & (positions_px <= object_shape - half)
        return numpy.flatnonzero(lone & ~inside.all(axis=1))
    size = numpy.maximum(high, positions_px) - numpy.minimum(low, positions_px) + window
    growth = size.prod(axis=1) / numpy.prod(high - low + window)
    return numpy.flatnonzero(lone & (growth > MOST_GROWTH))


def make_room(scan: Scan) -> Scan:
    """Returns the scan on an object that holds every window, enlarged where it has to be.

    The values of object and truth at the border are repeated outside; what was there stays
    where it was in metres. For positions that were moved on purpose.

    Raises:
        ValueError: the object would become too large to be meant.
    """
    corners, _ = split_positions(scan.positions_px[scan.frames()], scan.pattern_shape)
    shape = numpy.asarray(scan.object_.shape)
    before = -corners.min(axis=0)
    after = corners.max(axis=0) + numpy.asarray(scan.pattern_shape) - shape
    before, after = (numpy.where(side > 0, side + _BORDER_PX, 0) for side in (before, after))
    if not (before.any() or after.any()):
        return scan
    new_shape = shape + before + after
    if numpy.prod(new_shape.astype(float)) > MAX_OBJECT_PIXELS:
        raise ValueError(
            f'{scan.source or scan.name}: the changed positions need an object of {new_shape[0]} x '
            f'{new_shape[1]} pixels: check --scale-positions.'
        )
    logger.info(
        '%s: the object is enlarged from %d x %d to %d x %d pixels to hold the changed positions.',
        scan.name,
        *shape,
        *new_shape,
    )
    margins = list(zip(before, after))
    moved_m = (after - before) / 2.0 * (scan.pixel_size_m or (0.0, 0.0))
    y_m, x_m = scan.object_center_m + moved_m
    return replace(
        scan,
        positions_px=scan.positions_px + before,
        object_=numpy.pad(scan.object_, margins, mode='edge'),
        truth=None if scan.truth is None else numpy.pad(scan.truth, margins, mode='edge'),
        object_center_m=(float(y_m), float(x_m)),
    )
