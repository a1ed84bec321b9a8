"""What a refinement plans to do: its phases, within the time that there is."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from ..config import Config
from ..physics.measured_scan import MeasuredScan
from ..solver.annealing import (
    MIN_SEARCH,
    Phase,
    finish,
    follows_likelihood,
    is_low_dose,
    least_search,
    longest_run,
    phases_of,
    search,
)
from ..solver.state import Freed
from .run_log import RunLog
from .splitting import Split
from .time_budget import Pace, epochs_after, fit_phases, phases_after

__all__ = ['Plan']

UNJUDGED_EPOCHS = 5
"""At low dose, where nothing is held out that would see that noise is fitted."""

SHORT_SEARCH = 4
"""Epochs of a search that there must be time for, so that patterns are held out of it."""


class Plan:
    """The phases of a run, as far as they are known, and which patterns judge.

    Args:
        measured: The scan.
        config: How long, and by which rule.
        log: Takes sentences, and knows the time.
        split: Which patterns judge.
        pace: How many epochs the time allows.
        freed: What is moved beside the object.
        is_gentle: The start is so good that few and small steps are needed.
    """

    def __init__(
        self,
        measured: MeasuredScan,
        config: Config,
        log: RunLog,
        *,
        split: Split,
        pace: Pace,
        freed: Freed,
        is_gentle: bool,
    ) -> None:
        self.options, self.log, self.name = config.reconstruction, log, measured.scan.name
        self.measurement, self.freed, self.is_gentle = measured.measurement, freed, is_gentle
        self.pace, self.split = Pace(log, pace.epoch_s), split
        self.is_low = is_low_dose(self.measurement)
        # an unknown background is estimated from what the fit to roots leaves
        self.is_likely = follows_likelihood(self.measurement) and not freed.background
        self._how: dict[str, Any] = {'is_low': self.is_low, 'steps': self.options.final_steps}
        self.phases = self._first_plan(len(split.everything))

    def _first_plan(self, num_patterns: int) -> list[Phase]:
        """Returns the phases of the run, the longest search assumed where it may end earlier."""
        epochs = self.options.refine_epochs
        if epochs < 0 and self.is_low and not self.split.judges:
            epochs = UNJUDGED_EPOCHS
        if epochs < 0:
            longest = longest_run(
                num_patterns,
                least=least_search(self.measurement),
                is_low=self.is_low,
                is_gentle=self.is_gentle,
                has_moves=self.freed.positions,
            )
            shortest = MIN_SEARCH if self.is_gentle else SHORT_SEARCH
            if self._fits(shortest):
                return longest
            epochs = sum(phase.num_epochs for phase in longest)
        self.split = self.split.whole()
        if self.pace.epochs_left < epochs:
            epochs = max(0, int(self.pace.epochs_left))
            self.say_time(f'{epochs} epochs')
        return phases_of(epochs, is_low=self.is_low, is_gentle=self.is_gentle)

    @property
    def num_epochs(self) -> int:
        """The epochs of the run, as far as they are known."""
        return sum(phase.num_epochs for phase in self.phases)

    @property
    def first_phase(self) -> Phase:
        """An epoch as the run begins."""
        return search(1, is_low=self.is_low, is_gentle=self.is_gentle)

    def say_time(self, allowed: str) -> None:
        """Says what the time allows."""
        budget = f'{self.name}: the time of {self.log.budget_s:g} s'
        self.log.say(f'{budget} allows {allowed} of refinement; more would make a better image.')

    def _fits(self, search_epochs: int) -> bool:
        """Returns whether there is time for so many epochs of a search and for what follows."""
        return self.pace.epochs_left >= search_epochs + epochs_after(search_epochs, **self._how)

    def may_go_on(self, search_epochs: int) -> bool:
        """Returns whether a search of so many epochs has time for another one; says if not."""
        if self.pace.epochs_left >= 1 + epochs_after(search_epochs + 1, **self._how):
            return True
        self.say_time(f'a search of {search_epochs} epochs')
        return False

    def go_on_after(self, search_epochs: int) -> Phase:
        """Plans what follows a search, and returns the first of it, in which patterns judge."""
        make = partial(phases_after, **self._how)
        phases = fit_phases(make, search_epochs, self.pace.epochs_left)
        self.phases = [replace(self.phases[0], num_epochs=search_epochs), *phases]
        return phases[0]

    def believe_counts(self, search_epochs: int) -> None:
        """Lets the last phases of a bright scan follow the likelihood of its counts."""
        self.is_likely = not self.freed.background
        make = partial(finish, **self._how, is_likely=self.is_likely)
        self.phases[2:] = fit_phases(make, search_epochs, self.pace.epochs_left)
