"""`ptychodus-pinn pretrain`: train a model on random objects under random probes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..models.archive import EXTENSION
from ..models.opening import describe_model
from ._config_options import add_config_options, config_from
from ._outputs import add_overwrite_option, check_output
from ._progress import ProgressLine


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument('--output', type=Path, required=True, help=f'model to write, *{EXTENSION}')
    parser.add_argument('--pattern-size', type=int, default=64, help='pixels (default: 64)')
    parser.add_argument('--canvas-size', type=int, default=112, help='pixels (default: 112)')
    parser.add_argument('--resume', action='store_true', help='go on with an interrupted run')
    add_overwrite_option(parser)
    add_config_options(parser, 'grouping', 'network', 'loss', 'training', 'execution')


def run(arguments: argparse.Namespace) -> int:
    """Trains and writes."""
    from ..training.pretraining import pretrain

    if arguments.resume:
        arguments.overwrite = True
    check_output(arguments.output, arguments, suffixes=(EXTENSION,))
    progress = ProgressLine(is_quiet=arguments.quiet)
    try:
        path = pretrain(
            config_from(arguments),
            arguments.output,
            progress,
            pattern_size=arguments.pattern_size,
            canvas_size=arguments.canvas_size,
            is_resumed=arguments.resume,
        )
    finally:
        progress.close()
    if not arguments.quiet:
        sys.stdout.write(describe_model(path) + '\n')
    return 0
