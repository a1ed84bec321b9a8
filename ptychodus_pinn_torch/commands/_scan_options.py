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
