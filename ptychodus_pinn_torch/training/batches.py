"""Batches of groups, made from rows of indices when they are asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import Config
from ..physics.group_batch import GroupBatch
from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..scan.scan import fingerprint
from .plans import Task, plan_epoch, plan_validation
from .synthetic import random_batch, with_random_objects

__all__ = ['Batches', 'RandomBatches', 'ScanBatches', 'make_batch']

CANVAS_STEP_PX = 8
EXAMPLE_PATTERNS = 400


@runtime_checkable
class Batches(Protocol):
    """Where the batches of a training run come from; the same for every engine."""

    @property
    def probes(self) -> Sequence[Tensor]:
        """The given probe (P, H, W) of each training scan; none when batches bring their own."""

    def epoch(self, number: int, rank: int = 0, world: int = 1) -> Dataset[GroupBatch]:
        """Returns the batches of an epoch, or a process' part of them."""

    def validation(self) -> Dataset[GroupBatch] | None:
        """Returns the batches that a model is judged by, if there are any."""

    def example(self) -> Measurement:
        """Returns patterns whose image shows how far a network has come, on one canvas."""

    def identity(self) -> list[str]:
        """Returns what tells these data from others: a run is resumed on the same ones only."""


class ScanBatches:
    """Groups of measured patterns of one or more scans (see `Batches`)."""

    def __init__(
        self,
        scans: Sequence[MeasuredScan],
        config: Config,
        validation: Sequence[MeasuredScan] = (),
    ) -> None:
        self.scans, self.config, self._validation = scans, config, validation
        self.probes = [measured.measurement.probe for measured in scans]
        self._identity: list[str] = []

    def epoch(self, number: int, rank: int = 0, world: int = 1) -> Dataset[GroupBatch]:
        """Returns new groups every epoch, the same for the same seed and epoch."""
        tasks = plan_epoch(self.scans, self.config, number, rank=rank, world=world)
        return TaskDataset(self.scans, tasks, needs_object=self.config.mode == 'supervised')

    def validation(self) -> Dataset[GroupBatch] | None:
        """Returns groups with a held-out pattern each; None when nothing is held out."""
        scans = self._validation or self.scans
        tasks = plan_validation(scans, self.config, is_training_scan=not self._validation)
        if not tasks:
            return None
        return TaskDataset(scans, tasks, is_training_scan=not self._validation)

    def example(self) -> Measurement:
        """Returns the patterns in the middle of the first scan that is judged by."""
        measured = (self._validation or self.scans)[0]
        positions = measured.positions_px
        distances = numpy.linalg.norm(positions - positions.mean(axis=0), axis=1)
        nearest = numpy.sort(numpy.argsort(distances, kind='stable')[:EXAMPLE_PATTERNS])
        return make_batch(measured, Task(0, nearest[None])).measurement

    def identity(self) -> list[str]:
        """Returns a fingerprint of the counts of each scan."""
        if not self._identity:
            self._identity = [fingerprint(measured.scan) for measured in self.scans]
        return self._identity


class RandomBatches:
    """Random objects under random probes: what the shipped model is made from (see `Batches`)."""

    STEPS_PER_EPOCH = 100
    VALIDATION_BATCHES = 8
    VALIDATION_SEED = 10**6

    def __init__(self, seed: int, **shape: int) -> None:
        self.seed, self.shape = seed, shape
        self.probes: list[Tensor] = []

    def epoch(self, number: int, rank: int = 0, world: int = 1) -> Dataset[GroupBatch]:
        """Returns batches none of which ever comes again."""
        first = (number * world + rank) * self.STEPS_PER_EPOCH
        return RandomDataset(self.seed, first, self.STEPS_PER_EPOCH, self.shape)

    def validation(self) -> Dataset[GroupBatch] | None:
        """Returns batches that training never draws: they have a seed of their own."""
        return self._judges()

    def _judges(self) -> RandomDataset:
        seed = self.VALIDATION_SEED + self.seed
        return RandomDataset(seed, 0, self.VALIDATION_BATCHES, self.shape)

    def example(self) -> Measurement:
        """Returns the first batch of the validation."""
        return self._judges()[0].measurement

    def identity(self) -> list[str]:
        """Returns the sizes of what is drawn; the seed is in the configuration."""
        return [f'{name}={value}' for name, value in sorted(self.shape.items())]


class TaskDataset(Dataset[GroupBatch]):
    """A list of tasks as a dataset whose items are whole batches."""

    def __init__(
        self,
        scans: Sequence[MeasuredScan],
        tasks: Sequence[Task],
        *,
        needs_object: bool = False,
        is_training_scan: bool = True,
    ) -> None:
        self.scans, self.tasks = scans, tasks
        self.needs_object, self.is_training_scan = needs_object, is_training_scan

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> GroupBatch:
        task = self.tasks[index]
        batch = make_batch(self.scans[task.scan], task, needs_object=self.needs_object)
        return batch if self.is_training_scan else replace(batch, scan=None)


class RandomDataset(Dataset[GroupBatch]):
    """Batches of random scans by number: item i is the same whenever it is asked for."""

    def __init__(self, seed: int, first: int, length: int, shape: dict[str, int]) -> None:
        self.seed, self.first, self.length, self.shape = seed, first, length, shape

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> GroupBatch:
        sizes: dict[str, Any] = self.shape
        return random_batch([self.seed, self.first + index], **sizes)


def make_batch(measured: MeasuredScan, task: Task, *, needs_object: bool = False) -> GroupBatch:
    """Returns the batch of a task; patterns are read here and nowhere before."""
    scan, (num_groups, size) = measured.measurement, task.indices.shape
    flat = torch.from_numpy(task.indices.reshape(-1))
    corners = scan.corners[flat].numpy().reshape(num_groups, size, 2)
    origins = corners.min(axis=1, keepdims=True)
    extent = (corners - origins).reshape(-1, 2).max(axis=0) + numpy.asarray(scan.window)
    height, width = (math.ceil(value / CANVAS_STEP_PX) * CANVAS_STEP_PX for value in extent)
    batch = GroupBatch(
        Measurement(
            counts=scan.counts[flat],
            rows=torch.arange(num_groups).repeat_interleave(size),
            corners=torch.from_numpy((corners - origins).reshape(-1, 2)),
            shifts=scan.shifts[flat],
            probe=scan.probe,
            canvas_shape=(num_groups, height, width),
            good_pixels=scan.good_pixels,
            spikes=scan.spikes_of(flat),
            variation=None if scan.variation is None else scan.variation.select(flat),
        ),
        held_out=None if task.held_out is None else torch.from_numpy(task.held_out.reshape(-1)),
        scan=task.scan,
    )
    if task.seed is not None:
        return with_random_objects(batch, task.seed)
    if needs_object:
        known = measured.scan.truth if measured.scan.truth is not None else measured.scan.object_
        windows = [measured.cut(known, (height, width), origin[0]) for origin in origins]
        return replace(batch, object_=torch.from_numpy(numpy.stack(windows)))
    return batch
