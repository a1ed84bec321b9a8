"""Messages of frames and positions, in CBOR or JSON, as they are sent over sockets.

A message is a map. `kind` is `frames`, `positions` or `end`.

- `frames`: `ids`, `shape` (n, H, W), `dtype` (such as `uint16`, little endian), and `data`, the counts in C
  order: bytes in CBOR, base64 in JSON.
- `positions`: `ids`, `y_px` and `x_px`, in object pixels.
- `end`: nothing more will come on this socket.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

from ..trees import parse_json, show
from .cbor import parse_cbor

__all__ = ['Message', 'MessageError', 'decode_message', 'encode_frames', 'encode_positions', 'END']

MAX_BYTES = 2**31
NUMBERS = ('uint8', 'uint16', 'uint32', 'uint64', 'int16', 'int32', 'int64', 'float32', 'float64')

END = b'{"kind": "end"}'
"""The message that ends a stream."""


class MessageError(ValueError):
    """A message that cannot be understood; says why."""


@dataclass(frozen=True)
class Message:
    """A message as it was understood.

    Attributes:
        kind: `frames`, `positions` or `end`.
        ids: (n,) numbers of frames.
        values: Frames (n, H, W), or positions (n, 2) of (y, x); None at the end.
    """

    kind: str
    ids: NDArray[numpy.int64]
    values: NDArray[Any] | None


def encode_frames(ids: ArrayLike, frames: NDArray[Any], *, as_json: bool = False) -> bytes:
    """Returns the message of frames (n, H, W) and their numbers (n,)."""
    counts = numpy.ascontiguousarray(frames)
    counts = counts.astype(counts.dtype.newbyteorder('<'), copy=False)
    tree: dict[str, Any] = {
        'kind': 'frames',
        'ids': numpy.asarray(ids).tolist(),
        'shape': list(counts.shape),
        'dtype': counts.dtype.name,
        'data': counts.tobytes(),
    }
    if as_json:
        tree['data'] = base64.b64encode(tree['data']).decode('ascii')
    return _encode(tree, as_json)


def encode_positions(ids: ArrayLike, positions_px: ArrayLike, *, as_json: bool = False) -> bytes:
    """Returns the message of positions (n, 2) of (y, x) and the numbers (n,) of their frames."""
    y, x = numpy.asarray(positions_px, dtype=float).T
    tree = {
        'kind': 'positions',
        'ids': numpy.asarray(ids).tolist(),
        'y_px': y.tolist(),
        'x_px': x.tolist(),
    }
    return _encode(tree, as_json)


def _encode(tree: dict[str, Any], as_json: bool) -> bytes:
    if as_json:
        return json.dumps(tree).encode()
    import cbor2

    return bytes(cbor2.dumps(tree))


def decode_message(data: bytes) -> Message:
    """Returns what a message says; JSON begins with a brace, everything else is taken for CBOR.

    Raises:
        MessageError: it cannot be understood; nothing of it is used.
    """
    if len(data) > MAX_BYTES:
        raise MessageError(f'a message of {len(data)} bytes is too long.')
    is_json = data[:1] == b'{'
    tree = _parse(data, is_json)
    if not isinstance(tree, dict):
        raise MessageError(f'a message is a {type(tree).__name__}, not a map of names and values.')
    kind = tree.get('kind')
    if kind == 'end':
        return Message('end', numpy.empty(0, numpy.int64), None)
    if kind not in ('frames', 'positions'):
        raise MessageError(
            f'a message is of kind {show(kind)}: known are frames, positions and end.'
        )
    ids = _whole_numbers(tree, 'ids')
    if kind == 'positions':
        columns = [_numbers(tree, name) for name in ('y_px', 'x_px')]
        if any(len(column) != len(ids) for column in columns):
            raise MessageError(
                f'a message of positions has {len(ids)} ids but {len(columns[0])} y_px and '
                f'{len(columns[1])} x_px.'
            )
        return Message(kind, ids, numpy.stack(columns, axis=1))
    return Message(kind, ids, _frames(tree, len(ids), is_json))


def _parse(data: bytes, is_json: bool) -> Any:
    try:
        return parse_json(data) if is_json else parse_cbor(data)
    except ValueError as error:
        name = 'JSON' if is_json else 'CBOR'
        raise MessageError(f'a message is no {name}: {error}.') from error


def _array(tree: dict[Any, Any], name: str) -> NDArray[Any]:
    """Returns a list of numbers as an array (n,)."""
    if name not in tree:
        raise MessageError(f'a message of {tree["kind"]} lacks {name}.')
    values = tree[name]
    # an array of anything else may be larger than all of its parts
    if not isinstance(values, list) or any(type(value) not in (int, float) for value in values):
        raise MessageError(f'{name} of a message is no list of numbers.')
    try:
        return numpy.asarray(values, dtype=None if values else float)
    except OverflowError as error:
        raise MessageError(f'{name} of a message has numbers that are too large.') from error


def _numbers(tree: dict[Any, Any], name: str) -> NDArray[numpy.float64]:
    values = _array(tree, name)
    if values.dtype.kind not in 'iuf':
        raise MessageError(f'{name} of a message has numbers that are too large.')
    return values.astype(numpy.float64)


def _whole_numbers(tree: dict[Any, Any], name: str) -> NDArray[numpy.int64]:
    values = _array(tree, name)
    is_whole = values.dtype.kind in 'iu' or not len(values)
    if not is_whole or len(values) and values.max() > numpy.iinfo(numpy.int64).max:
        raise MessageError(f'{name} of a message are no whole numbers below 2**63.')
    return values.astype(numpy.int64)


def _frames(tree: dict[Any, Any], number: int, is_json: bool) -> NDArray[Any]:
    shape, dtype = _whole_numbers(tree, 'shape').tolist(), tree.get('dtype')
    if len(shape) != 3 or shape[0] != number or min(shape) < 0:
        raise MessageError(
            f'frames of shape {show(shape)} do not fit {number} ids: (n, H, W) is needed.'
        )
    if dtype not in NUMBERS:
        raise MessageError(f'frames are of type {show(dtype)}: known are {", ".join(NUMBERS)}.')
    data = tree.get('data')
    try:
        raw = base64.b64decode(data, validate=True) if is_json else data  # type: ignore[arg-type]
    except (ValueError, TypeError) as error:
        raise MessageError(f'data of a message are no base64: {error}.') from error
    needed = math.prod(shape) * numpy.dtype(dtype).itemsize
    if not isinstance(raw, bytes) or len(raw) != needed:
        have = len(raw) if isinstance(raw, bytes) else type(raw).__name__
        raise MessageError(
            f'frames of shape {shape} and type {dtype} need {needed} bytes, not {have}.'
        )
    return numpy.frombuffer(raw, numpy.dtype(dtype).newbyteorder('<')).reshape(shape)
