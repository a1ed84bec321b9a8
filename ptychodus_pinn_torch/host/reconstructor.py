"""A reconstructor of Ptychodus that trains and reconstructs in a worker process."""

from __future__ import annotations

import contextlib
import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ptychodus.api.product import Product
from ptychodus.api.reconstruct import (
    ReconstructInput,
    ReconstructOutput,
    TrainableReconstructor,
    TrainOutput,
)

from ..backend import EpochReport, resolve_backend
from ..config import Config
from ..progress import describe_report
from .model_file import MODEL_EXTENSION, MODEL_NAME, ModelFile
from .results import TrainingCurve, join_losses, make_product
from .settings import PINNTorchSettings, check_effects

if TYPE_CHECKING:
    from .runner import Message, Worker

__all__ = ['HostTask', 'PINNTorchReconstructor']

logger = logging.getLogger(__name__)

YIELD_PERIOD_S = 0.5
LOG_PERIOD_S = 5.0


class HostTask:
    """The task of Ptychodus in which a reconstructor runs; here, where none is connected."""

    def is_stopping(self) -> bool:
        """Returns whether the user pressed Stop or is closing Ptychodus."""
        return False

    def update_progress(self, progress: int, progress_goal: int) -> None:
        """Moves the progress bar."""

    def refresh(self) -> None:
        """Has the buttons look again at what can be done; only from the window's own thread."""


class PINNTorchReconstructor(TrainableReconstructor):
    """One of the two modes. Settings are read when the work begins, and only then.

    Attributes:
        task: Where to ask for Stop and to show progress.
        training_curve: The losses of the latest training.
        engine: 'module:attribute' of an engine to use in place of the registered backend.
        remaining_s: Estimated seconds to go, None when idle or not known.
    """

    def __init__(self, mode: str, settings: PINNTorchSettings) -> None:
        super().__init__()
        self._mode = mode
        self._settings = settings
        self.training_curve = TrainingCurve()
        self._curve_in_use = TrainingCurve()
        self._progress_goal = 1
        self._logged_s = 0.0
        self._is_trained = False
        self.model = ModelFile()
        self.task = HostTask()
        self.engine = ''
        self.remaining_s: float | None = None

    @property
    def name(self) -> str:
        """The name after the underscore of the algorithm's key."""
        return self._mode.title()

    def get_progress_goal(self) -> int:
        """Returns a goal above 0, without which Ptychodus shows neither progress nor Stop."""
        return self._progress_goal

    def is_model_loaded(self) -> bool:
        """Returns whether there is a model to infer with; a file that is gone is none."""
        return self.model.is_present

    def get_model_file_filter(self) -> str:
        """Returns the filter of the file dialog."""
        return f'PINN-Torch Models (*{MODEL_EXTENSION})'

    def get_model_file_extension(self) -> str:
        """Returns the extension, with its leading dot."""
        return MODEL_EXTENSION

    def load_model_from_file(self, file_path: Path) -> None:
        """Uses a model from now on.

        Raises:
            ValueError: not a model of ours.
            FileNotFoundError: no such file.
        """
        self._curve_in_use = self.model.use(file_path).curve
        logger.info('In use from now on: %s', self.model.describe())

    def use_shipped_model(self) -> None:
        """Uses the shipped model from now on."""
        self.model.path = None
        self._curve_in_use = TrainingCurve()
        self.task.refresh()

    def save_model(self, file_path: Path) -> None:
        """Copies the model in use, which is the shipped one until another is trained or loaded."""
        self.model.copy_to(file_path)

    def get_training_data_file_filter(self) -> str:
        """Returns the filter of the file dialog."""
        return 'NumPy Zipped Archive (*.npz)'

    def export_training_data(self, file_path: Path, parameters: ReconstructInput) -> None:
        """Writes a scan as training data."""
        from .training_data import export_training_data

        written = export_training_data(file_path, parameters)
        logger.info('%d patterns exported to %s.', len(parameters.diffraction_patterns), written)

    def train(self, input_path: Path, output_path: Path) -> Iterator[TrainOutput]:
        """Yields about twice a second while a worker trains; leaves the model in the output folder.

        Raises:
            ConfigError: an option that cannot be used.
            FileNotFoundError: no training data.
            WorkerError: the worker failed.
        """
        from ..training.run_folder import best_of
        from .payload import TrainPayload, working_folder
        from .runner import Worker
        from .training_data import find_training_scans

        with self._activity('Training'), working_folder() as folder:
            config, backend = self._read_settings('train')
            inputs, validation = find_training_scans(input_path)
            output_path.mkdir(parents=True, exist_ok=True)
            text = 'Training on %d scan(s) of %s with the %s backend.'
            logger.info(text, len(inputs), input_path, backend)
            output = output_path / MODEL_NAME
            payload = TrainPayload(backend, config, folder, inputs, validation, output, self.engine)
            self.training_curve, self._is_trained = TrainingCurve(), False
            best_of(output).unlink(missing_ok=True)
            try:
                with Worker(payload) as worker:
                    yield from self._follow_training(worker)
            finally:
                if not self._is_trained:
                    self._accept_best(output, best_of(output))

    def reconstruct(self, parameters: ReconstructInput) -> Iterator[ReconstructOutput]:
        """Yields one product, on the grid of the object that was given.

        Raises:
            ConfigError: an option that cannot be used.
            ValueError: a scan that cannot be reconstructed.
            WorkerError: the worker failed.
        """
        from .payload import ReconstructPayload, working_folder, write_scan_files
        from .runner import Worker

        product: Product | None = None
        with self._activity('Reconstruction'), working_folder() as folder:
            config, backend = self._read_settings('reconstruct')
            scan, model = write_scan_files(parameters, folder), self.model.require()
            payload = ReconstructPayload(backend, config, folder, scan, model, self.engine)
            logger.info('Reconstructing with %s (%s backend).', self.model.title, backend)
            with Worker(payload) as worker:
                done = self._follow_reconstruction(worker)
            if done is not None:
                losses = join_losses(self._curve_in_use, done['losses'])
                product = make_product(parameters.product, folder, losses, done['comment'])
        if product is not None:
            yield ReconstructOutput(product, progress=1)

    def _read_settings(self, command: str) -> tuple[Config, str]:
        """Returns options and engine as they are now; later changes are for the next action."""
        config = self._settings.read(self._mode)
        backend = resolve_backend(setting=self._settings.backend.get_value())
        check_effects(config, command=command, backend=backend)
        return config, backend

    @contextlib.contextmanager
    def _activity(self, title: str) -> Iterator[None]:
        """Logs a failure, which Ptychodus shows in its log pane and nowhere else."""
        self._progress_goal = 1
        self._logged_s = 0.0
        try:
            yield
        except Exception as error:
            logger.error('%s failed: %s', title, error)
            raise
        finally:
            self._progress_goal = 1
            self.remaining_s = None

    def _follow_training(self, worker: Worker) -> Iterator[TrainOutput]:
        step, yielded_s = 0, 0.0
        try:
            for message in worker.messages():
                if message['tag'] == 'report':
                    step = self._receive_report(message)
                elif message['tag'] == 'trained':
                    self._accept_model(Path(message['path']))
                if self.task.is_stopping():
                    self._stop_training(worker)
                    return
                if time.monotonic() - yielded_s >= YIELD_PERIOD_S:
                    yield self._make_train_output(step)
                    yielded_s = time.monotonic()
        except GeneratorExit:
            self._stop_training(worker)
            raise
        yield self._make_train_output(self._progress_goal)

    def _stop_training(self, worker: Worker) -> None:
        for message in worker.stop():
            if message['tag'] == 'trained':
                self._accept_model(Path(message['path']))
                logger.info('Training was stopped; its best model so far is in use.')

    def _accept_best(self, output: Path, best: Path) -> None:
        """Uses the best model of a worker that was ended before it wrote its last one."""
        from ..scan.io.output import write_atomically

        if not best.is_file():
            logger.info('Training ended before it had a model.')
            return
        write_atomically(output, lambda part: shutil.copyfile(best, part))
        self._accept_model(output)
        logger.info('Training did not come to its end; its best model so far is in use.')

    def _accept_model(self, path: Path) -> None:
        self.model.use(path)
        self._curve_in_use, self._is_trained = self.training_curve, True
        logger.info('The model is in %s, and in use.', path)

    def _make_train_output(self, step: int) -> TrainOutput:
        curve = self.training_curve
        return TrainOutput(curve.training, curve.validation, progress=step)

    def _receive_report(self, message: Message) -> int:
        """Returns the step to show."""
        report = EpochReport(**message['report'])
        self._progress_goal = max(report.total, 1)
        self.remaining_s = report.remaining_s
        if report.is_epoch_end and report.phase == 'train':
            self.training_curve = self.training_curve.append(
                report.epoch, report.loss, report.held_out
            )
        is_due = time.monotonic() - self._logged_s >= LOG_PERIOD_S
        if is_due or report.message or report.is_epoch_end:
            self._logged_s = time.monotonic()
            logger.info('%s', describe_report(report))
        return min(report.step, self._progress_goal)

    def _follow_reconstruction(self, worker: Worker) -> Message | None:
        """Returns what the worker tells of its image, or None when the user stopped it."""
        done: Message | None = None
        logged: set[str] = set()
        for message in worker.messages():
            if self.task.is_stopping():
                logger.info('Reconstruction was stopped; the product keeps its object.')
                return None
            if message['tag'] == 'report':
                step = self._receive_report(message)
                self.task.update_progress(step, self._progress_goal)
            elif message['tag'] == 'reconstructed':
                done = message
                _log_reconstruction(message, logged)
            elif message['tag'] == 'log':
                logged.add(message['message'])
        return done


def _log_reconstruction(message: Message, logged: set[str]) -> None:
    """Logs what the worker tells of its image, unless it has logged it before."""
    for sentence in message['messages']:
        if sentence not in logged:
            logger.info('%s', sentence)
    seconds = ', '.join(f'{name} {value:.1f} s' for name, value in message['seconds'].items())
    text = 'Reconstructed with %s, starting from the %s. %s'
    logger.info(text, message['backend'], message['start'], seconds)
