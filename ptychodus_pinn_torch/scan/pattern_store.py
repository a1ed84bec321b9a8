"""Patterns on disk as read-only arrays: mapped where they lie, or staged block by block."""

from __future__ import annotations

import math
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy
from numpy.lib import format as npy_format
from numpy.typing import NDArray

__all__ = ['block_slices', 'map_hdf5_dataset', 'map_npz_member', 'stage_blocks', 'stage_npz_member']


_LOCAL_HEADER = struct.Struct('<4s2B4HL2L2H')
_BLOCK_BYTES = 1 << 24


def block_slices(num_patterns: int, bytes_per_pattern: int) -> Iterator[slice]:
    """Yields slices over the patterns, each about 16 MB."""
    length = max(1, _BLOCK_BYTES // max(1, bytes_per_pattern))
    for start in range(0, num_patterns, length):
        yield slice(start, min(start + length, num_patterns))


def _read_npy_header(stream: Any) -> tuple[tuple[int, ...], bool, numpy.dtype[Any]]:
    version = npy_format.read_magic(stream)
    if version == (1, 0):
        header = npy_format.read_array_header_1_0(stream)
    elif version == (2, 0):
        header = npy_format.read_array_header_2_0(stream)
    else:
        raise ValueError(f'has .npy format version {version}, which is not known')
    if header[2].hasobject:
        raise ValueError('holds Python objects, which are never loaded')
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


def map_hdf5_dataset(path: Path, dataset: Any) -> NDArray[Any] | None:
    """Returns a read-only memory map of a contiguous, uncompressed HDF5 dataset, else None."""
    offset = dataset.id.get_offset()
    if offset is None or dataset.chunks is not None or dataset.external is not None:
        return None
    return numpy.memmap(path, dtype=dataset.dtype, mode='r', offset=offset, shape=dataset.shape)


def stage_npz_member(path: Path, member: str) -> NDArray[Any]:
    """Returns a compressed array of an NPZ as a read-only map of an unnamed temporary file.

    The array is unpacked block by block, so memory does not grow with its size.

    Raises:
        ValueError: the member is damaged or cut short.
    """
    with zipfile.ZipFile(path) as archive, archive.open(f'{member}.npy') as stream:
        shape, is_fortran, dtype = _read_npy_header(stream)

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
    # Written through the file and not through the map, because a full disk then raises OSError
    # where a map would kill the process. The file has no name: it goes with the last reference.
    if 0 in shape:
        return numpy.zeros(shape, dtype)
    with tempfile.TemporaryFile(prefix='ptychodus-pinn-') as file:
        for rows in block_slices(shape[0], math.prod(shape[1:]) * dtype.itemsize):
            file.write(numpy.ascontiguousarray(read_block(rows), dtype=dtype).data)
        file.flush()
        return numpy.memmap(cast(Any, file), dtype=dtype, mode='r', shape=shape)
