"""Arrays of MATLAB's files by name, version 5; those of version 7.3 are HDF5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .npz import NamedArrays

__all__ = ['MatlabArrays', 'is_matlab']

HEAD = b'MATLAB 5.0 MAT-file'


def is_matlab(path: Path) -> bool:
    """Returns whether a file is one of version 5, by its first bytes."""
    with path.open('rb') as file:
        return file.read(len(HEAD)) == HEAD


class MatlabArrays(NamedArrays):
    """Numeric arrays of one file by name; those with one row or column have lost that axis."""

    def __init__(self, path: Path) -> None:
        from scipy.io import whosmat

        self.path = path
        self.keys = tuple(name for name, _, _ in whosmat(str(path)))

    def read(self, name: str) -> NDArray[Any]:
        """Returns the array of a name that is there."""
        from scipy.io import loadmat

        values = numpy.asarray(loadmat(str(self.path), variable_names=[name])[name])
        if values.dtype.hasobject:
            raise ValueError('it holds cells or structures, not numbers')
        return values
