"""How a refinement goes: search, annealing, held-out patterns, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy
import torch
from torch import Tensor

from ..config import Config
from ..physics.devices import with_chunks_that_fit
from ..physics.measured_scan import MeasuredScan
from ..solver.annealing import (
    MAX_SEARCH,
    MIN_SEARCH,
    Phase,
    follows_likelihood,
    is_low_dose,
    is_time_to_straighten,
    longest_run,
    phases_of,
    search,
)
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import NOTHING, Freed, SolverState
from .adam import AdamRefiner
from .misfit import Misfit, misfit
from .refined import Refined
from .relocating import fit_frames, relocate
from .run_log import RunLog
from .settling import Settling
from .splitting import Split
from .time_budget import Pace, epochs_after, fit_phases, phases_after

__all__ = ['Refinement']

DEVICE_BATCH = 64
UNJUDGED_EPOCHS = 5
"""At low dose, where nothing is held out that would see that noise is fitted."""
TOLERATED_RISE = 1.25
"""A refinement may raise the held-out error by so much: a few patterns do not say it exactly."""

WELL_EXPLAINED = 1.13
"""Error of held-out patterns over that of photon noise up to which the counts of bright scans are
believed one by one. Where more is amiss, their roots stand it better."""

FIRST_EPOCHS = 6
"""Of a search from a start that is not good: momentum has to arise before a change says much."""

USEFUL_FALL = 0.97
"""A long search from a good start has been of use when it has lowered the error by this factor, or
that on held-out patterns. Where the model of the measurement is wrong, it only adds noise."""

STILL_FALLING = 0.99
"""A search goes on beyond its longest time while an epoch lowers the error by this factor."""

STRAIGHTENED_SEARCH = 8
"""Epochs of a search from a good start from which on its large scales are put right."""

PROBE_STEP = 0.5

SHORT_SEARCH = 4
"""Epochs of a search that there must be time for, so that patterns are held out of it."""


class Refinement:
    """Refines a start on the patterns of a scan, as configured.

    Args:
        measured: The scan.
        config: How long, and by which rule.
        log: Takes reports, times and sentences.
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
        freed: Freed = NOTHING,
        is_gentle: bool = False,
    ) -> None:
        self.config, self.log, self.name = config, log, measured.scan.name
        self.pace = Pace(log, pace.epoch_s)
        self.measurement, self.is_gentle = measured.measurement, is_gentle
        self.is_low = is_low_dose(self.measurement)
        # an unknown background is estimated from what the fit to roots leaves
        self.is_likely = follows_likelihood(self.measurement) and not freed.background
        self.freed, self.split = freed, split
        self.phases = self._plan(len(split.everything))

    def _plan(self, num_patterns: int) -> list[Phase]:
        """Returns the phases of the run, the longest search assumed where it may end earlier."""
        epochs = self.config.reconstruction.refine_epochs
        if epochs < 0 and self.is_low and not self.split.judges:
            epochs = UNJUDGED_EPOCHS
        if epochs < 0:
            longest = longest_run(
                num_patterns,
                is_low=self.is_low,
                is_gentle=self.is_gentle,
                has_moves=self.freed.positions,
            )
            if (
                self._fits(MIN_SEARCH if self.is_gentle else SHORT_SEARCH)
                or self.config.reconstruction.refine_method == 'adam'
            ):
                return longest
            epochs = sum(phase.num_epochs for phase in longest)
        self.split = self.split.whole()
        if self.pace.epochs_left < epochs:
            epochs = max(0, int(self.pace.epochs_left))
            self._say_time(f'{epochs} epochs')
        return phases_of(epochs, is_low=self.is_low, is_gentle=self.is_gentle)

    def _say_time(self, allowed: str) -> None:
        budget = f'{self.name}: the time of {self.log.budget_s:g} s'
        self.log.say(f'{budget} allows {allowed} of refinement; more would make a better image.')

    def _fits(self, search_epochs: int) -> bool:
        """Returns whether there is time for so many epochs of a search and for what follows."""
        after = epochs_after(search_epochs, is_low=self.is_low, is_likely=self.is_likely)
        return self.pace.epochs_left >= search_epochs + after

    def _may_go_on(self, search_epochs: int) -> bool:
        """Returns whether a search of so many epochs has time for another one; says if not."""
        after = epochs_after(search_epochs + 1, is_low=self.is_low, is_likely=self.is_likely)
        if self.pace.epochs_left >= 1 + after:
            return True
        self._say_time(f'a search of {search_epochs} epochs')
        return False

    @property
    def num_epochs(self) -> int:
        """The epochs of the run, as far as they are known."""
        return sum(phase.num_epochs for phase in self.phases)

    def run(self, name: str, start: SolverState) -> Refined:
        """Returns the refined start of that name, which is left as it is."""
        refined = Refined(start.clone(), name, self.freed)
        with self.log.phase('refine'):
            if self.config.reconstruction.refine_method == 'adam':
                self._run_adam(refined)
            else:
                self._run_rpie(refined)
        return refined

    @property
    def _first_phase(self) -> Phase:
        return search(1, is_low=self.is_low, is_gentle=self.is_gentle)

    def _settings(self, phase: Phase) -> RpieSettings:
        options = self.config.reconstruction
        return RpieSettings(
            alpha=options.alpha or 1.0,
            step=phase.step,
            probe_step=PROBE_STEP * phase.step / self._first_phase.step,
            is_likely=phase.is_last and self.is_likely,
            freed=self.freed,
        )

    def _batches(self, which: Tensor, batch: int, epoch: int) -> Sequence[Tensor]:
        if self.measurement.device.type != 'cpu':
            batch = max(batch, DEVICE_BATCH)
        batch = self.config.reconstruction.refine_batch or batch
        rng = numpy.random.default_rng([self.config.training.seed, 6, epoch])
        return which[torch.from_numpy(rng.permutation(len(which)))].split(batch)

    def _counter(self, epoch: int) -> Callable[[int], None]:
        """Returns what takes the patterns of a batch of an epoch, and reports how far the run is."""
        number = len(self.split.everything)
        return self.log.counter('refine', max(self.num_epochs, epoch + 1) * number, epoch * number)

    def _run_phase(self, refined: Refined, phase: Phase, which: Tensor) -> None:
        """Runs a phase; one that ends in numbers that are not finite is taken back."""
        momentum, before = Momentum(refined.state), refined.state.clone()
        for _ in range(phase.num_epochs):
            if self.pace.epochs_left < 1:
                break
            self._epoch(refined, phase, which, momentum)
        if phase.is_straightened:
            refined.state.straighten(self.measurement, which, self.freed)
        self._keep_finite(refined, before)

    def _keep_finite(self, refined: Refined, before: SolverState) -> bool:
        """Returns whether all numbers are finite; goes back to the state before if they are not."""
        if refined.state.is_finite():
            return True
        refined.state = before
        self.log.say(
            f'{self.name}: the refinement came to numbers that are not finite, and goes on from '
            'where it was before. The image is doubtful: examine the scan with ptychodus-pinn check.'
        )
        return False

    def _epoch(self, refined: Refined, phase: Phase, which: Tensor, momentum: Momentum) -> None:
        epoch = len(refined.losses)
        error = rpie_epoch(
            refined.state,
            self.measurement,
            self._batches(which, phase.batch, epoch),
            self._settings(phase),
            self._counter(epoch),
            momentum,
        )
        refined.losses.append((epoch + 1, error))
        self.pace.count_epoch()

    def _misfit(self, refined: Refined) -> Misfit:
        """Returns the misfit of held-out patterns, or of all where none are held out."""
        which = self.split.held_out if self.split.judges else self.split.training
        state = fit_frames(refined.state, self.measurement, which, self.freed)
        return with_chunks_that_fit(
            self.measurement, lambda part: misfit(state, part, which), self.log.say
        )

    def _judge(self, refined: Refined) -> float:
        """Returns the error on held-out patterns, or on all where none are held out."""
        error = self._misfit(refined).relative
        return error if math.isfinite(error) else math.inf

    def _run_rpie(self, refined: Refined) -> None:
        if not self.split.judges:
            for phase in self.phases:
                self._run_phase(refined, phase, self.split.everything)
            return
        start, at_start = refined.state.clone(), self._judge(refined)
        self._search(refined, at_start)
        if self.freed.positions:
            relocate(refined.state, self.measurement, self.split.training)
        if self.freed.probe:
            refined.state.anchor(self.measurement.probe)
        number = len(refined.losses)
        first, *last = fit_phases(
            partial(phases_after, is_low=self.is_low, is_likely=self.is_likely),
            number,
            self.pace.epochs_left,
        )
        self.phases = [replace(self.phases[0], num_epochs=number), first, *last]
        self._run_phase(refined, first, self.split.training)
        judged = self._misfit(refined)
        refined.held_out = judged.relative if math.isfinite(judged.relative) else math.inf
        if not self.is_low and judged.to_noise < WELL_EXPLAINED:
            self.is_likely = not self.freed.background
        if refined.held_out > TOLERATED_RISE * at_start:
            self.log.say(
                f'{self.name}: the refinement explains patterns that were held out worse than its '
                f'start ({refined.held_out:.3g} against {at_start:.3g}): going on from the start.'
            )
            refined.state, refined.held_out = start, at_start
        # what was held out has judged, and is part of the image from now on
        refined.state = fit_frames(refined.state, self.measurement, self.split.held_out, self.freed)
        for phase in last:
            self._run_phase(refined, phase, self.split.everything)

    def _search(self, refined: Refined, held_out: float) -> None:
        """Runs the first phase as long as it helps; `held_out` is the error of the start.

        At low dose the held-out error ends the search from a good start, before noise is fitted;
        otherwise it ends when the image has settled. A long search from a good start that has been
        of no use is taken back.
        """
        start = kept = refined.state.clone()
        momentum, phase = Momentum(start), self.phases[0]
        settling = Settling(self.measurement, start, self.freed)
        is_long = self.is_gentle and phase.num_epochs > MIN_SEARCH
        errors: list[float] = []
        for _ in range(MAX_SEARCH):
            if len(errors) >= phase.num_epochs and errors[-1] > STILL_FALLING * errors[-2]:
                break
            self._epoch(refined, phase, self.split.training, momentum)
            errors.append(refined.losses[-1][1])
            if self._is_straightened(len(errors)):
                refined.state.straighten(self.measurement, self.split.training, self.freed)
                momentum.follow(refined.state)
            if self.is_gentle and self.is_low:
                before, held_out = held_out, self._judge(refined)
                if held_out > before:
                    refined.state = kept
                    return
            if not self._keep_finite(refined, kept):
                return
            kept, is_settled = refined.state.clone(), settling.has_settled(refined.state, errors)
            is_rising = is_long and len(errors) >= FIRST_EPOCHS and errors[-1] > errors[0]
            may_end = not is_long and self.is_gentle or len(errors) >= FIRST_EPOCHS
            if (may_end and (is_rising or is_settled)) or not self._may_go_on(len(errors)):
                break
        is_useless = is_long and not self.is_low and errors[-1] > USEFUL_FALL * errors[0]
        if is_useless and self._judge(refined) > held_out:
            refined.state = start

    def _is_straightened(self, epoch: int) -> bool:
        """Returns whether large scales are put right after an epoch of the search.

        A start that is good has them, unless the scan is so small that its search is long.
        """
        is_short = self.is_gentle and self.phases[0].num_epochs < STRAIGHTENED_SEARCH
        return not is_short and is_time_to_straighten(epoch)

    def _run_adam(self, refined: Refined) -> None:
        best, kept = math.inf, refined.state.clone()
        refiner = AdamRefiner(
            refined.state,
            update_probe=self.freed.probe,
            update_positions=self.freed.positions,
        )
        for _ in range(self.num_epochs):
            if self.pace.epochs_left < 1:
                self._say_time(f'{len(refined.losses)} epochs')
                break
            epoch = len(refined.losses)
            batches = self._batches(self.split.training, self._first_phase.batch, epoch)
            error = refiner.epoch(self.measurement, batches, self._counter(epoch))
            refined.losses.append((epoch + 1, error))
            self.pace.count_epoch()
            refined.state = refiner.present()
            if not self._keep_finite(refined, kept):
                break
            if not self.split.judges:
                kept = refined.state
                continue
            with torch.no_grad():
                judged = self._judge(refined)
            if judged >= best:
                refined.state = kept
                break
            best, kept = judged, refined.state
        if self.split.judges:
            refined.held_out = best
