"""Messages of frames and positions: what is sent is what arrives, and nonsense is one sentence."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy
import pytest

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
