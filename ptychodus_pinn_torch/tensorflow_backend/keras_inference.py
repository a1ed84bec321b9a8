"""From a scan to its image on TensorFlow: network, guard, refinement, back onto the grid."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
import tensorflow as tf
from numpy.typing import NDArray

from ..backend import EpochReport, Reconstruction, ReconstructRequest, Report
from ..config import Config, ConfigError
from ..models.archive import Archive
from ..scan.scan import Scan
from .keras_models import load_network, read_model
from .keras_network import CnnNetwork
from .keras_options import check_reconstruction_options
from .keras_patches import CHUNK, stitch
from .keras_reader import ScanReader
from .keras_refining import Refined, Refinement
from .keras_rpie import RefinementState, relative_error
from .loading import choose_device, set_threads

__all__ = ['reconstruct']

logger = logging.getLogger(__name__)

COVERED = 1e-3
"""Pixels with less than this part of the highest coverage keep the input object's value."""

GUARD_PATTERNS = 256
REPORT_INTERVAL_S = 0.5
Starts = dict[str, NDArray[numpy.complex64]]


@dataclass
class Progress:
    """Keeps time by phase, passes reports on, collects sentences for the user."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    _last: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """Starts the clock of a phase."""
        self._started = time.monotonic()

    def end(self, phase: str) -> None:
        """Stops the clock of a phase."""
        self.seconds[phase] = time.monotonic() - self._started

    def step(self, phase: str, done: int, total: int) -> None:
        """Reports at most twice a second, with the time that is left."""
        now = time.monotonic()
        if now - self._last < REPORT_INTERVAL_S and done < total:
            return
        self._last = now
        left = (now - self._started) * (total - done) / done if done else None
        self.report(EpochReport(phase, done, total, remaining_s=left))

    def say(self, message: str) -> None:
        """Logs a sentence and keeps it for the result."""
        logger.warning('%s', message)
        self.messages.append(message)


def reconstruct(request: ReconstructRequest, report: Report) -> Reconstruction:
    """Returns the image of a scan on the grid of its object.

    Raises:
        ValueError: a scan without patterns, or a model that does not fit it.
        ConfigError: no model, or an option that the engine does not have.
        KeyboardInterrupt: raised by `report` to stop.
    """
    scan, config = request.scan, request.config
    check_reconstruction_options(config)
    if scan.num_patterns == 0:
        raise ValueError(f'{scan.name}: has no patterns: there is nothing to reconstruct.')
    progress = Progress(report)
    set_threads(config.execution.num_threads)
    archive = _read_model(request.model, config)
    scan = _with_trained_probe(scan, archive, progress)
    reader = ScanReader(
        scan,
        num_probe_modes=config.physics.num_probe_modes,
        memory_bytes=config.reconstruction.memory_MB * 2**20 // 8,
    )
    starts = {'flat': numpy.full(reader.canvas_shape, reader.mean_level(), numpy.complex64)}
    with tf.device(choose_device(config)):
        network = None if archive is None else load_network(archive)
        progress.end('load')
        if network is not None:
            starts['network'] = _network_start(network, reader, progress)
        elif config.reconstruction.start == 'object':
            starts['object'] = _object_start(reader)
    progress.begin()
    name = _guard(starts, reader, config, progress)
    candidates = {name: starts[name]}
    if config.reconstruction.update_probe and config.reconstruction.guard:
        candidates = starts
    refinement = Refinement(
        reader, config, lambda done, total: progress.step('refine', done, total)
    )
    refined = refinement.run(candidates)
    if refined.start != name:
        progress.say(
            f'{scan.name}: after an epoch with probe update the {refined.start} start explains '
            f'the counts better than the {name}: going on from it.'
        )
    progress.end('refine')
    return _finish(refined, reader, progress)


def _read_model(path: Path | None, config: Config) -> Archive | None:
    if config.reconstruction.start != 'network':
        return None
    if path is None:
        raise ConfigError(
            'The shipped model is an unrolled network, which the tensorflow backend does not '
            'have: train a model with --backend tensorflow and give it, or choose --backend '
            'pytorch.'
        )
    return read_model(path)


def _with_trained_probe(scan: Scan, archive: Archive | None, progress: Progress) -> Scan:
    """Returns the scan with the probe that training has found for this very scan, if any."""
    if archive is None:
        return scan
    for index, name in enumerate(archive.details.get('scans', [])):
        array = archive.weights.get(f'probe.{index}')
        if array is not None and name == scan.name and array.shape[:-1] == scan.probe.shape:
            progress.say(f'{scan.name}: the probe that training has adjusted is used.')
            parts = numpy.asarray(array, dtype=numpy.float32)
            return replace(scan, probe=(parts[..., 0] + 1j * parts[..., 1]).astype('complex64'))
    return scan


def _network_start(
    network: CnnNetwork, reader: ScanReader, progress: Progress
) -> NDArray[numpy.complex64]:
    progress.begin()
    everyone = numpy.arange(reader.num_patterns)
    canvas = stitch(
        network,
        reader,
        everyone,
        batch_size=min(CHUNK, reader.piece_size),
        after_batch=lambda done: progress.step('network', done, len(everyone)),
    )
    progress.end('network')
    return canvas


def _object_start(reader: ScanReader) -> NDArray[numpy.complex64]:
    object_ = reader.scan.object_
    (height, width), (first_y, first_x) = reader.canvas_shape, reader.origin
    y = numpy.clip(numpy.arange(height) + first_y, 0, object_.shape[0] - 1)
    x = numpy.clip(numpy.arange(width) + first_x, 0, object_.shape[1] - 1)
    return object_[y[:, None], x[None, :]].astype(numpy.complex64)


def _guard(starts: Starts, reader: ScanReader, config: Config, progress: Progress) -> str:
    """Returns the start that explains the counts best, saying so when it is not the wanted one."""
    preferred = config.reconstruction.start
    if preferred == 'flat' or not config.reconstruction.guard:
        return preferred
    sample = numpy.arange(0, reader.num_patterns, max(1, reader.num_patterns // GUARD_PATTERNS))
    parts = list(reader.split(sample))
    errors = {
        name: relative_error(RefinementState(canvas, reader.probe, reader.shifts), reader, parts)
        for name, canvas in starts.items()
    }
    if errors[preferred] <= errors['flat']:
        return preferred
    progress.say(
        f'{reader.scan.name}: the {preferred} start explains the counts worse than a flat object '
        f'(relative error {errors[preferred]:.3g} against {errors["flat"]:.3g}): starting from '
        'the flat one. The probe is probably wrong: try --reconstruction.update-probe.'
    )
    return 'flat'


def _finish(refined: Refined, reader: ScanReader, progress: Progress) -> Reconstruction:
    progress.begin()
    scan, state = reader.scan, refined.state
    power = numpy.sum(state.probe.real**2 + state.probe.imag**2, axis=0)
    coverage = numpy.zeros(reader.canvas_shape, dtype=numpy.float32)
    height, width = reader.window
    for y, x in reader.corners.tolist():
        coverage[y : y + height, x : x + width] += power
    object_, covered = _place(state.canvas, coverage / coverage.max(), reader.origin, scan.object_)
    probe = (state.probe / reader.calibration).astype(numpy.complex64)
    progress.end('place')
    return Reconstruction(
        object_=object_,
        positions_px=scan.positions_px + (state.shifts - reader.shifts),
        probe=probe,
        losses=tuple(refined.losses),
        coverage=covered,
        seconds=progress.seconds,
        start=refined.start,
        held_out=refined.held_out,
        messages=tuple(progress.messages),
        backend='tensorflow',
    )


def _place(
    image: NDArray[numpy.complex64],
    coverage: NDArray[numpy.float32],
    origin: NDArray[numpy.int64],
    object_: NDArray[Any],
) -> tuple[NDArray[numpy.complex64], NDArray[numpy.float32]]:
    """Returns the image on the object's grid and its coverage; unscanned pixels stay as given."""
    placed = numpy.array(object_, dtype=numpy.complex64)
    covered = numpy.zeros(placed.shape, dtype=numpy.float32)
    first = numpy.maximum(origin, 0)
    last = numpy.minimum(numpy.asarray(placed.shape), origin + numpy.asarray(image.shape))
    if (last <= first).any():
        return placed, covered
    target = tuple(slice(low, high) for low, high in zip(first, last))
    source = tuple(slice(low, high) for low, high in zip(first - origin, last - origin))
    is_seen = coverage[source] > COVERED
    covered[target] = coverage[source]
    placed[target] = numpy.where(is_seen, image[source], placed[target])
    return placed, covered
