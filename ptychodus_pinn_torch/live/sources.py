"""Where frames and positions come from: each source feeds a live reconstruction until it ends."""

from __future__ import annotations

import logging
import re
import threading
import time
import zipfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy
from numpy.typing import ArrayLike, NDArray

from .messages import MessageError, decode_message

__all__ = ['FolderSource', 'Hdf5Source', 'Sink', 'Source', 'SourceError', 'ZmqSource']

logger = logging.getLogger(__name__)

HDF5_MAGIC = b'\x89HDF\r\n\x1a\n'

POLL_S = 0.1
LISTING = 9.0
"""A folder is left alone for so many times as long as it takes to look through it."""

BLOCK = 256
"""Frames that are handed over at a time."""

FRAME_NAMES = (
    'entry/data/data',
    'entry/instrument/detector/data',
    'diff3d',
    'diffraction',
    'patterns',
)
POSITION_NAMES = ('entry/positions_px', 'positions_px', 'entry/positions')
ID_NAMES = ('entry/frame_ids', 'frame_ids')


Item = tuple[bool, Any, Any]
"""Whether these are frames, their numbers, and frames or positions."""


class SourceError(ValueError):
    """A source that cannot be used; names it, and says what to do."""


class Sink(Protocol):
    """What takes frames and positions: a `LiveReconstruction`."""

    def append(self, ids: ArrayLike, frames: NDArray[Any]) -> None:
        """Takes frames (n, H, W) by number (n,)."""

    def append_positions(self, ids: ArrayLike, positions: ArrayLike) -> None:
        """Takes positions (n, 2) by the numbers (n,) of their frames."""


class Source(Protocol):
    """Hands over what comes, until nothing more will, or it is told to stop."""

    def run(self, sink: Sink, stopping: threading.Event) -> None:
        """Feeds the sink; returns at the end.

        Raises:
            SourceError: it cannot be used.
        """


class Hdf5Source:
    """A file that a detector or another program writes (SWMR), while it grows.

    The numbers of frames are those of a dataset `frame_ids`, else those of the rows. An attribute
    `finished` of the file says that nothing more will come.

    Args:
        path: Of the file; it may not be there yet.
        frames: Name of the dataset (n, H, W); looked for by default.
        positions: Name of the dataset (n, 2) of (y, x) in object pixels; likewise, and it may be
            missing.
    """

    def __init__(self, path: Path, frames: str = '', positions: str = '') -> None:
        self.path, self.frames, self.positions = path, frames, positions
        self._done = {'frames': 0, 'positions': 0}

    def run(self, sink: Sink, stopping: threading.Event) -> None:
        """Feeds what is written; a file that is not there yet, or not readable yet, is waited for."""
        # errors of the sink are raised here, where none of them is taken for one of the file
        for is_frames, ids, values in self._read(stopping):
            (sink.append if is_frames else sink.append_positions)(ids, values)

    def _read(self, stopping: threading.Event) -> Iterator[Item]:
        """Yields what is written until it is finished."""
        is_finished = False
        while not (is_finished or stopping.is_set()):
            try:
                with h5py.File(self.path, 'r', libver='latest', swmr=True) as file:
                    is_finished = yield from self._follow(file, stopping)
            except (FileNotFoundError, BlockingIOError):
                pass
            except OSError as error:
                if not _may_become_hdf5(self.path):
                    raise SourceError(f'{self.path}: cannot be read as HDF5: {error}.') from error
            if not is_finished:
                stopping.wait(POLL_S)

    def _follow(self, file: h5py.File, stopping: threading.Event) -> Generator[Item, None, bool]:
        """Yields what is new; returns whether the file is finished, or must be opened again."""
        frames = _find(file, self.frames, FRAME_NAMES, 3, self.path)
        if frames is None:
            return False  # its datasets are not there yet
        positions = _find(file, self.positions, POSITION_NAMES, 2, self.path)
        ids = _find(file, '', ID_NAMES, 1, self.path)
        while not stopping.is_set():
            is_finished = bool(file.attrs.get('finished', False))
            before = dict(self._done)
            for dataset in (frames, positions, ids):
                if dataset is not None:
                    dataset.id.refresh()
            for name, values in (('frames', frames), ('positions', positions)):
                if values is not None:
                    known = len(values) if ids is None else min(len(values), len(ids))
                    yield from self._news(name, values, ids, known)
            if is_finished or self._done == before:
                return is_finished  # where nothing new is seen, another file may have its name
            stopping.wait(POLL_S)
        return False

    def _news(self, name: str, values: Any, ids: Any, known: int) -> Iterator[Item]:
        while self._done[name] < known:
            part = slice(self._done[name], min(known, self._done[name] + BLOCK))
            numbers = numpy.arange(part.start, part.stop) if ids is None else ids[part]
            yield name == 'frames', numbers, values[part]
            self._done[name] = part.stop  # it was taken


def _may_become_hdf5(path: Path) -> bool:
    """Returns whether a file that cannot be read is one that is only being made."""
    try:
        with path.open('rb') as file:
            begin = file.read(len(HDF5_MAGIC))
    except OSError:
        return True
    return HDF5_MAGIC.startswith(begin) or not begin.strip(b'\0')


def _find(
    file: h5py.File, name: str, usual: Sequence[str], ndim: int, path: Path
) -> h5py.Dataset | None:
    """Returns the dataset of a name, or of one of the usual ones, if it is there."""
    for candidate in [name] if name else usual:
        item = file.get(candidate)
        if isinstance(item, h5py.Dataset):
            if item.ndim != ndim or item.dtype.kind not in 'iuf':
                raise SourceError(
                    f'{path}: {candidate} has shape {item.shape} and type {item.dtype}: numbers of '
                    f'{ndim} dimensions are needed.'
                )
            return item
    return None


class FolderSource:
    """A folder into which files are written: `frames_*.npy` and `positions_*.npy`, or `*.npz` with both.

    The number in the name of an NPY is that of its first frame; an NPZ has `ids`, and `frames` or
    `positions_px` or both. A file is read when its size no longer changes, and once more where it
    could not be read and has grown since. One named `finished` ends it.

    Args:
        folder: To be watched; it may not be there yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._sizes: dict[Path, int] = {}
        self._unreadable: dict[Path, int] = {}
        self._done: set[Path] = set()

    def run(self, sink: Sink, stopping: threading.Event) -> None:
        """Feeds the files in the order of their names, each once."""
        if self.folder.exists() and not self.folder.is_dir():
            raise SourceError(
                f'{self.folder}: is no folder: name the one that files are written into.'
            )
        while not stopping.is_set():
            began_s = time.monotonic()
            is_finished = (self.folder / 'finished').exists()
            files = self._files()
            listed_s = time.monotonic() - began_s
            left = [path for path in files if not self._take(path, sink)]
            if is_finished and not left:
                return
            # a folder of very many files is not looked through all the time
            stopping.wait(max(POLL_S, LISTING * listed_s))

    def _files(self) -> list[Path]:
        if not self.folder.is_dir():
            return []
        return sorted(
            path
            for path in self.folder.iterdir()
            if path.suffix in ('.npy', '.npz')
            and not path.name.startswith('.')  # one that is being written
            and path not in self._done
        )

    def _take(self, path: Path, sink: Sink) -> bool:
        """Returns whether a file was read, or cannot be; not as long as it grows."""
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            return True
        if self._unreadable.get(path) == size:
            return True
        if self._sizes.get(path) != size or not size:
            self._sizes[path] = size
            return False
        try:
            items = self._read(path)
        except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile) as error:
            return self._leave_out(path, size, error)
        try:  # an OSError is one of the journal, and of no file
            for is_frames, ids, values in items:
                (sink.append if is_frames else sink.append_positions)(ids, values)
        except ValueError as error:
            return self._leave_out(path, size, error)
        self._done.add(path)
        return True

    def _leave_out(self, path: Path, size: int, error: Exception) -> bool:
        logger.warning('%s is left out, unless it still grows: %s', path, error)
        self._unreadable[path] = size
        return True

    @staticmethod
    def _read(path: Path) -> list[Item]:
        """Returns whether these are frames, their numbers, and values."""
        if path.suffix == '.npz':
            with numpy.load(path, allow_pickle=False) as file:
                parts = [
                    (name == 'frames', file['ids'], file[name])
                    for name in ('frames', 'positions_px')
                    if name in file and 'ids' in file
                ]
                if not parts:
                    raise ValueError(
                        f'holds {", ".join(file)}, not ids with frames or positions_px'
                    )
                return parts
        number = re.search(r'(\d+)$', path.stem)
        if number is None or not path.stem.startswith(('frame', 'position')):
            raise ValueError('its name is neither frames_NUMBER nor positions_NUMBER')
        values = numpy.load(path, allow_pickle=False)
        is_frames = path.stem.startswith('frame')
        values = values[None] if values.ndim == (2 if is_frames else 1) else values
        return [(is_frames, int(number[1]) + numpy.arange(len(values)), values)]


class ZmqSource:
    """Messages (see `messages`) from the PUSH socket of a sender, such as `replay`.

    Args:
        address: For example `tcp://127.0.0.1:5555`.

    Raises:
        SourceError: pyzmq or cbor2 is not installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.num_bad = 0
        try:
            import cbor2  # noqa: F401
            import zmq  # noqa: F401
        except ImportError as error:
            raise SourceError(
                f"{address}: needs pyzmq and cbor2: pip install 'ptychodus-pinn-torch[live]'"
            ) from error

    def run(self, sink: Sink, stopping: threading.Event) -> None:
        """Feeds messages until one says that it is the end; bad ones are named and left out."""
        import zmq

        with zmq.Context() as context, context.socket(zmq.PULL) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            try:
                socket.connect(self.address)
            except zmq.ZMQError as error:
                raise SourceError(f'{self.address}: is no address for ZeroMQ: {error}.') from error
            while not stopping.is_set():
                if not socket.poll(int(1000 * POLL_S)):
                    continue
                try:
                    message = decode_message(socket.recv())
                    if message.kind == 'end':
                        return
                    take = sink.append if message.kind == 'frames' else sink.append_positions
                    take(message.ids, message.values)  # type: ignore[arg-type]
                except (MessageError, ValueError) as error:
                    self.num_bad += 1
                    logger.warning('%s: a message is left out: %s', self.address, error)
