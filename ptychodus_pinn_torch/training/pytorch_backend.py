"""The PyTorch engine: networks on torch, fitted by Lightning."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from typing import Any, cast

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..config import Config
from ..models.archive import NETWORK_PREFIX, Archive, check_backend
from ..networks.contract import Network
from ..networks.registry import build_with_weights, load_weights
from ..physics.devices import choose_accelerator, choose_device
from .callbacks import BestCheckpoint, EpochCheckpoint, ImageCallback, LogCallback
from .data_module import BatchDataModule
from .fitting import Fitted, TrainingRun
from .loggers import make_logger
from .module import PtychoPINN
from .processes import is_started_by_slurm, process_rank

__all__ = ['PyTorchBackend']


class PyTorchBackend:
    """Runs networks on PyTorch, training on Lightning (see `backend.Backend`)."""

    name = 'pytorch'

    def settle(self, config: Config) -> tuple[Config, str]:
        """Returns the configuration as it is: everything is there."""
        return config, ''

    def load_network(self, archive: Archive, config: Config) -> Network:
        """Returns the network of an archive on the device of the configuration.

        Raises:
            ArchiveError: an archive that this engine cannot run.
            ValueError: weights that do not fit the network.
        """
        check_backend(archive, self.name)
        source = str(archive.path or 'the archive')
        network = build_with_weights(archive.config.network, archive.network_weights(), source)
        device = choose_device(config.execution.accelerator)
        return cast(Network, network.to(device).eval())

    def fit(self, run: TrainingRun) -> Fitted:
        """Returns the best weights of a run on Lightning."""
        torch.manual_seed(run.config.training.seed)
        module = PtychoPINN(run.config, run.batches.probes, is_finetuned=run.is_finetuned)
        if run.weights is not None:
            load_weights(module.network, run.weights, run.start)
        data, best = BatchDataModule(run.batches), BestCheckpoint(run)
        for name in ('lightning.pytorch', 'lightning.fabric'):
            logging.getLogger(name).setLevel(logging.ERROR)
        trainer = _trainer(run, module, [*_callbacks(run), best])
        last = str(run.folder / 'last.ckpt') if run.is_resumed else None
        with run.log.listening(), warnings.catch_warnings():
            warnings.simplefilter('ignore')  # Lightning's advice is not meant for the user
            with contextlib.suppress(SIGTERMException):  # the log knows, and what is best is kept
                trainer.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
        error = _take_best(module, best)
        return Fitted(
            weights=_weights_of(module),
            steps=trainer.global_step,
            metrics={name: float(value) for name, value in trainer.callback_metrics.items()},
            best_held_out=error,
            is_main=trainer.is_global_zero,
        )


def _callbacks(run: TrainingRun) -> list[Callback]:
    training = run.config.training
    log = LogCallback(run.log)
    callbacks: list[Callback] = [log, ImageCallback(run.batches)]
    if training.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=training.ema_decay))
    if training.early_stopping and run.batches.validation() is not None:
        callbacks.append(
            EarlyStopping(
                'held_out',
                patience=training.early_stopping,
                mode='min',
                min_delta=1e-6,
                strict=False,  # a run may end before its first validation
            )
        )
    return [*callbacks, EpochCheckpoint(log, run.folder)]


def _trainer(run: TrainingRun, module: PtychoPINN, callbacks: list[Callback]) -> Trainer:
    execution, training = run.config.execution, run.config.training
    world = process_rank(execution.devices)[1]
    steps = max(1, len(run.batches.epoch(0, 0, world)) // training.accumulate)  # type: ignore[arg-type]
    local = int(os.environ.get('LOCAL_WORLD_SIZE', min(world, execution.devices)))
    is_launched = 'RANK' in os.environ or is_started_by_slurm()
    return Trainer(
        accelerator=choose_accelerator(execution.accelerator),
        devices=local,
        num_nodes=max(1, world // local),
        strategy=_strategy(run, module) if world > 1 else 'auto',
        plugins=None if is_launched else LightningEnvironment(),
        precision=execution.precision,
        max_steps=training.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip_value or training.clip_norm or None,
        gradient_clip_algorithm='value' if training.clip_value else 'norm',
        check_val_every_n_epoch=run.validation_interval(steps),
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=make_logger(run.config, run.folder) or False,
        log_every_n_steps=10,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.folder,
        use_distributed_sampler=False,
    )


def _strategy(run: TrainingRun, module: PtychoPINN) -> str:
    """Returns how processes are coupled; some steps do not touch probe and scale of each scan."""
    has_physics = any(p.requires_grad for p in module.forward_model.parameters())
    some_idle = has_physics and (
        module.forward_model.num_scans > 1 or run.config.training.synthetic_fraction > 0.0
    )
    return 'ddp_find_unused_parameters_true' if some_idle else 'ddp'


def _take_best(module: PtychoPINN, best: ModelCheckpoint) -> float | None:
    """Loads the weights with the lowest held-out error, and returns that error."""
    if not best.best_model_path or best.best_model_score is None:
        return None
    checkpoint = torch.load(best.best_model_path, map_location='cpu', weights_only=True)
    module.load_state_dict(checkpoint['state_dict'])
    return float(best.best_model_score)


def _weights_of(module: PtychoPINN) -> dict[str, Any]:
    """Returns all trained values by name, as archives hold them."""
    weights = {
        NETWORK_PREFIX + name: value.detach().cpu().numpy()
        for name, value in module.network.state_dict().items()
    }
    model = module.forward_model
    if model.train_probe:
        for index in range(model.num_scans):
            weights[f'probe.{index}'] = (
                torch.view_as_real(model.probe(index).detach()).cpu().numpy()
            )
    if model.log_scale.requires_grad:
        weights['log_scale'] = model.log_scale.detach().cpu().numpy()
    return weights
