"""`ptychodus-pinn reconstruct`: make an image of a scan, or of many."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import UsageError
from ._config_options import backend_from, config_from
from ._images import IMAGE_SUFFIXES, figures_of, make_image, summarise
from ._many_scans import is_many, run_many
from ._outputs import add_overwrite_option, check_output
from ._scan_options import add_scan_options
from ._teams import check_shared, find_place, gather_team, share_scans


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.usage = 'ptychodus-pinn reconstruct SCAN [SCAN ...] --output FILE [option ...]'
    parser.add_argument(
        'scans', type=Path, nargs='+', metavar='SCAN',
        help='file or folder of a scan; or many, or a folder of them',
    )  # fmt: skip
    parser.add_argument(
        '--output', type=Path, required=True, metavar='FILE',
        help='image: .npz or .h5 (Ptychodus); of many, a folder',
    )  # fmt: skip
    parser.add_argument(
        '--model', type=Path, metavar='FILE', help='model archive (default: the shipped model)'
    )
    parser.add_argument(
        '--picture', type=Path, help='PNG to write (default: beside the output)', metavar='PNG'
    )
    parser.add_argument('--no-picture', action='store_true', help='write no PNG')
    parser.add_argument('--backend', help='pytorch or tensorflow')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')
    parser.add_argument('--format', choices=('npz', 'h5'), help='of many scans (default: npz)')
    parser.add_argument('--part', metavar='I/N', help='of many scans: the I-th of N parts')
    add_overwrite_option(parser)
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reads, reconstructs, writes."""
    backend = backend_from(arguments)
    config = config_from(arguments, backend=backend)
    if is_many(arguments):
        share_scans(arguments)
        return run_many(arguments, config, backend)
    if find_place()[1] > 1:
        check_shared(backend)
    for flag in ('format', 'part'):
        if getattr(arguments, flag) is not None:
            raise UsageError(f'--{flag} has no effect on a single scan: leave it out.')
    (path,) = arguments.scans
    output: Path = arguments.output
    picture: Path = arguments.picture or output.with_suffix('.png')
    inputs = (path, arguments.product, arguments.model)
    check_output(output, arguments, suffixes=IMAGE_SUFFIXES, inputs=inputs)
    if not arguments.no_picture:
        check_output(picture, arguments, suffixes=('.png',), inputs=inputs)
    with gather_team(arguments, config) as team:
        made = make_image(arguments, path, config, backend, team=team)
    if team.rank:
        return 0
    made.write(output)
    if arguments.json:
        sys.stdout.write(json.dumps({'output': str(output), **figures_of(made)}) + '\n')
    elif not arguments.quiet:
        sys.stdout.write(summarise(made, output))
    if not arguments.no_picture:
        made.draw(picture)
    return 0
