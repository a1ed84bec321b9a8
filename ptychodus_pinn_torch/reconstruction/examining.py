"""What must be moved beside the object: found by trials that held-out patterns judge."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy
import torch
from torch import Tensor

from ..config import Config
from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..scan.io.build import ESTIMATED
from ..scan.probe_modes import add_mode
from ..solver.annealing import Phase, is_low_dose, search
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import NOTHING, Freed, SolverState
from .misfit import UNDER_NOISE, misfit
from .relocating import fit_frames, relocate
from .run_log import RunLog
from .splitting import Split, split_patterns, take_middle

__all__ = ['Examination', 'Found']

TRIAL_PATTERNS = 1024
"""At most so many patterns, in the middle of the scan, are looked at in trials."""

TRIAL_UPDATES, MIN_TRIAL, MAX_TRIAL = 4096, 4, 12
"""Patterns that a trial of the probe meets; epochs that it has at least and at most. Others need
half of them."""

EXPLAINED = 1.35
"""Error over that of photon noise up to which nothing is missing."""

USEFUL_FALL = 0.93
"""What is freed must lower the error on held-out patterns by this factor."""

STILL_FALLING, HALF_WAY = 0.8, 0.5
"""While more epochs with what is free lower it by this factor, nothing is decided. The other one: nothing else
is tried while they lower it by that, nor beside what lowers it by that and explains the counts."""

NEARLY_AS_GOOD = 1.1
"""The network's second try is preferred up to this: errors hardly see the large scales, on which
an image that began under wrong assumptions is slow to come right."""

LONGER = 2
"""Times as long is a second trial of the probe, where nothing has lowered the error half way."""

CATCH_ALL = 0.75
"""A background takes up a part of whatever is wrong: it must be better by this factor than what
explains one thing only."""

MOST_MODES = 5
"""Of a probe to which modes are added."""

MODE_POWER = 0.1
"""Part of the power that a new mode begins with."""

MAX_ROUNDS, PROBE_STEP = 6, 1.0
"""Turns of trials at most, of four unknowns and two times more modes; and part of what a batch asks of a probe that
may be far off."""

WORDS = {
    'positions': 'the positions',
    'probe': 'the probe',
    'factors': 'the brightness of each frame',
    'background': 'a constant background',
}

Rerun = Callable[[Measurement], Tensor]


@dataclass(frozen=True)
class Found:
    """Where the refinement of the whole scan starts, and with what.

    Attributes:
        name: Of the start.
        state: Object, probe and all that goes with it.
        freed: What is to be moved beside the object.
    """

    name: str
    state: SolverState
    freed: Freed


@dataclass(frozen=True)
class _Trial:
    state: SolverState
    freed: Freed
    error: float


class Examination:
    """Tries on a part of the scan what helps to explain its counts.

    Args:
        measured: The scan.
        config: What may be, must be and must not be moved.
        log: Takes reports, times and sentences.
    """

    def __init__(self, measured: MeasuredScan, config: Config, log: RunLog) -> None:
        self.measured, self.log, self.seed = measured, log, config.training.seed
        self.name, self.alpha = measured.scan.name, config.reconstruction.alpha or 1.0
        options = {name: getattr(config.reconstruction, f'update_{name}') for name in WORDS}
        self.forced = Freed(**{name: value == 'on' for name, value in options.items()})
        self.possible = [name for name in WORDS if options[name] == 'auto']
        self.may_add_modes = options['probe'] != 'off' and not config.physics.num_probe_modes
        self.is_low = is_low_dose(measured.measurement)
        positions = measured.positions_px
        chosen = take_middle(positions, TRIAL_PATTERNS)
        self.is_whole = len(chosen) == measured.measurement.num_patterns
        self.part, self.box = measured.measurement.part(chosen)
        self.split: Split = split_patterns(positions[chosen.numpy()], self.seed)
        epochs = TRIAL_UPDATES // len(chosen)
        self.num_epochs = min(MAX_TRIAL, max(MIN_TRIAL, epochs))
        self._done = 0

    def run(
        self, name: str, canvas: Tensor, rerun: Rerun | None = None, *, is_refined: bool = False
    ) -> Found:
        """Returns what is to be moved, and from where.

        Args:
            name: Of the start.
            canvas: (1, Y, X) object where it starts.
            is_refined: It is the best that the object alone can do, and not good enough.
            rerun: Runs the network on a measurement, where it has made the start: a wrong probe
                spoils its image, so it has another try under the probe that was found.
        """
        given = SolverState.start(canvas, self.measured.measurement)
        if not self.split.judges:
            return Found(name, given, self.forced)
        with self.log.phase('examine'):
            best = self._decide(canvas[:, *self.box], is_refined=is_refined)
            if best is None:
                return Found(name, given, self.forced)
            if not best.freed.names():
                return Found(name, best.state if self.is_whole else given, best.freed)
            return self._choose_start(name, given, best, rerun)

    def _decide(self, canvas: Tensor, *, is_refined: bool) -> _Trial | None:
        """Returns the best trial, or None where the start is good enough as it is."""
        start = SolverState.start(canvas, self.part)
        best = self._try(start, self.forced, 0 if is_refined else 1)
        if not is_refined and self._is_explained(best):
            return best if self.forced.names() else None
        flat = SolverState.start(self.part.flat(), self.part)
        if self.forced.probe and not self._is_late():
            tried = self._try(flat, self.forced, self.num_epochs)
            best = min(best, tried, key=lambda trial: trial.error)
        for turn in range(MAX_ROUNDS):
            if self._is_late():
                break
            before = best
            best = self._try(before.state, before.freed, self.num_epochs // 2)
            if turn and best.error < HALF_WAY * before.error:
                continue
            if (turn or not is_refined) and self._is_explained(best):
                break  # all that it wanted was time
            trials = self._try_candidates(before, None if turn else flat)
            tried = min(trials, key=self._price, default=best)
            if not turn and tried.error > HALF_WAY * best.error and not tried.freed.probe:
                # nothing else is it, and a probe that is far off is long in coming
                trials += [
                    self._try(trial.state, trial.freed, LONGER * self.num_epochs)
                    for trial in trials
                    if trial.freed.probe and not best.freed.probe
                ]
                tried = min(trials, key=self._price, default=best)
            # what still falls by itself must not be explained by something else
            is_falling = best.error < USEFUL_FALL * before.error
            needed = STILL_FALLING if is_falling else USEFUL_FALL
            if tried.error < needed * best.error:
                self._say(best, tried)
                best = tried
                if self._is_explained(best):
                    break
            elif best.error > STILL_FALLING * before.error:
                return min(best, before, key=lambda trial: trial.error)
        return best

    def _try_candidates(self, before: _Trial, flat: SolverState | None) -> list[_Trial]:
        """Returns a trial for each that may be freed besides; `flat` is a state to start from."""
        trials: list[_Trial] = []
        for name in self._candidates(before):
            if self._is_late():
                break
            freed = before.freed if name == 'modes' else replace(before.freed, **{name: True})
            if name == 'modes':
                trial = self._try(_with_more_modes(before.state), freed, self.num_epochs // 2)
            elif name == 'probe' and flat is not None:  # an image under a wrong probe is useless
                trial = self._try(flat, freed, self.num_epochs)
            else:
                trial = self._try(before.state, freed, self.num_epochs // 2)
            trials.append(trial)
            if trial.error < HALF_WAY * before.error and self._is_explained(trial):
                break  # needs no rivals
        return trials

    def _is_late(self) -> bool:
        """Returns whether what is left of the time is wanted for the image; says so once."""
        if self.log.left_s >= self.log.budget_s / 2:
            return False
        message = (
            f'{self.name}: the time of {self.log.budget_s:g} s is too short to try all that may '
            'have to be adjusted.'
        )
        if message not in self.log.messages:
            self.log.say(message)
        return True

    @staticmethod
    def _price(trial: _Trial) -> float:
        """Returns the error, what explains anything at the price of what explains one thing."""
        return trial.error / CATCH_ALL if trial.freed.background else trial.error

    def _is_explained(self, trial: _Trial) -> bool:
        return UNDER_NOISE < self._error(trial.state, self.split.training) < EXPLAINED

    def _candidates(self, before: _Trial) -> list[str]:
        """Returns the names of what may be freed besides; `modes` stands for more of the probe."""
        closed = [name for name in self.possible if not getattr(before.freed, name)]
        others = [name for name in closed if name != 'background']
        found = closed if len(others) < len(closed) else others
        num_modes = len(before.state.probe)
        has_room = self.may_add_modes and before.freed.probe and num_modes < MOST_MODES
        return [*found, 'modes'] if has_room else found

    def _try(self, start: SolverState, freed: Freed, num_epochs: int) -> _Trial:
        state, phase = start.clone(), self._phase(num_epochs, freed)
        settings = RpieSettings(
            alpha=self.alpha, step=phase.step, probe_step=PROBE_STEP * phase.step, freed=freed
        )
        momentum, number = Momentum(state, freed), len(self.split.training)
        count = self.log.counter('examine', num_epochs * number)
        for epoch in range(num_epochs):
            rng = numpy.random.default_rng([self.seed, 7, self._done])
            order = self.split.training[torch.from_numpy(rng.permutation(number))]
            rpie_epoch(state, self.part, order.split(phase.batch), settings, count, momentum)
            self._done += 1
            if freed.positions and epoch == num_epochs // 2:
                relocate(state, self.part, self.split.training)
        if freed.probe:
            is_placed = ESTIMATED not in self.measured.scan.metadata
            state.anchor(self.part.probe, is_placed=is_placed)
        return _Trial(state, freed, self._error(state, self.split.held_out, freed))

    def _phase(self, num_epochs: int, freed: Freed) -> Phase:
        moving = len(self.split.everything) if freed.positions else 0
        return search(num_epochs, is_low=self.is_low, is_gentle=False, moving=moving)

    def _error(self, state: SolverState, which: Tensor, freed: Freed = NOTHING) -> float:
        """Returns the error of some patterns over that of photon noise."""
        error = misfit(fit_frames(state, self.part, which, freed), self.part, which).to_noise
        return error if math.isfinite(error) else math.inf

    def _say(self, before: _Trial, after: _Trial) -> None:
        new = set(after.freed.names()) - set(before.freed.names())
        what = ' and '.join(WORDS[name] for name in WORDS if name in new) + ' will be adjusted'
        if not new:
            what = f'the probe gets {len(after.state.probe)} modes'
        self.log.say(
            f'{self.name}: {what}: patterns that were held out are then explained '
            f'{after.error:.3g} instead of {before.error:.3g} times as badly as photon noise allows.'
        )

    def _choose_start(
        self, name: str, given: SolverState, best: _Trial, rerun: Rerun | None
    ) -> Found:
        """Returns the better of what the trials have come to and the network's second try."""
        found = best.state
        if rerun is not None and not self._is_late():
            again = replace(found.clone(), canvas=rerun(found.seen(self.part)))
            tried = self._try(again, best.freed, 1)
            if tried.error <= NEARLY_AS_GOOD * best.error:
                if self.is_whole:
                    return Found('network', tried.state, best.freed)
                again = self._enlarge(given, found)
                canvas = rerun(again.seen(self.measured.measurement))
                return Found('network', replace(again, canvas=canvas), best.freed)
            if best.freed.probe:
                self.log.say(
                    f'{self.name}: with the probe as far as it could be improved, the flat start '
                    'explains the counts better than the network: going on from the flat one.'
                )
                name = 'flat'
        if self.is_whole:
            return Found(name, found, best.freed)
        whole = self._enlarge(given, found)
        if best.freed.probe:
            whole = replace(whole, canvas=whole.seen(self.measured.measurement).flat())
        return Found(name, whole, best.freed)

    @staticmethod
    def _enlarge(given: SolverState, found: SolverState) -> SolverState:
        """Returns the state of the whole scan with what a part has found that is not a frame's."""
        return replace(given.clone(), probe=found.probe.clone(), background=found.background)


def _with_more_modes(state: SolverState) -> SolverState:
    """Returns two modes more: a beam that is not coherent is so in two directions."""
    modes, number = state.probe.cpu().numpy(), len(state.probe)
    while len(modes) < min(number + 2, MOST_MODES):
        modes = add_mode(modes, MODE_POWER)
    probe, variation = torch.from_numpy(modes).to(state.probe.device), state.variation
    if variation is not None:
        variation = variation.scaled((1.0 - MODE_POWER) ** ((len(modes) - number) / 2.0))
    return replace(state, probe=probe, variation=variation)
