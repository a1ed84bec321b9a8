"""What listens to Lightning: reports, history, stopping, checkpoints of whole epochs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..models.archive import NETWORK_PREFIX
from ..networks.contract import TrainableNetwork
from .batches import Batches
from .fitting import TrainingRun
from .loggers import log_image
from .module import PtychoPINN
from .training_log import TrainingLog

__all__ = ['BestCheckpoint', 'EpochCheckpoint', 'ImageCallback', 'LogCallback']


class LogCallback(Callback):
    """Tells the log of a run what Lightning does, and Lightning when to stop."""

    def __init__(self, training_log: TrainingLog) -> None:
        self.training_log = training_log
        self.is_partial = False
        self._losses: list[torch.Tensor] = []
        self._is_validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self.training_log.start(trainer.global_step)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reports about twice a second; ends the run when a stop was asked for."""
        value = trainer.callback_metrics.get('loss')
        if value is not None:
            self._losses.append(value.detach())
        if self.training_log.is_due():
            loss = None if value is None else float(value)
            self.training_log.end_step(trainer.global_step, trainer.current_epoch, loss)
        if self._is_stopping(trainer):
            trainer.should_stop = True
            self.is_partial = batch_idx + 1 < trainer.num_training_batches

    def _is_stopping(self, trainer: Trainer) -> bool:
        """Returns whether any of the processes wants to stop, so that all do."""
        return trainer.strategy.reduce_boolean_decision(self.training_log.is_stopping, all=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the held-out error is that of this epoch."""
        self._is_validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a row of the history (after validation, where there is one)."""
        metrics = trainer.callback_metrics if self._is_validated else {}
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses, self._is_validated = [], False
        row = {
            'epoch': float(trainer.current_epoch),
            'step': float(trainer.global_step),
            'loss': loss,
            'floor': _number(metrics, 'floor'),
            'held_out': _number(metrics, 'held_out'),
            'learning_rate': cast(PtychoPINN, pl_module).learning_rate(),
        }
        self.training_log.end_epoch(row, is_partial=self.is_partial)
        if self._is_stopping(trainer):
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, for the checkpoint."""
        return {'history': self.training_log.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the history of an interrupted run."""
        self.training_log.history = list(state_dict['history'])


def _number(metrics: Any, name: str) -> float | None:
    return float(metrics[name]) if name in metrics else None


class ImageCallback(Callback):
    """Gives a logger that takes pictures one after each validation; see `loggers.log_image`.

    It goes before weights are averaged, so that it sees those that are judged.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the picture, by one of the processes."""
        if trainer.is_global_zero:
            network = cast(TrainableNetwork, cast(PtychoPINN, pl_module).network)
            step, device = trainer.global_step, pl_module.device
            log_image(trainer.logger, network.reconstruct, self.batches, step, device)


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best model, and as an archive too, which is whole whenever the run is ended.

    Args:
        run: Whose folder it goes to.
    """

    def __init__(self, run: TrainingRun) -> None:
        super().__init__(
            dirpath=run.folder,
            filename='best',
            monitor=None if run.batches.validation() is None else 'held_out',
            mode='min',
            save_top_k=1,
            enable_version_counter=False,
        )
        self.run = run

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._save_checkpoint(trainer, filepath)
        if trainer.is_global_zero:  # from the file, whose weights may be averages
            state = torch.load(filepath, map_location='cpu', weights_only=True)['state_dict']
            weights = {
                name: value.numpy()
                for name, value in state.items()
                if name.startswith(NETWORK_PREFIX)
            }
            self.run.keep_best(weights, 'pytorch')


class EpochCheckpoint(ModelCheckpoint):
    """Keeps the state after the last whole epoch: what a run is resumed from, bit for bit."""

    def __init__(self, callback: LogCallback, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename='last',
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.callback = callback

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, unless the epoch was cut short."""
        if not self.callback.is_partial:
            super().on_train_epoch_end(trainer, pl_module)
