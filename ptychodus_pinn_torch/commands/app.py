"""Starts Ptychodus with PINN-Torch attached, wherever Ptychodus is installed."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from . import UsageError

__all__ = ['configure', 'run']


def configure(parser: argparse.ArgumentParser) -> None:
    """Takes every word that follows for Ptychodus, its options included."""
    # argparse looks for options among words that begin with one of these characters only, so
    # `-b train` stays together and reaches Ptychodus as it is.
    parser.prefix_chars = '\0'
    parser.usage = 'ptychodus-pinn app [argument of ptychodus ...]'
    parser.add_argument('arguments', nargs=argparse.REMAINDER, help='arguments of ptychodus')


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit status of Ptychodus; 2 when its version cannot be used."""
    from ..host.attach import attach, find_host_fault

    fault = find_host_fault()
    if fault:
        raise UsageError(fault)
    import ptychodus.__main__

    attach()
    faults = find_batch_faults(arguments.arguments)
    if faults:
        raise UsageError(' '.join(faults))
    root = logging.getLogger()
    for handler in list(root.handlers):  # Ptychodus sets up its own, and only where there is none
        root.removeHandler(handler)
    sys.argv = ['ptychodus', *arguments.arguments]
    return int(ptychodus.__main__.main() or 0)


def find_batch_faults(words: Sequence[str]) -> list[str]:
    """Returns what is wrong with the settings of a batch run.

    Ptychodus itself ignores an algorithm that it does not have, does nothing, and reports success.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument('-b', '--batch')
    parser.add_argument('-i', '--input-directory', type=Path)
    parser.add_argument('-s', '--settings', type=Path)
    try:
        batch, _ = parser.parse_known_args(list(words))
    except argparse.ArgumentError:
        return []  # Ptychodus explains its own arguments
    if batch.batch is None:
        return []
    from ptychodus.model import ModelCore

    from ..host.settings import find_ini_faults

    processing_api = ModelCore(log_level=logging.ERROR).processing_core.processing_api
    reconstructors = tuple(processing_api.available_reconstructors())
    staged = batch.input_directory / 'settings.ini' if batch.input_directory else None
    files = [path for path in (batch.settings, staged) if path is not None and path.is_file()]
    return [fault for path in files for fault in find_ini_faults(path, reconstructors)]
