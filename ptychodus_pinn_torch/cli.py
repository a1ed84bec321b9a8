"""The console script `ptychodus-pinn`: finds the subcommand, turns errors into sentences."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from types import FrameType

from . import __version__
from .commands import UsageError
from .commands._config_options import CONFIGURED, add_config_options
from .config import ConfigError
from .console import TRACEBACK_VARIABLE, explain, plain_streams

__all__ = ['main']

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143

_COMMANDS = {
    'reconstruct': 'make an image of a scan',
    'live': 'make an image while the scan is measured',
    'replay': 'send a scan at a given rate, as a detector would',
    'train': 'train a model on one or more scans',
    'pretrain': 'train a model on random objects under random probes',
    'demo': 'simulate, train, reconstruct, compare: one picture and its metrics',
    'simulate': 'write a simulated scan with its truth',
    'check': 'examine a scan before a long run',
    'formats': 'list the formats of scans that are read',
    'inspect': 'say what is in a scan or a model',
    'evaluate': 'compare an image with a reference',
    'compare': 'compare several images of one scan',
    'convert': 'convert a model or a scan of others',
    'app': 'start Ptychodus with PINN-Torch attached',
    'doctor': 'say what is installed and what is missing',
}
"""Every subcommand with its summary; the module of that name has `configure` and `run`."""

_OUTPUTS = {'--output', '--picture', '--draw'}
"""Flags whose file is written, not read."""


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Returns the parser for the words; only the command that they name is imported."""
    command = next((word for word in words if not word.startswith('-')), None)
    parser = argparse.ArgumentParser(
        prog='ptychodus-pinn', description='Physics-informed neural networks for ptychography.'
    )
    parser.add_argument('--version', action='version', version=f'%(prog)s {__version__}')
    subparsers = parser.add_subparsers(dest='command', metavar='command', required=True)
    for name, summary in _COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=summary.capitalize())
        subparser.add_argument('--quiet', action='store_true', help='print errors only')
        if name == command:
            importlib.import_module(f'.commands.{name}', __package__).configure(subparser)
            if name in CONFIGURED:
                add_config_options(subparser, name, words)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 done, 1 failed, 2 usage, 130 interrupted, 143 terminated."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    terminated = threading.Event()
    command = next((word for word in words if word in _COMMANDS), '')
    with plain_streams() as stdout:
        try:
            status = _run(words, terminated)
            stdout.flush()
            return status
        except SystemExit as request:
            return int(request.code or 0)
        except KeyboardInterrupt:
            sys.stderr.write('terminated\n' if terminated.is_set() else 'interrupted\n')
            return EXIT_TERMINATED if terminated.is_set() else EXIT_INTERRUPTED
        except Exception as error:  # noqa: BLE001 - nothing may end in a traceback
            if stdout.is_closed_by_reader:
                return EXIT_FAILED
            if os.environ.get(TRACEBACK_VARIABLE):
                traceback.print_exc()
            is_usage = isinstance(error, (ConfigError, UsageError))
            sentence = str(error) if is_usage else explain(error, _inputs(words))
            sys.stderr.write(f'ptychodus-pinn {command}: {sentence}\n')
            return EXIT_USAGE if is_usage else EXIT_FAILED


def _run(words: list[str], terminated: threading.Event) -> int:
    """Returns the exit status of the command that the words name."""
    parsed = build_parser(words).parse_args(words)
    logging.basicConfig(
        level=logging.ERROR if parsed.quiet else logging.INFO, format='%(message)s', force=True
    )
    for noisy in ('lightning', 'pytorch_lightning', 'matplotlib', 'h5py', 'PIL'):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='backslashreplace')  # file names need not be text
    module = importlib.import_module(f'.commands.{parsed.command}', __package__)
    with _pass_on_termination(terminated, parsed.command):
        return int(module.run(parsed) or EXIT_DONE)


def _inputs(words: Sequence[str]) -> list[str]:
    """Returns the files and folders that the words after the command name, to be read."""
    paths = []
    for before, word in zip(words, words[1:]):
        name, _, value = word.partition('=')  # of a flag, or of an image
        path = word if os.path.exists(word) else value
        if os.path.exists(path) and not {before, name} & _OUTPUTS:
            paths.append(path)
    return paths


@contextlib.contextmanager
def _pass_on_termination(terminated: threading.Event, command: str) -> Iterator[None]:
    """Lets SIGTERM act like Ctrl-C, so that a batch system that ends a run loses nothing.

    Nor is anything left half written; the window of Ptychodus has its own way to end.
    """

    def pass_on(_: int, frame: FrameType | None) -> None:
        terminated.set()
        interrupt = signal.getsignal(signal.SIGINT)  # a shell has it ignored in the background
        act = interrupt if callable(interrupt) else signal.default_int_handler
        act(signal.SIGINT, frame)

    if command == 'app' or threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == '__main__':
    sys.exit(main())
