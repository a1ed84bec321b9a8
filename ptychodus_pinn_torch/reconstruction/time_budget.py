"""What fits into the time that a user gives: how many epochs, and whether the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..physics.team import ALONE
from ..solver.annealing import Phase, anneal, finish, search
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import SolverState
from ..solver.tiles import Tiles
from .run_log import RunLog
from .splitting import sample_patterns

__all__ = ['Pace', 'epochs_after', 'fit_phases', 'measure_pace', 'phases_after']

JUDGED_EPOCHS = 2.5
"""What placing and judging the image take, in epochs."""

PASS_EPOCHS = 0.6
"""What a pass of a network over the patterns takes, in epochs."""

MEASURED_PATTERNS = 256
"""By which the time of an epoch is measured: a tenth of a second of work."""


class Pace:
    """How many epochs fit into the time that is left.

    Args:
        log: Knows the time.
        epoch_s: Seconds of an epoch over all patterns.
    """

    def __init__(self, log: RunLog, epoch_s: float) -> None:
        self.log, self.epoch_s = log, epoch_s
        self._started, self._epochs = log.clock(), 0

    @property
    def epochs_left(self) -> float:
        """Epochs that can still be run before the image has to be placed and judged."""
        if math.isinf(self.log.budget_s):
            return math.inf
        epoch_s = self.log.team.agree(self.epoch_s)
        return self.log.left_s / max(epoch_s, 1e-9) - JUDGED_EPOCHS

    def allows_network(self, num_passes: int) -> bool:
        """Returns whether a network that goes through the patterns so often leaves half the time."""
        return PASS_EPOCHS * num_passes <= self.epochs_left / 2

    def count_epoch(self) -> None:
        """Learns from an epoch that was run, with all that is done between epochs."""
        self._epochs += 1
        self.epoch_s = (self.log.clock() - self._started) / self._epochs


def measure_pace(measured: MeasuredScan, log: RunLog) -> Pace:
    """Returns the pace of the solver on this machine; nothing is measured without a time budget."""
    if math.isinf(log.budget_s):
        return Pace(log, 0.0)
    team = measured.measurement.team
    measurement = replace(measured.measurement, team=ALONE)
    state = SolverState.start(measurement.flat(), measurement)
    phase = search(1, is_low=False, is_gentle=False)
    batches = _some_of_a_tile(measurement)[:MEASURED_PATTERNS].split(phase.batch)
    settings, seconds = RpieSettings(alpha=1.0), []
    for part in (batches[:2], batches):  # the first ones are slower than all that follow
        started = log.clock()
        rpie_epoch(state, measurement, part, settings, momentum=Momentum(state))
        seconds.append((log.clock() - started) / sum(len(batch) for batch in part))
    is_shared = len(Tiles.of(measurement)) > 1
    return Pace(log, seconds[-1] * measurement.num_patterns / (team.size if is_shared else 1))


def _some_of_a_tile(measurement: Measurement) -> Tensor:
    """Returns patterns that make whole batches, as those of an epoch do."""
    tiles = Tiles.of(measurement)
    if len(tiles) == 1:
        return sample_patterns(measurement)
    parts = tiles.parts(torch.arange(measurement.num_patterns), measurement.corners)
    return max((part.indices for group in parts for part in group), key=len)


def phases_after(search_epochs: int, *, is_low: bool, steps: int) -> list[Phase]:
    """Returns the phases after a search: one that is judged, and those over all patterns."""
    first = anneal(search_epochs, is_low=is_low)[0]
    return [first, *finish(search_epochs, is_low=is_low, steps=steps)]


def epochs_after(search_epochs: int, *, is_low: bool, steps: int) -> int:
    """Returns how many epochs follow a search of so many."""
    phases = phases_after(search_epochs, is_low=is_low, steps=steps)
    return sum(phase.num_epochs for phase in phases)


def fit_phases(
    make: Callable[[int], Sequence[Phase]], search_epochs: int, epochs_left: float
) -> list[Phase]:
    """Returns the phases after a search, as long as they may be.

    Args:
        make: Returns the phases that follow a search of so many epochs.
        search_epochs: Of the search; shorter ones are assumed while the phases do not fit.
        epochs_left: There is time for.
    """
    for assumed in range(search_epochs, 0, -1):
        phases = list(make(assumed))
        if sum(phase.num_epochs for phase in phases) <= epochs_left:
            return phases
    return list(make(1))
