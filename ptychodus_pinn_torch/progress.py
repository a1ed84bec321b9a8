"""How the progress of an engine reads, in a log pane and on the console."""

from __future__ import annotations

import sys
import time
from typing import Self

from .backend import EpochReport

__all__ = ['ProgressLine', 'describe_report', 'format_duration']


def format_duration(seconds: float) -> str:
    """Returns a duration as people say it: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours} h {minutes:02d} min'
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


def describe_report(report: EpochReport) -> str:
    """Returns a report as one line; what is not known is left out."""
    parts = [f'{report.phase}: {report.step} of {report.total}']
    if report.loss is not None:
        floor = '' if report.floor is None else f' (photon noise alone: {report.floor:.4g})'
        parts.append(f'loss {report.loss:.4g}{floor}')
    if report.held_out is not None:
        parts.append(f'held-out error {report.held_out:.4g}')
    if report.remaining_s is not None:
        parts.append(f'{format_duration(report.remaining_s)} left')
    if report.message:
        parts.append(report.message)
    return ', '.join(parts)


class ProgressLine:
    """Shows reports on one line of a terminal, or now and then as lines of a log."""

    LOG_INTERVAL_S = 10.0
    EPOCH_INTERVAL_S = 1.0

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self.is_terminal = sys.stderr.isatty()
        self._last_s = -self.LOG_INTERVAL_S
        self._has_line = False

    def __call__(self, report: EpochReport) -> None:
        """Shows a report; a message ends the line, because it is in the log already."""
        if report.message:
            self.close()
            return
        now_s = time.monotonic()
        interval_s = self.EPOCH_INTERVAL_S if report.is_epoch_end else self.LOG_INTERVAL_S
        is_due = self.is_terminal or now_s - self._last_s >= interval_s
        if self.is_quiet or not report.total or not is_due:
            return
        self._last_s = now_s
        text = describe_report(report)
        sys.stderr.write(f'\r\033[K{text}' if self.is_terminal else f'{text}\n')
        sys.stderr.flush()
        self._has_line = self.is_terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the line."""
        if self._has_line:
            sys.stderr.write('\n')
            self._has_line = False
