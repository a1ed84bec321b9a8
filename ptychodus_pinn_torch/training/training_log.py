"""What a training run tells and is told: reports, history, the wish to stop."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from ..backend import EpochReport, Report

__all__ = ['TrainingLog']

REPORT_INTERVAL_S = 0.5


class TrainingLog:
    """Sends reports, keeps the history, takes up the wish to stop; engines tell it what happens.

    Attributes:
        history: Rows of `models.history_table.HISTORY_COLUMNS`.
        is_stopping: Whether somebody wants the run to end after the present step.
    """

    def __init__(self, report: Report, total_steps: int) -> None:
        self.total_steps = total_steps
        self.history: list[dict[str, float | None]] = []
        self.is_stopping = False
        self._report = report
        self._started, self._first_step, self._reported = time.monotonic(), 0, 0.0

    def start(self, step: int) -> None:
        """Starts the clock at a step."""
        self._started, self._first_step = time.monotonic(), step

    def is_due(self) -> bool:
        """Returns whether it is time for the next report, about twice a second."""
        return time.monotonic() - self._reported >= REPORT_INTERVAL_S

    def end_step(self, step: int, epoch: int, loss: float | None) -> None:
        """Reports a step."""
        self._reported = time.monotonic()
        self.send(self._make_report(step, epoch, loss=loss))

    def end_epoch(self, row: Mapping[str, float | None], *, is_partial: bool = False) -> None:
        """Reports an epoch, and keeps it unless it was cut short."""
        if not is_partial:
            self.history.append(dict(row))
        self.send(
            self._make_report(
                int(row['step'] or 0),
                int(row['epoch'] or 0),
                loss=row['loss'],
                held_out=row['held_out'],
                floor=row['floor'],
                is_epoch_end=True,
            )
        )

    def say(self, message: str) -> None:
        """Sends a sentence for the user."""
        self.send(EpochReport('train', 0, 0, message=message))

    def send(self, report: EpochReport) -> None:
        """Sends a report; a receiver that raises `KeyboardInterrupt` wants the run to stop."""
        try:
            self._report(report)
        except KeyboardInterrupt:
            self.is_stopping = True

    def _make_report(self, step: int, epoch: int, **values: Any) -> EpochReport:
        done, left = step - self._first_step, self.total_steps - step
        spent = time.monotonic() - self._started
        remaining_s = left * spent / done if done > 0 else None
        return EpochReport(
            'train', step, self.total_steps, epoch, remaining_s=remaining_s, **values
        )

    def ask_to_stop(self, *_: Any) -> None:
        """Asks for an end after the present step; a second time ends at once."""
        if self.is_stopping:
            raise KeyboardInterrupt
        self.is_stopping = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Lets Ctrl-C, and the signal to terminate, end the run after the present step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT]
        if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # else somebody passes it on
            numbers.append(signal.SIGTERM)
        previous = [signal.signal(number, self.ask_to_stop) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous):
                signal.signal(number, handler)
