"""The scale that positions share with their image: which one explains counts that no image has seen.

Positions that are all a little too far apart, with an image as much too large, explain the counts
nearly as well as the right ones: what tells them apart is only how the image looks under a probe
whose size is known. Steps pattern by pattern creep along that valley. Here an image is made at three
scales, and counts that none of them has seen say where between them the best one is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Float
from scipy.ndimage import affine_transform
from torch import Tensor

from ..physics.measurement import Measurement
from ..scan.grouping import choose_held_out
from ..solver.annealing import anneal, is_low_dose, is_time_to_straighten, search
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import NOTHING, SolverState
from .evidence import SURE, Evidence, weigh
from .run_log import RunLog
from .splitting import Split, take_middle

__all__ = ['Scale', 'measure_scale', 'put_back', 'scaling_epochs', 'settle_scale', 'stretched']

TRIED = 0.004
"""Part of the distances by which both are stretched, and compressed, in trials; what is found is believed up
to twice that far, and looked for again from there."""

PATTERNS, UNSEEN, EPOCHS = 256, 0.3, 6
"""Patterns in the middle of the scan that are asked, the part of their inner half that no image sees, and the
epochs of the search of each. The image of the whole scan has seen them all, and each begins with it: on
leaves, photographs and independent objects of 1e5 and 1e6 photons, at right positions and at some 0.3 % too
far apart, 48 scales were 0.04 % off, 1.1 standard errors (rms). Of 1e4 photons the image has a scale of its own:
24 scales were 0.2 % too large, 1.6 standard errors (docs/benchmarks.md)."""

LEAST, LEAST_OF_GIVEN = 5e-4, 1e-3
"""Part of the distances that is not worth a resampling: the patterns that overlap are 0.02 px off by it; and that
up to which positions are believed that nothing else asks to move."""

NEAR, MOST_ROUNDS = 0.5, 4
"""Part of what is tried within which a vertex lies between the three images, and is final; and rounds in which
a scale is looked for."""

SPLINE_ORDER = 5
"""The highest that scipy has: an image that is stretched and compressed again loses the least."""


@dataclass(frozen=True)
class Scale:
    """By which part of their distances positions are wanted farther apart.

    Attributes:
        part: Of the distances; negative where they are wanted nearer.
        standard_error: That of it.
    """

    part: float
    standard_error: float

    def is_sure(self, least: float = LEAST) -> bool:
        """Returns whether it is not by chance, and more than the least that is worth it."""
        return abs(self.part) > max(least, SURE * self.standard_error)


def scaling_epochs(num_patterns: int) -> float:
    """Returns how many epochs of a scan of so many patterns a round takes."""
    epochs = EPOCHS + sum(phase.num_epochs for phase in anneal(EPOCHS, is_low=False))
    return 3.0 * epochs * (1.0 - UNSEEN / 2.0) * min(1.0, PATTERNS / num_patterns)


def settle_scale(
    state: SolverState,
    measurement: Measurement,
    seed: int,
    log: RunLog,
    name: str,
    *,
    are_given: bool = False,
) -> float:
    """Returns by which part of the distances unseen counts want the state stretched, and says so.

    Args:
        state: An image.
        measurement: With the counts.
        seed: Of the order of patterns, and of the choice of those that no image sees.
        log: Takes reports, times and the sentence.
        name: Of the scan.
        are_given: The positions are the given ones.
    """
    if is_low_dose(measurement):
        return 0.0
    found, total = state, 1.0
    number = round(scaling_epochs(measurement.num_patterns) * measurement.num_patterns)
    for _ in range(MOST_ROUNDS):
        scale = measure_scale(found, measurement, seed, log.counter('scale', number))
        if not scale.is_sure(LEAST_OF_GIVEN if are_given and found is state else LEAST):
            break
        total *= 1.0 + scale.part
        found = stretched(state, total - 1.0)
        if abs(scale.part) < NEAR * TRIED:
            break
    part = total - 1.0
    if part:
        log.say(
            f'{name}: the positions, and the image, are stretched by {100.0 * part:+.2f} % '
            f'(+- {100.0 * scale.standard_error:.2f} %), as counts want that no image has seen: '
            'compare the pixel size, the distance and the unit of the positions.'
        )
    return part


def stretched(state: SolverState, part: float) -> SolverState:
    """Returns a state whose positions are farther apart by a part of their distances, and its image."""
    found, window = state.clone(), numpy.asarray(state.probe.shape[-2:])
    places = (state.corners + state.shifts.cpu()).to(torch.float64)
    middle = places.mean(dim=0)
    if part:
        center = middle.numpy() + (window - 1) / 2
        matrix = numpy.eye(2) / (1.0 + part)
        image = state.canvas[0].cpu().numpy()
        parts = [
            affine_transform(
                x, matrix, center - matrix @ center, order=SPLINE_ORDER, mode='nearest'
            )
            for x in (image.real, image.imag)
        ]
        found.canvas = torch.complex(*map(torch.from_numpy, parts))[None].to(state.canvas.device)
    wanted = middle + (places - middle) * (1.0 + part) - state.corners
    found.shifts = wanted.to(state.shifts.device, state.shifts.dtype)
    found.move_windows()
    return found


def put_back(state: SolverState, measurement: Measurement) -> SolverState:
    """Returns a state whose positions are those of the measurement, and its image, which has their scale."""
    places, wanted = (
        (corners + shifts.cpu()).to(torch.float64)
        for corners, shifts in (
            (state.corners, state.shifts),
            (measurement.corners, measurement.shifts),
        )
    )
    ways, given = places - places.mean(dim=0), wanted - wanted.mean(dim=0)
    size = float(ways.square().sum())
    found = stretched(state, float((ways * given).sum()) / size - 1.0 if size else 0.0)
    found.corners, found.shifts = measurement.corners.clone(), measurement.shifts.clone()
    return found


def measure_scale(
    state: SolverState,
    measurement: Measurement,
    seed: int,
    after_batch: Callable[[int], None] | None = None,
) -> Scale:
    """Returns the scale at which a parabola through what three scales explain is the highest."""
    seen = state.seen(replace(measurement, after_chunk=None))
    places = (state.corners + state.shifts.cpu()).to(torch.float64).numpy()
    chosen = take_middle(places, PATTERNS)
    part, box = seen.part(chosen)
    inner = take_middle(places[chosen.numpy()], len(chosen) // 2).numpy()
    rng = numpy.random.default_rng([seed, 10])
    held_out = inner[choose_held_out(places[chosen.numpy()][inner], UNSEEN, rng)]
    split = Split(torch.arange(len(chosen)), torch.from_numpy(held_out))
    start = SolverState.start(state.canvas[:, *box], part)
    narrower, same, wider = (
        _image_at(start, change, part, split.training, seed, after_batch)
        for change in (-TRIED, 0.0, TRIED)
    )
    below = weigh(same, narrower, part, split.held_out).gains
    above = weigh(same, wider, part, split.held_out).gains
    return _vertex(below, above)


def _vertex(below: Float[Tensor, ' pattern'], above: Float[Tensor, ' pattern']) -> Scale:
    """Returns where the parabola is the highest, from the gains of patterns on both sides of its middle."""
    slope, bend = above - below, Evidence(-2.0 * (above + below))
    if not bend.mean > SURE * bend.standard_error:
        return Scale(0.0, 0.0)  # nothing is known of it
    ratio = float(slope.mean()) / bend.mean
    error = Evidence(slope - ratio * bend.gains).standard_error / bend.mean
    return Scale(TRIED * min(2.0, max(-2.0, ratio)), TRIED * error)


def _image_at(
    start: SolverState,
    change: float,
    measurement: Measurement,
    which: Tensor,
    seed: int,
    after_batch: Callable[[int], None] | None,
) -> SolverState:
    """Returns the image that some patterns make, where they are farther apart by a part."""
    state, done = stretched(start, change), 0
    for phase in (search(EPOCHS, is_low=False, is_gentle=False), *anneal(EPOCHS, is_low=False)):
        momentum, settings = Momentum(state), RpieSettings(alpha=1.0, step=phase.step)
        for _ in range(phase.num_epochs):
            rng = numpy.random.default_rng([seed, 9, done])
            order = which[torch.from_numpy(rng.permutation(len(which)))]
            rpie_epoch(
                state, measurement, order.split(phase.batch), settings, after_batch, momentum
            )
            done += 1
            if is_time_to_straighten(done):
                state.straighten(measurement, which, NOTHING)
                momentum.follow(state)
    return state
