"""`ptychodus-pinn formats`: the formats of scans that are read, by the names of Ptychodus."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

__all__ = ['configure', 'run']

_KINDS = (
    ('patterns', '--patterns-format', 'diffraction_file_readers', 'diffraction_file_writers'),
    (
        'positions',
        '--positions-format',
        'probe_position_file_readers',
        'probe_position_file_writers',
    ),
    ('products', '--product', 'product_file_readers', 'product_file_writers'),
)
_OPTICS = (('zone plates', 'fresnel_zone_plates'), ('mirrors', 'kb_mirrors'))


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument('--json', action='store_true', help='print the formats as JSON')


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after the formats were printed."""
    from ..scan.io.hosted import load_registry

    registry = load_registry()
    tree: dict[str, Any] = {}
    for kind, flag, readers, writers in _KINDS:
        written = {each.simple_name for each in getattr(registry, writers)}
        tree[kind] = [
            {
                'name': each.simple_name,
                'files': each.display_name,
                'is_written': each.simple_name in written,
                'flag': flag,
            }
            for each in getattr(registry, readers)
        ]
    optics = {
        kind: [each.simple_name for each in getattr(registry, name)] for kind, name in _OPTICS
    }
    if arguments.json:
        sys.stdout.write(json.dumps({**tree, 'probe_presets': optics}, indent=2) + '\n')
        return 0
    for kind, flag, *_ in _KINDS:
        sys.stdout.write(f'{kind} ({flag}), * where Ptychodus writes it too\n')
        for row in tree[kind]:
            mark = '*' if row['is_written'] else ' '
            sys.stdout.write(f'  {row["name"]:<26}{mark} {row["files"]}\n')
        sys.stdout.write('\n')
    for kind, names in optics.items():
        sys.stdout.write(f'{kind} (--probe-preset): {", ".join(names)}\n')
    sys.stdout.write(
        '\nPatterns come with positions in their own file, or by --positions FILE. What a file does not\n'
        'say of its instrument is said by --energy-ev, --distance-m, --detector-pixel-um (one or two),\n'
        '--center Y X and --bad-pixels FILE. Where there is no probe, one is made of the mean pattern.\n'
    )
    return 0
