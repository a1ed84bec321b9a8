"""Checks of output paths before any work is done."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..models.archive import EXTENSION
from . import UsageError

__all__ = ['FileKey', 'add_model_output', 'add_overwrite_option', 'check_output', 'keys_of']

_PARTNERS = ('diffraction.h5', 'product.h5', 'product.cxi')

FileKey = str | tuple[int, int]
"""The path of a file without links, or its device and number there."""


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--overwrite`."""
    parser.add_argument('--overwrite', action='store_true', help='replace existing outputs')


def add_model_output(parser: argparse.ArgumentParser) -> None:
    """Adds `--output` for a model, `--resume`, and `--overwrite`."""
    parser.add_argument(
        '--output', type=Path, required=True, metavar='MODEL', help=f'to write, *{EXTENSION}'
    )
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    add_overwrite_option(parser)


def check_output(
    path: Path,
    arguments: argparse.Namespace,
    *,
    suffixes: tuple[str, ...],
    inputs: Sequence[Path | str | None] | frozenset[FileKey] = (),
    is_ours: bool = False,
) -> None:
    """Refuses an output that could not be written, or that would replace something.

    Args:
        path: To be written; its folder is made.
        arguments: With `overwrite`.
        suffixes: One of which the name must have.
        inputs: What the command reads, or the keys of that; it is never replaced, not even with
            `--overwrite`.
        is_ours: An earlier run of the command has written what is there: it may be replaced.

    Raises:
        UsageError: the name has another ending than it must have, or is that of an input.
        FileExistsError: something is there and `--overwrite` was not given.
        OSError: the folder cannot be made or written to.
    """
    if not path.name.endswith(suffixes):
        raise UsageError(f'{path}: the output must end in {" or ".join(suffixes)}.')
    if path.is_dir():
        raise IsADirectoryError(21, 'Is a directory', str(path))
    if os.path.lexists(path):  # a link that leads nowhere is somebody's too
        known = inputs if isinstance(inputs, frozenset) else keys_of(inputs)
        if not known.isdisjoint(_keys(path)):
            raise UsageError(f'{path}: is an input of this command: give another output.')
        if not (arguments.overwrite or is_ours):
            raise FileExistsError(
                f'{path}: exists already: give another output, or --overwrite to replace it.'
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(20, 'Is not a folder', str(path.parent)) from error
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f'{path.parent}: cannot be written to: choose another folder.')


def keys_of(inputs: Iterable[Path | str | None]) -> frozenset[FileKey]:
    """Returns the keys of all files that are read for the inputs."""
    return frozenset(key for path in _files_of(inputs) for key in _keys(path))


def _keys(path: Path) -> Iterator[FileKey]:
    """Yields what tells that a path is a file, or leads to it."""
    yield os.path.realpath(path)
    with contextlib.suppress(OSError):
        status = path.stat()
        yield status.st_dev, status.st_ino


def _files_of(inputs: Iterable[Path | str | None]) -> Iterator[Path]:
    """Yields the files that are read for the inputs: of a scan in HDF5, those beside it too."""
    for path in (Path(item) for item in inputs if item is not None):
        yield path
        if path.is_dir() or path.suffix in ('.h5', '.hdf5', '.cxi'):
            folder = path if path.is_dir() else path.parent
            yield from (folder / name for name in _PARTNERS)
