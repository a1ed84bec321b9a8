"""Training runs: from scans, or from random scans, to a model archive."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ..backend import EpochReport, Report, TrainRequest
from ..config import Config, ConfigError, override_config
from ..models.archive import Archive, shipped_model, write_archive
from ..models.card import write_card
from ..networks.registry import load_weights
from ..physics.devices import choose_accelerator, set_threads
from ..physics.measurement import ScanReader
from ..reconstruction.procedure import read_any_model
from .callbacks import EpochCheckpoint, Reporter, StopRequest
from .data_module import ScanDataModule, process_rank
from .module import PtychoPINN

__all__ = ['run_training', 'train']

logger = logging.getLogger(__name__)

NETWORK_PREFIX = 'network.'
FLAT_RATIO = 0.9
STEPS_PER_VALIDATION = 100
"""About as many steps lie between two validations, which cost as much as five."""


@dataclass
class Run:
    """The pieces of one training run."""

    config: Config
    module: PtychoPINN
    data: LightningDataModule
    output: Path
    steps_per_epoch: int
    is_resumed: bool = False
    start: str = 'none'
    about: str = ''

    @property
    def folder(self) -> Path:
        """Where checkpoints and logs of the run live, beside the archive."""
        return self.output.parent / f'{self.output.name.removesuffix(".h5.zip")}.run'


def train(request: TrainRequest, report: Report) -> Path:
    """Returns the path of the archive that training on measured scans has written.

    Raises:
        ValueError: scans that cannot be trained on, or a start model that does not fit.
        KeyboardInterrupt: training was stopped; the best model so far has been written.
    """
    if not request.scans:
        raise ValueError('there is nothing to train on: give at least one scan.')
    config, weights, start = _starting_point(request.config)
    if request.config.mode == 'supervised':
        _check_labels(request)
    set_threads(config.execution.num_threads)
    readers = [_reader(scan, config) for scan in request.scans]
    validation = [_reader(scan, config) for scan in request.validation]
    config = _settle_network(config, readers)
    torch.manual_seed(config.training.seed)
    data = ScanDataModule(readers, config, validation)
    module = PtychoPINN(
        config,
        [reader.probe for reader in readers],
        total_steps=config.training.max_steps,
        is_finetuned=weights is not None,
    )
    if weights is not None:
        load_weights(module.network, weights, start)
    steps = max(1, data.steps_per_epoch() // config.training.accumulate)
    run = Run(
        config,
        module,
        data,
        request.output,
        steps_per_epoch=steps,
        is_resumed=request.is_resumed,
        start=start,
    )
    details = {
        'scans': [scan.name for scan in request.scans],
        'pattern_size': readers[0].window[0],
        'probe_modes': [len(reader.probe) for reader in readers],
        'patterns': [reader.num_patterns for reader in readers],
        'photons': [float(f'{scan.mean_counts():.4g}') for scan in request.scans],
    }
    return run_training(run, report, details)


def _reader(scan: Any, config: Config) -> ScanReader:
    return ScanReader(scan, num_probe_modes=config.physics.num_probe_modes)


def _starting_point(config: Config) -> tuple[Config, dict[str, Any] | None, str]:
    start = config.training.start.strip()
    if start == 'none':
        return config, None, start
    if start == 'shipped':
        if config.network.kind != 'unrolled' or not shipped_model().is_file():
            return config, None, 'none'
        path = shipped_model()
    else:
        path = Path(start)
    archive = read_any_model(path)
    network = archive.config.network.model_dump()
    given = config.network.model_dump()
    plain = type(config.network)().model_dump()
    is_asked_for = given != Config().network.model_dump()
    changed = ', '.join(
        key
        for key in given
        if given[key] not in (plain[key], network.get(key))
        or key == 'kind'
        and given[key] != network[key]
    )
    if is_asked_for and changed:
        raise ConfigError(
            f'{path}: has another network than asked for ({changed}): leave out those options, or '
            'start from scratch with --start none.'
        )
    config = override_config(config, {f'network.{key}': value for key, value in network.items()})
    weights = {
        name.removeprefix(NETWORK_PREFIX): array
        for name, array in archive.weights.items()
        if name.startswith(NETWORK_PREFIX)
    }
    return config, weights, 'shipped' if start == 'shipped' else str(path)


def _check_labels(request: TrainRequest) -> None:
    for scan in request.scans:
        if scan.truth is None and not scan.has_object:
            raise ValueError(
                f'{scan.name}: supervised training needs the object of the scan, and there is '
                'none in the file: reconstruct it first, or train unsupervised.'
            )


def _settle_network(config: Config, readers: Sequence[ScanReader]) -> Config:
    """Returns the configuration with the pattern size of a network that is bound to one."""
    sizes = {reader.window for reader in readers}
    if not config.network.is_patchwise:
        return config
    if len(sizes) > 1:
        raise ValueError(
            f'the cnn network takes one pattern size, the scans have {sorted(sizes)}: crop or bin '
            'them to one size, or use the unrolled network.'
        )
    size = readers[0].window[0]
    if config.network.size_px not in {0, size}:
        raise ValueError(
            f'the network is made for patterns of {config.network.size_px} px, the scans '
            f'have {size} px: crop or bin them.'
        )
    if 'pattern_size' not in type(config.network).model_fields:
        return config
    return override_config(config, {'network.pattern_size': size})


def run_training(run: Run, report: Report, details: dict[str, Any]) -> Path:
    """Returns the path of the archive after the run.

    Raises:
        KeyboardInterrupt: the run was stopped; what was best has been written.
        ConfigError: there is nothing to resume, or the configuration has changed since.
    """
    stop = StopRequest()
    reporter = Reporter(report, stop, run.config.training.max_steps)
    checkpoint = _prepare_folder(run)
    callbacks, keeper = _callbacks(run, reporter)
    for name in ('lightning.pytorch', 'lightning.fabric'):
        logging.getLogger(name).setLevel(logging.ERROR)
    trainer = _trainer(run, callbacks)
    started = time.monotonic()
    with _interruptible(stop), warnings.catch_warnings():
        warnings.simplefilter('ignore')  # Lightning's advice is not meant for the user
        with contextlib.suppress(SIGTERMException):  # `stop` knows; the best is written below
            trainer.fit(run.module, datamodule=run.data, ckpt_path=checkpoint, weights_only=True)
    if not trainer.is_global_zero:
        return run.output
    best = _take_best(run.module, keeper)
    details = {
        **details,
        'steps': trainer.global_step,
        'start': run.start,
        'seconds': round(time.monotonic() - started, 1),
        **_metrics(trainer, reporter),
    }
    if best is not None:
        details['best_held_out'] = float(f'{best:.5g}')
    _warn_when_flat(trainer, report)
    archive = Archive(
        config=run.config,
        weights=_archive_weights(run.module),
        history=reporter.history,
        card=write_card(run.config, details, reporter.history, about=run.about),
        details=details,
    )
    write_archive(run.output, archive)
    if stop.is_set:
        raise KeyboardInterrupt
    return run.output


def _prepare_folder(run: Run) -> str | None:
    """Returns the checkpoint to go on from, if any."""
    last = run.folder / 'last.ckpt'
    stored = run.folder / 'config.json'
    text = run.config.model_dump_json(indent=2, exclude={'execution'})
    if run.is_resumed:
        if not last.is_file() or not stored.is_file():
            raise ConfigError(f'{run.folder}: holds no interrupted run: start without --resume.')
        if json.loads(stored.read_text(encoding='utf-8')) != json.loads(text):
            raise ConfigError(
                f'{stored}: the interrupted run had other options: give the same ones, or start '
                'without --resume.'
            )
        return str(last)
    run.folder.mkdir(parents=True, exist_ok=True)
    if process_rank()[0] == 0:
        for leftover in run.folder.glob('*.ckpt'):
            leftover.unlink()
        stored.write_text(text, encoding='utf-8')
    return None


def _callbacks(run: Run, reporter: Reporter) -> tuple[list[Callback], ModelCheckpoint]:
    training = run.config.training
    has_validation = bool(run.data.val_dataloader())
    keeper = ModelCheckpoint(
        dirpath=run.folder,
        filename='best',
        monitor='held_out' if has_validation else None,
        mode='min',
        save_top_k=1,
        enable_version_counter=False,
    )
    last = EpochCheckpoint(reporter, run.folder)
    callbacks: list[Callback] = [reporter]
    if training.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=training.ema_decay))
    if training.early_stopping and has_validation:
        callbacks.append(
            EarlyStopping('held_out', patience=training.early_stopping, mode='min', min_delta=1e-6)
        )
    return [*callbacks, keeper, last], keeper


def _trainer(run: Run, callbacks: list[Callback]) -> Trainer:
    execution, training = run.config.execution, run.config.training
    num_epochs = -(-training.max_steps // run.steps_per_epoch)
    interval = min(round(STEPS_PER_VALIDATION / run.steps_per_epoch), num_epochs // 4)
    world = process_rank()[1]
    local = int(os.environ.get('LOCAL_WORLD_SIZE', execution.devices))
    has_many = world > 1 or execution.devices > 1
    some_idle = run.config.physics.train_probe and run.module.forward_model.num_scans > 1
    strategy = 'ddp_find_unused_parameters_true' if some_idle else 'ddp'
    return Trainer(
        accelerator=choose_accelerator(execution.accelerator),
        devices=local if has_many else 1,
        num_nodes=max(1, world // max(1, local)),
        strategy=strategy if has_many else 'auto',
        precision=execution.precision,
        max_steps=training.max_steps,
        max_epochs=-1,
        accumulate_grad_batches=training.accumulate,
        gradient_clip_val=training.clip_norm or None,
        check_val_every_n_epoch=max(1, interval),
        reload_dataloaders_every_n_epochs=1,
        num_sanity_val_steps=0,
        logger=_logger(execution.logger, run.folder),
        log_every_n_steps=10,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=run.folder,
        use_distributed_sampler=False,
    )


def _logger(kind: str, folder: Path) -> Logger | bool:
    if kind == 'csv':
        return CSVLogger(folder, name='csv', version='')
    if kind == 'tensorboard':
        from lightning.pytorch.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name='tensorboard', version='')
    if kind == 'mlflow':
        from lightning.pytorch.loggers import MLFlowLogger

        return MLFlowLogger('ptychodus-pinn', tracking_uri=f'sqlite:///{folder}/mlflow.db')
    return False


@contextlib.contextmanager
def _interruptible(stop: StopRequest) -> Iterator[None]:
    """Lets Ctrl-C end the run after the present step; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGINT, stop.set)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _take_best(module: PtychoPINN, keeper: ModelCheckpoint) -> float | None:
    """Loads the weights with the lowest held-out error, and returns that error."""
    if not keeper.best_model_path or keeper.best_model_score is None:
        return None
    checkpoint = torch.load(keeper.best_model_path, map_location='cpu', weights_only=True)
    module.load_state_dict(checkpoint['state_dict'])
    return float(keeper.best_model_score)


def _metrics(trainer: Trainer, reporter: Reporter) -> dict[str, float]:
    found = {}
    for name in ('held_out', 'held_out_flat', 'floor'):
        value = trainer.callback_metrics.get(name)
        if value is not None:
            found[name] = float(f'{float(value):.5g}')
    if reporter.history and reporter.history[-1]['loss'] is not None:
        found['loss'] = float(f'{reporter.history[-1]["loss"]:.5g}')
    return found


def _warn_when_flat(trainer: Trainer, report: Report) -> None:
    metrics = trainer.callback_metrics
    if 'held_out_flat' not in metrics:
        return
    error, flat = float(metrics['held_out']), float(metrics['held_out_flat'])
    if error > FLAT_RATIO * flat:
        message = (
            f'the model predicts patterns that it has not seen hardly better than a flat object '
            f'does ({error:.3g} against {flat:.3g}): train longer, start from the shipped model, '
            'or examine the scan with ptychodus-pinn check.'
        )
        logger.warning('%s', message)
        report(EpochReport('train', 0, 0, message=message))


def _archive_weights(module: PtychoPINN) -> dict[str, Any]:
    weights = {
        NETWORK_PREFIX + name: value.detach().cpu().numpy()
        for name, value in module.network.state_dict().items()
    }
    model = module.forward_model
    if model.train_probe:
        for index in range(model.num_scans):
            probe = torch.view_as_real(model.probe(index).detach()).cpu()
            weights[f'probe.{index}'] = probe.numpy()
    if model.log_scale.requires_grad:
        weights['log_scale'] = model.log_scale.detach().cpu().numpy()
    return weights
