"""Feeds Lightning: the batches of a run, epoch by epoch, each process its part."""

from __future__ import annotations

from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, Dataset

from ..physics.group_batch import GroupBatch
from .batches import Batches

__all__ = ['BatchDataModule']


def _loader(dataset: Dataset[GroupBatch]) -> DataLoader[GroupBatch]:
    return DataLoader(dataset, batch_size=None, shuffle=False, num_workers=0)


class BatchDataModule(LightningDataModule):
    """Batches of any kind for Lightning.

    It counts the epochs handed out, and keeps the count in checkpoints: Lightning's own count
    stands still while a run is being resumed at the end of an epoch.
    """

    def __init__(self, batches: Batches) -> None:
        super().__init__()
        self.batches = batches
        self._next_epoch = 0

    def train_dataloader(self) -> DataLoader[GroupBatch]:
        """Returns the batches of the next epoch."""
        epoch = self._next_epoch
        self._next_epoch += 1
        assert self.trainer is not None
        rank, world = self.trainer.global_rank, self.trainer.world_size
        return _loader(self.batches.epoch(epoch, rank, world))

    def val_dataloader(self) -> list[DataLoader[GroupBatch]]:
        """Returns the batches that judge; none where there are none."""
        dataset = self.batches.validation()
        return [] if dataset is None else [_loader(dataset)]

    def state_dict(self) -> dict[str, int]:
        """Returns what a checkpoint must hold."""
        return {'next_epoch': self._next_epoch}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Takes up the count of an interrupted run."""
        self._next_epoch = int(state_dict['next_epoch'])
