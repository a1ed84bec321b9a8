"""`ptychodus-pinn convert`: makes ours of a model or a scan of others, or theirs of a scan."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models.archive import EXTENSION
from . import UsageError
from ._outputs import add_overwrite_option, check_output
from ._scan_options import add_scan_options, read_scan_from, refuse_scan_options

__all__ = ['configure', 'run']


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        'source',
        type=Path,
        metavar='SRC',
        help='model of PtychoPINN (wts.h5.zip, .ckpt, bundle), or a scan in any known format',
    )
    parser.add_argument(
        '--output',
        type=Path,
        required=True,
        metavar='OUT',
        help=f'*{EXTENSION} for a model, *.npz or *.h5 for a scan',
    )
    parser.add_argument(
        '--convention',
        choices=('counts', 'amplitude'),
        default='counts',
        help="of a scan: counts is Ptychodus', amplitude that of PtychoPINN's TensorFlow code "
        '(default: counts)',
    )
    parser.add_argument(
        '--labels',
        type=Path,
        metavar='IMAGE',
        help='of a scan: makes a supervised set with the object, positions and probe of this image '
        'of it, and the patch of each pattern (key Y)',
    )
    add_overwrite_option(parser)
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after the model or scan was written."""
    output = arguments.output
    inputs = (arguments.source, arguments.product, arguments.labels)
    check_output(output, arguments, suffixes=(EXTENSION, '.npz', '.h5'), inputs=inputs)
    if output.name.endswith(EXTENSION):
        from ..models.opening import convert_model, describe_model

        refuse_scan_options(arguments, 'on a model')
        if arguments.labels is not None:
            raise UsageError('--labels has no effect on a model: leave it out.')
        if not arguments.source.exists():
            raise FileNotFoundError(f'{arguments.source}: there is no such model.')
        text = describe_model(convert_model(arguments.source, output)) + '\n'
    else:
        text = _convert_scan(arguments)
    if not arguments.quiet:
        sys.stdout.write(text)
    return 0


def _convert_scan(arguments: argparse.Namespace) -> str:
    """Returns what was written, in words."""
    from ..interop.scan_export import write_amplitude_npz
    from ..scan.io.hdf5 import write_scan_hdf5
    from ..scan.io.images import read_image
    from ..scan.io.output import write_scan_npz
    from ..training.labelling import cut_patches, label_scan

    output, extra, what = arguments.output, {}, ''
    is_hdf5 = output.suffix == '.h5'
    if is_hdf5 and arguments.convention == 'amplitude':
        raise UsageError('--convention amplitude is written as *.npz only, which that code reads.')
    scan = read_scan_from(arguments, arguments.source)
    if arguments.labels is not None:
        scan = label_scan(scan, read_image(arguments.labels))
        extra = {'Y': cut_patches(scan)}
        what = f', labelled by {arguments.labels}'
    write = write_amplitude_npz if arguments.convention == 'amplitude' else write_scan_npz
    (write_scan_hdf5 if is_hdf5 else write)(output, scan, extra)
    return f'{output}: {scan.num_patterns} patterns as {arguments.convention}{what}.\n'
