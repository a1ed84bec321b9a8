"""Frames and positions as they arrive, on disk: what a process has taken is there when it is killed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy
from numpy.typing import NDArray

from ..scan.io.output import write_atomically

__all__ = ['FrameStore', 'JournalError']

HEADER, FRAMES, FRAME_IDS, POSITIONS = (
    'journal.json',
    'frames.raw',
    'frame_ids.raw',
    'positions.raw',
)
ADVICE = 'one of the two is damaged, and nothing was changed: name another folder for a new run'
DATA = (FRAMES, FRAME_IDS, POSITIONS)
VERSION = 1
POSITION = numpy.dtype([('id', '<i8'), ('y', '<f8'), ('x', '<f8')])


class JournalError(ValueError):
    """A journal that cannot be used; names its folder, and says what to do."""


def _lock(file: BinaryIO, folder: Path) -> None:
    """Refuses a journal that another process has open; the lock goes with the file."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise JournalError(
            f'{folder}: another process has this journal open: end that one first.'
        ) from error
    except (ImportError, OSError):  # Windows, or a file system without locks
        return


class FrameStore:
    """An append-only journal of frames and positions in a folder.

    A frame counts as taken when its number is written, which happens after its counts: what a
    process that was killed has left half written is written over when the journal goes on.
    Nothing is ever cut off that could be read. One process at a time has it open.
    Memory does not grow with it; counts are read through a map of the file.

    The type of the counts is that of the first frames.

    Args:
        folder: Of the journal; made where it is not there.
        pattern_shape: (H, W).

    Raises:
        JournalError: there are frames already; `FrameStore.open` goes on with them.
    """

    def __init__(self, folder: Path, pattern_shape: tuple[int, int]) -> None:
        if self.is_begun(folder):
            raise JournalError(
                f'{folder}: holds a journal already: resume it, or name another folder.'
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in DATA:
            (folder / name).touch()
        self._begin(folder, pattern_shape, None)
        self._write_header(None)

    @staticmethod
    def is_begun(folder: Path) -> bool:
        """Returns whether a folder holds frames or positions, with a header or without."""
        return any((folder / name).stat().st_size for name in DATA if (folder / name).exists())

    @classmethod
    def open(cls, folder: Path, pattern_shape: tuple[int, int]) -> FrameStore:
        """Returns the journal of a folder, as far as it was written.

        Nothing is changed by it.

        Raises:
            JournalError: no journal, a damaged one, one of patterns of another shape, or one that
                another process has open.
        """
        try:
            header = json.loads((folder / HEADER).read_text(encoding='utf-8'))
            is_known, name = header['version'] == VERSION, header['dtype']
            shape = header['pattern_shape']
            dtype = None if name is None else numpy.dtype(name)
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise JournalError(f'{folder}: holds no journal that can be read: {error}.') from error
        if not is_known:
            raise JournalError(
                f'{folder}: has a journal of version {header["version"]}: use the version of this '
                'package that has written it.'
            )
        if shape != list(pattern_shape):
            raise JournalError(
                f'{folder}: {HEADER} tells of patterns of {shape} but the probe has '
                f'{list(pattern_shape)}: {ADVICE}.'
            )
        if dtype is not None and dtype.kind not in 'iuf':
            raise JournalError(
                f'{folder}: {HEADER} tells of counts of type {name!r}, not of numbers: {ADVICE}.'
            )
        store = cls.__new__(cls)
        store._begin(folder, pattern_shape, dtype)
        return store

    def _begin(
        self, folder: Path, pattern_shape: tuple[int, int], dtype: numpy.dtype[Any] | None
    ) -> None:
        self.folder, self.pattern_shape, self.dtype = folder, pattern_shape, dtype
        self._files: dict[str, BinaryIO] = {}
        try:
            for name in DATA:
                self._files[name] = cast(BinaryIO, (folder / name).open('r+b', buffering=0))
            _lock(self._files[FRAMES], folder)
            frames, ids, positions = (
                os.fstat(file.fileno()).st_size for file in self._files.values()
            )
            if frames < ids // 8 * self._frame_bytes or (dtype is None and (frames or ids)):
                raise JournalError(
                    f'{folder}: {HEADER} tells of counts of type {dtype} but {FRAMES} has {frames} '
                    f'bytes for {ids // 8} frames: {ADVICE}.'
                )
        except FileNotFoundError as error:
            self.close()
            raise JournalError(f'{folder}: of its journal {name} is missing.') from error
        except JournalError:
            self.close()
            raise
        self.num_frames, self.num_positions = ids // 8, positions // POSITION.itemsize

    @property
    def _frame_bytes(self) -> int:
        height, width = self.pattern_shape
        return 0 if self.dtype is None else height * width * self.dtype.itemsize

    def _write_header(self, dtype: numpy.dtype[Any] | None) -> None:
        name = None if dtype is None else dtype.str
        shape = list(self.pattern_shape)
        text = json.dumps({'version': VERSION, 'pattern_shape': shape, 'dtype': name})
        write_atomically(self.folder / HEADER, lambda path: path.write_text(text, 'utf-8'))

    def append(self, ids: NDArray[numpy.int64], frames: NDArray[Any]) -> None:
        """Writes frames (n, H, W) and their numbers (n,).

        Raises:
            OSError: the disk is full; nothing of these frames counts as taken.
        """
        if self.dtype is None:
            dtype = frames.dtype.newbyteorder('<')
            self._write_header(dtype)  # where that fails, it is tried again
            self.dtype = dtype
        counts = numpy.ascontiguousarray(frames, dtype=self.dtype)
        self._write(FRAMES, counts.data.cast('B'), self.num_frames * self._frame_bytes)
        numbers = numpy.ascontiguousarray(ids, dtype='<i8')
        self._write(FRAME_IDS, numbers.data.cast('B'), 8 * self.num_frames)
        self.num_frames += len(numbers)

    def append_positions(
        self, ids: NDArray[numpy.int64], positions: NDArray[numpy.float64]
    ) -> None:
        """Writes positions (n, 2) of (y, x) and the numbers (n,) of their frames."""
        records = numpy.empty(len(ids), POSITION)
        records['id'], records['y'], records['x'] = ids, positions[:, 0], positions[:, 1]
        self._write(POSITIONS, records.data.cast('B'), self.num_positions * POSITION.itemsize)
        self.num_positions += len(records)

    def _write(self, name: str, data: memoryview, start: int) -> None:
        """Writes bytes at a place, all or none; what a process has left there is written over."""
        file = self._files[name]
        file.seek(start)
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            file.truncate(start)  # numbers of frames that are not there must not be read again
            raise

    def frames(self) -> NDArray[Any]:
        """Returns the frames (n, H, W) that were taken so far, a read-only map of the file."""
        shape = self.num_frames, *self.pattern_shape
        if not self.num_frames or self.dtype is None:
            return numpy.zeros(shape, numpy.uint16)
        return numpy.memmap(self.folder / FRAMES, self.dtype, 'r', shape=shape)

    def frame_ids(self) -> NDArray[numpy.int64]:
        """Returns their numbers (n,)."""
        return numpy.fromfile(self.folder / FRAME_IDS, '<i8', self.num_frames).astype(numpy.int64)

    def positions(self) -> tuple[NDArray[numpy.int64], NDArray[numpy.float64]]:
        """Returns the numbers (n,) of frames whose positions were taken, and these (n, 2)."""
        records = numpy.fromfile(self.folder / POSITIONS, POSITION, self.num_positions)
        return records['id'].astype(numpy.int64), numpy.stack([records['y'], records['x']], axis=1)

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            file.close()
