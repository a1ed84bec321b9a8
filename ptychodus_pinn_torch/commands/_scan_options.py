"""Flags that say how a scan is read, shared by all commands that read one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scan.positions import PositionTransform
from ..scan.scan import Scan
from . import UsageError

__all__ = [
    'add_scan_options',
    'position_transform_from',
    'read_scan_from',
    'refuse_scan_options',
]


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command."""
    group = parser.add_argument_group('reading the scan')
    group.add_argument(
        '--product', metavar='FILE', help='product of the patterns (default: that beside them)'
    )
    group.add_argument(
        '--crop', type=int, metavar='PIXELS', help='detector pixels to keep in the middle, per side'
    )
    group.add_argument(
        '--bin',
        type=int,
        metavar='FACTOR',
        help='detector pixels to add up, per side, after --crop',
    )
    group.add_argument(
        '--diffraction-kind',
        choices=('auto', 'counts', 'amplitude'),
        default='auto',
        help='what an NPZ holds, if it does not tell',
    )
    group.add_argument(
        '--exchange-axes', action='store_true', help='exchange y and x of the positions, first'
    )
    group.add_argument('--flip-y', action='store_true', help='flip the positions along y, then')
    group.add_argument('--flip-x', action='store_true', help='flip the positions along x, then')
    group.add_argument(
        '--scale-positions',
        type=float,
        default=1.0,
        metavar='F',
        help='multiply their distances by F; about the centre',
    )


def position_transform_from(arguments: argparse.Namespace) -> PositionTransform:
    """Returns what the flags say of the positions.

    Raises:
        UsageError: the factor is not positive.
    """
    factor = arguments.scale_positions
    if not 0.0 < factor < float('inf'):
        raise UsageError(f'--scale-positions is {factor:g}: give a positive factor.')
    return PositionTransform(
        arguments.exchange_axes, arguments.flip_y, arguments.flip_x, arguments.scale_positions
    )


def refuse_scan_options(arguments: argparse.Namespace, why: str) -> None:
    """Refuses the flags where no scan is read, for they would do nothing.

    Raises:
        UsageError: one of them was given; names them all, and says why.
    """
    given = [
        ('--product', arguments.product is not None),
        ('--crop', arguments.crop is not None),
        ('--bin', arguments.bin is not None),
        ('--diffraction-kind', arguments.diffraction_kind != 'auto'),
        ('--exchange-axes', arguments.exchange_axes),
        ('--flip-y', arguments.flip_y),
        ('--flip-x', arguments.flip_x),
        ('--scale-positions', arguments.scale_positions != 1.0),
    ]
    flags = [flag for flag, is_given in given if is_given]
    if flags:
        verb = 'has' if len(flags) == 1 else 'have'
        raise UsageError(f'{" and ".join(flags)} {verb} no effect {why}: leave that out.')


def read_scan_from(arguments: argparse.Namespace, path: str | Path) -> Scan:
    """Returns the scan at the path, read as the flags say.

    Raises:
        UsageError: a flag that cannot be meant.
        ValueError: the file is no scan that can be used; see `read_scan`.
    """
    from ..scan.files import read_scan

    return read_scan(
        path,
        product=arguments.product,
        crop=arguments.crop,
        bin=arguments.bin,
        diffraction_kind=arguments.diffraction_kind,
        positions=position_transform_from(arguments),
    )
