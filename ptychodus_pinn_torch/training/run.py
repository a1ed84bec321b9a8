"""The procedure of a training run: from scans to a model archive, the same for every engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..backend import Backend, EpochReport, Report, TrainRequest, get_backend
from ..config import Config, ConfigError, override_config
from ..models.archive import Archive, check_backend, shipped_model, write_archive
from ..models.card import write_card
from ..models.opening import open_model
from ..physics.devices import set_threads
from ..physics.measured_scan import MeasuredScan, measure_scan
from ..reconstruction.defocus import with_found_defocus
from ..scan.probe_mask import mask_probe
from ..scan.scan import Scan
from .batches import ScanBatches
from .fitting import Fitted, TrainingRun
from .run_folder import folder_of, prepare_folder
from .training_log import TrainingLog

__all__ = ['fit_and_write', 'train']

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
    backend = get_backend(request.backend)
    config, message = backend.settle(request.config)
    if message:
        logger.warning('%s', message)
        report(EpochReport('train', 0, config.training.max_steps, message=message))
    config, weights, start = _starting_point(config, backend)
    if config.mode == 'supervised':
        _check_labels(request)
    set_threads(config.execution.num_threads)
    scans = [_measure(scan, config) for scan in request.scans]
    validation = [_measure(scan, config) for scan in request.validation]
    _say_what_varies(scans, backend, config, report)
    config = _settle_network(config, scans)
    batches = ScanBatches(scans, config, validation)
    details = {
        'scans': [scan.name for scan in request.scans],
        'fingerprints': batches.identity(),
        'pattern_size': request.scans[0].pattern_shape[0],
        'probe_modes': [len(probe) for probe in batches.probes],
        'patterns': [scan.num_patterns for scan in request.scans],
        'photons': [float(f'{scan.mean_counts():.4g}') for scan in request.scans],
        'start': start,
    }
    run = TrainingRun(
        config,
        batches,
        TrainingLog(report, config.training.max_steps),
        folder_of(request.output),
        request.is_resumed,
        weights,
        start,
    )
    return fit_and_write(run, backend, request.output, details)


def _measure(scan: Scan, config: Config) -> MeasuredScan:
    focused = with_found_defocus(scan, logger.info)
    masked = mask_probe(focused, config.physics.probe_mask_px)
    return measure_scan(masked, num_probe_modes=config.physics.num_probe_modes)


def _say_what_varies(
    scans: Sequence[MeasuredScan], backend: Backend, config: Config, report: Report
) -> None:
    """Says which scans are trained on with their mean probe, where the engine has no other."""
    names = [scan.scan.name for scan in scans if scan.measurement.variation is not None]
    if not names or getattr(backend, 'has_varying_probes', True):
        return
    message = (
        f'The probe of {", ".join(names)} varies over the scan (OPR), which the {backend.name} '
        'backend does not train with: it takes the mean probe.'
    )
    logger.warning('%s', message)
    report(EpochReport('train', 0, config.training.max_steps, message=message))


def _starting_point(
    config: Config, backend: Backend
) -> tuple[Config, Mapping[str, Any] | None, str]:
    """Returns the configuration with the network to start from, its weights, and their name."""
    start = config.training.start.strip()
    if start == 'none':
        return config, None, start
    if start == 'shipped':
        if config.network.kind != 'unrolled' or not shipped_model().is_file():
            return config, None, 'none'
        path = shipped_model()
    else:
        path = Path(start)
    archive = open_model(path)
    check_backend(archive, backend.name)
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
    return config, archive.network_weights(), 'shipped' if start == 'shipped' else str(path)


def _check_labels(request: TrainRequest) -> None:
    for scan in request.scans:
        if scan.truth is None and not scan.has_object:
            raise ValueError(
                f'{scan.name}: supervised training needs the object of the scan, and there is '
                'none in the file: reconstruct it first, or train unsupervised.'
            )


def _settle_network(config: Config, scans: Sequence[MeasuredScan]) -> Config:
    """Returns the configuration with the pattern size of a network that is bound to one."""
    sizes = {measured.scan.pattern_shape for measured in scans}
    if not config.network.is_patchwise:
        return config
    if len(sizes) > 1:
        shown = ', '.join(f'{height} x {width}' for height, width in sorted(sizes))
        raise ValueError(
            f'the {config.network.kind} network takes patterns of one size, the scans have {shown} '
            'px: crop or bin them to one size, or use the unrolled network.'
        )
    size = scans[0].scan.pattern_shape[0]
    if config.network.size_px not in {0, size}:
        raise ValueError(
            f'the network is made for patterns of {config.network.size_px} px, the scans '
            f'have {size} px: crop or bin them.'
        )
    if 'pattern_size' not in type(config.network).model_fields:
        return config
    return override_config(config, {'network.pattern_size': size})


def fit_and_write(
    run: TrainingRun, backend: Backend, output: Path, details: Mapping[str, Any], about: str = ''
) -> Path:
    """Returns the path of the archive that a run has written.

    Args:
        run: What to fit.
        backend: The engine that does it.
        output: The archive.
        details: What is known of the data; figures of the run are added.
        about: Text at the head of the model card.

    Raises:
        KeyboardInterrupt: the run was stopped; what was best has been written.
        ConfigError: there is nothing to resume, or options or data have changed since.
    """
    prepare_folder(run.folder, run.config, run.batches, is_resumed=run.is_resumed)
    started = time.monotonic()
    fitted = backend.fit(run)
    if not fitted.is_main:
        return output
    details = {
        **details,
        'steps': fitted.steps,
        'seconds': round(time.monotonic() - started, 1),
        **_figures(fitted, run.log),
    }
    _warn_when_flat(fitted, run.log)
    archive = Archive(
        config=run.config,
        weights=fitted.weights,
        history=run.log.history,
        card=write_card(run.config, details, run.log.history, about=about),
        backend=backend.name,
        details=details,
    )
    write_archive(output, archive)
    if run.log.is_stopping:
        raise KeyboardInterrupt
    return output


def _figures(fitted: Fitted, log: TrainingLog) -> dict[str, float]:
    names = ('held_out', 'held_out_flat', 'floor')
    found = {name: fitted.metrics[name] for name in names if name in fitted.metrics}
    if log.history and log.history[-1]['loss'] is not None:
        found['loss'] = float(log.history[-1]['loss'])
    if fitted.best_held_out is not None:
        found['best_held_out'] = fitted.best_held_out
    return {name: float(f'{value:.5g}') for name, value in found.items()}


def _warn_when_flat(fitted: Fitted, log: TrainingLog) -> None:
    """Says so when even the best weights predict patterns hardly better than a flat object."""
    error, flat = fitted.best_held_out, fitted.metrics.get('held_out_flat')
    if error is None or flat is None or error <= FLAT_RATIO * flat:
        return
    message = (
        f'the model predicts patterns that it has not seen hardly better than a flat object '
        f'does ({error:.3g} against {flat:.3g}): train longer, start from the shipped model, '
        'or examine the scan with ptychodus-pinn check.'
    )
    logger.warning('%s', message)
    log.say(message)
