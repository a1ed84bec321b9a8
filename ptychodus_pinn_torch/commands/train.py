"""`ptychodus-pinn train`: train a model on one or more scans."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from ..backend import TrainRequest
from ..models.archive import EXTENSION
from ..progress import ProgressLine
from ..scan.positions import PositionTransform
from ..scan.scan import Scan
from . import UsageError, describe_shape
from ._config_options import backend_from, config_from
from ._outputs import add_model_output, check_output
from ._scan_options import add_scan_options, position_transform_from, read_scan_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.usage = 'ptychodus-pinn train SCAN [SCAN ...] --output MODEL [option ...]'
    parser.add_argument('scans', type=Path, nargs='+', metavar='SCAN', help='scans to train on')
    add_model_output(parser)
    parser.add_argument(
        '--validation', type=Path, nargs='*', default=[], metavar='S', help='scans to judge on'
    )
    parser.add_argument('--no-check', action='store_true', help='skip the examination of the scans')
    parser.add_argument(
        '--labels',
        type=Path,
        nargs='*',
        default=[],
        metavar='FILE',
        help='supervised: an image or product for each scan',
    )
    parser.add_argument('--backend', help='pytorch or tensorflow')
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reads, examines, trains, writes."""
    backend = backend_from(arguments)
    config = config_from(arguments, backend=backend)
    if arguments.labels and config.mode != 'supervised':
        raise UsageError('--labels has no effect in unsupervised mode: say --mode supervised.')
    arguments.overwrite |= arguments.resume
    inputs = (*arguments.scans, *arguments.validation, *arguments.labels, config.training.start)
    check_output(arguments.output, arguments, suffixes=(EXTENSION,), inputs=inputs)
    scans = [read_scan_from(arguments, path) for path in arguments.scans]
    if arguments.labels:
        scans = _with_labels(scans, arguments.labels)
    validation = [read_scan_from(arguments, path) for path in arguments.validation]
    if not arguments.no_check:
        _examine(scans, position_transform_from(arguments), is_quiet=arguments.quiet)
    request = TrainRequest(
        tuple(scans), config, arguments.output, tuple(validation), arguments.resume, backend
    )
    from ..training.run import train

    try:
        with ProgressLine(is_quiet=arguments.quiet) as progress:
            path = train(request, progress)
    except KeyboardInterrupt:
        if arguments.output.is_file():
            sys.stderr.write(
                f'{arguments.output}: holds the best model so far; go on with --resume\n'
            )
        raise
    if not arguments.quiet:
        from ..models.opening import describe_model

        sys.stdout.write(describe_model(path) + '\n')
    return 0


def _with_labels(scans: list[Scan], paths: list[Path]) -> list[Scan]:
    from ..scan.io.images import read_object

    if len(paths) != len(scans):
        raise UsageError(f'{len(scans)} scans but {len(paths)} labels: give one label per scan.')
    labelled = []
    for scan, path in zip(scans, paths):
        label = read_object(path)
        if label.shape != scan.object_.shape:
            raise ValueError(
                f'{path}: is {describe_shape(label.shape)} px, the object of {scan.name} '
                f'{describe_shape(scan.object_.shape)} px: use the label on its grid.'
            )
        labelled.append(replace(scan, truth=label))
    return labelled


def _examine(scans: list[Scan], change: PositionTransform, *, is_quiet: bool) -> None:
    from ..checks.preflight import examine_scan

    for scan in scans:
        findings = examine_scan(scan, change)
        errors = [item.message for item in findings if item.level == 'error']
        if errors:
            raise ValueError(f'{scan.name}: {" ".join(errors)} (--no-check trains all the same)')
        for item in findings:
            if item.level == 'warning' and not is_quiet:
                sys.stderr.write(f'{scan.name}: {item.message}\n')
