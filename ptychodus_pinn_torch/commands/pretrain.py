"""`ptychodus-pinn pretrain`: train a model on random objects under random probes."""

from __future__ import annotations

import argparse
import sys

from ..backend import DEFAULT_BACKEND
from ..models.archive import EXTENSION
from ..models.opening import describe_model
from ..progress import ProgressLine
from . import UsageError
from ._config_options import backend_from, config_from
from ._outputs import add_model_output, check_output


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.usage = 'ptychodus-pinn pretrain --output MODEL [option ...]'
    add_model_output(parser)
    parser.add_argument('--pattern-size', type=int, default=64, help='pixels (default: 64)')
    parser.add_argument('--canvas-size', type=int, default=112, help='pixels (default: 112)')


def run(arguments: argparse.Namespace) -> int:
    """Trains and writes."""
    from ..training.pretraining import pretrain

    backend = backend_from(arguments)
    if backend != DEFAULT_BACKEND:
        raise UsageError(f'pretrain works with the {DEFAULT_BACKEND} backend, not with {backend}.')
    config = config_from(arguments, backend=backend)
    arguments.overwrite |= arguments.resume
    check_output(arguments.output, arguments, suffixes=(EXTENSION,))
    with ProgressLine(is_quiet=arguments.quiet) as progress:
        path = pretrain(
            config,
            arguments.output,
            progress,
            pattern_size=arguments.pattern_size,
            canvas_size=arguments.canvas_size,
            is_resumed=arguments.resume,
        )
    if not arguments.quiet:
        sys.stdout.write(describe_model(path) + '\n')
    return 0
