"""What a reconstruction keeps beside the image: time by phase, progress, sentences for the user."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ..backend import EpochReport, Report
from ..physics.team import ALONE, Team

__all__ = ['RunLog']

logger = logging.getLogger(__name__)

REPORT_INTERVAL_S = 0.5
"""Between two reports: twice a second is as fast as one can read."""


@dataclass
class RunLog:
    """Passes reports on, keeps seconds by phase, collects sentences for the user.

    Attributes:
        report: Takes progress; may raise to stop.
        budget_s: Seconds that the run may take, from when the log was made.
        clock: Returns the present time, seconds.
        team: Processes for which the first one keeps the time.
    """

    report: Report
    budget_s: float = math.inf
    clock: Callable[[], float] = time.monotonic
    team: Team = ALONE
    seconds: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    _reported: float = 0.0
    _started: float = field(init=False)

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def left_s(self) -> float:
        """Seconds of the budget that are left; negative when it is used up."""
        if math.isinf(self.budget_s):
            return self.budget_s
        return self.team.agree(self.budget_s - (self.clock() - self._started))

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time that is spent inside to a phase."""
        started = self.clock()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self.clock() - started

    def close(self) -> None:
        """Adds what was spent outside of all phases, on choices between them."""
        spent = self.clock() - self._started
        self.seconds['choose'] = max(0.0, spent - sum(self.seconds.values()))

    def counter(self, phase: str, total: int, done: int = 0) -> Callable[[int], None]:
        """Returns a function that takes numbers of patterns and reports how far the phase is.

        It reports at most twice a second, with the time that is left.
        """
        started, first = self.clock(), done

        def count(number: int) -> None:
            nonlocal done
            done = min(total, done + number)
            now = self.clock()
            if now - self._reported < REPORT_INTERVAL_S and done < total:
                return
            self._reported = now
            left = (now - started) * (total - done) / max(1, done - first)
            self.report(EpochReport(phase, done, total, remaining_s=left))

        return count

    def say(self, message: str) -> None:
        """Logs a sentence and keeps it for the result."""
        logger.warning('%s', message)
        self.messages.append(message)
