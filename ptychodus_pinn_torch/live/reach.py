"""Which frames lie near enough to each other for one image."""

from __future__ import annotations

import logging

import numpy
from numpy.typing import NDArray

from ..scan.positions import MAX_OBJECT_PIXELS
from .joiner import Joined

__all__ = ['Reach', 'find_near']

logger = logging.getLogger(__name__)


def find_near(
    positions: NDArray[numpy.float64], window: int, known: NDArray[numpy.bool_] | None = None
) -> NDArray[numpy.bool_]:
    """Returns (n,), True where a window fits on one canvas with those nearer to the median.

    Args:
        positions: (n, 2) of (y, x), in pixels.
        window: Pixels per side.
        known: (m,) what was found of the first ones; those that fitted come before all others.
    """
    if not len(positions):
        return numpy.zeros(0, dtype=bool)
    with numpy.errstate(over='ignore', invalid='ignore'):  # positions may be any numbers
        if (numpy.ptp(positions, axis=0) + 2.0 * window).prod() <= MAX_OBJECT_PIXELS:
            return numpy.ones(len(positions), dtype=bool)
        is_known = numpy.zeros(len(positions), dtype=bool)
        if known is not None:
            is_known[: len(known)] = known
        distances = numpy.abs(positions - numpy.median(positions, axis=0)).max(axis=1)
        order = numpy.lexsort((distances, ~is_known))
        low, high = (
            extreme.accumulate(positions[order]) for extreme in (numpy.minimum, numpy.maximum)
        )
        # a canvas has half a window to spare on each side
        fits = (high - low + 2.0 * window).prod(axis=1) <= MAX_OBJECT_PIXELS
    near = numpy.zeros(len(positions), dtype=bool)
    near[order[fits]] = True
    return near


class Reach:
    """Decides for each joined frame, once, whether it is near enough to the others for the image.

    Args:
        window: Pixels per side of a pattern.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self.near = numpy.zeros(0, dtype=bool)
        self._told: set[int] = set()

    @property
    def num_far(self) -> int:
        """Frames that are left out."""
        return int((~self.near).sum())

    def of(self, joined: Joined) -> NDArray[numpy.bool_]:
        """Returns (n,), True for those of all joined frames that are near enough."""
        return find_near(joined.positions, self._window, self.near)

    def update(self, joined: Joined) -> bool:
        """Takes notice of all joined frames; returns whether the image must begin again.

        That is where most frames are far from those with which it has begun.
        """
        near = self.of(joined)
        is_begun_wrong = False
        if 2 * near.sum() < len(near):
            again = find_near(joined.positions, self._window)
            is_begun_wrong = bool(again.sum() > near.sum())
            near = again if is_begun_wrong else near
        self.near = near
        for number, (y, x) in zip(joined.ids[~near].tolist(), joined.positions[~near].tolist()):
            if number not in self._told:
                self._told.add(number)
                logger.warning(
                    'the position of frame %d, (%g, %g) px, is too far from the others for one '
                    'image: the frame is kept, and left out of the image.', number, y, x,
                )  # fmt: skip
        return is_begun_wrong
