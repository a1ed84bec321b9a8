"""Training sets as HDF5: the arrays of Ptychodus' training NPZ, under the same names."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from .io.npz import NpzReader
from .io.output import NOTHING, scan_arrays, write_atomically
from .io.pattern_store import map_hdf5_dataset, stage_blocks
from .scan import Scan

__all__ = ['Hdf5Reader', 'write_scan_hdf5']

_HEADER_BYTES = 2**20
"""More than HDF5 needs beside the values of some twenty arrays, about 20 kB."""


class Hdf5Reader(NpzReader):
    """Arrays of one HDF5 file by name, as `NpzReader` gives those of an NPZ."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with h5py.File(path, 'r') as file:
            self.keys = tuple(name for name, item in file.items() if isinstance(item, h5py.Dataset))

    def array(self, *names: str) -> NDArray[Any]:
        """Returns the array of the first name that is there, in memory."""
        name = self.require(*names)
        try:
            with h5py.File(self.path, 'r') as file:
                dataset = file[name]
                is_text = h5py.check_string_dtype(dataset.dtype) is not None
                if dataset.dtype.kind == 'O' and not is_text:
                    raise ValueError('holds objects')
                return numpy.asarray(dataset.asstr()[()] if is_text else dataset[()])
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(name, error) from error

    def patterns(self, name: str) -> NDArray[Any]:
        """Returns the array (N, H, W) as a read-only memory map, in the dtype of the file."""
        try:
            with h5py.File(self.path, 'r') as file:
                dataset = file[name]
                if (mapped := map_hdf5_dataset(self.path, dataset)) is not None:
                    return mapped
                return stage_blocks(dataset.shape, dataset.dtype, lambda rows: dataset[rows])
        except (OSError, ValueError, RuntimeError) as error:
            raise self._damaged(name, error) from error


def write_scan_hdf5(path: Path | str, scan: Scan, extra: Mapping[str, Any] = NOTHING) -> Path:
    """Returns the path of the HDF5 file that now holds what `write_scan_npz` would write."""
    return _write_arrays(path, {**scan_arrays(scan), **extra})


def _write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> Path:
    def write(temporary: Path) -> None:
        _reserve(temporary, sum(numpy.asarray(value).nbytes for value in arrays.values()))
        with h5py.File(temporary, 'r+') as file:
            for name, value in arrays.items():
                values = numpy.asarray(value)
                is_text = values.dtype.kind == 'U'
                file[name] = (
                    str(values) if is_text else value
                )  # contiguous, so that it can be mapped

    return write_atomically(path, write)


def _reserve(path: Path, num_bytes: int) -> None:
    """Makes an empty HDF5 file for which the file system has set space aside.

    HDF5 itself ends the process where a disk is full.

    Raises:
        OSError: there is not so much space.
    """
    empty = io.BytesIO()
    with h5py.File(empty, 'w'):
        pass
    with path.open('wb') as file:
        file.write(empty.getbuffer())
        file.flush()
        if hasattr(os, 'posix_fallocate'):
            os.posix_fallocate(file.fileno(), 0, num_bytes + _HEADER_BYTES)
