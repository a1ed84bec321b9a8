"""Tiles: a large scan is solved as small ones are, side by side.

What a batch of patterns, and the momentum of nine batches, do to a place depends on how many of the
patterns lie there. On tiles of always about the same size, in units of the window, that is so
whatever the size of the scan; a step costs what it touches, and not the whole canvas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ..physics.measurement import Measurement

__all__ = ['EVERYWHERE', 'Part', 'Tiles', 'is_wide']

EVERYWHERE = slice(None), slice(None)
"""The box of a single tile."""

LEAST_SIDE, LARGEST_SIDE = 1.3, 2.5
"""Of a tile, in windows; the canvas under its patterns is a window larger. The first must be more than
one, so that tiles do not reach their neighbours' neighbours; in larger ones the momentum goes too far."""

ONE_TILE = 2.8
"""Windows that a scan may reach over as a single tile."""

PATTERNS = 128
"""That a tile has between these bounds."""

RATHER_LARGE = 0.35
"""Part of a tile that is left over for which there is no tile of its own: 0.5 for the nearest number."""


def is_wide(measurement: Measurement) -> bool:
    """Returns whether a measurement is of one canvas of several tiles."""
    return measurement.canvas_shape[0] == 1 and len(Tiles.of(measurement)) > 1


@dataclass(frozen=True)
class Part:
    """Patterns of one tile.

    Attributes:
        tile: Its number.
        box: Of the canvas, that the windows of its patterns lie in.
        indices: (J,) of the patterns, on the host, in the order that was given.
    """

    tile: int
    box: tuple[slice, slice]
    indices: Int[Tensor, ' chosen']


@dataclass(frozen=True)
class Tiles:
    """A grid on the canvas; a pattern belongs to the tile that its window begins in.

    Attributes:
        edges: For y and x the first pixels of the tiles, the first of them 0.
        window: (H, W).
        canvas_shape: (Y, X).
    """

    edges: tuple[Int[Tensor, ' row'], Int[Tensor, ' column']]
    window: tuple[int, int]
    canvas_shape: tuple[int, int]

    @classmethod
    def of(cls, measurement: Measurement) -> Tiles:
        """Returns those of the canvas of a measurement."""
        return cls.make(measurement.num_patterns, measurement.window, measurement.canvas_shape[1:])

    @classmethod
    def make(
        cls, num_patterns: int, window: tuple[int, int], canvas_shape: tuple[int, int]
    ) -> Tiles:
        """Returns the tiles for a number of patterns with windows (H, W) on a canvas (Y, X).

        It is one where the scan is small.
        """
        spans = [length - size + 1 for length, size in zip(canvas_shape, window)]
        side = math.sqrt(PATTERNS * spans[0] * spans[1] / num_patterns)
        edges = []
        for span, size in zip(spans, window):
            wanted = min(max(side, LEAST_SIDE * size), LARGEST_SIDE * size)
            number = int(span / wanted + RATHER_LARGE) if span > ONE_TILE * size else 1
            edges.append(torch.arange(number) * span // number)
        return cls((edges[0], edges[1]), window, canvas_shape)

    def __len__(self) -> int:
        return len(self.edges[0]) * len(self.edges[1])

    def parts(
        self, order: Int[Tensor, ' chosen'], corners: Int[Tensor, 'pattern 2']
    ) -> list[list[Part]]:
        """Returns the patterns tile by tile, at most four times some whose boxes do not overlap.

        Args:
            order: (J,) numbers of the patterns, on the host.
            corners: (N, 2) first pixels (y, x) of the windows of all patterns, on the host.
        """
        if len(self) == 1:
            return [[Part(0, EVERYWHERE, order)]]
        rows, columns = (
            torch.searchsorted(edges, corners[order, axis].contiguous(), right=True) - 1
            for axis, edges in enumerate(self.edges)
        )
        width = len(self.edges[1])
        numbers = rows * width + columns
        found: list[list[Part]] = [[], [], [], []]
        for tile in torch.unique(numbers).tolist():
            row, column = divmod(tile, width)
            part = Part(tile, self._box(row, column), order[numbers == tile])
            found[2 * (row % 2) + column % 2].append(part)
        return [parts for parts in found if parts]

    def owners(self, corners: Int[Tensor, 'pattern 2'], number: int) -> Int[Tensor, ' tile']:
        """Returns which of a number of processes each tile belongs to, the patterns shared evenly.

        Args:
            corners: (N, 2) first pixels of the windows as they were given, on the host.
            number: Processes.
        """
        found = torch.zeros(len(self), dtype=torch.int64)
        if number == 1:
            return found
        for parts in self.parts(torch.arange(len(corners)), corners):
            loads = [0] * number
            for part in sorted(parts, key=lambda part: -len(part.indices)):
                owner = loads.index(min(loads))
                found[part.tile], loads[owner] = owner, loads[owner] + len(part.indices)
        return found

    def _box(self, row: int, column: int) -> tuple[slice, slice]:
        """Returns what the windows of a tile can reach."""
        box = []
        for axis, place in enumerate((row, column)):
            edges = [*self.edges[axis].tolist(), self.canvas_shape[axis] - self.window[axis] + 1]
            box.append(slice(edges[place], edges[place + 1] - 1 + self.window[axis]))
        return box[0], box[1]
