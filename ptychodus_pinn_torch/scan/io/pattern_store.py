"""Patterns on disk as read-only arrays: mapped where they lie, or staged block by block."""

from __future__ import annotations

import math
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy
from numpy.lib import format as npy_format
from numpy.typing import NDArray

__all__ = [
    'UnreadableError',
    'block_slices',
    'check_growth',
    'check_room',
    'map_npz_member',
    'read_npz_member',
    'stage_blocks',
    'stage_npz_member',
    'stage_parts',
]


_LOCAL_HEADER = struct.Struct('<4s2B4HL2L2H')
_BLOCK_BYTES = 1 << 24

MOST_GROWTH, SMALL = 1000, 2**24
"""Arrays that grow by more than that when they are unpacked hold next to nothing (deflate ends at
1 032), unless they are small: bytes."""


class UnreadableError(ValueError):
    """What is whole and still not read: Python objects, links that lead nowhere, unknown filters."""


def block_slices(num_patterns: int, bytes_per_pattern: int) -> Iterator[slice]:
    """Yields slices over the patterns, each about 16 MB."""
    length = max(1, _BLOCK_BYTES // max(1, bytes_per_pattern))
    for start in range(0, num_patterns, length):
        yield slice(start, min(start + length, num_patterns))


def check_growth(num_bytes: int, stored_bytes: int) -> None:
    """Refuses an array of which the file holds next to nothing.

    Raises:
        ValueError: says how many bytes it claims, and how many there are.
    """
    if num_bytes > SMALL and num_bytes > MOST_GROWTH * max(stored_bytes, 1):
        raise ValueError(
            f'it claims {num_bytes / 1e6:.0f} MB of which the file holds {stored_bytes / 1e6:.3g} MB'
        )


def check_room(num_bytes: int) -> None:
    """Refuses to write more to a temporary file than the disk has room for.

    Raises:
        OSError: names the folder.
    """
    folder = tempfile.gettempdir()
    if num_bytes > shutil.disk_usage(folder).free:
        told = f'No room for {num_bytes / 1e9:.3g} GB of patterns: set TMPDIR to a larger disk'
        raise OSError(28, told, folder)


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, numpy.dtype[Any]]:
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        header = npy_format.read_array_header_1_0(stream)
    elif version == (2, 0):
        header = npy_format.read_array_header_2_0(stream)
    else:
        raise ValueError(f'has .npy format version {version}, which is not known')
    if header[2].hasobject:
        raise UnreadableError('it holds Python objects, which are never loaded')
    if min(header[0], default=0) < 0:
        raise ValueError(f'has the shape {header[0]}')
    return header


def map_npz_member(path: Path, member: str) -> NDArray[Any] | None:
    """Returns a read-only memory map of an uncompressed array inside an NPZ, else None.

    The array's bytes lie contiguously in the zip; nothing is copied.

    Raises:
        ValueError: the header of the member cannot be understood.
    """
    with zipfile.ZipFile(path) as archive:
        entry = archive.getinfo(f'{member}.npy')
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        return None
    with path.open('rb') as file:
        file.seek(entry.header_offset)
        fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
        file.seek(entry.header_offset + _LOCAL_HEADER.size + fields[10] + fields[11])
        shape, is_fortran, dtype = _read_npy_header(file)
        offset = file.tell()
        size = math.prod(shape) * dtype.itemsize
        if offset + size > path.stat().st_size:
            raise ValueError('ends before its data do; the file is truncated')
        if size == 0:
            return numpy.zeros(shape, dtype)
        return numpy.memmap(
            file, dtype, 'r', offset=offset, shape=shape, order='F' if is_fortran else 'C'
        )


def read_npz_member(path: Path, member: str) -> NDArray[Any]:
    """Returns an array of an NPZ in memory; its sum is checked.

    Raises:
        ValueError: the member is damaged, cut short, or claims what the file does not hold.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f'{member}.npy') as stream:
        shape, is_fortran, dtype = _read_npy_header(stream)
        size = math.prod(shape) * dtype.itemsize
        check_growth(size, archive.getinfo(f'{member}.npy').compress_size)
        data = stream.read(size + 1)
    if len(data) != size:
        raise ValueError('ends before or after its data do; the file is damaged')
    found = numpy.frombuffer(bytearray(data), dtype) if size else numpy.empty(0, dtype)
    return found.reshape(shape, order='F' if is_fortran else 'C')


def stage_npz_member(path: Path, member: str) -> NDArray[Any]:
    """Returns a compressed array of an NPZ as a read-only map of an unnamed temporary file.

    The array is unpacked block by block, so memory does not grow with its size.

    Raises:
        ValueError: the member is damaged or cut short.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f'{member}.npy') as stream:
        shape, is_fortran, dtype = _read_npy_header(stream)
        check_growth(
            math.prod(shape) * dtype.itemsize, archive.getinfo(f'{member}.npy').compress_size
        )

        def read_block(values: slice) -> NDArray[Any]:
            size = (values.stop - values.start) * dtype.itemsize
            data = stream.read(size)
            if len(data) < size:
                raise ValueError('ends before its data do; the file is truncated')
            return numpy.frombuffer(data, dtype)

        staged = stage_blocks((math.prod(shape),), dtype, read_block)
    return staged.reshape(shape, order='F' if is_fortran else 'C')


def stage_blocks(
    shape: tuple[int, ...], dtype: numpy.dtype[Any], read_block: Callable[[slice], NDArray[Any]]
) -> NDArray[Any]:
    """Returns what `read_block` yields, as a read-only map of an unnamed temporary file.

    The shape is that of the whole, patterns first; a block is the patterns of a slice.
    """
    if 0 in shape:
        return numpy.zeros(shape, dtype)
    rows = block_slices(shape[0], math.prod(shape[1:]) * dtype.itemsize)
    return stage_parts(shape, dtype, map(read_block, rows))


def stage_parts(
    shape: tuple[int, ...], dtype: numpy.dtype[Any], parts: Iterable[NDArray[Any]]
) -> NDArray[Any]:
    """Returns parts that follow each other, as a read-only map of an unnamed temporary file.

    Raises:
        OSError: the disk is full; names the folder.
    """
    # Written through the file and not through the map, because a full disk then raises OSError
    # where a map would kill the process. The file has no name: it goes with the last reference.
    if 0 in shape:
        return numpy.zeros(shape, dtype)
    check_room(math.prod(shape) * dtype.itemsize)
    with tempfile.TemporaryFile(prefix='ptychodus-pinn-') as file:
        for part in parts:
            file.write(numpy.ascontiguousarray(part, dtype=dtype).data)
        file.flush()
        return numpy.memmap(cast(Any, file), dtype=dtype, mode='r', shape=shape)
