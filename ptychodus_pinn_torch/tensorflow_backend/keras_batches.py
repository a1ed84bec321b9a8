"""Batches of groups in numpy, made from rows of indices when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray

from ..config import Config
from ..scan.grouping import choose_held_out, draw_groups, order_group_of_four
from ..simulation.reference_model import shift_probe, take_patches
from .keras_reader import ScanReader

__all__ = ['GroupBatch', 'Task', 'make_batch', 'plan_epoch', 'plan_validation']

MAX_VALIDATION_GROUPS = 16
VALIDATION_NEIGHBORS = 16
DEFAULT_BATCH_SIZE = 8
CANVAS_STEP_PX = 8


@dataclass(frozen=True)
class Task:
    """What one batch is made of: patterns (B, C) of a scan.

    Attributes:
        seed: Not None: replace the measurement by a simulated one of random objects.
    """

    scan: int
    indices: NDArray[numpy.int64]
    seed: int | None = None


@dataclass(frozen=True)
class GroupBatch:
    """Groups of patterns of one scan with what is needed to place them.

    Attributes:
        scan: Number of the scan.
        counts: (J, H, W) corner order, bad pixels zero.
        rows: (J,) the canvas of each pattern; `corners` (J, 2) on it, `shifts` (J, 2) beyond.
        canvas_shape: (B, Y, X).
        object_: The object on the canvases (B, Y, X), where it is the teacher.
    """

    scan: int
    counts: NDArray[numpy.float32]
    rows: NDArray[numpy.int32]
    corners: NDArray[numpy.int32]
    shifts: NDArray[numpy.float64]
    canvas_shape: tuple[int, int, int]
    object_: NDArray[numpy.complex64] | None = None

    def select(self, keep: NDArray[numpy.bool_]) -> GroupBatch:
        """Returns the batch with some of its patterns."""
        return replace(
            self,
            counts=self.counts[keep],
            rows=self.rows[keep],
            corners=self.corners[keep],
            shifts=self.shifts[keep],
        )


def held_out_members(reader: ScanReader, config: Config, number: int) -> NDArray[numpy.int64]:
    """Returns the patterns of a scan that training never sees."""
    rng = numpy.random.default_rng([config.training.seed, 1, number])
    return choose_held_out(reader.scan.positions_px, config.training.holdout_fraction, rng)


def plan_epoch(readers: Sequence[ScanReader], config: Config, epoch: int) -> list[Task]:
    """Returns the batches of an epoch: every training pattern of every scan at least once.

    The draws are those of the PyTorch engine, so that both see the same groups.
    """
    rng = numpy.random.default_rng([config.training.seed, 2, epoch])
    size = config.training.batch_size or DEFAULT_BATCH_SIZE
    plans: list[tuple[int, NDArray[numpy.int64]]] = []
    for number, reader in enumerate(readers):
        held_out = held_out_members(reader, config, number)
        groups = draw_groups(
            reader.scan.positions_px,
            config.grouping.group_size or 1,
            rng,
            members=numpy.setdiff1d(numpy.arange(reader.num_patterns), held_out),
            neighbor_pool=config.grouping.neighbor_pool,
            max_distance_px=config.grouping.max_distance_px,
        ).indices
        if groups.shape[1] == 4:
            groups = order_group_of_four(reader.scan.positions_px, groups)
        steps = math.ceil(len(groups) / size)
        filled = numpy.resize(groups, (steps * size, groups.shape[1]))
        plans += [(number, part) for part in filled.reshape(steps, size, -1)]
    order = rng.permutation(len(plans))
    is_synthetic = rng.random(len(plans)) < config.training.synthetic_fraction
    seeds = rng.integers(2**62, size=len(plans))
    return [
        Task(number, indices, int(seeds[index]) if is_synthetic[index] else None)
        for index in order
        for number, indices in (plans[index],)
    ]


def plan_validation(
    readers: Sequence[ScanReader], config: Config, *, is_training_scan: bool
) -> list[Task]:
    """Returns groups whose first pattern is to be predicted from the others.

    Scans of the training are judged on patterns that training never sees; others on patterns
    scattered over them.
    """
    tasks = []
    for number, reader in enumerate(readers):
        seeds = held_out_members(reader, config, number)
        if not is_training_scan:
            rng = numpy.random.default_rng([config.training.seed, 3, number])
            fraction = MAX_VALIDATION_GROUPS / reader.num_patterns
            seeds = choose_held_out(reader.scan.positions_px, fraction, rng)
        members = numpy.setdiff1d(numpy.arange(reader.num_patterns), seeds)
        if not len(seeds) or not len(members):
            continue
        spread = numpy.linspace(0, len(seeds) - 1, MAX_VALIDATION_GROUPS).round().astype(int)
        size = min(max(config.grouping.group_size, VALIDATION_NEIGHBORS), len(members))
        positions = reader.scan.positions_px
        for seed in seeds[numpy.unique(spread)]:
            distance = numpy.hypot(*(positions[members] - positions[seed]).T)
            near = members[numpy.argsort(distance, kind='stable')[:size]]
            tasks.append(Task(number, numpy.concatenate([[seed], near])[None]))
    return tasks


def make_batch(reader: ScanReader, task: Task, *, needs_object: bool = False) -> GroupBatch:
    """Returns the batch of a task; patterns are read here and nowhere before."""
    num_groups, size = task.indices.shape
    flat = task.indices.reshape(-1)
    corners = reader.corners[flat].reshape(num_groups, size, 2)
    origins = corners.min(axis=1, keepdims=True)
    extent = (corners - origins).reshape(-1, 2).max(axis=0) + numpy.asarray(reader.window)
    height, width = (int(math.ceil(value / CANVAS_STEP_PX) * CANVAS_STEP_PX) for value in extent)
    batch = GroupBatch(
        scan=task.scan,
        counts=reader.counts(flat),
        rows=numpy.arange(num_groups, dtype=numpy.int32).repeat(size),
        corners=(corners - origins).reshape(-1, 2).astype(numpy.int32),
        shifts=reader.shifts[flat],
        canvas_shape=(num_groups, height, width),
    )
    if task.seed is not None:
        return _with_random_objects(batch, reader, task.seed)
    if needs_object:
        pieces = [_cut(reader, origin[0], (height, width)) for origin in origins]
        return replace(batch, object_=numpy.stack(pieces))
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


def _with_random_objects(batch: GroupBatch, reader: ScanReader, seed: int) -> GroupBatch:
    """Returns the batch as if random objects had been in the beam: same probe, same positions."""
    from ..simulation.random_scans import random_object

    rng = numpy.random.default_rng(seed)
    num_groups, height, width = batch.canvas_shape
    size = max(height, width)
    objects = numpy.stack([random_object(rng, size)[:height, :width] for _ in range(num_groups)])
    counts = numpy.empty_like(batch.counts)
    for index, (row, corner) in enumerate(zip(batch.rows, batch.corners)):
        probe = shift_probe(reader.probe, batch.shifts[index][None])[0]
        patch = take_patches(objects[row], corner[None], reader.window)[0]
        far_field = numpy.fft.fft2(probe * patch, norm='ortho')
        counts[index] = rng.poisson((numpy.abs(far_field) ** 2).sum(axis=0))
    counts *= reader.good_pixels
    return replace(batch, counts=counts, object_=objects.astype(numpy.complex64))
