"""The LightningModule: network, canvas, forward model, loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ..config import Config
from ..networks.registry import build_network
from ..physics import losses
from ..physics.canvas import Canvas
from ..physics.forward_model import ForwardModel, GroupBatch
from ..physics.propagation import squared_modulus
from .schedules import rate_factor, split_parameters

__all__ = ['PtychoPINN']


class PtychoPINN(LightningModule):
    """Trains a network on counts, or on known objects.

    Args:
        config: The configuration of the run.
        probes: Calibrated probe of each scan; none when batches bring their own.
        total_steps: Optimiser steps of the run, for the course of the learning rate.
        is_finetuned: Whether the weights come from a model, so that `training.finetune` applies.
    """

    def __init__(
        self,
        config: Config,
        probes: Sequence[Tensor] = (),
        *,
        total_steps: int,
        is_finetuned: bool = False,
    ) -> None:
        super().__init__()
        self.config = config
        self.total_steps = total_steps
        self.is_finetuned = is_finetuned
        self.network = build_network(config.network)
        self.forward_model = ForwardModel(
            list(probes),
            train_probe=config.physics.train_probe,
            train_scale=config.physics.train_scale,
        )

    def transfer_batch_to_device(
        self, batch: GroupBatch, device: torch.device, dataloader_idx: int
    ) -> GroupBatch:
        """Returns the batch on the device."""
        return batch.to(device)

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of the groups."""
        canvas: Canvas = self.network(batch)
        return canvas

    def training_step(self, batch: GroupBatch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch, deep supervision and regularisation included."""
        # the probe is given to the network; it learns through the forward model alone
        given = self.forward_model.with_probe(batch, has_scale=False)
        canvas = self(replace(given, probe=given.probe.detach()))
        batch = self.forward_model.with_probe(batch)
        with torch.autocast(self.device.type, enabled=False):
            last = self._data_loss(canvas.object_, canvas, batch)
            total = last
            if self.config.loss.deep_supervision:
                for earlier in canvas.earlier:
                    term = self._data_loss(earlier, canvas, batch)
                    total = total + self.config.loss.deep_supervision * term
            total = total + self._regularisation(canvas)
        self.log('loss', last.detach(), on_step=True, on_epoch=False)
        return total

    def _data_loss(self, object_: Tensor, canvas: Canvas, batch: GroupBatch) -> Tensor:
        if batch.object_ is not None:
            return losses.object_loss(object_, batch.object_, canvas.coverage)
        expected = self.forward_model(object_, batch, batch.shifted_probe())
        compare = (
            losses.poisson_loss if self.config.loss.kind == 'poisson' else losses.amplitude_loss
        )
        return compare(expected, batch.counts, batch.good_pixels)

    def _regularisation(self, canvas: Canvas) -> Tensor:
        settings = self.config.loss
        total = torch.zeros((), device=self.device)
        weight = canvas.coverage / (
            canvas.coverage + 0.05 * canvas.coverage.amax(dim=(-2, -1), keepdim=True)
        )
        if settings.tv_amplitude:
            amplitude = torch.sqrt(squared_modulus(canvas.object_) + 1e-8)
            total = total + settings.tv_amplitude * losses.total_variation(amplitude, weight)
        if settings.tv_phase:
            phase = torch.atan2(canvas.object_.imag, canvas.object_.real)
            total = total + settings.tv_phase * losses.total_variation(phase, weight)
        if settings.probe_reference:
            total = total + settings.probe_reference * self.forward_model.probe_departure()
        return total

    @torch.no_grad()
    def validation_step(self, batch: GroupBatch, batch_idx: int) -> None:
        """Logs how well held-out patterns are predicted, and how well a flat object does."""
        canvas = self(self.forward_model.with_probe(batch, has_scale=False))
        batch = self.forward_model.with_probe(batch)
        if batch.held_out is None:
            assert batch.object_ is not None
            error = losses.object_loss(canvas.object_, batch.object_, canvas.coverage)
            self.log('held_out', error.clamp(min=0.0).sqrt(), batch_size=1, sync_dist=True)
            return
        target = replace(batch.select(batch.held_out), held_out=None)
        probe = target.shifted_probe()
        expected = self.forward_model(canvas.object_, target, probe)
        error = losses.relative_amplitude_error(expected, target.counts, target.good_pixels)
        level = torch.sqrt(
            batch.counts.sum() / batch.num_patterns / squared_modulus(batch.probe).sum()
        )
        flat = torch.full_like(canvas.object_, 1.0) * level
        flat_error = losses.relative_amplitude_error(
            self.forward_model(flat, target, probe), target.counts, target.good_pixels
        )
        floor = losses.amplitude_loss_floor(expected, target.good_pixels)
        loss = losses.amplitude_loss(expected, target.counts, target.good_pixels)
        values = {
            'held_out': error,
            'held_out_flat': flat_error,
            'floor': torch.tensor(floor),
            'held_out_loss': loss,
        }
        self.log_dict(values, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Returns optimiser and course of the learning rate, stepped as configured."""
        training = self.config.training
        groups = split_parameters(self, self.config, is_finetuned=self.is_finetuned)
        kind = torch.optim.AdamW if training.optimizer == 'adamw' else torch.optim.Adam
        optimizer = kind(
            groups,
            lr=training.learning_rate,
            betas=(0.9, 0.99),
            weight_decay=training.weight_decay,
        )
        factors = [
            rate_factor(training, self.total_steps, role=str(group['role'])) for group in groups
        ]
        course = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        schedulers: list[dict[str, Any]] = [{'scheduler': course, 'interval': 'step'}]
        return [optimizer], schedulers

    def on_validation_epoch_end(self) -> None:
        """Lowers the plateau factor when the held-out error has stopped falling."""
        if self.config.training.schedule != 'plateau' or self.trainer.sanity_checking:
            return
        value = self.trainer.callback_metrics.get('held_out')
        if value is None:
            return
        self.plateau.step(float(value))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stores the state of the plateau rule."""
        checkpoint['plateau'] = self.plateau.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the state of the plateau rule, and goes on with the next epoch.

        Checkpoints are taken after whole epochs, but before Lightning counts them as completed;
        and as epochs differ in length, it would go on in the middle of the next one.
        """
        self.plateau.load(checkpoint['plateau'])
        loop = checkpoint['loops']['fit_loop']
        epochs = loop['epoch_progress']['current']
        for key in epochs:
            epochs[key] = epochs['ready']
        batches = loop['epoch_loop.batch_progress']
        batches['is_last_batch'] = False
        for key in batches['current']:
            batches['current'][key] = 0

    @property
    def plateau(self) -> PlateauRule:
        """The factor that the plateau schedule has come to."""
        if not hasattr(self, '_plateau'):
            self._plateau = PlateauRule()
        return self._plateau

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Applies the plateau factor on top of the course of the learning rate."""
        if self.config.training.schedule == 'plateau':
            for group, base in zip(optimizer.param_groups, self._base_rates()):
                group['lr'] = base * self.plateau.factor

    def _base_rates(self) -> list[float]:
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        rates = []
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas):
            rates.append(float(base) * float(factor(scheduler.last_epoch)))
        return rates


class PlateauRule:
    """Halves a factor after `patience` values without a new best one."""

    def __init__(self, *, patience: int = 2, smallest: float = 0.01) -> None:
        self.patience, self.smallest = patience, smallest
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def step(self, value: float) -> None:
        """Takes notice of a new value."""
        if value < self.best * 0.999:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.factor, self.waited = max(self.smallest, 0.5 * self.factor), 0

    def state(self) -> dict[str, float]:
        """Returns what a checkpoint must hold."""
        return {'factor': self.factor, 'best': self.best, 'waited': float(self.waited)}

    def load(self, state: dict[str, float]) -> None:
        """Takes up a state."""
        self.factor, self.best = state['factor'], state['best']
        self.waited = int(state['waited'])


def trainable(module: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters that training may change."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
