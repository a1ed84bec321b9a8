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
    again = FrameStore.open(tmp_path / 'journal', (8, 8))
    assert check(again, 15) == 15 and again.dtype == numpy.dtype('<u2')
    again.append(numpy.asarray([20]), frame_of(20)[None])
    assert check(again, 16) == 16
    with pytest.raises(JournalError, match='holds a journal already'):
        FrameStore(tmp_path / 'journal', (8, 8))


def test_what_is_half_written_is_left_out(tmp_path: Path) -> None:
    store = FrameStore(tmp_path, (8, 8))
    store.append(numpy.arange(4), numpy.stack([frame_of(n) for n in range(4)]))
    store.close()
    with (tmp_path / FRAMES).open('ab') as file:
        file.write(b'half a frame')
    assert check(FrameStore.open(tmp_path, (8, 8)), 4) == 4
    with (tmp_path / FRAME_IDS).open('ab') as file:
        file.write(b'\x07\x00\x00')
    again = FrameStore.open(tmp_path, (8, 8))
    assert check(again, 4) == 4
    again.append(numpy.asarray([9]), frame_of(9)[None])
    assert check(again, 5) == 5


def journal(folder: Path, number: int = 4) -> dict[str, bytes]:
    """Makes a journal; returns what its files hold."""
    store = FrameStore(folder, (8, 8))
    if number:
        store.append(numpy.arange(number), numpy.stack([frame_of(n) for n in range(number)]))
        places = numpy.arange(number)[:, None] * [1.0, -0.5]
        store.append_positions(numpy.arange(number), places)
    store.close()
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'no journal that can be read'),
        ('[]', 'no journal that can be read'),
        ('[' * 100_000, 'no journal that can be read'),
        ('{"version": 1}', 'no journal that can be read'),
        ('{"version": 1, "dtype": "x", "pattern_shape": [8, 8]}', 'no journal that can be read'),
        ('{"version": 9, "dtype": "<u2", "pattern_shape": [8, 8]}', 'a journal of version 9'),
        ('{"version": 1, "dtype": "|O", "pattern_shape": [8, 8]}', "type '|O'"),
        ('{"version": 1, "dtype": "<M8[s]", "pattern_shape": [8, 8]}', 'type .<M8'),
        ('{"version": 1, "dtype": null, "pattern_shape": [8, 8]}', 'type None but frames.raw'),
        ('{"version": 1, "dtype": "<f8", "pattern_shape": [8, 8]}', 'type float64 but frames.raw'),
        ('{"version": 1, "dtype": "<u2", "pattern_shape": [4, 4]}', 'but the probe has'),
        ('{"version": 1, "dtype": "<u2", "pattern_shape": 1e400}', 'but the probe has'),
        (None, 'no journal that can be read'),
    ],
)
def test_a_journal_that_does_not_fit_its_header_is_refused_and_left_as_it_is(
    tmp_path: Path, text: str | None, reason: str
) -> None:
    before = journal(tmp_path)
    if text is None:
        (tmp_path / HEADER).unlink()
        del before[HEADER]
    else:
        (tmp_path / HEADER).write_text(text)
        before[HEADER] = text.encode()
    with pytest.raises(JournalError, match=reason):
        FrameStore.open(tmp_path, (8, 8))
    with pytest.raises(JournalError, match='holds a journal already'):
        FrameStore(tmp_path, (8, 8))
    assert contents(tmp_path) == before


@pytest.mark.parametrize('name', [FRAMES, FRAME_IDS])
def test_a_journal_with_a_file_missing_is_refused_and_left_as_it_is(
    tmp_path: Path, name: str
) -> None:
    journal(tmp_path)
    (tmp_path / name).unlink()
    before = contents(tmp_path)
    with pytest.raises(JournalError, match=f'{name} is missing'):
        FrameStore.open(tmp_path, (8, 8))
    assert contents(tmp_path) == before


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no such lock')
def test_one_process_at_a_time_has_a_journal(tmp_path: Path) -> None:
    journal(tmp_path)
    store = FrameStore.open(tmp_path, (8, 8))
    code = (
        'import sys; from pathlib import Path\n'
        'from ptychodus_pinn_torch.live.frame_store import FrameStore, JournalError\n'
        'try: FrameStore.open(Path(sys.argv[1]), (8, 8))\n'
        'except JournalError as error: print(error)\n'
    )
    words = [sys.executable, '-c', code, str(tmp_path)]
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert 'another process has this journal open' in told
    store.close()
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout == ''


def test_numbers_of_frames_that_a_full_disk_has_refused_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal(tmp_path)
    store = FrameStore.open(tmp_path, (8, 8))
    file = store._files[FRAME_IDS]

    class Full:
        """A file on a disk that takes one more number."""

        def write(self, data: memoryview) -> int:
            if len(data) < 48:
                raise OSError(28, 'No space left on device')
            return file.write(data[:8])

        def __getattr__(self, name: str) -> object:
            return getattr(file, name)

    store._files[FRAME_IDS] = Full()  # type: ignore[assignment]
    with pytest.raises(OSError, match='No space'):
        store.append(numpy.arange(4, 10), numpy.stack([frame_of(n) for n in range(4, 10)]))
    store.close()
    assert check(FrameStore.open(tmp_path, (8, 8)), 4) == 4


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
store = FrameStore.open(folder, (8, 8)) if (folder / 'journal.json').exists() else FrameStore(folder, (8, 8))
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
        store = FrameStore.open(folder, (8, 8))
        ids = store.frame_ids().tolist()
        assert len(ids) == len(set(ids)) and set(range(taken + 1)) <= set(ids)
        check(store, taken + 1)
        store.close()
    assert taken > 100
    assert json.loads((folder / HEADER).read_text())['dtype'] == '<u2'
