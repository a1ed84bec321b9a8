"""Arrays of NPZ files by name; what every reader of named arrays has in common."""

from __future__ import annotations

import contextlib
import struct
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .pattern_store import UnreadableError, map_npz_member, read_npz_member, stage_npz_member

__all__ = ['DAMAGE', 'DamagedFileError', 'NamedArrays', 'NpzArrays', 'damage_named', 'is_zip']

DAMAGE = (
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    NotImplementedError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy, zipfile, h5py and scipy raise on files that are damaged, or made to harm."""


def is_zip(path: Path) -> bool:
    """Returns whether a path is a file that begins as a zip does, however damaged the rest is."""
    if not path.is_file():
        return False
    with path.open('rb') as file:
        return file.read(4) == b'PK\x03\x04'


class DamagedFileError(ValueError):
    """A file that cannot be read; names it, and where."""


@contextlib.contextmanager
def damage_named(path: Path, what: str = '') -> Iterator[None]:
    """Turns what readers raise on damaged files into a sentence that names file and key."""
    try:
        yield
    except (DamagedFileError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except DAMAGE as error:
        if isinstance(error, OSError) and error.errno not in (None, 0, 22) and error.strerror:
            raise  # of the disk, not of the file
        is_whole = isinstance(error, UnreadableError)
        if isinstance(error, ValueError) and not is_whole and str(path) in str(error):
            raise  # a sentence already
        reason = ' '.join(str(error).split()).rstrip('.')[:200] or type(error).__name__
        if 'allow_pickle' in reason or 'Object arrays' in reason:
            reason, is_whole = 'it holds Python objects, which are never loaded', True
        told = f', it is damaged or cut short ({reason}): copy or export it again'
        where = f' at {what}' if what else ''
        raise DamagedFileError(
            f'{path} cannot be read{where}{f": {reason}" if is_whole else told}.'
        ) from error


class NamedArrays(ABC):
    """Arrays of one file by name, with errors that say what is there.

    Attributes:
        path: Of the file.
        keys: The names.
    """

    path: Path
    keys: tuple[str, ...]

    @abstractmethod
    def read(self, name: str) -> NDArray[Any]:
        """Returns the array of a name that is there."""

    def patterns(self, name: str) -> Any:
        """Returns the array of a name as it is needed for patterns: on disk."""
        return self.read(name)

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def first(self, names: Iterable[str]) -> str | None:
        """Returns the first of the names that the file holds."""
        return next((name for name in names if name in self), None)

    def require(self, *names: str) -> str:
        """Returns the first of the names that the file holds.

        Raises:
            ValueError: none of them is there.
        """
        name = self.first(names)
        if name is None:
            wanted = ' or '.join(repr(name) for name in names)
            raise ValueError(
                f'{self.path} has no key {wanted}; it holds {self.shown()}: export the scan again.'
            )
        return name

    def shown(self) -> str:
        """Returns the first of its keys, for messages."""
        return (', '.join(self.keys[:24]) or 'nothing')[:400]

    def array(self, *names: str) -> NDArray[Any]:
        """Returns the array of numbers of the first name that is there, in memory."""
        name = self.require(*names)
        with damage_named(self.path, f'key {name!r}'):
            values = self.read(name)
        if values.dtype.kind not in 'biufc':
            raise ValueError(
                f'{self.path}: {name} is of type {str(values.dtype)[:60]}, not of numbers: export '
                'the scan again.'
            )
        return values

    def optional(self, *names: str) -> NDArray[Any] | None:
        """Returns the array of the first name that is there, else None."""
        name = self.first(names)
        return None if name is None else self.array(name)

    def numbers(self, name: str) -> tuple[float, ...] | None:
        """Returns the one or two finite numbers of a key, else None.

        Raises:
            ValueError: it holds something else.
        """
        value = self.optional(name)
        if value is None:
            return None
        flat = value.ravel()
        if (
            not 1 <= flat.size <= 2
            or flat.dtype.kind not in 'fiu'
            or not numpy.isfinite(flat).all()
        ):
            raise ValueError(
                f'{self.path}: {name} is {value.dtype} of shape {value.shape}: give a number, or '
                'two for y and x.'
            )
        return tuple(float(number) for number in flat)

    def pair(self, name: str) -> tuple[float, float] | None:
        """Returns (y, x) of a key with two numbers, or one that stands for both, else None."""
        found = self.numbers(name)
        return None if found is None else (found[0], found[-1])

    def text(self, name: str) -> str | None:
        """Returns a string key, else None."""
        if name not in self.keys:
            return None
        with damage_named(self.path, f'key {name!r}'):
            value = self.read(name)
            found = value.reshape(-1)[0] if value.size else ''
            return found.decode('utf-8', 'replace') if isinstance(found, bytes) else str(found)


class NpzArrays(NamedArrays):
    """Arrays of one NPZ by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with damage_named(path), zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        self.keys = tuple(name.removesuffix('.npy') for name in names if name.endswith('.npy'))

    def read(self, name: str) -> NDArray[Any]:
        """Returns the array of a name that is there."""
        return read_npz_member(self.path, name)

    def patterns(self, name: str) -> NDArray[Any]:
        """Returns the array as a read-only memory map, in the dtype of the file."""
        with damage_named(self.path, f'key {name!r}'):
            mapped = map_npz_member(self.path, name)
            return stage_npz_member(self.path, name) if mapped is None else mapped
