"""How a refinement goes: search, annealing, held-out patterns, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy
import torch
from torch import Tensor

from ..config import Config
from ..physics.measured_scan import MeasuredScan
from ..scan.io.build import ESTIMATED
from ..solver.annealing import (
    MAX_SEARCH,
    MIN_SEARCH,
    Phase,
    is_time_to_straighten,
)
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import NOTHING, Freed, SolverState
from ..solver.together import Together
from .evidence import Evidence, weigh
from .misfit import misfit
from .planning import Plan
from .refined import Refined
from .relocating import fit_frames, relocate
from .run_log import RunLog
from .scaling import put_back, scaling_epochs, settle_scale, stretched
from .settling import Settling
from .splitting import Split, sample_patterns
from .time_budget import Pace

__all__ = ['Refinement']

DEVICE_BATCH = 64
"""Patterns of an update at least, where an accelerator makes them all in the time of one."""

WELL_EXPLAINED = 1.13
"""Error over that of photon noise up to which the likelihood of bright counts is followed where no patterns
are held out to tell whether it helps: measured scans are above, simulated ones below."""

FIRST_EPOCHS = 6
"""Of a search from a start that is not good, since momentum has to arise before a change says much;
and before a few held-out patterns may end a search among much noise."""

STILL_FALLING = 0.99
"""A search goes on beyond its longest time while an epoch lowers the error by this factor."""

PROBE_STEP = 0.5
"""Part of what a batch asks of the probe, while that of the object is full."""

TRIED_STEPS, STEPS_WITHOUT_GAIN, JOINING_STEPS = 3, 2, 2
"""Of all patterns at once: so many say whether bright scans want them; after so many that unseen counts do
not want, no more are tried; and so many bring in patterns that were held out."""

MEASURED_EVERY, MEASURED_BATCHES = 4, 16
"""Of so many batches, one says what error is met while an image is annealed; and of an epoch, so
many at least."""


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
        self.measurement, self.freed = measured.measurement, freed
        self.is_placed = ESTIMATED not in measured.scan.metadata
        self.plan = Plan(
            measured, config, log, split=split, pace=pace, freed=freed, is_gentle=is_gentle
        )

    def begin(self, name: str, start: SolverState) -> Refined:
        """Returns what patterns that are held out have judged, or all where none are, of a start of that name."""
        refined = Refined(start.clone(), name, self.freed)
        with self.log.phase('refine'):
            if self.plan.split.judges:
                self._run_judged(refined, start)
            else:
                self._run_given(refined)
        return refined

    def finish(self, refined: Refined) -> None:
        """Runs what follows when patterns that were held out have judged, and lets them join."""
        held_out = self.plan.split.held_out
        if not len(held_out):
            return
        refined.state = fit_frames(refined.state, self.measurement, held_out, self.freed)
        if self.freed.positions and (part := self.find_scale(refined)):
            refined.state = stretched(refined.state, part)
        with self.log.phase('refine'):
            self._finish(refined, self.plan.phases[0].num_epochs)

    def find_scale(self, refined: Refined) -> float:
        """Returns by which part of their distances positions, and image, are to be stretched.

        0.0 where it may not be, where it is not sure, and where there is no time.
        """
        pace, planned = self.plan.pace, self.plan.num_epochs - len(refined.losses)
        epochs = scaling_epochs(len(self.plan.split.everything))
        if not self.plan.split.judges or pace.epochs_left < planned + epochs:
            return 0.0
        with self.log.phase('scale'):
            seed, are_given = self.config.training.seed, not self.freed.positions
            part = settle_scale(
                refined.state, self.measurement, seed, self.log, self.name, are_given=are_given
            )
        for _ in range(round(epochs)):
            pace.count_epoch()
        return part

    def _settings(self, phase: Phase, num_batches: int) -> RpieSettings:
        options = self.config.reconstruction
        # the errors of a search decide; later ones are only shown
        fewer = min(MEASURED_EVERY, num_batches // MEASURED_BATCHES) if phase.is_last else 1
        return RpieSettings(
            alpha=options.alpha or 1.0,
            step=phase.step,
            probe_step=PROBE_STEP * phase.step / self.plan.first_phase.step,
            is_likely=phase.is_last and self.plan.is_likely,
            measured_every=max(1, fewer),
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
        number = len(self.plan.split.everything)
        return self.log.counter(
            'refine', max(self.plan.num_epochs, epoch + 1) * number, epoch * number
        )

    def _run_phase(self, refined: Refined, phase: Phase, which: Tensor) -> None:
        """Runs a phase; one that ends in numbers that are not finite is taken back."""
        momentum, before = Momentum(refined.state, self.freed), refined.state.clone()
        for _ in range(phase.num_epochs):
            if self.plan.pace.epochs_left < 1:
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
        batches = self._batches(which, phase.batch, epoch)
        error = rpie_epoch(
            refined.state,
            self.measurement,
            batches,
            self._settings(phase, len(batches)),
            self._counter(epoch),
            momentum,
        )
        refined.losses.append((epoch + 1, error))
        self.plan.pace.count_epoch()

    def _judge(self, refined: Refined) -> float:
        """Returns the error on held-out patterns, with what is theirs fitted."""
        which = self.plan.split.held_out
        state = fit_frames(refined.state, self.measurement, which, self.freed)
        error = misfit(state, self.measurement, which).relative
        return error if math.isfinite(error) else math.inf

    def _run_judged(self, refined: Refined, start: SolverState) -> None:
        at_start = self._judge(refined)
        self._search(refined, at_start)
        if self.freed.positions:
            relocate(refined.state, self.measurement, self.plan.split.training)
        if self.freed.probe:
            refined.state.anchor(self.measurement.probe, is_placed=self.is_placed)
        number = len(refined.losses)
        first = self.plan.go_on_after(number)
        self._run_phase(refined, first, self.plan.split.training)
        refined.held_out = self._judge(refined)
        sample = sample_patterns(self.measurement)
        refined.to_noise = misfit(refined.state, self.measurement, sample).to_noise
        if self._is_better(start, than=refined.state):
            self.log.say(
                f'{self.name}: the refinement explains patterns that were held out worse than its '
                f'start ({refined.held_out:.3g} against {at_start:.3g}): going on from the start.'
            )
            refined.state, refined.held_out = start.clone(), at_start
        elif self.freed.positions and self.plan.pace.epochs_left > self.plan.num_epochs - number:
            self._put_back(refined, first)

    def _put_back(self, refined: Refined, phase: Phase) -> None:
        """Puts the positions where they were given, unless unseen counts are surely against it; says so."""
        measurement, which, free = self.measurement, self.plan.split.held_out, self.freed
        self.freed = replace(free, positions=False)
        given = replace(
            refined, state=put_back(refined.state, measurement), losses=[*refined.losses]
        )
        lost = relocate(given.state, measurement, self.plan.split.everything)
        given.state = fit_frames(given.state, measurement, lost, free)
        self._run_phase(given, phase, self.plan.split.training)
        own = fit_frames(given.state, measurement, which, self.freed)
        moved = fit_frames(refined.state, measurement, which, free)
        if weigh(own, moved, measurement, which, num_fitted=2).is_sure:
            self.freed = free
            return
        refined.state, refined.losses, refined.freed = given.state, given.losses, self.freed
        refined.held_out = self._judge(refined)
        but = f', but for {len(lost)} that fit nowhere near,' if len(lost) else ''
        self.log.say(
            f'{self.name}: the positions stay as they were given{but} since patterns that were held out '
            'are not surely explained better where all are adjusted.'
        )

    def _finish(self, refined: Refined, search_epochs: int) -> None:
        split = self.plan.split
        if self.plan.is_low:
            self._step_as_wanted(refined, self.plan.phases[-1].num_epochs)
            self._step_together(refined, split.everything, JOINING_STEPS)
            return
        tried = replace(refined, state=refined.state.clone(), losses=[*refined.losses])
        self._step_together(tried, split.training, TRIED_STEPS)
        if weigh(refined.state, tried.state, self.measurement, split.held_out).is_sure:
            self.plan.believe_counts(search_epochs)
        for phase in self.plan.phases[2:]:
            if phase.is_together:
                self._step_together(refined, split.everything, phase.num_epochs)
            else:
                self._run_phase(refined, phase, split.everything)

    def _step_as_wanted(self, refined: Refined, most: int) -> None:
        """Makes steps of all patterns but those that are held out, as long as these want them.

        None are made where these do not gain a standard error by them.
        """
        state, split = refined.state, self.plan.split
        together, before = Together(state, self.measurement), state.canvas
        gain, best = torch.zeros(()), Evidence(torch.zeros(len(split.held_out)))
        wanted, number = before, 0
        for done in range(1, most + 1):
            last = replace(state)
            if self.plan.pace.epochs_left < 1 + JOINING_STEPS:
                break
            self._step(refined, together, split.training)
            gain = gain + weigh(last, state, self.measurement, split.held_out).gains.cpu()
            if float(gain.mean()) > best.mean:
                best, wanted, number = Evidence(gain), state.canvas, done
            elif done - number >= STEPS_WITHOUT_GAIN:
                break
        state.canvas = wanted if best.mean > best.standard_error else before

    def _step_together(self, refined: Refined, which: Tensor, number: int) -> None:
        """Makes steps of the patterns `which` at once, as many as there is time for."""
        before, together = refined.state.clone(), Together(refined.state, self.measurement)
        for _ in range(number):
            if self.plan.pace.epochs_left < 1:
                break
            self._step(refined, together, which)
        self._keep_finite(refined, before)

    def _step(self, refined: Refined, together: Together, which: Tensor) -> None:
        epoch = len(refined.losses)
        refined.losses.append((epoch + 1, together.step(which, self._counter(epoch))))
        self.plan.pace.count_epoch()

    def _run_given(self, refined: Refined) -> None:
        """Runs the planned phases, of which no patterns are held out."""
        which = self.plan.split.everything
        sample = sample_patterns(self.measurement)
        for before, phase in zip([None, *self.plan.phases], self.plan.phases):
            if before is not None and before.is_last and not self.plan.is_low:
                seen = misfit(refined.state, self.measurement, sample)
                self.plan.is_likely = seen.to_noise < WELL_EXPLAINED and not self.freed.background
            self._run_phase(refined, phase, which)
        refined.to_noise = misfit(refined.state, self.measurement, sample).to_noise

    def _search(self, refined: Refined, held_out: float) -> None:
        """Runs the first phase.

        At low dose the held-out error (`held_out` is that of the start) ends a longer search from a
        good start, before noise is fitted; otherwise it ends when the image has settled.
        """
        kept = refined.state.clone()
        momentum, phase = Momentum(kept, self.freed), self.plan.phases[0]
        settling = Settling(self.measurement, kept, self.freed)
        is_long = self.plan.is_gentle and phase.num_epochs > MIN_SEARCH
        errors: list[float] = []
        for _ in range(MAX_SEARCH):
            if len(errors) >= phase.num_epochs and errors[-1] > STILL_FALLING * errors[-2]:
                break
            self._epoch(refined, phase, self.plan.split.training, momentum)
            errors.append(refined.losses[-1][1])
            if is_time_to_straighten(len(errors)):
                refined.state.straighten(self.measurement, self.plan.split.training, self.freed)
                momentum.follow(refined.state)
            if self.plan.is_gentle and self.plan.is_low:
                before, held_out = held_out, self._judge(refined)
                if held_out > before and len(errors) >= FIRST_EPOCHS:
                    refined.state = kept
                    return
            if not self._keep_finite(refined, kept):
                return
            kept, is_settled = refined.state.clone(), settling.has_settled(refined.state, errors)
            may_end = not is_long and self.plan.is_gentle or len(errors) >= FIRST_EPOCHS
            if (may_end and is_settled) or not self.plan.may_go_on(len(errors)):
                break

    def _is_better(self, state: SolverState, *, than: SolverState) -> bool:
        """Returns whether held-out patterns are surely explained better, with what is theirs fitted."""
        which = self.plan.split.held_out
        own, other = (
            fit_frames(explanation, self.measurement, which, self.freed)
            for explanation in (state, than)
        )
        return weigh(other, own, self.measurement, which).is_sure
