"""Sources, each with a real writer or server: everything arrives, once, and bad things are named."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy
import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.live.joiner import Joiner
from ptychodus_pinn_torch.live.sources import (
    FolderSource,
    Hdf5Source,
    Source,
    SourceError,
    ZmqSource,
)
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan


class Basin:
    """A sink that keeps everything, and joins."""

    def __init__(self) -> None:
        self.frames: dict[int, Any] = {}
        self.places: dict[int, Any] = {}
        self.joiner = Joiner()
        self.lock = threading.Lock()

    def append(self, ids: Any, frames: Any) -> None:
        with self.lock:
            numbers = numpy.asarray(ids, numpy.int64)
            assert self.joiner.new_frames(numbers).all()
            self.joiner.add_frames(numbers, len(self.frames))
            self.frames |= dict(zip(numbers.tolist(), numpy.array(frames)))

    def append_positions(self, ids: Any, positions: Any) -> None:
        with self.lock:
            numbers = numpy.asarray(ids, numpy.int64)
            assert self.joiner.new_positions(numbers).all()
            places = numpy.asarray(positions, float)
            self.joiner.add_positions(numbers, places)
            self.places |= dict(zip(numbers.tolist(), places))

    def check(self, scan: Scan) -> None:
        assert self.joiner.num_joined == scan.num_patterns
        for number in range(scan.num_patterns):
            assert numpy.array_equal(self.frames[number], scan.patterns[number])
            assert numpy.array_equal(self.places[number], scan.positions_px[number])


@pytest.fixture
def running() -> Iterator[Callable[[Source, Basin], threading.Thread]]:
    """Starts sources, and stops those that are left."""
    stopping, threads = threading.Event(), []

    def start(source: Source, basin: Basin) -> threading.Thread:
        thread = threading.Thread(target=source.run, args=(basin, stopping), daemon=True)
        thread.start()
        threads.append(thread)
        return thread

    yield start
    stopping.set()
    for thread in threads:
        thread.join(60.0)
        assert not thread.is_alive()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return int(found.getsockname()[1])


def replay(folder: Path, scan: Scan, *words: Any) -> None:
    path = folder / 'scan.npz'
    if not path.exists():
        write_scan_npz(path, scan)
    assert main(['replay', str(path), '--rate', '2000', '--quiet', *map(str, words)]) == 0


def test_a_file_is_followed_while_it_grows(
    tmp_path: Path, tiny_scan: Scan, running: Callable[..., threading.Thread]
) -> None:
    basin, file = Basin(), tmp_path / 'growing.h5'
    thread = running(Hdf5Source(file), basin)
    replay(tmp_path, tiny_scan, '--hdf5', file, '--rate', 200)
    thread.join(120.0)
    assert not thread.is_alive()
    basin.check(tiny_scan)


def test_a_file_that_is_written_without_swmr_is_read_again_and_again(
    tmp_path: Path, tiny_scan: Scan, running: Callable[..., threading.Thread]
) -> None:
    basin, path = Basin(), tmp_path / 'plain.h5'
    order = numpy.random.default_rng(0).permutation(tiny_scan.num_patterns)
    for number in (10, tiny_scan.num_patterns):
        with h5py.File(tmp_path / 'new.h5', 'w') as file:
            file['a/frames'] = tiny_scan.patterns[order[:number]]
            file['a/places'] = tiny_scan.positions_px[order[:number]]
            file['frame_ids'] = order[:number]
            file.attrs['finished'] = number > 10
        (tmp_path / 'new.h5').replace(path)
        if number == 10:
            thread = running(Hdf5Source(path, 'a/frames', 'a/places'), basin)
            deadline = time.monotonic() + 120
            while basin.joiner.num_joined < 10:
                assert time.monotonic() < deadline
                time.sleep(0.02)
    thread.join(120.0)
    basin.check(tiny_scan)


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda path: path.write_bytes(b'hello' * 100), 'cannot be read as HDF5'),
        (lambda path: _dataset(path, 'diff3d', numpy.zeros((3, 3))), 'numbers of 3 dimensions'),
        (lambda path: _dataset(path, 'diff3d', numpy.full((3, 3, 3), b'x')), '3 dimensions'),
    ],
)
def test_a_file_of_something_else_is_named(
    tmp_path: Path, make: Callable[[Path], Any], reason: str
) -> None:
    make(tmp_path / 'x.h5')
    with pytest.raises(SourceError, match=f'x.h5: .*{reason}'):
        Hdf5Source(tmp_path / 'x.h5').run(Basin(), threading.Event())


def _dataset(path: Path, name: str, values: Any) -> None:
    with h5py.File(path, 'w') as file:
        file[name] = values


def test_a_folder_is_emptied_of_what_is_written_into_it(
    tmp_path: Path, tiny_scan: Scan, running: Callable[..., threading.Thread], caplog: Any
) -> None:
    caplog.set_level('WARNING')
    basin, folder = Basin(), tmp_path / 'in'
    thread = running(FolderSource(folder), basin)
    half = tiny_scan.num_patterns // 2
    folder.mkdir()
    numpy.save(folder / 'frames_0000.npy', tiny_scan.patterns[:half])
    numpy.save(folder / 'positions_0000.npy', tiny_scan.positions_px[:half])
    for number in range(half, tiny_scan.num_patterns):
        numpy.save(folder / f'frame_{number:04d}.npy', tiny_scan.patterns[number])
        numpy.save(folder / f'position_{number:04d}.npy', tiny_scan.positions_px[number])
    (folder / 'zebra.npy').write_bytes(b'no array at all')
    numpy.savez(folder / 'other.npz', x=numpy.zeros(3))
    numpy.save(folder / 'name.npy', numpy.zeros(3))
    (folder / 'finished').touch()
    thread.join(120.0)
    basin.check(tiny_scan)
    for name in ('zebra.npy', 'other.npz', 'name.npy'):
        assert any(f'{name} is left out' in text for text in caplog.messages), name


def test_a_file_whose_writer_pauses_is_not_lost(
    tmp_path: Path, tiny_scan: Scan, running: Callable[..., threading.Thread], caplog: Any
) -> None:
    caplog.set_level('WARNING')
    basin, number = Basin(), tiny_scan.num_patterns
    numpy.save(tmp_path / 'a.tmp', tiny_scan.patterns)
    ids = numpy.arange(number)
    numpy.savez(tmp_path / 'b.tmp', ids=ids, positions_px=tiny_scan.positions_px)
    files = {tmp_path / 'in' / f'frames_0.{kind}': tmp_path / name for kind, name in (
        ('npy', 'a.tmp.npy'), ('npz', 'b.tmp.npz'))}  # fmt: skip
    (tmp_path / 'in').mkdir()
    thread = running(FolderSource(tmp_path / 'in'), basin)
    for target, source in files.items():
        whole = source.read_bytes()
        target.write_bytes(whole[: len(whole) // 2])
    deadline = time.monotonic() + 120
    while len(caplog.messages) < len(files):
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.02)
    assert all('is left out, unless it still grows' in text for text in caplog.messages)
    for target, source in files.items():
        target.write_bytes(source.read_bytes())
    (tmp_path / 'in' / 'finished').touch()
    thread.join(120.0)
    basin.check(tiny_scan)


def test_a_replay_into_a_folder_arrives_in_any_order(
    tmp_path: Path, tiny_scan: Scan, running: Callable[..., threading.Thread]
) -> None:
    basin = Basin()
    thread = running(FolderSource(tmp_path / 'in'), basin)
    replay(tmp_path, tiny_scan, '--folder', tmp_path / 'in', '--shuffle', 3, '--batch', 4)
    thread.join(120.0)
    basin.check(tiny_scan)


@pytest.mark.parametrize('words', [[], ['--as-json'], ['--shuffle', 1]])
def test_messages_over_two_sockets_are_joined(
    tmp_path: Path, tiny_scan: Scan, running: Callable[..., threading.Thread], words: list[Any]
) -> None:
    pytest.importorskip('zmq')
    basin = Basin()
    addresses = [f'tcp://127.0.0.1:{free_port()}' for _ in range(2)]
    threads = [running(ZmqSource(address), basin) for address in addresses]
    ways = [word for address in addresses for word in ('--zmq', address)]
    replay(tmp_path, tiny_scan, *ways, *words)
    for thread in threads:
        thread.join(120.0)
        assert not thread.is_alive()
    basin.check(tiny_scan)


def test_a_bad_message_is_left_out_and_the_next_one_taken(
    tiny_scan: Scan, running: Callable[..., threading.Thread], caplog: Any
) -> None:
    zmq = pytest.importorskip('zmq')
    from ptychodus_pinn_torch.live.messages import END, encode_frames

    caplog.set_level('WARNING')
    basin, address = Basin(), f'tcp://127.0.0.1:{free_port()}'
    source = ZmqSource(address)
    thread = running(source, basin)
    with zmq.Context() as context, context.socket(zmq.PUSH) as sender:
        sender.bind(address)
        for data in (b'nonsense', b'{"kind": 3}', encode_frames([4], tiny_scan.patterns[4:5])):
            sender.send(data)
        sender.send(END)
        thread.join(120.0)
    assert list(basin.frames) == [4] and source.num_bad == 2
    assert sum('a message is left out' in text for text in caplog.messages) == 2
    with pytest.raises(SourceError, match='nowhere: is no address'):
        ZmqSource('nowhere').run(basin, threading.Event())


def test_a_detector_over_pvaccess_is_heard(
    tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    pytest.importorskip('p4p')
    from p4p.nt import NTNDArray, NTScalar
    from p4p.server import Server
    from p4p.server.thread import SharedPV

    from ptychodus_pinn_torch.live.epics_source import PvaSource

    for name, value in (('EPICS_PVA_ADDR_LIST', '127.0.0.1'), ('EPICS_PVA_AUTO_ADDR_LIST', 'NO')):
        monkeypatch.setenv(name, value)
    caplog.set_level('WARNING')
    basin, wrap, stopping = Basin(), NTNDArray(), threading.Event()
    frames = SharedPV(initial=wrap.wrap(numpy.zeros((0, 0), numpy.uint16)))
    places = SharedPV(nt=NTScalar('ad'), initial=[])
    with Server(providers=[{'test:frames': frames, 'test:places': places}]):
        source = PvaSource('test:frames', 'test:places')
        thread = threading.Thread(target=source.run, args=(basin, stopping), daemon=True)
        thread.start()
        deadline = time.monotonic() + 120
        while not frames.isOpen() or len(basin.frames) + len(basin.places) == 0:
            assert time.monotonic() < deadline
            places.post([0.0, *tiny_scan.positions_px[0]] if not basin.places else [])
            time.sleep(0.2)
            if 0 in basin.places:
                break
        time.sleep(0.3)
        for number in range(tiny_scan.num_patterns):
            value = wrap.wrap(numpy.asarray(tiny_scan.patterns[number]))
            value.uniqueId = number
            frames.post(value)
            if number:
                places.post([float(number), *tiny_scan.positions_px[number]])
            time.sleep(0.003)
        while basin.joiner.num_joined < tiny_scan.num_patterns:
            assert time.monotonic() < deadline + 120, basin.joiner.num_joined
            time.sleep(0.05)
        assert source.num_missing == 0 and not caplog.messages
        value = wrap.wrap(numpy.asarray(tiny_scan.patterns[0]))
        value.uniqueId = tiny_scan.num_patterns + 4
        frames.post(value)
        while len(basin.frames) <= tiny_scan.num_patterns:
            assert time.monotonic() < deadline + 120
            time.sleep(0.05)
        stopping.set()
        thread.join(60.0)
    basin.check(tiny_scan)
    assert source.num_missing == 4 and not thread.is_alive()
    assert 'those between are missing' in caplog.messages[0]
    assert 'test:frames: 4 frames with numbers from 0 to' in caplog.messages[-1]


@pytest.mark.parametrize(
    ('words', 'reason'),
    [
        ([], 'say where to'),
        (['--folder', 'a', '--hdf5', 'b'], 'say where to'),
        (['--hdf5', 'b', '--shuffle', '1'], 'leave it out'),
        (['--folder', 'a', '--as-json'], '--as-json has no effect'),
        (['--folder', 'a', '--rate', '0'], 'must be positive'),
        (['--zmq', 'nowhere'], 'nowhere: cannot be bound'),
        (['--zmq', 'a', '--zmq', 'b', '--zmq', 'c'], 'one address, or two'),
    ],
)
def test_a_replay_that_makes_no_sense_is_a_usage_error(
    tmp_path: Path, tiny_scan: Scan, words: list[str], reason: str, capsys: Any, monkeypatch: Any
) -> None:
    pytest.importorskip('zmq')
    monkeypatch.chdir(tmp_path)
    path = write_scan_npz(tmp_path / 'scan.npz', tiny_scan)
    assert main(['replay', str(path), *words]) == 2
    assert reason in capsys.readouterr().err


class FullBasin(Basin):
    """A sink whose disk is full."""

    def append(self, ids: Any, frames: Any) -> None:
        raise OSError(28, 'No space left on device', 'frames.raw')


@pytest.mark.parametrize('kind', ['folder', 'hdf5'])
def test_an_error_of_the_journal_is_not_taken_for_one_of_a_file(tmp_path: Path, kind: str) -> None:
    frames, source = numpy.ones((3, 8, 8)), Path(tmp_path / 'source')
    source.mkdir()
    if kind == 'folder':
        numpy.save(source / 'frames_0.npy', frames)
        (source / 'finished').touch()
    else:
        with h5py.File(source / 'scan.h5', 'w') as file:
            file['diff3d'] = frames
            file.attrs['finished'] = True
    made: Source = FolderSource(source) if kind == 'folder' else Hdf5Source(source / 'scan.h5')
    with pytest.raises(OSError, match='No space left'):
        made.run(FullBasin(), threading.Event())
    basin = Basin()
    made.run(basin, threading.Event())
    assert len(basin.frames) == 3, 'they come again when there is space'
