"""Batches of groups, made from rows of indices when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ..config import Config
from ..physics.forward_model import GroupBatch
from ..physics.measurement import ScanReader
from ..scan.grouping import choose_held_out, draw_groups, order_group_of_four
from .synthetic import with_random_objects

__all__ = [
    'GroupDataset',
    'Task',
    'make_batch',
    'plan_epoch',
    'plan_validation',
    'resolve_batch_size',
    'resolve_group_size',
]

MAX_VALIDATION_GROUPS = 16


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


def resolve_group_size(config: Config, pattern_size: int) -> int:
    """Returns C: what the configuration says, or what suits network and pattern size."""
    if config.grouping.group_size:
        return config.grouping.group_size
    if config.network.is_patchwise:
        return config.network.stack_size
    return 36 if pattern_size < 96 else 16


def resolve_batch_size(config: Config) -> int:
    """Returns B, the groups per step."""
    if config.training.batch_size:
        return config.training.batch_size
    return 8 if config.network.is_patchwise else 1


def training_members(reader: ScanReader, config: Config, number: int) -> NDArray[numpy.int64]:
    """Returns the patterns of a scan that training may see."""
    held_out = held_out_members(reader, config, number)
    return numpy.setdiff1d(numpy.arange(reader.num_patterns), held_out)


def held_out_members(reader: ScanReader, config: Config, number: int) -> NDArray[numpy.int64]:
    """Returns the patterns of a scan that training never sees."""
    rng = numpy.random.default_rng([config.training.seed, 1, number])
    return choose_held_out(reader.scan.positions_px, config.training.holdout_fraction, rng)


def plan_epoch(
    readers: Sequence[ScanReader], config: Config, epoch: int, *, rank: int = 0, world: int = 1
) -> list[Task]:
    """Returns the batches of an epoch: every training pattern of every scan at least once.

    With several processes each takes its part of every batch, so that W processes do together
    what one does with W times the batch.
    """
    rng = numpy.random.default_rng([config.training.seed, 2, epoch])
    size = resolve_batch_size(config)
    plans: list[tuple[int, NDArray[numpy.int64]]] = []
    for number, reader in enumerate(readers):
        group_size = resolve_group_size(config, reader.window[0])
        groups = draw_groups(
            reader.scan.positions_px,
            group_size,
            rng,
            members=training_members(reader, config, number),
            neighbor_pool=config.grouping.neighbor_pool,
            max_distance_px=config.grouping.max_distance_px,
        ).indices
        if config.network.is_patchwise and group_size == 4:
            groups = order_group_of_four(reader.scan.positions_px, groups)
        steps = math.ceil(len(groups) / (size * world))
        filled = numpy.resize(groups, (steps * size * world, groups.shape[1]))
        plans += [(number, part) for part in filled.reshape(steps, size * world, -1)]
    order = rng.permutation(len(plans))
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
    readers: Sequence[ScanReader], config: Config, *, is_training_scan: bool
) -> list[Task]:
    """Returns groups whose first pattern is held out, and to be predicted from the others.

    Scans of the training are judged on patterns that training never sees; others on patterns
    scattered over them.
    """
    tasks = []
    for number, reader in enumerate(readers):
        if is_training_scan:
            seeds = held_out_members(reader, config, number)
            members = training_members(reader, config, number)
        else:
            rng = numpy.random.default_rng([config.training.seed, 3, number])
            seeds = choose_held_out(
                reader.scan.positions_px, MAX_VALIDATION_GROUPS / reader.num_patterns, rng
            )
            members = numpy.setdiff1d(numpy.arange(reader.num_patterns), seeds)
        if not len(seeds) or not len(members):
            continue
        chosen = seeds[
            numpy.unique(
                numpy.linspace(0, len(seeds) - 1, MAX_VALIDATION_GROUPS).round().astype(int)
            )
        ]
        tasks += _validation_tasks(reader, config, number, chosen, members)
    return tasks


def _validation_tasks(
    reader: ScanReader,
    config: Config,
    number: int,
    seeds: NDArray[numpy.int64],
    members: NDArray[numpy.int64],
) -> list[Task]:
    positions = reader.scan.positions_px
    size = min(max(resolve_group_size(config, reader.window[0]), 16), len(members))
    rows = []
    for seed in seeds:
        distance = numpy.hypot(*(positions[members] - positions[seed]).T)
        near = members[numpy.argsort(distance, kind='stable')[:size]]
        rows.append(numpy.concatenate([[seed], near]))
    held_out = numpy.zeros((1, size + 1), dtype=bool)
    held_out[:, 0] = True
    return [Task(number, row[None], held_out) for row in rows]


def make_batch(reader: ScanReader, task: Task, *, needs_object: bool) -> GroupBatch:
    """Returns the batch of a task; patterns are read here and nowhere before."""
    num_groups, size = task.indices.shape
    flat = task.indices.reshape(-1)
    corners = reader.corners.numpy()[flat].reshape(num_groups, size, 2)
    origins = corners.min(axis=1, keepdims=True)
    extent = (corners - origins).reshape(-1, 2).max(axis=0) + numpy.asarray(reader.window)
    height, width = (int(math.ceil(value / 8) * 8) for value in extent)
    batch = GroupBatch(
        counts=reader.counts(flat),
        rows=torch.arange(num_groups).repeat_interleave(size),
        corners=torch.from_numpy((corners - origins).reshape(-1, 2)),
        shifts=reader.shifts[torch.from_numpy(flat)],
        probe=reader.probe,
        canvas_shape=(num_groups, height, width),
        good_pixels=reader.good_pixels,
        held_out=None if task.held_out is None else torch.from_numpy(task.held_out.reshape(-1)),
        scans=torch.full((num_groups,), task.scan, dtype=torch.int64),
    )
    if task.seed is not None:
        return with_random_objects(batch, task.seed)
    if needs_object:
        pieces = [_cut(reader, origin[0], (height, width)) for origin in origins]
        return replace(batch, object_=torch.from_numpy(numpy.stack(pieces)))
    return batch


def _cut(
    reader: ScanReader, origin: NDArray[numpy.int64], shape: tuple[int, int]
) -> NDArray[numpy.complex64]:
    """Returns a window of the known object; what lies outside repeats its border."""
    scan = reader.scan
    known = scan.truth if scan.truth is not None else scan.object_
    first = reader.origin + origin
    y = numpy.clip(numpy.arange(first[0], first[0] + shape[0]), 0, known.shape[0] - 1)
    x = numpy.clip(numpy.arange(first[1], first[1] + shape[1]), 0, known.shape[1] - 1)
    return known[y[:, None], x[None, :]].astype(numpy.complex64)


class GroupDataset(Dataset[GroupBatch]):
    """A list of tasks as a dataset whose items are whole batches."""

    def __init__(
        self, readers: Sequence[ScanReader], tasks: Sequence[Task], *, needs_object: bool
    ) -> None:
        self.readers = readers
        self.tasks = tasks
        self.needs_object = needs_object

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> GroupBatch:
        task = self.tasks[index]
        return make_batch(self.readers[task.scan], task, needs_object=self.needs_object)
