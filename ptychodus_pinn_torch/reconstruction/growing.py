"""Positions that drift by tens of pixels: the image grows from a few frames along the scan."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..physics.measurement import Measurement
from ..physics.probe import shift_probe
from ..physics.propagation import intensity
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import Freed, SolverState
from .misfit import misfit

__all__ = ['Grown', 'Growth', 'is_smooth']

MARGIN_PX = 48
"""Around the canvas, since drift is measured from that of the first frames."""

FIRST_FRAMES = 8
FIRST_STEPS = ((20, 2, 0.0), (40, 2, 0.5), (10, 4, 0.5))
"""Epochs, patterns per update and step of the positions with which the first frames are found."""

FIRST_REACH = 1.5
"""Radii of the probe within which they lie."""

NEW_FRAMES, JOINING_BATCH = 8, 4
"""Are added at a time; patterns per update of these alone."""

NEIGHBOURS, STIFFNESS, FARTHEST = 10, 50.0, 8
"""Frames along whose drift the path is continued; against its slope, in squares of frames; and by
how many frames at most."""

KNOWN_POWER, ILLUMINATED = 0.35, 0.1
"""Part of the power of the probe that must meet what is known; from which part of the peak on a
pixel is known."""

REACH_POWER = 0.9
"""The frames around new ones are those nearer than the radius that holds this part of the power."""

PLACING_STEPS, JOINING_EPOCHS, LOCAL_EPOCHS = 3, 2, 4
ENLARGED, SETTLING_EPOCHS = 1.3, 2
"""When the image has become larger by this factor, all that is known is gone through."""

POLISHING_EPOCHS, MOST_POLISHING = 8, 8
"""Between two looks at the error; so often at most."""

POSITION_MOMENTUM = 0.9
EXPLAINED, STILL_FALLING = 1.03, 0.95
"""Error over that of photon noise, and its fall, from which on no more is polished."""

BADLY_EXPLAINED = 1.35
"""Error over that of photon noise from which on the probe is adjusted as well."""

LEAST_CORRELATION = 0.25
"""Of moves that follow each other: errors that have nothing to do with time stay below 0.1."""

LOCAL_BATCH, SETTLING_BATCH = 8, 16


def is_smooth(moves: Float[Tensor, 'frame 2']) -> bool:
    """Returns whether moves (N, 2), in the order of the scan, are those of a drift."""
    moves = moves - moves.mean(dim=0)
    power = float(moves.square().mean())
    return power > 0.0 and float((moves[1:] * moves[:-1]).mean()) > LEAST_CORRELATION * power


@dataclass(frozen=True)
class Grown:
    """What has been found.

    Attributes:
        state: On a canvas that is wider all round than that of the measurement.
        margin_px: By so much.
    """

    state: SolverState
    margin_px: int


@dataclass
class _Polish:
    """Positions carried on along the way that they have come, as the object is by its momentum.

    Errors that change slowly over the scan are hardly seen by single frames: object and positions
    are off together.
    """

    before: Float[Tensor, 'frame 2']
    velocity: Float[Tensor, 'frame 2']

    def carry_on(self, state: SolverState, measurement: Measurement) -> None:
        self.velocity = POSITION_MOMENTUM * self.velocity
        self.velocity += state.moves(measurement) - self.before
        state.shifts += POSITION_MOMENTUM * self.velocity
        state.move_windows()
        self.before = state.moves(measurement)


class Growth:
    """Finds object and positions of frames that follow each other in time.

    Frames next to each other in the scan are off by nearly the same. A few of them make a first
    image; from then on the next ones at both ends are placed where the drift of their neighbours
    in time lets expect them, moved until they agree with what is known, and join in. Nothing is
    assumed about the drift but that it is small from frame to frame.

    Args:
        measurement: One canvas.
        order: (K,) frames that make the image, in the order of the scan, on the host.
        step: Factor on the object update.
        seed: Of the order in which patterns are met.
        count: Takes the number of patterns of a batch; may raise to stop.
    """

    def __init__(
        self,
        measurement: Measurement,
        order: Int[Tensor, ' frame'],
        *,
        step: float,
        seed: int,
        count: Callable[[int], None],
    ) -> None:
        self.given, self.original = measurement.widened(MARGIN_PX), measurement
        self.order, self.step, self.count = order, step, count
        self.state = SolverState.start(self.given.flat(), self.given)
        self.expected = self.given
        self.known = torch.zeros(len(order), dtype=torch.bool)
        self.power = intensity(measurement.probe).cpu()
        self.light = torch.zeros(self.given.canvas_shape[1:])
        self.rng = numpy.random.default_rng([seed, 8])
        self.radius = _radius(self.power)

    @staticmethod
    def num_patterns_met(number: int) -> int:
        """Returns about how many patterns the growth of so many frames meets."""
        return 70 * number

    def run(self, freed: Freed) -> Grown | None:
        """Returns object and positions, or None where frames that follow do not overlap.

        Args:
            freed: What is adjusted beside the positions, once all frames are placed and where
                that does not explain them.
        """
        if len(self.order) < 2 * FIRST_FRAMES or not self._begin():
            return None
        settled = int(self.known.sum())
        while not self.known.all():
            if not self._extend():
                return None
            number = int(self.known.sum())
            if number > ENLARGED * settled:
                which, settled = self.order[self.known], number
                self._go_through(which, SETTLING_EPOCHS, SETTLING_BATCH, step=0.5 * self.step)
        error = self._polish(Freed(positions=True))
        if freed.names() and error > BADLY_EXPLAINED:
            self._polish(replace(freed, positions=True))
        return self._placed() if self.state.is_finite() else None

    def _begin(self) -> bool:
        """Finds an image of frames that overlap and are as near in time as there are."""
        first = self._first_frames()
        if first is None:
            return False
        self.known[first] = True
        which = self.order[first]
        for epochs, batch, position_step in FIRST_STEPS:
            self._go_through(which, epochs, batch, position_step=position_step)
        self._illuminate(which)
        return True

    def _first_frames(self) -> Int[Tensor, ' first'] | None:
        """Returns the places in the order of the first frames, or None where none overlap."""
        places, best, shortest = self.given.corners[self.order].double(), None, math.inf
        middle = len(self.order) // 2
        for place in sorted(range(len(self.order)), key=lambda place: abs(place - middle)):
            distance = torch.linalg.vector_norm(places - places[place], dim=1)
            near = torch.nonzero(distance < FIRST_REACH * self.radius)[:, 0]
            if len(near) < FIRST_FRAMES:
                continue
            gaps = (self.order[near] - self.order[place]).abs()
            chosen = near[torch.argsort(gaps, stable=True)[:FIRST_FRAMES]]
            longest = float((self.order[chosen] - self.order[place]).abs().max())
            apart = torch.cdist(places[chosen], places[chosen]).fill_diagonal_(math.inf)
            if longest < shortest and float(apart.amin(dim=0).max()) < self.radius:
                best, shortest = chosen, longest
        return best

    def _extend(self) -> bool:
        """Lets the next frames join in; returns whether any could.

        They overlap what is known, and are those nearest in time to frames that are known.
        """
        known, unknown = (torch.nonzero(x)[:, 0] for x in (self.known, ~self.known))
        gaps = (self.order[unknown][:, None] - self.order[known]).abs()
        new: list[int] = []
        for place in torch.argsort(gaps.amin(dim=1), stable=True).tolist():
            near = known[torch.argsort(gaps[place], stable=True)[:NEIGHBOURS]]
            self._place(int(unknown[place]), near)
            if self._overlap(self.order[unknown[place]]) >= KNOWN_POWER:
                new.append(int(unknown[place]))
            if len(new) == NEW_FRAMES:
                break
        if not new:
            return False
        chosen = torch.tensor(new)
        which = self.order[chosen]
        self.expected = replace(
            self.given, corners=self.state.corners.clone(), shifts=self.state.shifts.clone()
        )
        self._go_through(which, PLACING_STEPS, len(which), step=0.0)
        self.known[chosen] = True
        self._illuminate(which)
        self._go_through(which, JOINING_EPOCHS, JOINING_BATCH, position_step=0.5)
        self._go_through(self._around(which), LOCAL_EPOCHS, LOCAL_BATCH)
        return True

    def _place(self, place: int, near: Tensor) -> None:
        """Puts a frame where the drift of frames `near` in time, continued, lets expect it."""
        frame, frames = self.order[place], self.order[near]
        times = (frames - frames[0]).double()
        drift = self.state.moves(self.given).cpu()[frames].double()
        terms = torch.stack([torch.ones_like(times), times], dim=1)
        normal = terms.T @ terms + torch.diag(torch.tensor([0.0, STIFFNESS]).double())
        level, slope = torch.linalg.solve(normal, terms.T @ drift)
        ahead = (frame - frames[0]).clamp(-FARTHEST, FARTHEST)
        wanted = (level + ahead * slope).float()
        shift = self.given.shifts[frame] + wanted.to(self.given.device)
        limit = torch.tensor(self.given.canvas_shape[1:]) - torch.tensor(self.given.window)
        corner = self.given.corners[frame] + shift.round().to('cpu', torch.int64)
        corner = torch.minimum(corner.clamp(min=0), limit)
        moved = (corner - self.given.corners[frame]).to(shift.device)
        self.state.corners[frame], self.state.shifts[frame] = corner, shift - moved

    def _overlap(self, frame: Tensor) -> float:
        """Returns the part of the power of the probe that meets what is known already."""
        (y, x), (height, width) = self.state.corners[frame].tolist(), self.given.window
        is_known = self.light[y : y + height, x : x + width] > ILLUMINATED * self.power.max()
        return float((self.power * is_known).sum() / self.power.sum())

    def _illuminate(self, which: Tensor) -> None:
        height, width = self.given.window
        for y, x in self.state.corners[which].tolist():
            self.light[y : y + height, x : x + width] += self.power

    def _around(self, which: Tensor) -> Tensor:
        """Returns the frames among those that are known which overlap some of them well."""
        places, known = self.state.corners.double(), self.order[self.known]
        distance = torch.cdist(places[known], places[which]).amin(dim=1)
        return known[distance < self.radius]

    def _go_through(
        self,
        which: Tensor,
        epochs: int,
        batch: int,
        *,
        step: float | None = None,
        position_step: float = 1.0,
    ) -> None:
        settings = RpieSettings(
            alpha=1.0,
            step=self.step if step is None else step,
            position_step=position_step,
            freed=Freed(positions=position_step > 0.0),
        )
        for _ in range(epochs):
            batches = self._shuffled(which).split(batch)
            rpie_epoch(self.state, self.expected, batches, settings, self.count)

    def _shuffled(self, which: Tensor) -> Tensor:
        return which[torch.from_numpy(self.rng.permutation(len(which)))]

    def _polish(self, freed: Freed) -> float:
        """Moves all frames, and what else is free, as long as it helps; returns the error."""
        error = misfit(self.state, self.given, self.order).to_noise
        settings = RpieSettings(alpha=1.0, step=self.step, probe_step=self.step, freed=freed)
        momentum, moves = Momentum(self.state), self.state.moves(self.given)
        polish = _Polish(moves, torch.zeros_like(moves))
        for _ in range(MOST_POLISHING):
            if error < EXPLAINED:
                break
            kept, before = self.state.clone(), error
            for _ in range(POLISHING_EPOCHS):
                present = replace(
                    self.given, corners=self.state.corners, shifts=self.state.shifts.clone()
                )
                batches = self._shuffled(self.order).split(LOCAL_BATCH)
                rpie_epoch(self.state, present, batches, settings, self.count, momentum)
                polish.carry_on(self.state, self.given)
            if freed.probe:
                self.state.anchor(self.given.probe)
                momentum.follow(self.state)
            error = misfit(self.state, self.given, self.order).to_noise
            if not error < before:
                self.state = kept
            if not error < STILL_FALLING * before:
                break
        return error

    def _placed(self) -> Grown:
        """Returns what was found on a canvas as wide as needed, its drift about zero.

        Frames that made no image are placed between their neighbours in time.
        """
        moves, order = self.state.moves(self.given).cpu(), self.order.numpy()
        frames = numpy.arange(self.given.num_patterns)
        between = [numpy.interp(frames, order, moves[self.order, k].numpy()) for k in range(2)]
        drift = torch.from_numpy(numpy.stack(between, axis=1)).float()
        way = drift.mean(dim=0)
        drift = drift - way
        margin = min(MARGIN_PX, math.ceil(float(drift.abs().max())) + 1)
        wide = self.original.widened(margin)
        canvas = shift_probe(self.state.canvas, -way[None].to(self.state.canvas.device))[0]
        inside = slice(MARGIN_PX - margin, canvas.shape[1] - MARGIN_PX + margin)
        across = slice(MARGIN_PX - margin, canvas.shape[2] - MARGIN_PX + margin)
        found = SolverState.start(canvas[:, inside, across], wide)
        found.probe, found.variation = self.state.probe.clone(), self.state.variation
        found.shifts += drift.to(found.shifts.device)
        found.move_windows()
        return Grown(found, margin)


def _radius(power: Float[Tensor, 'height width']) -> float:
    """Returns the radius about the middle that holds most of the power, pixels."""
    y, x = (torch.arange(length) - (length - 1) / 2.0 for length in power.shape)
    distance = torch.hypot(y[:, None], x[None]).flatten()
    order = torch.argsort(distance)
    sums = torch.cumsum(power.flatten()[order].double(), dim=0)
    place = int(torch.searchsorted(sums, REACH_POWER * sums[-1]))
    return float(distance[order[min(place, len(order) - 1)]])
