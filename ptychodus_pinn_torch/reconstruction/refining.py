"""How a refinement goes: batches, dose, held-out patterns, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy
import torch
from torch import Tensor

from ..config import Config
from ..physics.devices import with_chunks_that_fit
from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..scan.grouping import choose_held_out
from .adam import AdamRefiner
from .run_log import RunLog
from .solver import RpieSettings, SolverState, relative_error, rpie_epoch

__all__ = ['Refined', 'Refinement']

MAX_EPOCHS = 8
LOW_DOSE = 5e4
"""Photons per pattern below which many patterns share an update."""
HOLDOUT_FRACTION = 0.04
MIN_PATTERNS_TO_HOLD_OUT = 50
SMALLEST_GAIN = 0.01
"""The refinement goes on while an epoch lowers the held-out error by at least this part."""

Rerun = Callable[[Measurement], Tensor]


@dataclass
class Refined:
    """The outcome of a refinement: losses are (epoch, relative amplitude error)."""

    state: SolverState
    start: str
    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: float | None = None


@dataclass(frozen=True)
class Plan:
    """Which patterns refine, which judge, and how."""

    settings: RpieSettings
    batch: int
    training: Tensor
    held_out: Tensor
    max_epochs: int

    @property
    def is_judged(self) -> bool:
        """Whether held-out patterns decide when to stop."""
        return len(self.held_out) > 0


def _plan(measured: MeasuredScan, config: Config, *, is_gentle: bool) -> Plan:
    options, measurement = config.reconstruction, measured.measurement
    everything = numpy.arange(measurement.num_patterns)
    held_out = everything[:0]
    if options.refine_epochs < 0 and len(everything) >= MIN_PATTERNS_TO_HOLD_OUT:
        rng = numpy.random.default_rng([config.training.seed, 5])
        held_out = choose_held_out(measured.scan.positions_px, HOLDOUT_FRACTION, rng)
    # gentle where the start is good, large batches where photons are few
    is_low = float(measurement.totals[0]) / len(everything) < LOW_DOSE
    usual = 16 if is_gentle else 8
    batch = options.refine_batch or (64 if is_low or measurement.device.type != 'cpu' else usual)
    epochs = options.refine_epochs
    if epochs < 0:
        epochs = MAX_EPOCHS if len(held_out) else 1
    return Plan(
        RpieSettings(
            alpha=options.alpha or (1.0 if is_low or is_gentle else 0.3),
            update_probe=options.update_probe,
            update_positions=options.update_positions,
        ),
        min(batch, len(everything)),
        torch.from_numpy(numpy.setdiff1d(everything, held_out)),
        torch.from_numpy(held_out),
        epochs,
    )


class Refinement:
    """Refines starts on the patterns of a scan, as configured.

    Args:
        measured: The scan.
        config: What to update, how long, and by which rule.
        log: Takes reports, times and sentences.
        is_gentle: The start is so good that small steps are needed.
    """

    def __init__(
        self, measured: MeasuredScan, config: Config, log: RunLog, *, is_gentle: bool = False
    ) -> None:
        self.config, self.log, self.name = config, log, measured.scan.name
        self.measurement = measured.measurement
        self.plan = _plan(measured, config, is_gentle=is_gentle)

    def run(self, name: str, canvas: Tensor, rerun: Rerun | None = None) -> Refined:
        """Returns the refined start.

        Args:
            name: Of the start.
            canvas: (1, Y, X) object where it starts.
            rerun: Given when the probe is updated from a network start: runs the network on a
                measurement. A wrong probe spoils the network's image, so the probe is first
                improved from a flat start, and what then explains the counts best goes on.
        """
        with self.log.phase('refine'):
            refined, first = self._begin(name, canvas), 0
            if rerun is not None and self.plan.max_epochs > 1:
                refined, first = self._find_probe(refined, rerun)
            if self.config.reconstruction.refine_method == 'adam':
                self._run_adam(refined)
            else:
                self._run_rpie(refined, first)
        return refined

    def _begin(self, name: str, canvas: Tensor) -> Refined:
        return Refined(SolverState.start(canvas, self.measurement), name)

    def _find_probe(self, given: Refined, rerun: Rerun) -> tuple[Refined, int]:
        """Returns the best of three runs after the same number of epochs, and that number.

        The three: from the network under the given probe, from flat, and from the network under
        the probe that the flat run has arrived at.
        """
        epochs = min(3, max(1, self.plan.max_epochs // 2))
        canvas = given.state.canvas
        flat = self._begin('flat', torch.ones_like(canvas) * canvas.abs().mean())
        for epoch in range(epochs):
            self._epoch(flat, epoch)
        again = self._begin(
            'network', rerun(replace(self.measurement, probe=flat.state.probe.clone()))
        )
        again.state.probe = flat.state.probe.clone()
        again.state.shifts = flat.state.shifts.clone()
        again.losses = list(flat.losses[:-1])
        self._epoch(again, epochs - 1)
        for epoch in range(epochs):
            self._epoch(given, epoch)
        best = min((given, again, flat), key=self._judge)
        if best is flat:
            self.log.say(
                f'{self.name}: with the probe as far as it could be improved, the flat start '
                'explains the counts better than the network: going on from the flat one.'
            )
        return best, epochs

    def _batches(self, epoch: int) -> Sequence[Tensor]:
        rng = numpy.random.default_rng([self.config.training.seed, 6, epoch])
        order = torch.from_numpy(rng.permutation(len(self.plan.training)))
        return self.plan.training[order].split(self.plan.batch)

    def _counter(self, epoch: int) -> Callable[[int], None]:
        """Returns what takes the patterns done in an epoch, in all, and reports them."""
        total, last = len(self.plan.training), 0
        count = self.log.counter('refine', self.plan.max_epochs * total, epoch * total)

        def after_batch(done: int) -> None:
            nonlocal last
            count(done - last)
            last = done

        return after_batch

    def _epoch(self, refined: Refined, epoch: int) -> None:
        error = rpie_epoch(
            refined.state,
            self.measurement,
            self._batches(epoch),
            self.plan.settings,
            self._counter(epoch),
        )
        refined.losses.append((epoch + 1, error))

    def _judge(self, refined: Refined) -> float:
        """Returns the error on held-out patterns, or on all where none are held out."""
        which = self.plan.held_out if self.plan.is_judged else self.plan.training
        return with_chunks_that_fit(
            self.measurement, lambda part: relative_error(refined.state, part, which), self.log.say
        )

    def _run_rpie(self, refined: Refined, first: int) -> None:
        kept, best = refined.state.clone(), float('inf')
        if first and self.plan.is_judged:
            best = self._judge(refined)
        for epoch in range(first, self.plan.max_epochs):
            self._epoch(refined, epoch)
            if not self.plan.is_judged:
                continue
            error = self._judge(refined)
            if error < best:
                kept = refined.state.clone()
            if error > best * (1.0 - SMALLEST_GAIN):
                refined.state, best = kept, min(best, error)
                break
            best = error
        if self.plan.is_judged:
            refined.held_out = best
            last = self.plan.held_out.split(self.plan.batch)
            rpie_epoch(refined.state, self.measurement, last, self.plan.settings)

    def _run_adam(self, refined: Refined) -> None:
        options = self.config.reconstruction
        refiner = AdamRefiner(
            refined.state,
            update_probe=options.update_probe,
            update_positions=options.update_positions,
        )
        best, kept = float('inf'), refined.state.canvas.detach().clone()
        for epoch in range(self.plan.max_epochs):
            error = refiner.epoch(self.measurement, self._batches(epoch), self._counter(epoch))
            refined.losses.append((epoch + 1, error))
            if not self.plan.is_judged:
                continue
            with torch.no_grad():
                judged = self._judge(refined)
            if judged >= best:
                break
            best, kept = judged, refined.state.canvas.detach().clone()
        refiner.finish()
        if self.plan.is_judged:
            refined.held_out, refined.state.canvas = best, kept
