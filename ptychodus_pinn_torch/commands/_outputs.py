"""Checks of output paths before any work is done."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..cli import UsageError

__all__ = ['add_overwrite_option', 'check_output']


def add_overwrite_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--overwrite`."""
    parser.add_argument('--overwrite', action='store_true', help='replace an existing output')


def check_output(path: Path, arguments: argparse.Namespace, *, suffixes: tuple[str, ...]) -> None:
    """Refuses an output that could not be written, or that would replace something.

    Raises:
        UsageError: the name has another ending than it must have.
        FileExistsError: something is there and `--overwrite` was not given.
        OSError: the folder cannot be made or written to.
    """
    if not path.name.endswith(suffixes):
        raise UsageError(f'{path}: the output must end in {" or ".join(suffixes)}.')
    if path.exists() and not arguments.overwrite:
        raise FileExistsError(
            f'{path}: exists already: give another name, or --overwrite to replace it.'
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f'{path.parent}: cannot be written to: choose another folder.')
