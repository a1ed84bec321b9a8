"""Which patterns make up the batches of an epoch, and of a validation: rows of indices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

from ..config import Config
from ..physics.measured_scan import MeasuredScan
from ..scan.grouping import choose_held_out, draw_groups

__all__ = ['Task', 'group_size_of', 'plan_epoch', 'plan_validation']

MAX_VALIDATION_GROUPS = 16
MIN_VALIDATION_NEIGHBORS = 16
SMALL_PATTERN_PX = 96
BIG_GROUP, SMALL_GROUP = 36, 16
PATCHWISE_BATCH = 8


@dataclass(frozen=True)
class Task:
    """What one batch is made of.

    Attributes:
        scan: Number of the scan.
        indices: (B, C) patterns.
        held_out: (B, C) True for patterns that the network must not see, or None.
        seed: Not None: replace the measurement by a simulated one of random objects.
    """

    scan: int
    indices: NDArray[numpy.int64]
    held_out: NDArray[numpy.bool_] | None = None
    seed: int | None = None


def group_size_of(config: Config, pattern_size: int) -> int:
    """Returns C: what the configuration says, or what suits network and pattern size."""
    if config.grouping.group_size:
        return config.grouping.group_size
    if config.network.is_patchwise:
        return config.network.stack_size
    return BIG_GROUP if pattern_size < SMALL_PATTERN_PX else SMALL_GROUP


def batch_size_of(config: Config) -> int:
    """Returns B, the groups per step."""
    return config.training.batch_size or (PATCHWISE_BATCH if config.network.is_patchwise else 1)


def split_members(
    measured: MeasuredScan, fraction: float, seed: Sequence[int]
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Returns the patterns of a scan that a network may see, and those that judge it."""
    rng = numpy.random.default_rng(seed)
    held_out = choose_held_out(measured.positions_px, fraction, rng)
    return numpy.setdiff1d(numpy.arange(measured.measurement.num_patterns), held_out), held_out


def _training_split(
    measured: MeasuredScan, config: Config, number: int
) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    seed = [config.training.seed, 1, number]
    members, held_out = split_members(measured, config.training.holdout_fraction, seed)
    most = config.grouping.max_patterns
    if 0 < most < len(members):
        rng = numpy.random.default_rng([config.training.seed, 9, number])
        members = numpy.sort(rng.choice(members, most, replace=False))
    return members, held_out


def plan_epoch(
    scans: Sequence[MeasuredScan], config: Config, epoch: int, *, rank: int = 0, world: int = 1
) -> list[Task]:
    """Returns the batches of an epoch: every training pattern of every scan at least once.

    With several processes each takes its part of every batch, so that W processes do together
    what one does with W times the batch.
    """
    rng = numpy.random.default_rng([config.training.seed, 2, epoch])
    size = batch_size_of(config)
    plans: list[tuple[int, NDArray[numpy.int64]]] = []
    for number, measured in enumerate(scans):
        group_size = group_size_of(config, measured.scan.pattern_shape[0])
        members = _training_split(measured, config, number)[0]
        drawn = [
            draw_groups(
                measured.positions_px,
                group_size,
                rng,
                members=members,
                neighbor_pool=config.grouping.neighbor_pool,
                max_distance_px=config.grouping.max_distance_px,
            )
            for _ in range(config.grouping.groups_per_pattern)
        ]
        groups = numpy.concatenate(drawn)
        steps = math.ceil(len(groups) / (size * world))
        filled = numpy.resize(groups, (steps * size * world, groups.shape[1]))
        plans += [(number, part) for part in filled.reshape(steps, size * world, -1)]
    order = rng.permutation(len(plans))
    # every optimiser step has its full number of batches; the first come again where some lack
    accumulate = config.training.accumulate
    order = numpy.resize(order, math.ceil(len(order) / accumulate) * accumulate)
    synthetic = rng.random(len(plans)) < config.training.synthetic_fraction
    seeds = rng.integers(2**62, size=len(plans))
    own = slice(rank * size, (rank + 1) * size)
    return [
        Task(
            plans[index][0],
            plans[index][1][own],
            seed=int(seeds[index]) + rank if synthetic[index] else None,
        )
        for index in order
    ]


def plan_validation(
    scans: Sequence[MeasuredScan], config: Config, *, is_training_scan: bool
) -> list[Task]:
    """Returns groups whose first pattern is held out, and to be predicted from the others.

    Scans of the training are judged on patterns that training never sees; others on patterns
    scattered over them.
    """
    tasks = []
    for number, measured in enumerate(scans):
        if is_training_scan:
            members, seeds = _training_split(measured, config, number)
        else:
            fraction = MAX_VALIDATION_GROUPS / measured.measurement.num_patterns
            members, seeds = split_members(measured, fraction, [config.training.seed, 3, number])
        if not len(seeds) or not len(members):
            continue
        spread = numpy.linspace(0, len(seeds) - 1, MAX_VALIDATION_GROUPS).round().astype(int)
        tasks += _validation_tasks(measured, config, number, seeds[numpy.unique(spread)], members)
    return tasks


def _validation_tasks(
    measured: MeasuredScan,
    config: Config,
    number: int,
    seeds: NDArray[numpy.int64],
    members: NDArray[numpy.int64],
) -> list[Task]:
    positions = measured.positions_px
    wanted = max(group_size_of(config, measured.scan.pattern_shape[0]), MIN_VALIDATION_NEIGHBORS)
    size = min(wanted, len(members))
    rows = []
    for seed in seeds:
        distance = numpy.hypot(*(positions[members] - positions[seed]).T)
        near = members[numpy.argsort(distance, kind='stable')[:size]]
        rows.append(numpy.concatenate([[seed], near]))
    held_out = numpy.zeros((1, size + 1), dtype=bool)
    held_out[:, 0] = True
    return [Task(number, row[None], held_out) for row in rows]
