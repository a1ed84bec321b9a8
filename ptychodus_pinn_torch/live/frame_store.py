"""Frames and positions as they arrive, on disk: what a process has taken is there when it is killed."""

from __future__ import annotations

import json
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
VERSION = 1
POSITION = numpy.dtype([('id', '<i8'), ('y', '<f8'), ('x', '<f8')])


class JournalError(ValueError):
    """A journal that cannot be used; names its folder, and says what to do."""


class FrameStore:
    """An append-only journal of frames and positions in a folder.

    A frame counts as taken when its number is written, which happens after its counts: what a
    process that was killed has left half written is cut off when the journal is opened again.
    Memory does not grow with it; counts are read through a map of the file.

    The type of the counts is that of the first frames.

    Args:
        folder: Of the journal; made where it is not there.
        pattern_shape: (H, W).

    Raises:
        JournalError: there is a journal already; `FrameStore.open` goes on with it.
    """

    def __init__(self, folder: Path, pattern_shape: tuple[int, int]) -> None:
        if (folder / HEADER).exists():
            raise JournalError(
                f'{folder}: holds a journal already: resume it, or name another folder.'
            )
        folder.mkdir(parents=True, exist_ok=True)
        for name in (FRAMES, FRAME_IDS, POSITIONS):
            (folder / name).touch()
        self._begin(folder, pattern_shape, None)
        self._write_header()

    @classmethod
    def open(cls, folder: Path) -> FrameStore:
        """Returns the journal of a folder, as far as it was written.

        Raises:
            JournalError: no journal, or a damaged one.
        """
        try:
            header = json.loads((folder / HEADER).read_text(encoding='utf-8'))
            is_known, name = header['version'] == VERSION, header['dtype']
            dtype = None if name is None else numpy.dtype(name)
            height, width = map(int, header['pattern_shape'])
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise JournalError(f'{folder}: holds no journal that can be read: {error}.') from error
        if not is_known:
            raise JournalError(
                f'{folder}: has a journal of version {header["version"]}: use the version of this '
                'package that has written it.'
            )
        store = cls.__new__(cls)
        store._begin(folder, (height, width), dtype)
        return store

    def _begin(
        self, folder: Path, pattern_shape: tuple[int, int], dtype: numpy.dtype[Any] | None
    ) -> None:
        self.folder, self.pattern_shape, self.dtype = folder, pattern_shape, dtype
        ids, frames = (folder / FRAME_IDS).stat().st_size // 8, (folder / FRAMES).stat().st_size
        self.num_frames = 0 if dtype is None else min(ids, frames // self._frame_bytes)
        self.num_positions = (folder / POSITIONS).stat().st_size // POSITION.itemsize
        sizes = {
            FRAMES: self.num_frames * self._frame_bytes if dtype is not None else 0,
            FRAME_IDS: 8 * self.num_frames,
            POSITIONS: self.num_positions * POSITION.itemsize,
        }
        self._files: dict[str, BinaryIO] = {}
        for name, size in sizes.items():
            file = (folder / name).open('r+b', buffering=0)
            file.truncate(size)
            self._files[name] = cast(BinaryIO, file)

    @property
    def _frame_bytes(self) -> int:
        height, width = self.pattern_shape
        return 0 if self.dtype is None else height * width * self.dtype.itemsize

    def _write_header(self) -> None:
        name = None if self.dtype is None else self.dtype.newbyteorder('<').str
        shape = list(self.pattern_shape)
        text = json.dumps({'version': VERSION, 'pattern_shape': shape, 'dtype': name})
        write_atomically(self.folder / HEADER, lambda path: path.write_text(text, 'utf-8'))

    def append(self, ids: NDArray[numpy.int64], frames: NDArray[Any]) -> None:
        """Writes frames (n, H, W) and their numbers (n,).

        Raises:
            OSError: the disk is full; nothing of these frames counts as taken.
        """
        if self.dtype is None:
            self.dtype = frames.dtype.newbyteorder('<')
            self._write_header()
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
        """Writes bytes at a place; what an earlier try has left there is written over."""
        file = self._files[name]
        file.seek(start)
        while data:
            data = data[file.write(data) :]

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
