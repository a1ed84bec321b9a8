"""The progress line of the console."""

from __future__ import annotations

import sys
import time

from ..backend import EpochReport

__all__ = ['ProgressLine', 'format_seconds']


def format_seconds(seconds: float) -> str:
    """Returns a duration as people say it: `45 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = int(round(seconds))
    if whole < 60:
        return f'{whole} s'
    if whole < 3600:
        return f'{whole // 60} min {whole % 60:02d} s'
    return f'{whole // 3600} h {whole % 3600 // 60:02d} min'


class ProgressLine:
    """Shows reports on one line of a terminal, or now and then as lines of a log."""

    LOG_INTERVAL_S = 10.0

    def __init__(self, *, is_quiet: bool = False) -> None:
        self.is_quiet = is_quiet
        self.is_terminal = sys.stderr.isatty()
        self._last = 0.0
        self._has_line = False

    def __call__(self, report: EpochReport) -> None:
        """Shows a report."""
        if report.message:
            self.close()
            return
        if self.is_quiet or not report.total:
            return
        now = time.monotonic()
        if (
            not self.is_terminal
            and not report.is_epoch_end
            and (now - self._last < self.LOG_INTERVAL_S)
        ):
            return
        if not self.is_terminal and now - self._last < 1.0:
            return
        self._last = now
        text = self._format(report)
        if self.is_terminal:
            sys.stderr.write(f'\r\033[K{text}')
            self._has_line = True
        else:
            sys.stderr.write(text + '\n')
        sys.stderr.flush()

    def _format(self, report: EpochReport) -> str:
        parts = [f'{report.phase:<8} {100 * report.step // report.total:3d} %']
        if report.loss is not None:
            floor = '' if report.floor is None else f' (photon floor {report.floor:.4g})'
            parts.append(f'loss {report.loss:.4g}{floor}')
        if report.held_out is not None:
            parts.append(f'held-out error {report.held_out:.4g}')
        if report.remaining_s is not None:
            parts.append(f'{format_seconds(report.remaining_s)} left')
        return ', '.join(parts)

    def close(self) -> None:
        """Ends the line."""
        if self._has_line:
            sys.stderr.write('\n')
            self._has_line = False
