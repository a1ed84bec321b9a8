"""Reads one value in CBOR (RFC 8949) from somewhere: plain values alone, in time bound by its length."""

from __future__ import annotations

import math
import struct
from typing import Any

__all__ = ['parse_cbor']

MAX_DEPTH = 8
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _LIST, _MAP, _TAG = range(7)
_INDEFINITE = 31
_CONSTANTS = {20: False, 21: True, 22: None, 23: None}
_FLOATS = {25: '>e', 26: '>f', 27: '>d'}
_END = object()


def parse_cbor(data: bytes) -> Any:
    """Returns the value. Tags are left out: nothing is shared, and no key is anything but text.

    Raises:
        ValueError: it is cut short, too deep, or no CBOR.
    """
    reader = _Reader(data)
    value = reader.item(0)
    if value is _END or reader.place != len(data):
        raise ValueError('it ends too early or too late')
    return value


class _Reader:
    """Reads items one after the other.

    Attributes:
        place: Of the next byte.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self.place = memoryview(data), 0

    def item(self, depth: int) -> Any:
        """Returns the next item; a stop is one, too."""
        if depth > MAX_DEPTH:
            raise ValueError('it is nested too deep')
        (first,) = self._take(1)
        kind, size = first >> 5, first & 31
        while kind == _TAG:
            self._length(size)
            (first,) = self._take(1)
            kind, size = first >> 5, first & 31
        if kind > _TAG:
            return self._simple(size)
        length = None if size == _INDEFINITE else self._length(size)
        if kind in (_BYTES, _TEXT):
            return self._string(kind, length, depth)
        if kind == _LIST:
            return self._list(length, depth)
        if kind == _MAP:
            return self._map(length, depth)
        if length is None:
            raise ValueError('a number has no end')
        return length if kind == _UNSIGNED else -1 - length

    def _take(self, length: int) -> memoryview:
        if length > len(self._data) - self.place:
            raise ValueError('it is cut short')
        self.place += length
        return self._data[self.place - length : self.place]

    def _length(self, size: int) -> int:
        if size < 24:
            return size
        if size > 27:
            raise ValueError('a length is none')
        return int.from_bytes(self._take(1 << (size - 24)))

    def _simple(self, size: int) -> Any:
        if size == _INDEFINITE:
            return _END
        if size in _FLOATS:
            return struct.unpack(_FLOATS[size], self._take(1 << (size - 24)))[0]
        if size not in _CONSTANTS:
            raise ValueError('it holds something that is no plain value')
        return _CONSTANTS[size]

    def _string(self, kind: int, length: int | None, depth: int) -> Any:
        if length is None:
            empty: Any = b'' if kind == _BYTES else ''
            parts = self._list(None, depth)
            if not all(isinstance(part, type(empty)) for part in parts):
                raise ValueError('a text has parts that are none')
            return empty.join(parts)
        taken = bytes(self._take(length))
        return taken if kind == _BYTES else taken.decode()

    def _list(self, length: int | None, depth: int) -> list[Any]:
        """Returns as many items as were announced, or those before the stop."""
        items: list[Any] = []
        while len(items) < (math.inf if length is None else length):
            value = self.item(depth + 1)
            if value is _END:
                if length is None:
                    return items
                raise ValueError('a list ends too early')
            items.append(value)
        return items

    def _map(self, length: int | None, depth: int) -> dict[str, Any]:
        items = self._list(None if length is None else 2 * length, depth)
        names, values = items[::2], items[1::2]
        if len(names) != len(values) or not all(isinstance(name, str) for name in names):
            raise ValueError('a map has names that are no text')
        return dict(zip(names, values))
