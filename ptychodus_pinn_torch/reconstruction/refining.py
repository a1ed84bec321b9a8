"""The course of a refinement: batches, dose, held-out patterns, when to stop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy
import torch
from torch import Tensor

from ..config import Config, ReconstructionConfig
from ..physics.measurement import ScanReader
from ..scan.grouping import choose_held_out
from .solver import (
    AdamRefiner,
    RefinementState,
    RpieSettings,
    adam_epoch,
    relative_error,
    rpie_epoch,
)

if TYPE_CHECKING:
    from .procedure import Progress

__all__ = ['Refined', 'refine']

MAX_EPOCHS = 8
LOW_DOSE = 5e4
"""Photons per pattern below which many patterns share an update."""
HOLDOUT_FRACTION = 0.04
MIN_PATTERNS_TO_HOLD_OUT = 50
SMALLEST_GAIN = 0.01
"""The refinement goes on while an epoch lowers the held-out error by at least this part."""


@dataclass
class Refined:
    """The outcome of a refinement."""

    state: RefinementState
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
    is_automatic: bool


def _plan(reader: ScanReader, config: Config, *, is_from_network: bool) -> Plan:
    options = config.reconstruction
    rng = numpy.random.default_rng([config.training.seed, 5])
    is_automatic = options.refine_epochs < 0
    held_out = numpy.empty(0, dtype=numpy.int64)
    if is_automatic and reader.num_patterns >= MIN_PATTERNS_TO_HOLD_OUT:
        held_out = choose_held_out(reader.scan.positions_px, HOLDOUT_FRACTION, rng)
    training = numpy.setdiff1d(numpy.arange(reader.num_patterns), held_out)
    alpha, batch = _by_dose(reader, options, is_from_network=is_from_network)
    settings = RpieSettings(
        alpha=alpha,
        update_probe=options.update_probe,
        update_positions=options.update_positions,
    )
    epochs = options.refine_epochs
    if is_automatic:
        epochs = MAX_EPOCHS if len(held_out) else 1
    return Plan(
        settings,
        batch,
        torch.from_numpy(training),
        torch.from_numpy(held_out),
        epochs,
        is_automatic,
    )


def _by_dose(
    reader: ScanReader, options: ReconstructionConfig, *, is_from_network: bool
) -> tuple[float, int]:
    """Returns alpha and batch: gentle where the start is good, large where photons are few."""
    photons = reader.total_counts() / max(1, reader.num_patterns)
    is_low = photons < LOW_DOSE
    alpha = options.alpha or (1.0 if is_low or is_from_network else 0.3)
    usual = 16 if is_from_network else 8
    batch = options.refine_batch or (64 if is_low or reader.device.type != 'cpu' else usual)
    return alpha, min(batch, reader.num_patterns)


def refine(
    start: tuple[str, Tensor],
    reader: ScanReader,
    config: Config,
    progress: Progress,
    rerun: Callable[[], Tensor] | None = None,
    *,
    is_good_start: bool = False,
) -> Refined:
    """Returns the refined start.

    Args:
        start: Its name and its canvas.
        reader: The scan.
        config: What to update, how long, and by which rule.
        progress: Takes reports, times and sentences.
        rerun: Given when the probe is updated from a network start: runs the network with the
            present probe of the reader. A wrong probe spoils the network's image, so the probe is
            first mended from a flat start, and what explains the counts best goes on.
        is_good_start: The start needs a gentle refinement.
    """
    name, canvas = start
    plan = _plan(reader, config, is_from_network=is_good_start and rerun is None)
    started = time.monotonic()
    run, first = _new_run(name, canvas, reader), 0
    if rerun is not None and plan.max_epochs > 1:
        run, first = _mend_probe(run, rerun, plan, reader, config, progress)
    if config.reconstruction.refine_method == 'adam':
        _run_adam(run, plan, reader, config, progress)
    else:
        _run_rpie(run, first, plan, reader, config, progress)
    progress.spent('refine', started)
    return run


def _new_run(name: str, canvas: Tensor, reader: ScanReader) -> Refined:
    state = RefinementState(canvas.detach().clone(), reader.probe.clone(), reader.shifts.clone())
    return Refined(state, name)


def _mend_probe(
    network: Refined,
    rerun: Callable[[], Tensor],
    plan: Plan,
    reader: ScanReader,
    config: Config,
    progress: Progress,
) -> tuple[Refined, int]:
    """Returns the best of three runs after the same number of epochs, and that number.

    The three: from the network under the given probe, from flat, and from the network under the
    probe that the flat run has arrived at.
    """
    epochs = min(3, max(1, plan.max_epochs // 2))
    level = network.state.canvas.abs().mean()
    flat = _new_run('flat', torch.ones_like(network.state.canvas) * level, reader)
    for epoch in range(epochs):
        _epoch(flat, epoch, plan, reader, config, progress)
    given = reader.probe
    reader.probe = flat.state.probe
    again = _new_run('network', rerun(), reader)
    reader.probe = given
    again.state.shifts = flat.state.shifts.clone()
    again.losses = list(flat.losses[:-1])
    _epoch(again, epochs - 1, plan, reader, config, progress)
    for epoch in range(epochs):
        _epoch(network, epoch, plan, reader, config, progress)
    best = min((network, again, flat), key=lambda run: _judge(run, plan, reader))
    if best is flat:
        progress.say(
            f'{reader.scan.name}: with the probe as far as it could be mended, the flat start '
            'explains the counts better than the network: going on from the flat one.'
        )
    return best, epochs


def _batches(plan: Plan, epoch: int, config: Config) -> Sequence[Tensor]:
    rng = numpy.random.default_rng([config.training.seed, 6, epoch])
    order = torch.from_numpy(rng.permutation(len(plan.training)))
    return plan.training[order].split(plan.batch)


def _epoch(
    run: Refined, epoch: int, plan: Plan, reader: ScanReader, config: Config, progress: Progress
) -> None:
    started = time.monotonic()
    total = len(plan.training)
    error = rpie_epoch(
        run.state,
        reader,
        _batches(plan, epoch, config),
        plan.settings,
        lambda done: progress.step(
            'refine', epoch * total + done, plan.max_epochs * total, started
        ),
    )
    run.losses.append((epoch + 1, error))


def _judge(run: Refined, plan: Plan, reader: ScanReader) -> float:
    """Returns the error on held-out patterns, or on all where none are held out."""
    which = plan.held_out if len(plan.held_out) else plan.training
    return relative_error(run.state, reader, which.split(reader.piece_size))


def _run_rpie(
    run: Refined, first: int, plan: Plan, reader: ScanReader, config: Config, progress: Progress
) -> None:
    kept, best = run.state.clone(), float('inf')
    if first and len(plan.held_out):
        best = _judge(run, plan, reader)
    for epoch in range(first, plan.max_epochs):
        _epoch(run, epoch, plan, reader, config, progress)
        if not plan.is_automatic or not len(plan.held_out):
            continue
        error = _judge(run, plan, reader)
        if error < best:
            kept = run.state.clone()
        if error > best * (1.0 - SMALLEST_GAIN):
            run.state = kept
            best = min(best, error)
            break
        best = error
    if plan.is_automatic and len(plan.held_out):
        run.held_out = best
        rpie_epoch(run.state, reader, plan.held_out.split(plan.batch), plan.settings)


def _run_adam(
    run: Refined, plan: Plan, reader: ScanReader, config: Config, progress: Progress
) -> None:
    options = config.reconstruction
    refiner = AdamRefiner(
        run.state,
        update_probe=options.update_probe,
        update_positions=options.update_positions,
    )
    started, total = time.monotonic(), len(plan.training)
    best, kept = float('inf'), run.state.canvas.detach().clone()
    for epoch in range(plan.max_epochs):
        error = adam_epoch(
            refiner,
            reader,
            _batches(plan, epoch, config),
            lambda done, epoch=epoch: progress.step(  # type: ignore[misc]
                'refine', epoch * total + done, plan.max_epochs * total, started
            ),
        )
        run.losses.append((epoch + 1, error))
        if plan.is_automatic and len(plan.held_out):
            with torch.no_grad():
                judged = _judge(run, plan, reader)
            if judged < best:
                best, kept = judged, run.state.canvas.detach().clone()
            else:
                break
    refiner.finish()
    if plan.is_automatic and len(plan.held_out):
        run.held_out = best
        run.state.canvas = kept
