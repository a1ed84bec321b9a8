"""The steps of a training run: epochs, judgement, the best model, stopping."""

from __future__ import annotations

import contextlib
import csv
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import tensorflow as tf
from numpy.typing import NDArray

from ..backend import EpochReport, Report
from ..config import Config
from ..models.archive import HISTORY_COLUMNS
from .keras_batches import Task, make_batch, plan_epoch, plan_validation
from .keras_checkpoint import State
from .keras_course import Adam, PlateauRule, assign_roles, rate_factor
from .keras_model import PtychoPINN
from .keras_reader import ScanReader

__all__ = ['Run', 'StopRequest', 'open_history_writer']

REPORT_INTERVAL_S = 0.5
VALIDATIONS_PER_RUN = 20
Row = dict[str, float | None]


class StopRequest:
    """Sends reports, and takes up the wish to stop, from whoever receives them or by Ctrl-C."""

    def __init__(self, report: Report) -> None:
        self.is_set = False
        self._report = report

    def send(self, report: EpochReport) -> None:
        """Sends a report; a receiver that raises `KeyboardInterrupt` wants the run to stop."""
        try:
            self._report(report)
        except KeyboardInterrupt:
            self.is_set = True

    def set(self, *_: Any) -> None:
        """Asks for a stop after the present step; a second time stops at once."""
        if self.is_set:
            raise KeyboardInterrupt
        self.is_set = True

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Lets Ctrl-C end the run after the present step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self.set)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)


@contextlib.contextmanager
def open_history_writer(kind: str, folder: Path) -> Iterator[Callable[[Row], None]]:
    """Yields a function that writes a row of the history: csv, tensorboard or none."""
    if kind == 'csv':
        with (folder / 'history.csv').open('a', encoding='utf-8', newline='') as file:
            table = csv.DictWriter(file, HISTORY_COLUMNS)
            if not file.tell():
                table.writeheader()
            yield table.writerow
    elif kind == 'tensorboard':
        writer = tf.summary.create_file_writer(str(folder / 'tensorboard'))

        def write_scalars(row: Row) -> None:
            with writer.as_default(step=int(row['step'] or 0)):
                for name, value in row.items():
                    if value is not None:
                        tf.summary.scalar(name, value)

        yield write_scalars
        writer.close()
    else:
        yield lambda row: None


class Run:
    """A training run that can be left after any step and taken up again.

    Attributes:
        step: Optimiser steps done; `epoch` and `place` say where in the plan that is.
        history: Rows of the history.
        last_metrics: What the last judgement found.
    """

    def __init__(
        self,
        config: Config,
        model: PtychoPINN,
        validation: Sequence[ScanReader] = (),
        *,
        is_finetuned: bool = False,
    ) -> None:
        self.config, self.model, self.validation = config, model, validation
        variables = list(model.variables.values())
        self.adam = Adam(variables, config.training)
        self.roles = assign_roles(list(model.variables), config, is_finetuned=is_finetuned)
        self.plateau = PlateauRule()
        self.step, self.epoch, self.place, self.waited = 0, 0, 0, 0
        self.best_error = math.inf
        self.best: dict[str, NDArray[Any]] | None = None
        self.average: dict[str, NDArray[Any]] | None = None
        self.history: list[Row] = []
        self.last_metrics: dict[str, float] = {}
        self._losses: list[float] = []
        self._rate = 0.0
        self._started, self._first_step, self._reported = time.monotonic(), 0, 0.0

    def fit(
        self, stop: StopRequest, write_row: Callable[[Row], None], checkpoint: Callable[[], None]
    ) -> None:
        """Trains until the last step, the early end, or the wish to stop."""
        training = self.config.training
        self._started, self._first_step = time.monotonic(), self.step
        while self.step < training.max_steps and not stop.is_set:
            tasks = plan_epoch(self.model.readers, self.config, self.epoch)
            self._run_epoch(tasks, stop)
            if stop.is_set and self.place < len(tasks):
                return
            is_last = self.step >= training.max_steps
            if is_last or (self.epoch + 1) % self._judging_interval(len(tasks)) == 0:
                self._judge()
                checkpoint()
            self._end_epoch(stop, write_row)
            if training.early_stopping and self.waited >= training.early_stopping:
                return

    def _judging_interval(self, num_tasks: int) -> int:
        """Returns the epochs between two judgements; one where they decide about the end."""
        training = self.config.training
        if training.early_stopping:
            return 1
        num_epochs = math.ceil(training.max_steps * training.accumulate / max(1, num_tasks))
        return max(1, num_epochs // VALIDATIONS_PER_RUN)

    def _run_epoch(self, tasks: Sequence[Task], stop: StopRequest) -> None:
        training = self.config.training
        while self.place < len(tasks) and self.step < training.max_steps and not stop.is_set:
            part = tasks[self.place : self.place + training.accumulate]
            loss = self._take_step(part)
            self._losses.append(loss)
            self.place += len(part)
            now = time.monotonic()
            if now - self._reported >= REPORT_INTERVAL_S:
                self._reported = now
                stop.send(self._make_report(loss))

    def _take_step(self, tasks: Sequence[Task]) -> float:
        training, readers = self.config.training, self.model.readers
        total, gradients = 0.0, None
        for task in tasks:
            is_supervised = self.config.mode == 'supervised'
            batch = make_batch(readers[task.scan], task, needs_object=is_supervised)
            loss, found = self.model.gradients(batch)
            total += loss / len(tasks)
            found = [gradient / len(tasks) for gradient in found] if len(tasks) > 1 else found
            gradients = found if gradients is None else [a + b for a, b in zip(gradients, found)]
        assert gradients is not None
        peak = training.learning_rate * self.plateau.factor
        rates = [peak * rate_factor(training, self.step, role) for role in self.roles]
        self._rate = peak * rate_factor(training, self.step, 'all')
        self.step += 1
        self.adam.apply(gradients, rates, self.step)
        if training.ema_decay:
            self._take_average(training.ema_decay)
        return total

    def _take_average(self, decay: float) -> None:
        values = self.model.values()
        if self.average is None:
            self.average = values
            return
        for name, value in values.items():
            self.average[name] = decay * self.average[name] + (1.0 - decay) * value

    def _judge(self) -> None:
        """Judges the present model on held-out patterns, and keeps it if it is the best."""
        present = self.model.values()
        if self.average is not None:
            self.model.assign(self.average)
        found = self._judgements()
        if found:
            names = found[0].keys()
            metrics = {name: float(numpy.mean([item[name] for item in found])) for name in names}
            self.last_metrics = metrics
            if metrics['held_out'] < self.best_error:
                self.best_error, self.best, self.waited = (
                    metrics['held_out'], self.model.values(), 0
                )  # fmt: skip
            else:
                self.waited += 1
            if self.config.training.schedule == 'plateau':
                self.plateau.step(metrics['held_out'])
        elif self.average is not None:
            self.best = self.average
        self.model.assign(present)

    def _judgements(self) -> list[dict[str, float]]:
        if self.validation:
            tasks = plan_validation(self.validation, self.config, is_training_scan=False)
            return [self.model.judge(task, self.validation[task.scan]) for task in tasks]
        tasks = plan_validation(self.model.readers, self.config, is_training_scan=True)
        readers = [
            reader.with_probe(self.model.present_probe(index))
            for index, reader in enumerate(self.model.readers)
        ]
        judge, scale = self.model.judge, self.model.scale
        return [judge(task, readers[task.scan], scale(task.scan)) for task in tasks]

    def _end_epoch(self, stop: StopRequest, write_row: Callable[[Row], None]) -> None:
        loss = float(numpy.mean(self._losses)) if self._losses else math.nan
        row: Row = {
            'epoch': float(self.epoch),
            'step': float(self.step),
            'loss': loss,
            'floor': self.last_metrics.get('floor'),
            'held_out': self.last_metrics.get('held_out'),
            'learning_rate': self._rate,
        }
        self.history.append(row)
        write_row(row)
        stop.send(self._make_report(loss, is_epoch_end=True))
        self._losses = []
        self.epoch, self.place = self.epoch + 1, 0

    def _make_report(self, loss: float, *, is_epoch_end: bool = False) -> EpochReport:
        done, total = self.step - self._first_step, self.config.training.max_steps
        spent = time.monotonic() - self._started
        return EpochReport(
            'train',
            self.step,
            total,
            self.epoch,
            loss=loss,
            held_out=self.last_metrics.get('held_out') if is_epoch_end else None,
            floor=self.last_metrics.get('floor') if is_epoch_end else None,
            remaining_s=(total - self.step) * spent / done if done else None,
            is_epoch_end=is_epoch_end,
        )

    def take_best(self) -> None:
        """Goes back to the model that was judged best, or to the average where none was judged."""
        if self.best is not None:
            self.model.assign(self.best)
        elif self.average is not None:
            self.model.assign(self.average)

    def metrics(self) -> dict[str, float]:
        """Returns what the model card tells: errors and loss."""
        found = dict(self.last_metrics)
        if self.history and self.history[-1]['loss'] is not None:
            found['loss'] = float(self.history[-1]['loss'])
        if math.isfinite(self.best_error):
            found['best_held_out'] = self.best_error
        return {name: float(f'{value:.5g}') for name, value in found.items()}

    def state(self) -> State:
        """Returns everything that is needed to go on."""
        arrays = {f'present/{name}': value for name, value in self.model.values().items()}
        for kind, kept in (('best', self.best), ('average', self.average)):
            arrays |= {f'{kind}/{name}': value for name, value in (kept or {}).items()}
        for index, (first, second) in enumerate(zip(self.adam.first, self.adam.second)):
            arrays[f'first/{index}'], arrays[f'second/{index}'] = first.numpy(), second.numpy()
        values = {
            name: getattr(self, name)
            for name in ('step', 'epoch', 'place', 'waited', 'history', 'last_metrics', '_losses')
        }
        values['best_error'] = self.best_error if self.best is not None else None
        plateau = self.plateau
        best = plateau.best if math.isfinite(plateau.best) else None
        return State(arrays, {**values, 'plateau': [plateau.factor, best, plateau.waited]})

    def load_state(self, state: State) -> None:
        """Takes up what `state` returned."""
        groups: dict[str, dict[str, NDArray[Any]]] = {}
        for key, array in state.arrays.items():
            kind, _, name = key.partition('/')
            groups.setdefault(kind, {})[name] = array
        self.model.assign(groups['present'])
        self.best, self.average = groups.get('best'), groups.get('average')
        for index, (first, second) in enumerate(zip(self.adam.first, self.adam.second)):
            first.assign(groups['first'][str(index)])
            second.assign(groups['second'][str(index)])
        self._load_values(state.values)

    def _load_values(self, values: Mapping[str, Any]) -> None:
        for name in ('step', 'epoch', 'place', 'waited', 'history', 'last_metrics', '_losses'):
            setattr(self, name, values[name])
        best = values['best_error']
        self.best_error = math.inf if best is None else best
        factor, plateau_best, waited = values['plateau']
        self.plateau.factor, self.plateau.waited = factor, waited
        self.plateau.best = math.inf if plateau_best is None else plateau_best
