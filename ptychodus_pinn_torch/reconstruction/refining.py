"""How a refinement goes: search, annealing, held-out patterns, when to stop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy
import torch
from torch import Tensor

from ..config import Config
from ..physics.devices import with_chunks_that_fit
from ..physics.measured_scan import MeasuredScan
from ..solver.annealing import (
    MIN_SEARCH,
    Phase,
    anneal,
    finish,
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
from .relocating import fit_frames, relocate
from .run_log import RunLog
from .splitting import Split

__all__ = ['Refined', 'Refinement']

DEVICE_BATCH = 64
UNJUDGED_EPOCHS = 5
"""At low dose, where nothing is held out that would see that noise is fitted."""
TOLERATED_RISE = 1.25
"""A refinement may raise the held-out error by so much: a few patterns do not say it exactly."""

WELL_EXPLAINED = 1.13
"""Error of held-out patterns over that of photon noise up to which the counts of bright scans are
believed one by one. Where more is amiss, their roots stand it better."""

SMALLEST_CHANGE, SMALLEST_MOVING_CHANGE = 0.003, 0.001
"""A search is over when an epoch changes the means over squares of the object by less than this; and
where positions or brightness of each frame move along, which they do slowly."""

SQUARE_PX = 16

FIRST_EPOCHS = 6
"""Of a search from a start that is not good: momentum has to arise before a change says much."""

USEFUL_FALL = 0.97
"""A long search from a good start has been of use when it has lowered the error by this factor, or
that on held-out patterns. Where the model of the measurement is wrong, it only adds noise."""

STRAIGHTENED_SEARCH = 8
"""Epochs of a search from a good start from which on its large scales are put right."""

PATIENCE = 4
"""Epochs without a new lowest error that a search goes on."""

PROBE_STEP = 0.5


@dataclass
class Refined:
    """The outcome of a refinement.

    Attributes:
        state: Object, probe and positions.
        start: Name of the start.
        losses: (epoch, relative amplitude error met).
        held_out: The error on patterns that were held out, before they joined the others.
        freed: What was moved beside the object.
    """

    state: SolverState
    start: str
    freed: Freed = NOTHING
    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: float | None = None


def _has_settled(
    before: Tensor, after: Tensor, errors: Sequence[float], smallest_change: float
) -> bool:
    """Returns whether means over squares hardly change, or errors have long not fallen.

    The errors hardly see large scales, which come last.
    """
    change = torch.linalg.vector_norm(after - before)
    is_still = bool(change < smallest_change * torch.linalg.vector_norm(after))
    return is_still or len(errors) - errors.index(min(errors)) > PATIENCE


class Refinement:
    """Refines a start on the patterns of a scan, as configured.

    Args:
        measured: The scan.
        config: How long, and by which rule.
        log: Takes reports, times and sentences.
        split: Which patterns judge.
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
        freed: Freed = NOTHING,
        is_gentle: bool = False,
    ) -> None:
        self.config, self.log, self.name = config, log, measured.scan.name
        self.measurement, self.is_gentle = measured.measurement, is_gentle
        self.is_low = is_low_dose(self.measurement)
        # an unknown background is estimated from what the fit to roots leaves
        self.is_likely = follows_likelihood(self.measurement) and not freed.background
        self.freed, self.split = freed, split
        if config.reconstruction.refine_epochs >= 0:
            self.split = split.whole()
        self.phases = self._plan(len(split.everything))

    def _plan(self, num_patterns: int) -> list[Phase]:
        """Returns the phases of the run, the longest search assumed where it may end earlier."""
        epochs = self.config.reconstruction.refine_epochs
        if epochs < 0 and self.is_low and not self.split.judges:
            epochs = UNJUDGED_EPOCHS
        if epochs >= 0:
            return phases_of(epochs, is_low=self.is_low, is_gentle=self.is_gentle)
        return longest_run(
            num_patterns,
            is_low=self.is_low,
            is_gentle=self.is_gentle,
            has_moves=self.freed.positions,
        )

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
        first = anneal(number, is_low=self.is_low)[0]
        last = finish(number, is_low=self.is_low, is_likely=self.is_likely)
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
        momentum, phase, squares = Momentum(start), self.phases[0], self._squares(start)
        is_long = self.is_gentle and phase.num_epochs > MIN_SEARCH
        is_moving = self.freed.positions or self.freed.factors
        smallest = SMALLEST_MOVING_CHANGE if is_moving else SMALLEST_CHANGE
        errors: list[float] = []
        for _ in range(phase.num_epochs):
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
            kept, last, squares = refined.state.clone(), squares, self._squares(refined.state)
            is_rising = is_long and len(errors) >= FIRST_EPOCHS and errors[-1] > errors[0]
            may_end = not is_long and self.is_gentle or len(errors) >= FIRST_EPOCHS
            if may_end and (is_rising or _has_settled(last, squares, errors, smallest)):
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

    def _squares(self, state: SolverState) -> Tensor:
        """Returns the means of the object (2, y, x) over squares that the probe has covered."""
        parts = torch.view_as_real(state.canvas * self._is_covered).movedim(-1, 1)
        size = min(SQUARE_PX, *parts.shape[-2:])
        return torch.nn.functional.avg_pool2d(parts, size)

    @cached_property
    def _is_covered(self) -> Tensor:
        coverage = self.measurement.coverage()
        return coverage > 0.1 * coverage.max()

    def _run_adam(self, refined: Refined) -> None:
        best, kept = math.inf, refined.state.clone()
        refiner = AdamRefiner(
            refined.state,
            update_probe=self.freed.probe,
            update_positions=self.freed.positions,
        )
        for _ in range(self.num_epochs):
            epoch = len(refined.losses)
            batches = self._batches(self.split.training, self._first_phase.batch, epoch)
            error = refiner.epoch(self.measurement, batches, self._counter(epoch))
            refined.losses.append((epoch + 1, error))
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
