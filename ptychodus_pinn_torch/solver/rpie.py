"""The solver: ordered subsets of patterns move object, and where asked probe and positions.

rPIE in batches, with the momentum of mPIE (both Maiden, Johnson & Li, Optica 4, 736, 2017); large
scans tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..physics.measurement import Measurement
from ..physics.memory import for_each_part
from .batch_update import BatchUpdate, RpieSettings
from .common import CommonChange, exchange
from .momentum import Momentum, TileMomentum
from .position_step import expected_spread
from .state import SolverState
from .tiles import EVERYWHERE, Part, Tiles

__all__ = ['RpieSettings', 'rpie_epoch']


@torch.no_grad()
def rpie_epoch(
    state: SolverState,
    measurement: Measurement,
    batches: Sequence[Tensor],
    settings: RpieSettings,
    after_batch: Callable[[int], None] | None = None,
    momentum: Momentum | None = None,
) -> float:
    """Updates `state` by one pass over the batches and returns the relative amplitude error met.

    Args:
        state: Changed in place.
        measurement: The patterns; its own probe and shifts are not looked at.
        batches: Indices (J,) of the patterns of each update, in order, on the host. On a canvas
            of several tiles, a batch has as many patterns of one of them.
        settings: Step sizes, and what is updated.
        after_batch: Called with the number of patterns of a batch; may raise to stop.
        momentum: Of the phase that the epoch belongs to, if it has one.
    """
    freed = settings.freed
    if freed.factors and state.factors is None:
        state.factors = torch.ones(measurement.num_patterns, device=measurement.device)
    if freed.background and state.background is None:
        state.background = torch.zeros((), device=measurement.device)
    run = _Run(measurement, settings, after_batch, expected_spread(state.moves(measurement)))
    tiles = Tiles.of(measurement)
    if len(tiles) == 1:
        beside = None if momentum is None else momentum.of(0, EVERYWHERE, state)
        misfit = run.go(state, batches, beside)
    else:
        misfit = torch.zeros(2, device=measurement.device)
        owners = tiles.owners(measurement.corners, measurement.team.size)
        for parts in tiles.parts(torch.cat(list(batches)), state.corners):
            misfit += _go_beside(run, state, parts, owners, len(batches[0]), momentum)
        measurement.team.add_up(misfit)
    if freed.factors and state.factors is not None:
        state.factors /= state.factors.mean()
    if freed.positions:
        state.move_windows()
    if freed.probe and state.variation is not None:
        state.orthogonalise()
        if momentum is not None:
            momentum.follow(state)
    error, counts = misfit.tolist()
    return error / max(counts, 1e-9)


def _go_beside(
    run: _Run,
    state: SolverState,
    parts: Sequence[Part],
    owners: Tensor,
    size: int,
    momentum: Momentum | None,
) -> Tensor:
    """Runs parts whose boxes do not overlap; returns the sums of errors and of counts of its own.

    What belongs to all patterns, the probe and the background, moves in every part by itself, and then
    by the mean of all. Of a team, every process runs its own parts.
    """
    misfit, team = torch.zeros(2, device=state.canvas.device), run.measurement.team
    common = CommonChange(state, run.settings.freed, momentum)
    mine = [part for part in parts if owners[part.tile] == team.rank]
    for part in mine:
        own, way = common.lend()
        beside = None if momentum is None else momentum.of(part.tile, part.box, state, way)
        misfit += run.go(own, part.indices.split(size), beside)
        common.add(own, way, len(part.indices))
    common.apply(team)
    if team.size > 1:
        exchange(state, parts, mine, run.settings.freed, team)
        if run.after_batch is not None:
            others = sum(len(part.indices) for part in parts)
            run.after_batch(others - sum(len(part.indices) for part in mine))
    return misfit


@dataclass(frozen=True)
class _Run:
    """An epoch of batches, of the whole scan or of a part of it."""

    measurement: Measurement
    settings: RpieSettings
    after_batch: Callable[[int], None] | None
    spread: Tensor

    def go(
        self, state: SolverState, batches: Iterable[Tensor], momentum: TileMomentum | None
    ) -> Tensor:
        """Runs batches one after the other, and returns the sums of errors and of counts (2,)."""
        measurement, freed = self.measurement, self.settings.freed
        seen, misfit = state.seen(measurement), torch.zeros(2, device=measurement.device)
        for number, indices in enumerate(batches):
            update = BatchUpdate(state, measurement, indices, self.settings, number, self.spread)
            for_each_part(seen, indices, update.add)
            update.apply()
            misfit += update.misfit
            if momentum is not None:
                momentum.count_batch(state, update_probe=freed.probe)
            if freed.probe:
                seen = state.seen(measurement)
            if self.after_batch is not None:
                self.after_batch(len(indices))
        return misfit
