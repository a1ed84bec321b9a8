"""Messages of frames and positions: what is sent is what arrives, and nonsense is one sentence."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch.live.cbor import parse_cbor
from ptychodus_pinn_torch.live.messages import (
    END,
    MessageError,
    decode_message,
    encode_frames,
    encode_positions,
)

cbor2 = pytest.importorskip('cbor2')

FRAMES = numpy.arange(2 * 4 * 4).reshape(2, 4, 4)


@pytest.mark.parametrize('as_json', [True, False])
@pytest.mark.parametrize('dtype', ['uint16', '>u2', 'uint32', 'int64', 'float32'])
def test_frames_and_positions_come_as_they_were_sent(as_json: bool, dtype: str) -> None:
    frames = FRAMES.astype(dtype)
    found = decode_message(encode_frames([7, 9], frames, as_json=as_json))
    assert found.kind == 'frames' and found.ids.tolist() == [7, 9]
    assert found.values is not None and found.values.dtype.name == frames.dtype.name
    assert numpy.array_equal(found.values, frames)
    found = decode_message(encode_positions([7, 9], [[0.5, -1.5], [1e3, 2.0]], as_json=as_json))
    assert found.kind == 'positions' and found.ids.tolist() == [7, 9]
    assert found.values is not None and found.values.tolist() == [[0.5, -1.5], [1e3, 2.0]]
    assert (
        decode_message(END).kind == 'end'
        and decode_message(cbor2.dumps({'kind': 'end'})).kind == 'end'
    )


GOOD: dict[str, Any] = {
    'kind': 'frames', 'ids': [7, 9], 'shape': [2, 4, 4], 'dtype': 'uint16',
    'data': base64.b64encode(FRAMES.astype('<u2').tobytes()).decode(),
}  # fmt: skip
PLACES: dict[str, Any] = {'kind': 'positions', 'ids': [1], 'y_px': [0.0], 'x_px': [1.0]}


def test_the_good_ones_are_good() -> None:
    for tree in (GOOD, PLACES):
        assert decode_message(json.dumps(tree).encode()).kind == tree['kind']


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'is no CBOR'),
        (b'{', 'is no JSON'),
        (b'{"kind": ' + 3000 * b'[' + b'}', 'is no JSON'),
        (b'\xff\xff', 'is no CBOR'),
        (cbor2.dumps([1, 2]), 'is a list'),
        (json.dumps({}).encode(), 'kind None'),
        (json.dumps({'kind': 'photons'}).encode(), "kind 'photons'"),
    ],
)
def test_what_is_no_message_is_one_sentence(data: bytes, reason: str) -> None:
    with pytest.raises(MessageError, match=reason):
        decode_message(data)


@pytest.mark.parametrize(
    ('tree', 'change', 'reason'),
    [
        (GOOD, {'ids': None}, 'ids of a message'),
        (GOOD, {'ids': [1.5, 2]}, 'no whole numbers'),
        (GOOD, {'ids': 'ab'}, 'no list of numbers'),
        (GOOD, {'ids': [1, 2, 3]}, 'do not fit 3 ids'),
        (GOOD, {'ids': [[1, 2]]}, 'no list of numbers'),
        (GOOD, {'shape': [2, 16]}, r'shape \[2, 16\]'),
        (GOOD, {'shape': [2, -4, -4]}, 'do not fit'),
        (GOOD, {'shape': [2, 400000, 400000]}, 'bytes, not 64'),
        (GOOD, {'dtype': 'object'}, "type 'object'"),
        (GOOD, {'dtype': 'complex64'}, "type 'complex64'"),
        (GOOD, {'dtype': ['uint16']}, 'are of type'),
        (GOOD, {'data': '###'}, 'no base64'),
        (GOOD, {'data': None}, 'no base64'),
        (GOOD, {'data': 'AAAA'}, 'need 64 bytes, not 3'),
        (GOOD, {'ids': [7, 2**63]}, 'no whole numbers below'),
        (GOOD, {'ids': [7, 10**400]}, 'no whole numbers below'),
        (GOOD, {'ids': [True, False]}, 'no list of numbers'),
        (GOOD, {'shape': [float('nan'), 4, 4]}, 'shape of a message are no whole numbers'),
        (GOOD, {'shape': [2**63, 4, 4]}, 'shape of a message'),
        (GOOD, {'dtype': 10_000 * 'x'}, 'are of type'),
        (PLACES, {'y_px': [10**400]}, 'too large'),
        (PLACES, {'y_px': ['a' * 1000, 1.0]}, 'no list of numbers'),
        (PLACES, {'y_px': [0.0, 1.0]}, '1 ids but 2 y_px and 1 x_px'),
        (PLACES, {'x_px': ['a']}, 'no list of numbers'),
        (PLACES, {'x_px': ...}, 'lacks x_px'),
    ],
)
def test_a_message_that_does_not_fit_is_one_sentence(
    tree: dict[str, Any], change: dict[str, Any], reason: str
) -> None:
    changed = {name: value for name, value in (tree | change).items() if value is not ...}
    with pytest.raises(MessageError, match=reason) as found:
        decode_message(json.dumps(changed).encode())
    assert '\n' not in str(found.value)


VALUES = [
    0, 23, 24, 255, 256, 2**16, 2**32, 2**64 - 1, -1, -(2**64), 1.5, 1e300, True, None, 'words', 'µ' * 30,
    b'', b'x' * 300, [], [[1, [2]]], {}, {'a': {'b': [1.5, None]}}, list(range(300)),
]  # fmt: skip


@pytest.mark.parametrize('value', VALUES, ids=lambda value: repr(value)[:20])
def test_values_come_as_they_were_written(value: Any) -> None:
    assert parse_cbor(cbor2.dumps(value)) == value
    assert parse_cbor(cbor2.dumps(value, canonical=True)) == value


def test_values_of_other_writers_are_read() -> None:
    assert parse_cbor(bytes.fromhex('9f01820203ff')) == [1, [2, 3]]
    assert parse_cbor(bytes.fromhex('bf616101ff')) == {'a': 1}
    assert parse_cbor(bytes.fromhex('5f42010243030405ff')) == b'\x01\x02\x03\x04\x05'
    assert parse_cbor(bytes.fromhex('c11a514b67b0')) == 1363896240  # a tag is left out
    assert parse_cbor(bytes.fromhex('f93c00')) == 1.0


def shared(level: int, number: int = 0) -> bytes:
    """Returns a list of twice the same list of twice the same list ..., by the tags of sharing."""
    if level == 0:
        return b'\xd8\x1c\x82\x01\x02'
    inner = shared(level - 1, number + 1)
    return b'\xd8\x1c\x82' + inner + b'\xd8\x1d\x18' + bytes([number + 1])


@pytest.mark.parametrize(
    'data',
    [
        b'\x9b' + b'\x7f' * 8,
        b'\xbb' + b'\xff' * 8,
        b'\x5b' + b'\x7f' * 8,
        b'\x7b' + b'\xff' * 8 + b'abc',
        b'\x9f' * 100_000,
        b'\x81' * 100_000 + b'\x00',
        b'\xd9\xd9\xf7' * 100_000,
        b'\xa1' + shared(40) + b'\x00',
        b'\xa1\x64kind' + shared(40),
        b'\xc4\x82\x1b' + b'\x7f' * 8 + b'\x01',
        b'\xa1\x01\x02',
        b'\xa1\x61a',
        b'\x7f\x41a\xff',
        b'\x61\xff',
        b'\x00\x00',
        b'\xff',
        b'\x1f',
        b'\x1c',
        b'\xf8\x20',
        b'\x82\x01\xff',
    ],
    ids=lambda data: data[:6].hex(),
)
def test_hostile_cbor_is_one_sentence(data: bytes) -> None:
    with pytest.raises(MessageError, match=r'^a message is [^\n]{5,200}\.$'):
        decode_message(data)
