"""The journal: what was taken is there, whenever the process was killed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch.live.frame_store import (
    FRAME_IDS,
    FRAMES,
    HEADER,
    FrameStore,
    JournalError,
)


def frame_of(number: int) -> numpy.ndarray:
    """Returns the frame (8, 8) of a number."""
    return (numpy.arange(64) * (number % 97) + number).astype(numpy.uint16).reshape(8, 8)


def check(store: FrameStore, at_least: int) -> int:
    """Asserts that frames are those of their numbers; returns how many there are."""
    ids, frames = store.frame_ids(), store.frames()
    assert len(ids) == len(frames) >= at_least
    for number, frame in zip(ids.tolist(), frames):
        assert numpy.array_equal(frame, frame_of(number))
    numbers, positions = store.positions()
    assert numpy.array_equal(positions, numpy.stack([numbers, -0.5 * numbers], axis=1))
    return len(ids)


def test_everything_comes_back(tmp_path: Path) -> None:
    store = FrameStore(tmp_path / 'journal', (8, 8))
    assert len(store.frames()) == 0 and store.dtype is None
    for first in (0, 5, 10):
        ids = numpy.arange(first, first + 5)
        store.append(ids, numpy.stack([frame_of(n) for n in ids]))
    store.append_positions(numpy.asarray([3, 7]), numpy.asarray([[3.0, -1.5], [7.0, -3.5]]))
    assert check(store, 15) == 15
    store.close()
    again = FrameStore.open(tmp_path / 'journal')
    assert check(again, 15) == 15 and again.dtype == numpy.dtype('<u2')
    again.append(numpy.asarray([20]), frame_of(20)[None])
    assert check(again, 16) == 16
    with pytest.raises(JournalError, match='holds a journal already'):
        FrameStore(tmp_path / 'journal', (8, 8))


def test_what_is_half_written_is_cut_off(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, (8, 8))
    store.append(numpy.arange(4), numpy.stack([frame_of(n) for n in range(4)]))
    store.close()
    with (tmp_path / FRAMES).open('ab') as file:
        file.write(b'half a frame')
    assert check(FrameStore.open(tmp_path), 4) == 4
    with (tmp_path / FRAME_IDS).open('ab') as file:
        file.write(b'\x07\x00\x00')
    again = FrameStore.open(tmp_path)
    assert check(again, 4) == 4
    again.append(numpy.asarray([9]), frame_of(9)[None])
    assert check(again, 5) == 5


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'no journal that can be read'),
        ('[]', 'no journal that can be read'),
        ('{"version": 1}', 'no journal that can be read'),
        ('{"version": 1, "dtype": "x", "pattern_shape": [8, 8]}', 'no journal that can be read'),
        ('{"version": 9, "dtype": "<u2", "pattern_shape": [8, 8]}', 'a journal of version 9'),
    ],
)
def test_a_header_that_cannot_be_read_is_one_sentence(
    tmp_path: Path, text: str, reason: str
) -> None:
    FrameStore(tmp_path, (8, 8)).close()
    (tmp_path / HEADER).write_text(text)
    with pytest.raises(JournalError, match=reason):
        FrameStore.open(tmp_path)


def test_a_full_disk_takes_nothing_and_goes_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FrameStore(tmp_path, (8, 8))
    store.append(numpy.arange(3), numpy.stack([frame_of(n) for n in range(3)]))
    write = store._write

    def full(name: str, data: memoryview, start: int) -> None:
        write(name, data[: len(data) // 2], start)
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(store, '_write', full)
    with pytest.raises(OSError, match='No space'):
        store.append(numpy.arange(3, 6), numpy.stack([frame_of(n) for n in range(3, 6)]))
    monkeypatch.setattr(store, '_write', write)
    assert check(store, 3) == 3
    store.append(numpy.arange(3, 6), numpy.stack([frame_of(n) for n in range(3, 6)]))
    assert check(store, 6) == 6


WRITER = """
import sys
from pathlib import Path
import numpy
sys.path.insert(0, sys.argv[2])
from test_frame_store import frame_of
from ptychodus_pinn_torch.live.frame_store import FrameStore
folder = Path(sys.argv[1])
store = FrameStore.open(folder) if (folder / 'journal.json').exists() else FrameStore(folder, (8, 8))
known = set(store.frame_ids().tolist())
print('ready', flush=True)
number = 0
while True:
    ids = [n for n in range(number, number + 7) if n not in known]
    if ids:
        store.append(numpy.asarray(ids), numpy.stack([frame_of(n) for n in ids]))
        places = numpy.asarray(ids, float)
        store.append_positions(numpy.asarray(ids), numpy.stack([places, -0.5 * places], axis=1))
        print(ids[-1], flush=True)
    number += 7
"""


@pytest.mark.slow
def test_nothing_is_lost_when_it_is_killed_at_twenty_moments(tmp_path: Path) -> None:
    rng = numpy.random.default_rng(0)
    folder, taken = tmp_path / 'journal', -1
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, '-c', WRITER, str(folder), str(Path(__file__).parent)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
        time.sleep(rng.uniform(0.001, 0.05))
        process.send_signal(signal.SIGKILL)
        words = process.stdout.read().split('\n')[:-1]
        process.wait()
        taken = max([taken, *(int(word) for word in words)])
        store = FrameStore.open(folder)
        ids = store.frame_ids().tolist()
        assert len(ids) == len(set(ids)) and set(range(taken + 1)) <= set(ids)
        check(store, taken + 1)
        store.close()
    assert taken > 100
    assert json.loads((folder / HEADER).read_text())['dtype'] == '<u2'
