"""A training run by Keras' own `fit`: optimiser, callback, checkpoint."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy
import tensorflow as tf
import torch
from numpy.typing import NDArray

from ..config import ConfigError
from ..physics.group_batch import GroupBatch
from ..scan.io.output import write_atomically
from ..training.fitting import Fitted, TrainingRun
from ..training.judging import judge
from ..training.loggers import log_image, make_logger
from ..training.schedules import PHYSICS_RATE, PlateauRule, rate_factor
from .keras_model import KerasPinn, make_signature, to_arrays
from .keras_network import KerasCnn, StackedNetwork
from .loading import load_keras

__all__ = ['fit', 'make_optimizer', 'role_of']

keras = load_keras()

CHECKPOINT = 'last.safetensors'
BETA_2, EPSILON = 0.99, 1e-8
KEPT = ('step', 'epoch', 'batch', 'history', 'metrics', 'best_error', 'best_epoch', 'losses')
Arrays = dict[str, NDArray[Any]]


def role_of(name: str, finetune: str) -> str:
    """Returns which schedule a variable follows (see `rate_factor`), or `physics` or `fixed`."""
    if not name.startswith('network.'):
        return 'physics'
    is_early = 'encoder' in name
    if finetune == 'decoder':
        return 'fixed' if is_early else 'all'
    if finetune == 'staged':
        return 'second' if is_early else 'first'
    return 'all'


def make_optimizer(model: KerasPinn, rates: dict[str, Any], finetune: str) -> Any:
    """Returns the optimiser with a rate for each role; `rates` are variables by role."""
    training = model.config.training
    roles = [role_of(name, finetune) for name in model.values]
    decay = training.weight_decay if training.optimizer == 'adamw' else 0.0

    is_sgd = training.optimizer == 'sgd'
    base = keras.optimizers.SGD if is_sgd else keras.optimizers.Adam

    class ByRole(base):  # type: ignore[misc, valid-type]
        """Takes each variable's own rate, for its decay as well (Loshchilov & Hutter, 2019)."""

        def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
            index = self._get_variable_index(variable)
            rate = rates[roles[index]]
            if decay:
                variable.assign_sub(rate * decay * variable)
            if is_sgd and training.momentum:  # Keras would keep the rate of earlier steps in it
                kept = self.momentums[index]
                kept.assign(training.momentum * kept + gradient)
                variable.assign_sub(rate * kept)
            else:
                super().update_step(gradient, variable, rate)

    adam = {'beta_1': 0.9, 'beta_2': BETA_2, 'epsilon': rates['epsilon']}
    return ByRole(
        **({'momentum': training.momentum} if is_sgd else adam),
        clipvalue=training.clip_value or None,
        global_clipnorm=None if training.clip_value else training.clip_norm or None,
        gradient_accumulation_steps=training.accumulate if training.accumulate > 1 else None,
    )


class RunCallback(keras.callbacks.Callback):  # type: ignore[misc, name-defined]
    """Sets rates, reports, judges, keeps the best and what a run is resumed from."""

    def __init__(self, run: TrainingRun, pinn: KerasPinn, steps_per_epoch: int) -> None:
        super().__init__()
        self.run, self.pinn, self.steps_per_epoch = run, pinn, steps_per_epoch
        steps = steps_per_epoch // run.config.training.accumulate
        self.interval = run.validation_interval(max(1, steps))
        self.rates = {
            role: tf.Variable(0.0, trainable=False)
            for role in ('all', 'first', 'second', 'physics', 'fixed', 'epsilon')
        }
        self.plateau = PlateauRule()
        self.logger = make_logger(run.config, run.folder)
        self.step, self.epoch, self.batch = 0, 0, 0
        self.losses: list[float] = []
        self.history = run.log.history
        self.metrics: dict[str, float] = {}
        self.best: Arrays | None = None
        self.best_error, self.best_epoch = math.inf, 0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the learning rates of the step."""
        training = self.run.config.training
        peak = training.learning_rate * self.plateau.factor
        # Keras adds epsilon before the correction of the bias, PyTorch after it
        self.rates['epsilon'].assign(EPSILON * math.sqrt(1.0 - BETA_2 ** (self.step + 1)))
        for role, rate in self.rates.items():
            if role in {'fixed', 'epsilon'}:
                continue
            schedule = rate_factor(
                training, training.max_steps, role='all' if role == 'physics' else role
            )
            factor = PHYSICS_RATE if role == 'physics' else 1.0
            rate.assign(factor * peak * schedule(self.step))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Counts the step, reports about twice a second, ends the run when it is time."""
        accumulate = self.run.config.training.accumulate
        self.losses.append(float(logs['loss']))
        self.batch += 1
        self.step = self.batch // accumulate
        if self.run.log.is_due():
            self.run.log.end_step(self.step, self.epoch, self.losses[-1])
        if self.step >= self.run.config.training.max_steps or self.run.log.is_stopping:
            self.model.stop_training = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Judges where it is time, writes a row of the history and the checkpoint."""
        training, log = self.run.config.training, self.run.log
        is_over = self.step >= training.max_steps
        is_partial = log.is_stopping and self.batch % self.steps_per_epoch != 0 and not is_over
        is_judged = not is_partial and (is_over or (self.epoch + 1) % self.interval == 0)
        if is_judged:
            self._judge()
        row: dict[str, float | None] = {
            'epoch': float(self.epoch),
            'step': float(self.step),
            'loss': float(numpy.mean(self.losses)) if self.losses else math.nan,
            'floor': self.metrics.get('floor') if is_judged else None,
            'held_out': self.metrics.get('held_out') if is_judged else None,
            'learning_rate': float(self.rates['all'].numpy()),
        }
        log.end_epoch(row, is_partial=is_partial)
        if self.logger is not None:
            known = {name: value for name, value in row.items() if value is not None}
            self.logger.log_metrics(known, self.step)
            self.logger.save()
        if not is_partial:
            self.losses, self.epoch = [], self.epoch + 1
            self.write_checkpoint()
        waited = self.epoch - 1 - self.best_epoch
        is_exhausted = 0 < training.early_stopping <= waited
        if log.is_stopping or (is_judged and is_exhausted):
            self.model.stop_training = True

    def _judge(self) -> None:
        """Judges the present model on held-out patterns, and keeps it if it is the best."""
        present = self.pinn.arrays()
        if self.pinn.averages:
            self.pinn.assign({name: v.numpy() for name, v in self.pinn.averages.items()})
        found = self._figures()
        log_image(
            self.logger, StackedNetwork(self.pinn.cnn).reconstruct, self.run.batches, self.step
        )
        if found:
            self.metrics = {name: float(numpy.mean([f[name] for f in found])) for name in found[0]}
            error = self.metrics['held_out']
            if error < self.best_error - 1e-6:
                self.best_error, self.best_epoch = error, self.epoch
                self.best = self.pinn.arrays()
                self.run.keep_best(self.pinn.archive_weights(), 'tensorflow')
            if self.run.config.training.schedule == 'plateau':
                self.plateau.step(error)
        self.pinn.assign(present)

    def _figures(self) -> list[dict[str, float]]:
        dataset: Any = self.run.batches.validation()
        network = StackedNetwork(self.pinn.cnn)
        found = []
        for index in range(0 if dataset is None else len(dataset)):
            batch: GroupBatch = dataset[index]
            target = batch
            if batch.scan is not None:
                probe = torch.from_numpy(self.pinn.present_probe(batch.scan))
                root = float(self.pinn.scale(batch.scan)) ** 0.5
                batch, target = batch.with_probe(probe), batch.with_probe(probe * root)
            figures = judge(network.reconstruct, batch, target)
            found.append({name: float(value) for name, value in figures.items()})
        return found

    def write_checkpoint(self) -> None:
        """Writes everything that a run needs to go on: arrays and plain values, nothing more."""
        from safetensors.numpy import save_file

        arrays = {f'value/{name}': array for name, array in self.pinn.arrays().items()}
        arrays |= {f'average/{n}': v.numpy() for n, v in self.pinn.averages.items()}
        arrays |= {f'best/{name}': array for name, array in (self.best or {}).items()}
        for index, variable in enumerate(self.model.optimizer.variables):
            arrays[f'optimizer/{index}'] = numpy.asarray(variable.numpy())
        kept = {name: getattr(self, name) for name in KEPT}
        kept['plateau'] = self.plateau.state()
        text = {'state': json.dumps(kept)}
        arrays = {name: numpy.ascontiguousarray(array) for name, array in arrays.items()}
        path = self.run.folder / CHECKPOINT
        write_atomically(path, lambda part: save_file(arrays, part, metadata=text))

    def read_checkpoint(self) -> None:
        """Takes up what an interrupted run has left.

        Raises:
            ConfigError: the file is damaged.
        """
        from safetensors import SafetensorError, safe_open

        path = self.run.folder / CHECKPOINT
        try:
            with safe_open(path, 'numpy') as file:
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                kept = json.loads((file.metadata() or {})['state'])
        except (SafetensorError, KeyError, ValueError, OSError) as error:
            raise ConfigError(f'{path}: is damaged: start without --resume.') from error
        groups: dict[str, Arrays] = {}
        for key, array in arrays.items():
            kind, _, name = key.partition('/')
            groups.setdefault(kind, {})[name] = array
        self.pinn.assign(groups['value'])
        for name, value in self.pinn.averages.items():
            value.assign(groups['average'][name])
        for index, variable in enumerate(self.model.optimizer.variables):
            array = groups['optimizer'][str(index)]  # scalars are stored as arrays of one
            variable.assign(array.reshape(variable.shape))
        self.best = groups.get('best')
        for name in KEPT:
            setattr(self, name, kept[name])
        self.run.log.history = self.history
        self.plateau.load(kept['plateau'])


def fit(run: TrainingRun) -> Fitted:
    """Returns the best weights of a run by Keras."""
    pinn = KerasPinn(run.config, run.batches.probes)
    if run.weights is not None:
        pinn.cnn.load(run.weights, run.start)
    first: Any = run.batches.epoch(0)
    callback = RunCallback(run, pinn, len(first))
    finetune = run.config.training.finetune if run.is_finetuned else 'all'
    optimizer = make_optimizer(pinn, callback.rates, finetune)
    optimizer.build(list(pinn.values.values()))
    pinn.compile(optimizer=optimizer, jit_compile=False)
    callback.set_model(pinn)
    if run.is_resumed:
        callback.read_checkpoint()
    run.log.start(callback.step)
    with run.log.listening():
        started = callback.batch % len(first)  # the epoch in which the run was stopped
        if started:
            _fit_epochs(run, pinn, callback, len(first) - started)
        if not run.log.is_stopping:
            _fit_epochs(run, pinn, callback, len(first))
    callback.write_checkpoint()
    if callback.best is not None:
        pinn.assign(callback.best)
    elif pinn.averages:
        pinn.assign({name: value.numpy() for name, value in pinn.averages.items()})
    return Fitted(
        weights=pinn.archive_weights(),
        steps=callback.step,
        metrics=callback.metrics,
        best_held_out=None if callback.best is None else callback.best_error,
    )


def _fit_epochs(run: TrainingRun, pinn: KerasPinn, callback: RunCallback, steps: int) -> None:
    """Fits one epoch of that many steps where it is cut short, else all that are left."""
    training, per_epoch = run.config.training, callback.steps_per_epoch
    left = training.max_steps * training.accumulate - callback.batch
    if left <= 0:
        return
    number = 1 if steps < per_epoch else math.ceil(left / steps)
    pinn.fit(
        _dataset(run, pinn.cnn, callback.batch),
        epochs=callback.epoch + number,
        initial_epoch=callback.epoch,
        steps_per_epoch=steps,
        callbacks=[callback],
        verbose=0,
        shuffle=False,
    )


def _dataset(run: TrainingRun, cnn: KerasCnn, first: int) -> Any:
    """Returns all batches of the run from one on; the same ones, whenever it begins."""

    def batches() -> Iterator[dict[str, Any]]:
        done = 0
        for epoch in itertools.count():
            dataset: Any = run.batches.epoch(epoch)
            for index in range(max(0, first - done), len(dataset)):
                yield to_arrays(dataset[index], cnn.num_channels)
            done += len(dataset)

    signature = make_signature(cnn.pattern_size, cnn.num_channels)
    return tf.data.Dataset.from_generator(batches, output_signature=signature)
