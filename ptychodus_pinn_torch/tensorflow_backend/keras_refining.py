"""The course of a refinement: batches, dose, held-out patterns, when to stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy
from numpy.typing import NDArray

from ..config import Config
from ..scan.grouping import choose_held_out
from .keras_reader import ScanReader
from .keras_rpie import RefinementState, RpieSettings, relative_error, rpie_epoch

__all__ = ['Refined', 'Refinement']

MAX_EPOCHS = 8
HOLDOUT_FRACTION = 0.04
MIN_PATTERNS_TO_HOLD_OUT = 50
SMALLEST_GAIN = 0.01
"""The refinement goes on while an epoch lowers the held-out error by at least this part."""

LOW_DOSE = 5e4
"""Photons per pattern below which updates are gentle and large."""

AfterBatch = Callable[[int, int], None]


@dataclass
class Refined:
    """The outcome of a refinement."""

    state: RefinementState
    start: str
    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: float | None = None


class Refinement:
    """Refines starts on the patterns of a scan, as configured.

    Args:
        reader: The scan.
        config: Its `reconstruction` section says how; the seed comes from `training`.
        after_batch: Called with patterns done and in all; may raise to stop.
    """

    def __init__(self, reader: ScanReader, config: Config, after_batch: AfterBatch) -> None:
        options = config.reconstruction
        self.reader, self.seed, self.after_batch = reader, config.training.seed, after_batch
        self.is_automatic = options.refine_epochs < 0
        self.held_out = numpy.empty(0, dtype=numpy.int64)
        if self.is_automatic and reader.num_patterns >= MIN_PATTERNS_TO_HOLD_OUT:
            rng = numpy.random.default_rng([self.seed, 5])
            positions = reader.scan.positions_px
            self.held_out = choose_held_out(positions, HOLDOUT_FRACTION, rng)
        self.training = numpy.setdiff1d(numpy.arange(reader.num_patterns), self.held_out)
        self.max_epochs = options.refine_epochs
        if self.is_automatic:
            self.max_epochs = MAX_EPOCHS if len(self.held_out) else 1
        is_low = reader.scan.mean_counts() < LOW_DOSE
        self.batch = options.refine_batch or (64 if is_low else 8)
        self.settings = RpieSettings(
            alpha=options.alpha or (1.0 if is_low else 0.3),
            update_probe=options.update_probe,
            update_positions=options.update_positions,
        )

    def run(self, starts: dict[str, NDArray[numpy.complex64]]) -> Refined:
        """Returns the refined best of one or more starts.

        With several, each is refined for one epoch, and the one that then explains held-out
        patterns best goes on: so a start that a wrong probe has spoilt does no harm.
        """
        runs = [Refined(self._state(canvas), name) for name, canvas in starts.items()]
        best, first = runs[0], 0
        if len(runs) > 1 and self.max_epochs > 0:
            for run in runs:
                self._epoch(run, 0)
            best, first = min(runs, key=self._judge), 1
        self._go_on(best, first)
        return best

    def _state(self, canvas: NDArray[numpy.complex64]) -> RefinementState:
        reader = self.reader
        return RefinementState(canvas.copy(), reader.probe.copy(), reader.shifts.copy())

    def _go_on(self, run: Refined, first: int) -> None:
        has_held_out = bool(len(self.held_out))
        kept, best = run.state.clone(), float('inf')
        if first and has_held_out:
            best = self._judge(run)
        for epoch in range(first, self.max_epochs):
            self._epoch(run, epoch)
            if not has_held_out:
                continue
            error = self._judge(run)
            if error < best:
                kept = run.state.clone()
            if error > best * (1.0 - SMALLEST_GAIN):
                run.state, best = kept, min(best, error)
                break
            best = error
        if has_held_out:
            run.held_out = best
            rpie_epoch(run.state, self.reader, self._split(self.held_out), self.settings)

    def _epoch(self, run: Refined, epoch: int) -> None:
        rng = numpy.random.default_rng([self.seed, 6, epoch])
        total = len(self.training)

        def after(done: int) -> None:
            self.after_batch(epoch * total + done, self.max_epochs * total)

        batches = self._split(self.training[rng.permutation(total)])
        error = rpie_epoch(run.state, self.reader, batches, self.settings, after)
        run.losses.append((epoch + 1, error))

    def _split(self, indices: NDArray[numpy.int64]) -> Sequence[NDArray[numpy.int64]]:
        return [indices[i : i + self.batch] for i in range(0, len(indices), self.batch)]

    def _judge(self, run: Refined) -> float:
        which = self.held_out if len(self.held_out) else self.training
        return relative_error(run.state, self.reader, list(self.reader.split(which)))
