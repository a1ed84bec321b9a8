"""Commands that torchrun starts in several processes at once."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..config import Config
from . import UsageError

if TYPE_CHECKING:
    from ..physics.team import Team

__all__ = ['check_shared', 'find_place', 'gather_team', 'share_scans']


def find_place() -> tuple[int, int]:
    """Returns rank and number of the processes that run this command together; (0, 1) if alone."""
    if 'RANK' not in os.environ:
        return 0, 1
    from ..physics.team import places_in_launch

    return places_in_launch()


def share_scans(arguments: argparse.Namespace) -> None:
    """Gives each process its part of many scans.

    Raises:
        UsageError: a part is asked for beside.
    """
    rank, size = find_place()
    if size == 1:
        return
    if arguments.part is not None:
        raise UsageError(
            '--part has no effect under torchrun, which shares the scans: leave it out.'
        )
    arguments.part = f'{rank + 1}/{size}'


def check_shared(backend: str) -> None:
    """Refuses what several processes cannot do together for one scan.

    Raises:
        UsageError: says what, and what to do.
    """
    if backend != 'pytorch':
        raise UsageError(
            f'--backend {backend}: runs in a single process: leave it out, or torchrun.'
        )


@contextlib.contextmanager
def gather_team(arguments: argparse.Namespace, config: Config) -> Iterator[Team]:
    """Yields the team of the processes that make an image; only its first one speaks."""
    from ..physics.devices import choose_device
    from ..physics.team import Team

    team = Team.gather(choose_device(config.execution.accelerator))
    if team.rank:
        arguments.quiet = True
        logging.getLogger('ptychodus_pinn_torch').setLevel(logging.ERROR)
    try:
        yield team
    finally:
        team.disband()
