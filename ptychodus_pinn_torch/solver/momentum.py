"""The momentum of the solver (Maiden, Johnson & Li, Optica 4, 736, 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
import torch
from scipy.spatial import KDTree
from torch import Tensor

from .state import NOTHING, Freed, SolverState
from .tiles import EVERYWHERE

__all__ = ['Momentum', 'TileMomentum', 'Way']

MOMENTUM_INTERVAL = 9
"""Batches between two steps of the momentum."""

WIDTH = 0.35
"""Of the Gaussian, in steps of the scan: it leaves 9 % at their period, which then is carried on by a
tenth, not ninefold (docs/benchmarks.md: 0.25, 0.35 and 0.5 on rasters and on scans that are none)."""


STRAY = 0.03
"""Positions are on a raster where they stray from it by less than that part of its step, rms: 0.2 rad of
the phase of its period, so that a factor of that period changes the counts by a fifth of it at most."""


def _raster_px(state: SolverState) -> float:
    """Returns the step of the raster on which all positions lie, or 0 where they lie on none."""
    places = (state.corners.to(state.shifts) + state.shifts).double().cpu().numpy()
    if len(places) < 9:
        return 0.0
    tree = KDTree(places)
    middle = places[tree.query(places.mean(axis=0))[1]]
    ways = places[tree.query(middle, k=9)[1]] - middle
    ways = ways[numpy.hypot(*ways.T) > 0.0]
    if not len(ways):
        return 0.0
    lengths = numpy.hypot(*ways.T)
    is_across = numpy.abs(ways @ [ways[0, 1], -ways[0, 0]]) > 0.5 * lengths * lengths[0]
    if not is_across.any():
        return 0.0
    steps = numpy.stack([ways[0], ways[is_across][0]])  # the nearest are first
    for _ in range(3):
        numbers = numpy.rint((places - middle) @ numpy.linalg.inv(steps))
        columns = numpy.column_stack([numbers, numpy.ones(len(places))])
        solved, _, rank, _ = numpy.linalg.lstsq(columns, places)
        if rank < 3:
            return 0.0
        steps = solved[:2]
    stray = float(numpy.sqrt(((places - columns @ solved) ** 2).sum(axis=1).mean()))
    step = float(numpy.hypot(*steps.T).min())
    return step if stray < STRAY * step else 0.0


def _smooth(values: Tensor, width_px: float) -> Tensor:
    """Returns values (..., Y, X) smoothed with a Gaussian of that standard deviation."""
    y, x = (torch.fft.fftfreq(n, device=values.device) for n in values.shape[-2:])
    kept = torch.exp(-2.0 * (torch.pi * width_px) ** 2 * (y[:, None] ** 2 + x**2))
    return torch.fft.ifft2(torch.fft.fft2(values) * kept)


class Momentum:
    """Carries object and probe on along the way that they have come since the last time.

    `v <- f v + (O - O_before); O <- O + f v`, for the probe with half the factor. It makes the
    low spatial frequencies, which single batches hardly see, arrive early. Annealing must follow:
    what is carried on is noise as well. Every tile of a large canvas has a momentum of its own.

    Where the probe is freed and the scan is a raster, only what is wider than its step is carried on: a
    factor of its period may go from the object to the probe without a change of the patterns, and the
    noise along it would grow without end.

    Args:
        state: Where it starts; a new phase of the solver starts with a new momentum.
        freed: What is moved beside the object.
        factor: f, between 0 and 1.
    """

    def __init__(self, state: SolverState, freed: Freed = NOTHING, factor: float = 0.9) -> None:
        self._width_px = WIDTH * _raster_px(state) if freed.probe else 0.0
        self._factor, self.probe = factor, Way(state.probe, 0.5 * factor, width_px=self._width_px)
        self._whole: Way | None = None
        self._velocities: dict[int, Tensor] = {}
        self._counters: dict[int, _Counter] = {}

    def of(
        self, tile: int, box: tuple[slice, slice], state: SolverState, probe: Way | None = None
    ) -> TileMomentum:
        """Returns the momentum of a tile, whose patterns see that box of the canvas.

        What has moved the object there since the tile was left is no way of its own.

        Args:
            tile: Its number.
            box: Of the canvas.
            state: At present.
            probe: The way of the probe, where the tile has its own.
        """
        canvas, counter = state.canvas[:, *box], self._counters.setdefault(tile, _Counter())
        if box == EVERYWHERE:
            way = self._whole = self._whole or Way(canvas, self._factor, width_px=self._width_px)
        else:
            way = Way(canvas, self._factor, self._velocities.get(tile), self._width_px)
            self._velocities[tile] = way.velocity
        return TileMomentum(box, way, probe or self.probe, counter)

    def follow(self, state: SolverState) -> None:
        """Goes on from a state that something else has moved, which is no way of its own."""
        self.probe.before.copy_(state.probe)
        if self._whole is not None:
            self._whole.before.copy_(state.canvas)


class Way:
    """What something has come since the last time, and how fast.

    Args:
        start: Where it is.
        factor: What is left of the velocity after a step.
        velocity: That it has already, changed in place.
        width_px: Standard deviation of the Gaussian that it is smoothed with; 0 for none.
    """

    def __init__(
        self, start: Tensor, factor: float, velocity: Tensor | None = None, width_px: float = 0.0
    ) -> None:
        self.before, self.factor, self.width_px = start.clone(), factor, width_px
        self.velocity = torch.zeros_like(start) if velocity is None else velocity

    def clone(self) -> Way:
        """Returns an independent copy."""
        return Way(self.before, self.factor, self.velocity.clone(), self.width_px)

    def carry_on(self, present: Tensor) -> None:
        """Moves what is at present there on along its way."""
        self.velocity.mul_(self.factor).add_(present - self.before)
        if self.width_px:
            self.velocity.copy_(_smooth(self.velocity, self.width_px))
        present.add_(self.velocity, alpha=self.factor)
        self.before.copy_(present)


@dataclass
class _Counter:
    batches: int = 0


@dataclass(frozen=True)
class TileMomentum:
    """That of one tile: of its box of the canvas, and of the probe."""

    box: tuple[slice, slice]
    canvas: Way
    probe: Way
    counter: _Counter

    def count_batch(self, state: SolverState, *, update_probe: bool) -> None:
        """Takes notice of a batch, and moves the state when it is time."""
        self.counter.batches += 1
        if self.counter.batches % MOMENTUM_INTERVAL == 0:
            self.canvas.carry_on(state.canvas[:, *self.box])
            if update_probe:
                self.probe.carry_on(state.probe)
