"""`ptychodus-pinn check`: examines a scan before a long run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from ._scan_options import add_scan_options, position_transform_from, read_scan_from

__all__ = ['configure', 'run']

_MARKS = {'ok': 'ok     ', 'warning': 'WARNING', 'error': 'ERROR  '}


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument('scan', metavar='SCAN', help='scan to examine: a file or a folder')
    parser.add_argument('--json', action='store_true', help='print the findings as JSON')
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 when the scan can be reconstructed, warnings included, else 1."""
    from ..checks.preflight import examine_scan

    scan = read_scan_from(arguments, arguments.scan)
    findings = examine_scan(scan, position_transform_from(arguments))
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(item) for item in findings], indent=2) + '\n')
    else:
        for item in findings:
            sys.stdout.write(f'{_MARKS[item.level]} {item.topic:<12} {item.message}\n')
        count = sum(item.level == 'warning' for item in findings)
        sys.stdout.write(f'{count} warning{"" if count == 1 else "s"}\n' if count else 'all well\n')
    return 1 if any(item.level == 'error' for item in findings) else 0
