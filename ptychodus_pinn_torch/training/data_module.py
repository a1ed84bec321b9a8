"""Feeds Lightning: new groups every epoch, the same for the same seed and epoch."""

from __future__ import annotations

import os
from collections.abc import Sequence

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from ..config import Config
from ..physics.forward_model import GroupBatch
from ..physics.measurement import ScanReader
from .batches import GroupDataset, plan_epoch, plan_validation
from .synthetic import random_batch

__all__ = ['RandomScanDataset', 'ScanDataModule', 'SyntheticDataModule', 'process_rank']


def process_rank() -> tuple[int, int]:
    """Returns rank and number of processes, as torchrun or SLURM set them."""
    rank = os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))
    world = os.environ.get('WORLD_SIZE', os.environ.get('SLURM_NTASKS', '1'))
    return int(rank), int(world)


def _loader(dataset: Dataset[GroupBatch]) -> DataLoader[GroupBatch]:
    return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=0)


class _EpochCounter(LightningDataModule):
    """Counts the epochs handed out, and keeps the count in checkpoints.

    Lightning's own count stands still while a run is being resumed at the end of an epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._next_epoch = 0

    def _take_epoch(self) -> int:
        epoch = self._next_epoch
        self._next_epoch += 1
        return epoch

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint must hold."""
        return {'next_epoch': self._next_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes up the count of an interrupted run."""
        self._next_epoch = int(state_dict['next_epoch'])


class ScanDataModule(_EpochCounter):
    """Groups of measured patterns of one or more scans."""

    def __init__(
        self,
        readers: Sequence[ScanReader],
        config: Config,
        validation: Sequence[ScanReader] = (),
    ) -> None:
        super().__init__()
        self.readers = readers
        self.validation = validation
        self.config = config
        self.needs_object = config.mode == 'supervised'

    def steps_per_epoch(self) -> int:
        """Returns the batches of the first epoch; later ones differ by a few."""
        return len(plan_epoch(self.readers, self.config, 0, world=process_rank()[1]))

    def train_dataloader(self) -> DataLoader[GroupBatch]:
        """Returns the batches of the next epoch."""
        epoch = self._take_epoch()
        rank, world = process_rank()
        tasks = plan_epoch(self.readers, self.config, epoch, rank=rank, world=world)
        return _loader(GroupDataset(self.readers, tasks, needs_object=self.needs_object))

    def val_dataloader(self) -> list[DataLoader[GroupBatch]]:
        """Returns groups with a held-out pattern each; none when nothing is held out."""
        readers = self.validation or self.readers
        tasks = plan_validation(readers, self.config, is_training_scan=not self.validation)
        if not tasks:
            return []
        return [_loader(GroupDataset(readers, tasks, needs_object=False))]


class RandomScanDataset(Dataset[GroupBatch]):
    """Batches of random scans by number: item i is the same whenever it is asked for."""

    def __init__(self, seed: int, first: int, length: int, **shape: int) -> None:
        self.seed, self.first, self.length, self.shape = seed, first, length, shape

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> GroupBatch:
        return random_batch([self.seed, self.first + index], **self.shape)


class SyntheticDataModule(_EpochCounter):
    """Random objects under random probes: what the shipped model is made from."""

    STEPS_PER_EPOCH = 100
    VALIDATION_BATCHES = 8

    def __init__(
        self, config: Config, *, pattern_size: int, canvas_size: int, group_size: int, batch: int
    ) -> None:
        super().__init__()
        self.config = config
        self.shape = {
            'num_groups': batch,
            'num_patterns': group_size,
            'pattern_size': pattern_size,
            'canvas_size': canvas_size,
        }

    def train_dataloader(self) -> DataLoader[GroupBatch]:
        """Returns the batches of the next epoch, none of which ever comes again."""
        epoch = self._take_epoch()
        rank, world = process_rank()
        first = (epoch * world + rank) * self.STEPS_PER_EPOCH
        return _loader(
            RandomScanDataset(self.config.training.seed, first, self.STEPS_PER_EPOCH, **self.shape)
        )

    def val_dataloader(self) -> DataLoader[GroupBatch]:
        """Returns batches that training never draws: they have a seed of their own."""
        seed = 10**6 + self.config.training.seed
        return _loader(RandomScanDataset(seed, 0, self.VALIDATION_BATCHES, **self.shape))
