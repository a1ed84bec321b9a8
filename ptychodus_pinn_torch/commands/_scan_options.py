"""Flags that say how a scan is read, shared by all commands that read one."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scan.scan import Scan

__all__ = ['add_scan_options', 'read_scan_from']


def add_scan_options(parser: argparse.ArgumentParser) -> None:
    """Adds the flags to a command."""
    group = parser.add_argument_group('reading the scan')
    group.add_argument(
        '--product',
        metavar='FILE',
        help='product.h5 that goes with diffraction.h5 (default: the one beside it)',
    )
    group.add_argument(
        '--crop',
        type=int,
        metavar='PIXELS',
        help='keep this many detector pixels per side, from the middle (default: all)',
    )
    group.add_argument(
        '--bin',
        type=int,
        metavar='FACTOR',
        help='add up this many detector pixels per side, after --crop (default: 1)',
    )
    group.add_argument(
        '--diffraction-kind',
        choices=('auto', 'counts', 'amplitude'),
        default='auto',
        help='what the patterns of an NPZ are, where the file does not tell (default: auto)',
    )


def read_scan_from(arguments: argparse.Namespace, path: str | Path) -> Scan:
    """Returns the scan at the path, read as the flags say."""
    from ..scan.files import read_scan

    return read_scan(
        path,
        product=arguments.product,
        crop=arguments.crop,
        bin=arguments.bin,
        diffraction_kind=arguments.diffraction_kind,
    )
