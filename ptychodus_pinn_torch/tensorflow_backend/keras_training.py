"""Training runs on TensorFlow: from scans to a model archive."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf

from ..backend import EpochReport, Report, TrainRequest
from ..config import Config, ConfigError, override_config
from ..models.archive import Archive, write_archive
from ..models.card import write_card
from .keras_checkpoint import read_checkpoint, write_checkpoint
from .keras_model import NETWORK_PREFIX, PtychoPINN
from .keras_models import read_model
from .keras_options import settle_training_options
from .keras_reader import ScanReader
from .keras_run import Run, StopRequest, open_history_writer
from .loading import choose_device, set_threads

__all__ = ['train']

logger = logging.getLogger(__name__)

FLAT_RATIO = 0.9


def train(request: TrainRequest, report: Report) -> Path:
    """Returns the path of the archive that training on measured scans has written.

    Raises:
        ValueError: scans that cannot be trained on, or a start model that does not fit.
        ConfigError: an option that the engine does not have, or a run that cannot be resumed.
        KeyboardInterrupt: training was stopped; the best model so far has been written.
    """
    if not request.scans:
        raise ValueError('there is nothing to train on: give at least one scan.')
    config, message = settle_training_options(request.config)
    if message:
        report(EpochReport('train', 0, config.training.max_steps, message=message))
    config, weights, start = _starting_point(config)
    if config.mode == 'supervised':
        _check_labels(request)
    set_threads(config.execution.num_threads)
    modes = config.physics.num_probe_modes
    readers = [ScanReader(scan, num_probe_modes=modes) for scan in request.scans]
    validation = [ScanReader(scan, num_probe_modes=modes) for scan in request.validation]
    config = _settle_pattern_size(config, readers)
    with tf.device(choose_device(config)):
        model = PtychoPINN(config, readers)
        if weights is not None:
            model.network.load(weights, start)
        run = Run(config, model, validation, is_finetuned=weights is not None)
        return _execute(run, request, report, start)


def _execute(run: Run, request: TrainRequest, report: Report, start: str) -> Path:
    folder = request.output.parent / f'{request.output.name.removesuffix(".h5.zip")}.run'
    _prepare_folder(run, folder, is_resumed=request.is_resumed)
    stop = StopRequest(report)
    started = time.monotonic()
    with stop.listening(), open_history_writer(run.config.execution.logger, folder) as write_row:
        run.fit(stop, write_row, lambda: write_checkpoint(folder, run.state()))
    write_checkpoint(folder, run.state())
    run.take_best()
    details = {
        'scans': [scan.name for scan in request.scans],
        'pattern_size': run.model.network.pattern_size,
        'probe_modes': [len(reader.probe) for reader in run.model.readers],
        'patterns': [reader.num_patterns for reader in run.model.readers],
        'photons': [float(f'{scan.mean_counts():.4g}') for scan in request.scans],
        'steps': run.step,
        'start': start,
        'seconds': round(time.monotonic() - started, 1),
        **run.metrics(),
    }
    _warn_when_flat(run, stop)
    archive = Archive(
        config=run.config,
        weights=run.model.archive_weights(),
        history=run.history,
        card=write_card(run.config, details, run.history),
        backend='tensorflow',
        details=details,
    )
    write_archive(request.output, archive)
    if stop.is_set:
        raise KeyboardInterrupt
    return request.output


def _starting_point(config: Config) -> tuple[Config, dict[str, Any] | None, str]:
    start = config.training.start.strip()
    if start in {'none', 'shipped'}:  # the shipped model is an unrolled network
        return config, None, 'none'
    archive = read_model(Path(start))
    network = archive.config.network.model_dump()
    plain = type(config.network)().model_dump()
    given = config.network.model_dump()
    changed = [key for key in given if given[key] not in (plain[key], network[key])]
    if changed:
        raise ConfigError(
            f'{start}: has another network than asked for ({", ".join(changed)}): leave out those options, '
            'or start from scratch with --start none.'
        )
    config = override_config(config, {f'network.{key}': value for key, value in network.items()})
    weights = {
        name.removeprefix(NETWORK_PREFIX): array
        for name, array in archive.weights.items()
        if name.startswith(NETWORK_PREFIX)
    }
    return config, weights, start


def _check_labels(request: TrainRequest) -> None:
    for scan in request.scans:
        if scan.truth is None and not scan.has_object:
            raise ValueError(
                f'{scan.name}: supervised training needs the object of the scan, and there is '
                'none in the file: reconstruct it first, or train unsupervised.'
            )


def _settle_pattern_size(config: Config, readers: Sequence[ScanReader]) -> Config:
    sizes = sorted({reader.window for reader in readers})
    if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
        shown = ', '.join(f'{height} x {width}' for height, width in sizes)
        raise ValueError(
            f'the cnn network takes square patterns of one size, the scans have {shown} px: crop '
            'or bin them to one size, or use the unrolled network of --backend pytorch.'
        )
    size = sizes[0][0]
    if config.network.pattern_size not in {0, size}:
        raise ValueError(
            f'the network is made for patterns of {config.network.pattern_size} px, the scans '
            f'have {size} px: crop or bin them.'
        )
    return override_config(config, {'network.pattern_size': size})


def _prepare_folder(run: Run, folder: Path, *, is_resumed: bool) -> None:
    """Takes up the state of an interrupted run, or clears the folder for a new one."""
    stored = folder / 'config.json'
    text = run.config.model_dump_json(indent=2, exclude={'execution'})
    if not is_resumed:
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, None)
        stored.write_text(text, encoding='utf-8')
        return
    state = read_checkpoint(folder)
    if state is None or not stored.is_file():
        raise ConfigError(f'{folder}: holds no interrupted run: start without --resume.')
    if json.loads(stored.read_text(encoding='utf-8')) != json.loads(text):
        raise ConfigError(
            f'{stored}: the interrupted run had other options: give the same ones, or start '
            'without --resume.'
        )
    run.load_state(state)


def _warn_when_flat(run: Run, stop: StopRequest) -> None:
    found = run.last_metrics
    if not found or found['held_out'] <= FLAT_RATIO * found['held_out_flat']:
        return
    message = (
        'the model predicts patterns that it has not seen hardly better than a flat object does '
        f'({found["held_out"]:.3g} against {found["held_out_flat"]:.3g}): train longer, or '
        'examine the scan with ptychodus-pinn check.'
    )
    logger.warning('%s', message)
    stop.send(EpochReport('train', 0, 0, message=message))
