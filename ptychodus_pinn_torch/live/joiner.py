"""Joins frames with their positions by number, whichever comes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = ['Joined', 'Joiner']


@dataclass(frozen=True)
class Joined:
    """Frames that have both counts and positions, in the order in which they became complete.

    Attributes:
        ids: (n,) their numbers.
        rows: (n,) where their counts are in the store.
        positions: (n, 2) of (y, x).
        since_s: (n,) when they became complete, by the clock of the joiner.
    """

    ids: NDArray[numpy.int64]
    rows: NDArray[numpy.int64]
    positions: NDArray[numpy.float64]
    since_s: NDArray[numpy.float64]

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, chosen: NDArray[Any]) -> Joined:
        """Returns some of them, by their places or by True and False."""
        return Joined(
            self.ids[chosen], self.rows[chosen], self.positions[chosen], self.since_s[chosen]
        )


class _Column:
    """An array that grows."""

    def __init__(self, width: tuple[int, ...], dtype: type) -> None:
        self._values: NDArray[Any] = numpy.empty((256, *width), dtype)
        self.length = 0

    def extend(self, values: NDArray[Any]) -> None:
        needed = self.length + len(values)
        if needed > len(self._values):
            grown = numpy.empty((max(needed, 2 * len(self._values)), *self._values.shape[1:]),
                                self._values.dtype)  # fmt: skip
            grown[: self.length] = self._values[: self.length]
            self._values = grown
        self._values[self.length : needed] = values
        self.length = needed

    def since(self, first: int) -> NDArray[Any]:
        return self._values[first : self.length].copy()


@dataclass
class Joiner:
    """Keeps what waits for its partner, and what has found it.

    A number that comes a second time is counted and left out: sources send again what they do not
    know to have arrived.

    Attributes:
        clock: Returns the present time, seconds.
        repeated_frames: Frames whose number had come before; `repeated_positions` likewise.
    """

    clock: Callable[[], float] = time.monotonic
    repeated_frames: int = 0
    repeated_positions: int = 0
    _waiting_rows: dict[int, int] = field(default_factory=dict)
    _waiting_positions: dict[int, tuple[float, float]] = field(default_factory=dict)
    _joined_ids: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ids, self._rows = _Column((), numpy.int64), _Column((), numpy.int64)
        self._positions, self._since = _Column((2,), numpy.float64), _Column((), numpy.float64)

    @property
    def num_joined(self) -> int:
        """Frames that are complete."""
        return self._ids.length

    @property
    def num_waiting_frames(self) -> int:
        """Frames without a position."""
        return len(self._waiting_rows)

    @property
    def num_waiting_positions(self) -> int:
        """Positions without a frame."""
        return len(self._waiting_positions)

    def new_frames(self, ids: NDArray[numpy.int64]) -> NDArray[numpy.bool_]:
        """Returns which of the numbers (n,) have not come yet; the others are counted."""
        return self._first_time(ids, self._waiting_rows, 'repeated_frames')

    def new_positions(self, ids: NDArray[numpy.int64]) -> NDArray[numpy.bool_]:
        """Returns which of the numbers (n,) have no position yet; the others are counted."""
        return self._first_time(ids, self._waiting_positions, 'repeated_positions')

    def _first_time(
        self, ids: NDArray[numpy.int64], waiting: Container[int], counter: str
    ) -> NDArray[numpy.bool_]:
        seen: set[int] = set()
        is_new = numpy.ones(len(ids), dtype=bool)
        for place, number in enumerate(ids.tolist()):
            is_new[place] = not (number in waiting or number in self._joined_ids or number in seen)
            seen.add(number)
        setattr(self, counter, getattr(self, counter) + int((~is_new).sum()))
        return is_new

    def add_frames(self, ids: NDArray[numpy.int64], first_row: int) -> None:
        """Takes new frames by number; their counts are in the store from `first_row` on."""
        complete = []
        for row, number in enumerate(ids.tolist(), first_row):
            position = self._waiting_positions.pop(number, None)
            if position is None:
                self._waiting_rows[number] = row
            else:
                complete.append((number, row, position))
        self._join(complete)

    def add_positions(self, ids: NDArray[numpy.int64], positions: NDArray[numpy.float64]) -> None:
        """Takes new positions (n, 2) by number."""
        complete = []
        for number, (y, x) in zip(ids.tolist(), positions.tolist()):
            row = self._waiting_rows.pop(number, None)
            if row is None:
                self._waiting_positions[number] = y, x
            else:
                complete.append((number, row, (y, x)))
        self._join(complete)

    def _join(self, complete: list[tuple[int, int, tuple[float, float]]]) -> None:
        if not complete:
            return
        numbers, rows, positions = zip(*complete)
        self._joined_ids.update(numbers)
        self._ids.extend(numpy.asarray(numbers))
        self._rows.extend(numpy.asarray(rows))
        self._positions.extend(numpy.asarray(positions))
        self._since.extend(numpy.full(len(numbers), self.clock()))

    def joined(self, first: int = 0) -> Joined:
        """Returns the complete frames from the `first` on, in the order in which they became it."""
        return Joined(
            self._ids.since(first),
            self._rows.since(first),
            self._positions.since(first),
            self._since.since(first),
        )
