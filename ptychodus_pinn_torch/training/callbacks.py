"""What listens to training: reports, history, stopping."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from ..backend import EpochReport, Report

__all__ = ['EpochCheckpoint', 'Reporter', 'StopRequest']

REPORT_INTERVAL_S = 0.5


class StopRequest:
    """Carries the wish to stop from a signal, or from whoever receives reports, to the trainer."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *_: Any) -> None:
        """Asks for a stop after the present step; also serves as a signal handler."""
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True


class Reporter(Callback):
    """Sends reports, keeps the history, ends the run when asked to."""

    def __init__(self, report: Report, stop: StopRequest, total_steps: int) -> None:
        self.report = report
        self.stop = stop
        self.total_steps = total_steps
        self.history: list[dict[str, float | None]] = []
        self._started = 0.0
        self._first_step = 0
        self._last_report = 0.0
        self._losses: list[torch.Tensor] = []
        self.is_partial = False
        self._is_validated = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock."""
        self._started = time.monotonic()
        self._first_step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reports about twice a second; ends the run when a stop was asked for."""
        value = trainer.callback_metrics.get('loss')
        if value is not None:
            self._losses.append(value.detach())
        now = time.monotonic()
        if now - self._last_report >= REPORT_INTERVAL_S:
            self._last_report = now
            loss = None if value is None else float(value)
            self._send(
                EpochReport(
                    'train',
                    trainer.global_step,
                    self.total_steps,
                    trainer.current_epoch,
                    loss=loss,
                    remaining_s=self._remaining(trainer),
                )
            )
        if self.stop.is_set:
            trainer.should_stop = True
            self.is_partial = batch_idx + 1 < trainer.num_training_batches

    def _remaining(self, trainer: Trainer) -> float | None:
        done = trainer.global_step - self._first_step
        if done < 1:
            return None
        left = self.total_steps - trainer.global_step
        return left * (time.monotonic() - self._started) / done

    def _send(self, report: EpochReport) -> None:
        try:
            self.report(report)
        except KeyboardInterrupt:
            self.stop.is_set = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes that the held-out error is that of this epoch."""
        self._is_validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes a row of the history (after validation, where there is one)."""
        metrics = trainer.callback_metrics
        mean = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses = []

        def metric(name: str) -> float | None:
            return float(metrics[name]) if self._is_validated and name in metrics else None

        row = {
            'epoch': float(trainer.current_epoch),
            'step': float(trainer.global_step),
            'loss': mean,
            'floor': metric('floor'),
            'held_out': metric('held_out'),
            'learning_rate': float(trainer.optimizers[0].param_groups[0]['lr']),
        }
        self._is_validated = False
        if not self.is_partial:
            self.history.append(row)
        self._send(
            EpochReport(
                'train',
                trainer.global_step,
                self.total_steps,
                trainer.current_epoch,
                loss=mean,
                held_out=row['held_out'],
                floor=row['floor'],
                remaining_s=self._remaining(trainer),
                is_epoch_end=True,
            )
        )

        if self.stop.is_set:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the history, for the checkpoint."""
        return {'history': self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes up the history of an interrupted run."""
        self.history = list(state_dict['history'])


class EpochCheckpoint(ModelCheckpoint):
    """Keeps the state after the last whole epoch: what a run is resumed from, bit for bit."""

    def __init__(self, reporter: Reporter, folder: Path) -> None:
        super().__init__(
            dirpath=folder,
            filename='last',
            save_top_k=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        )
        self.reporter = reporter

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, unless the epoch was cut short."""
        if not self.reporter.is_partial:
            super().on_train_epoch_end(trainer, pl_module)
