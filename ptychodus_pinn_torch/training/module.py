"""The LightningModule: network, canvas, forward model, loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from ..config import Config
from ..networks.contract import TrainableNetwork
from ..networks.registry import build_network
from ..physics import losses
from ..physics.canvas import Canvas
from ..physics.forward_model import ForwardModel, predict
from ..physics.group_batch import GroupBatch
from ..physics.propagation import squared_modulus
from .judging import judge
from .processes import num_processes
from .schedules import PHYSICS_RATE, PlateauRule, rate_factor, rate_growth

__all__ = ['PtychoPINN']


class PtychoPINN(LightningModule):
    """Trains a network on counts, or on known objects.

    Its checkpoints hold the configuration: `PtychoPINN.load_from_checkpoint(path)` is enough.

    Args:
        config: The configuration of the run, or its JSON text.
        probes: Calibrated probe (P, H, W) of each scan, or its shape; none when batches bring
            their own.
        is_finetuned: Whether the weights come from a model, so that `training.finetune` applies.
    """

    def __init__(
        self,
        config: Config | str,
        probes: Sequence[Tensor | Sequence[int]] = (),
        *,
        is_finetuned: bool = False,
    ) -> None:
        super().__init__()
        if isinstance(config, str):
            config = Config.model_validate_json(config)
        self.config = config
        given = [
            probe if isinstance(probe, Tensor) else torch.ones(tuple(probe), dtype=torch.complex64)
            for probe in probes
        ]
        self.save_hyperparameters(
            {
                'config': config.model_dump_json(),
                'probes': [list(probe.shape) for probe in given],
                'is_finetuned': is_finetuned,
            },
            logger=False,  # `make_logger` logs the options one by one
        )
        self.network = build_network(config.network)
        self.forward_model = ForwardModel(
            given,
            train_probe=config.physics.train_probe,
            train_scale=config.physics.train_scale,
        )
        self.plateau = PlateauRule()
        # before processes are coupled, which must know what does not learn
        self._roles = self._split_parameters(is_finetuned=is_finetuned)

    def _split_parameters(self, *, is_finetuned: bool) -> list[dict[str, Any]]:
        """Returns parameter groups, each with a `role` that `rate_factor` knows.

        Fine-tuning splits the network in its encoder (of the unrolled network: the first half of
        the stages) and its decoder (the rest).
        """
        early = list(cast(TrainableNetwork, self.network).early_parameters())
        ids = {id(parameter) for parameter in early}
        late = [value for value in self.network.parameters() if id(value) not in ids]
        kind = self.config.training.finetune if is_finetuned else 'all'
        groups: list[dict[str, Any]] = [{'params': early + late, 'role': 'all'}]
        if kind == 'decoder':
            for parameter in early:
                parameter.requires_grad_(False)
            groups = [{'params': late, 'role': 'all'}]
        elif kind == 'staged':
            groups = [{'params': late, 'role': 'first'}, {'params': early, 'role': 'second'}]
        physics = [p for p in self.forward_model.parameters() if p.requires_grad]
        if physics:
            rate = PHYSICS_RATE * self.config.training.learning_rate
            groups.append({'params': physics, 'role': 'all', 'lr': rate})
        return groups

    def transfer_batch_to_device(
        self, batch: GroupBatch, device: torch.device, dataloader_idx: int
    ) -> GroupBatch:
        """Returns the batch on the device; the probe of a training scan is there already."""
        if batch.scan is not None:
            batch = batch.with_probe(self.forward_model.given(batch.scan))
        return batch.to(device)

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of the groups."""
        canvas: Canvas = self.network(batch)
        return canvas

    def training_step(self, batch: GroupBatch, batch_idx: int) -> Tensor:
        """Returns the loss of a batch, deep supervision and regularisation included."""
        # the probe is given to the network; it learns through the forward model alone
        given = self.forward_model.seen_through(batch, has_scale=False)
        canvas = self(given.with_probe(given.measurement.probe.detach()))
        target = self.forward_model.seen_through(batch)
        with torch.autocast(self.device.type, enabled=False):
            compare = self._comparison(target, canvas)
            last, *earlier = self._errors(compare, canvas)
            total = last
            if self.config.loss.deep_supervision:
                for error in earlier:
                    total = total + self.config.loss.deep_supervision * error
            total = total + self._regularisation(canvas)
        self.log('loss', last.detach(), on_step=True, on_epoch=False)
        return total

    @staticmethod
    def _errors(compare: Callable[[Tensor], Tensor], canvas: Canvas) -> list[Tensor]:
        """Returns the losses of the last stage and of the earlier ones.

        Those of corrections are relative to what they correct: an image that is nearly right must
        count as much as one that is not.
        """
        errors = [compare(object_) for object_ in (*canvas.earlier, canvas.object_)]
        with torch.no_grad():
            before = [compare(object_).clamp(min=1e-6) for object_ in canvas.uncorrected]
        if before:
            errors = [error / given for error, given in zip(errors, before, strict=True)]
        return errors[::-1]

    def _comparison(self, target: GroupBatch, canvas: Canvas) -> Callable[[Tensor], Tensor]:
        """Returns the loss as a function of the object on the canvases."""
        known, settings = target.object_, self.config.loss
        if known is None:
            return self._of_counts(target)
        is_squared = settings.object_kind == 'squared'
        of_objects = losses.object_loss if is_squared else losses.object_loss_absolute
        if not settings.counts_weight:
            return lambda object_: of_objects(object_, known, canvas.coverage)
        of_counts = self._of_counts(target)
        return lambda object_: (
            of_objects(object_, known, canvas.coverage)
            + settings.counts_weight * of_counts(object_)
        )

    def _of_counts(self, target: GroupBatch) -> Callable[[Tensor], Tensor]:
        """Returns the loss of the counts that an object lets expect."""
        chunk = target.measurement.chunk(torch.arange(target.measurement.num_patterns))
        kinds: dict[str, Callable[..., Tensor]] = {
            'amplitude': losses.amplitude_loss,
            'poisson': losses.poisson_loss,
            'mae': partial(losses.absolute_loss, has_matched_power=self.config.loss.match_power),
        }
        compare = kinds[self.config.loss.kind]
        return lambda object_: compare(predict(object_, chunk), chunk.counts, chunk.good_pixels)

    def _regularisation(self, canvas: Canvas) -> Tensor:
        settings = self.config.loss
        total = torch.zeros((), device=self.device)
        weight = losses.coverage_weight(canvas.coverage)
        if settings.tv_amplitude:
            amplitude = torch.sqrt(squared_modulus(canvas.object_) + 1e-8)
            total = total + settings.tv_amplitude * losses.total_variation(amplitude, weight)
        if settings.tv_phase:
            phase = torch.atan2(canvas.object_.imag, canvas.object_.real)
            total = total + settings.tv_phase * losses.total_variation(phase, weight)
        if settings.probe_reference:
            total = total + settings.probe_reference * self.forward_model.probe_departure()
        return total

    def validation_step(self, batch: GroupBatch, batch_idx: int) -> None:
        """Logs how well held-out patterns are predicted, and how well a flat object does."""
        given = self.forward_model.seen_through(batch, has_scale=False)
        target = self.forward_model.seen_through(batch)
        figures = judge(cast(TrainableNetwork, self.network).reconstruct, given, target)
        self.log_dict(figures, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> Any:
        """Returns the optimiser and the schedule of its learning rates, stepped as configured."""
        training = self.config.training
        growth = rate_growth(training, num_processes())
        for group in self._roles:
            group['lr'] = growth * group.get('lr', training.learning_rate)
        settings: dict[str, Any] = {'weight_decay': training.weight_decay}
        kind: Any = torch.optim.SGD
        if training.optimizer == 'sgd':
            settings['momentum'] = training.momentum
        else:
            kind = torch.optim.AdamW if training.optimizer == 'adamw' else torch.optim.Adam
            settings['betas'] = (0.9, 0.99)
        optimizer = kind(self._roles, **settings)
        factors = [
            rate_factor(training, training.max_steps, role=group['role']) for group in self._roles
        ]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return [optimizer], [{'scheduler': schedule, 'interval': 'step'}]

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

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Applies the plateau factor on top of the schedule."""
        if self.config.training.schedule == 'plateau':
            for group, base in zip(optimizer.param_groups, self._base_rates()):
                group['lr'] = base * self.plateau.factor

    def learning_rate(self) -> float:
        """Returns the present learning rate of the network."""
        return self._base_rates()[0] * self.plateau.factor

    def _base_rates(self) -> list[float]:
        scheduler = self.lr_schedulers()
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        rates = []
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas):
            rates.append(float(base) * float(factor(scheduler.last_epoch)))
        return rates
