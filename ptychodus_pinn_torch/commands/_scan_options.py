"""Flags that say how a scan is read, shared by all commands that read one."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import get_args

from ..scan.io.raw import DiffractionKind, ReadOptions
from ..scan.positions import PositionTransform
from ..scan.scan import Scan
from . import UsageError

__all__ = [
    'RARE',
    'add_scan_options',
    'flags_of_reading',
    'position_transform_from',
    'read_options_from',
    'read_scan_from',
    'refuse_scan_options',
]

_FLAGS = {'positions_file': 'positions'}
RARE = (
    'patterns_format',
    'bad_pixels',
    'positions_format', 'positions_file', 'scale_positions', 'energy_ev', 'distance_m', 'detector_pixel_um', 'center', 'probe_preset', 'gain',
    'saturation', 'invert_mask', 'allow_links',
)  # fmt: skip
"""Flags that --help leaves to --help-all, where there is one."""

_TURNS = ('exchange_axes', 'flip_y', 'flip_x', 'scale_positions')


def _flag(name: str) -> str:
    return '--' + _FLAGS.get(name, name).replace('_', '-')


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command: the fields of `ReadOptions`, and what is done to positions."""
    group = parser.add_argument_group('reading the scan')
    for item in fields(ReadOptions):
        if not item.metadata:
            continue
        told, words = item.metadata, {'dest': item.name, 'help': item.metadata['help']}
        if isinstance(item.default, bool):
            group.add_argument(_flag(item.name), action='store_true', **words)
            continue
        if item.name == 'diffraction_kind':
            words['choices'] = get_args(DiffractionKind)
        elif told['number'] != 1:
            words['nargs'] = '+' if told['number'] > 0 else -told['number']
        group.add_argument(
            _flag(item.name),
            type=told['type'],
            default=item.default,
            metavar=told['metavar'],
            **words,
        )
    group.add_argument(
        '--exchange-axes', action='store_true', help='exchange y and x of the positions, first'
    )
    group.add_argument('--flip-y', action='store_true', help='flip the positions along y, then')
    group.add_argument('--flip-x', action='store_true', help='flip the positions along x, then')
    group.add_argument(
        '--scale-positions',
        type=float,
        metavar='F',
        help='multiply their distances by F; about the centre',
    )


def position_transform_from(arguments: argparse.Namespace) -> PositionTransform:
    """Returns what the flags say of the positions.

    Raises:
        UsageError: the factor is not positive.
    """
    factor = 1.0 if arguments.scale_positions is None else arguments.scale_positions
    if not 0.0 < factor < float('inf'):
        raise UsageError(f'--scale-positions is {factor:g}: give a positive factor.')
    return PositionTransform(arguments.exchange_axes, arguments.flip_y, arguments.flip_x, factor)


def read_options_from(arguments: argparse.Namespace) -> ReadOptions:
    """Returns what the flags say of a scan.

    Raises:
        UsageError: a value that cannot be meant.
    """
    values = {
        item.name: getattr(arguments, item.name) for item in fields(ReadOptions) if item.metadata
    }
    for name in ('detector_pixel_um', 'center'):
        values[name] = None if values[name] is None else tuple(values[name])
    try:
        return ReadOptions(**values, positions=position_transform_from(arguments))
    except ValueError as error:
        raise UsageError(str(error)) from error


def flags_of_reading(arguments: argparse.Namespace) -> dict[str, str]:
    """Returns what the flags say of a scan, as words, by flag: what makes another image of a file."""
    names = [item.name for item in fields(ReadOptions) if item.metadata]
    return {_flag(name): str(getattr(arguments, name)) for name in (*names, *_TURNS)}


def refuse_scan_options(arguments: argparse.Namespace, why: str) -> None:
    """Refuses the flags where no scan is read, for they would do nothing.

    Raises:
        UsageError: one of them was given; names them all, and says why.
    """
    given = read_options_from(arguments).given()
    given.pop('positions', None)
    flags = [_flag(name) for name in given]
    flags += [_flag(name) for name in _TURNS if getattr(arguments, name) not in (None, False)]
    if flags:
        verb = 'has' if len(flags) == 1 else 'have'
        raise UsageError(f'{" and ".join(flags)} {verb} no effect {why}: leave that out.')


def read_scan_from(arguments: argparse.Namespace, path: str | Path) -> Scan:
    """Returns the scan at the path, read as the flags say.

    Raises:
        UsageError: a flag that cannot be meant.
        ValueError: the file is no scan that can be used; see `read_scan`.
    """
    from ..scan.io.reading import read_scan

    return read_scan(path, read_options_from(arguments))
