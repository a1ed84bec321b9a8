"""What was found or decided about a scan: a level, a topic and a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

__all__ = ['Finding', 'Level', 'found_error', 'found_ok', 'found_warning']

Level = Literal['ok', 'warning', 'error']


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ok, warning (the result will suffer), or error (there will be none).
        topic: One word or two, for tables.
        message: A sentence with the number found and, unless ok, what to do.
    """

    level: Level
    topic: str
    message: str


found_ok, found_warning = partial(Finding, 'ok'), partial(Finding, 'warning')
found_error = partial(Finding, 'error')
