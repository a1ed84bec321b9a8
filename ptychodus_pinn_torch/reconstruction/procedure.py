"""From a scan to its image: network, guard, refinement, and back onto the object grid."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..backend import EpochReport, Reconstruction, ReconstructRequest, Report
from ..config import Config
from ..models.archive import Archive, shipped_model
from ..models.opening import open_model
from ..networks.registry import build_network, load_weights
from ..networks.unrolled import Piece
from ..physics.devices import choose_device, set_threads
from ..physics.forward_model import coverage_of_windows
from ..physics.measurement import ScanReader, ScanSource
from ..scan.scan import Scan
from .refining import refine
from .solver import RefinementState, relative_error

__all__ = ['load_network', 'reconstruct']

logger = logging.getLogger(__name__)

COVERED = 1e-3
"""Pixels with less than this part of the highest coverage keep the input object's value."""

GUARD_PATTERNS = 256
MAX_CUDA_PIECE = 2**30


@dataclass
class Progress:
    """Keeps time by phase, passes reports on, collects sentences for the user."""

    report: Report
    seconds: dict[str, float] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    _last: float = 0.0

    def spent(self, phase: str, started: float) -> None:
        """Adds the time since `started` to a phase."""
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.monotonic() - started

    def step(self, phase: str, done: int, total: int, started: float) -> None:
        """Reports at most twice a second, with the time that is left."""
        now = time.monotonic()
        if now - self._last < 0.5 and done < total:
            return
        self._last = now
        left = (now - started) * (total - done) / done if done else None
        self.report(EpochReport(phase, done, total, remaining_s=left))

    def say(self, message: str) -> None:
        """Logs a sentence and keeps it for the result."""
        logger.warning('%s', message)
        self.messages.append(message)


def load_network(archive: Archive) -> nn.Module:
    """Returns the network of an archive, ready to run.

    Raises:
        ValueError: weights that do not fit the network.
    """
    network = build_network(archive.config.network)
    weights = {
        name.removeprefix('network.'): array
        for name, array in archive.weights.items()
        if name.startswith('network.')
    }
    load_weights(network, weights, str(archive.path or 'the archive'))
    return network.eval()


def reconstruct(request: ReconstructRequest, report: Report) -> Reconstruction:
    """Returns the image of a scan on the grid of its object.

    Raises:
        ValueError: a scan without patterns, or a model that does not fit it.
        KeyboardInterrupt: raised by `report` to stop.
    """
    scan, config = request.scan, request.config
    if scan.num_patterns == 0:
        raise ValueError(f'{scan.name}: has no patterns: there is nothing to reconstruct.')
    progress = Progress(report)
    started = time.monotonic()
    set_threads(config.execution.num_threads)
    device = choose_device(config.execution.accelerator)
    archive = _read_model(request)
    scan = _with_trained_probe(scan, archive, progress)
    reader = ScanReader(
        scan,
        device=device,
        num_probe_modes=config.physics.num_probe_modes,
        piece_bytes=_piece_bytes(config, device),
    )
    network = None if archive is None else load_network(archive).to(device)
    progress.spent('load', started)
    with torch.inference_mode(config.reconstruction.refine_method != 'adam'):
        starts = {'flat': _flat_start(reader)}
        if network is not None:
            starts['network'] = _network_start(network, reader, config, progress)
        elif config.reconstruction.start == 'object':
            starts['object'] = _object_start(reader)
        options = config.reconstruction
        rerun = None
        if network is not None and options.update_probe and options.guard:
            name = 'network'  # which start is best shows when the probe has been mended

            def rerun() -> Tensor:
                return _network_start(network, reader, config, progress)
        else:
            name = _guard(starts, reader, config, progress)
        is_good = name == 'network' and getattr(network, 'num_passes', 1) > 1  # not pattern-wise
        result = refine(
            (name, starts[name]), reader, config, progress, rerun, is_good_start=is_good
        )
    return _finish(result, reader, progress)


def _read_model(request: ReconstructRequest) -> Archive | None:
    if request.config.reconstruction.start != 'network':
        return None
    path = request.model or shipped_model()
    return read_any_model(path)


def read_any_model(path: Path) -> Archive:
    """Returns the model at a path; see `open_model`."""
    return open_model(path, backend='pytorch')


def _with_trained_probe(scan: Scan, archive: Archive | None, progress: Progress) -> Scan:
    """Returns the scan with the probe that training has found for this very scan, if any."""
    if archive is None:
        return scan
    from dataclasses import replace

    names = list(archive.details.get('scans', []))
    for index, name in enumerate(names):
        array = archive.weights.get(f'probe.{index}')
        if array is not None and name == scan.name and array.shape[:-1] == scan.probe.shape:
            progress.say(f'{scan.name}: the probe that training has adjusted is used.')
            parts = numpy.asarray(array, dtype=numpy.float32)
            return replace(scan, probe=(parts[..., 0] + 1j * parts[..., 1]).astype('complex64'))
    return scan


def _piece_bytes(config: Config, device: torch.device) -> int:
    budget = config.reconstruction.memory_MB * 2**20
    # exit waves, far fields and differences of a piece live at the same time
    return max(2**20, min(budget // 8, 2**24 if device.type == 'cpu' else MAX_CUDA_PIECE))


def _flat_start(reader: ScanReader) -> Tensor:
    power = float((reader.probe.real.square() + reader.probe.imag.square()).sum())
    level = max(reader.total_counts() / reader.num_patterns / power, 1e-12) ** 0.5
    return torch.full(
        reader.canvas_shape, complex(level), dtype=torch.complex64, device=reader.device
    )


def _object_start(reader: ScanReader) -> Tensor:
    scan = reader.scan
    _, height, width = reader.canvas_shape
    y = numpy.clip(numpy.arange(height) + reader.origin[0], 0, scan.object_.shape[0] - 1)
    x = numpy.clip(numpy.arange(width) + reader.origin[1], 0, scan.object_.shape[1] - 1)
    window = scan.object_[y[:, None], x[None, :]].astype(numpy.complex64)
    return torch.from_numpy(window)[None].to(reader.device)


class _ReportingSource:
    """A source that reports every piece it hands out."""

    def __init__(self, source: ScanSource, progress: Progress, total: int) -> None:
        self.num_subsets = source.num_subsets
        self.canvas_shape = source.canvas_shape
        self.scale = source.scale
        self._source, self._progress, self._total = source, progress, total
        self._done, self._started = 0, time.monotonic()

    def pieces(self, subset: int) -> Iterator[Piece]:
        """Yields the parts of a subset."""
        for piece in self._source.pieces(subset):
            yield piece
            self._done = min(self._total, self._done + len(piece.rows))
            self._progress.step('network', self._done, self._total, self._started)


def _network_start(
    network: nn.Module, reader: ScanReader, config: Config, progress: Progress
) -> Tensor:
    started = time.monotonic()
    everyone = numpy.arange(reader.num_patterns)
    passes = int(getattr(network, 'num_passes', 1))
    while True:
        try:
            subsets = int(getattr(network, 'num_subsets', 1))
            source = ScanSource(reader, subsets, everyone)
            reporting = _ReportingSource(source, progress, passes * reader.num_patterns)
            mixed = config.execution.precision == 'bf16-mixed'
            with (
                torch.no_grad(),
                torch.autocast(reader.device.type, dtype=torch.bfloat16, enabled=mixed),
            ):
                canvas = network.run(reporting)  # type: ignore[operator]
            break
        except (MemoryError, torch.OutOfMemoryError) as error:
            if reader.piece_size == 1:
                raise
            reader.piece_size = max(1, reader.piece_size // 2)
            del error
            progress.say(f'out of memory: going on with {reader.piece_size} patterns at a time.')
    progress.spent('network', started)
    found: Tensor = canvas.object_
    return found


def _guard(
    starts: dict[str, Tensor], reader: ScanReader, config: Config, progress: Progress
) -> str:
    """Returns the start that explains the counts best, saying so when it is not the network."""
    preferred = config.reconstruction.start
    if preferred == 'flat' or preferred not in starts or not config.reconstruction.guard:
        return preferred if preferred in starts else 'flat'
    stride = max(1, reader.num_patterns // GUARD_PATTERNS)
    sample = torch.arange(0, reader.num_patterns, stride)
    errors = {}
    for name, canvas in starts.items():
        state = RefinementState(canvas, reader.probe, reader.shifts)
        errors[name] = relative_error(state, reader, sample.split(reader.piece_size))
    if errors[preferred] <= errors['flat']:
        return preferred
    progress.say(
        f'{reader.scan.name}: the {preferred} start explains the counts worse than a flat object '
        f'(relative error {errors[preferred]:.3g} against {errors["flat"]:.3g}): starting from '
        'the flat one. The probe is probably wrong: try --reconstruction.update-probe.'
    )
    return 'flat'


def _finish(result: Any, reader: ScanReader, progress: Progress) -> Reconstruction:
    started = time.monotonic()
    scan = reader.scan
    state = result.state
    coverage = coverage_of_windows(
        state.probe, reader.corners.to(reader.device), reader.canvas_shape
    )[0]
    relative = (coverage / coverage.max()).cpu().numpy()
    image = state.canvas[0].detach().cpu().numpy()
    object_, covered = _place(image, relative, reader.origin, scan.object_)
    positions = scan.positions_px + (state.shifts - reader.shifts).cpu().numpy()
    probe = state.probe.detach().cpu().numpy() / reader.calibration
    progress.spent('place', started)
    return Reconstruction(
        object_=object_,
        positions_px=positions,
        probe=probe.astype(numpy.complex64),
        losses=tuple(result.losses),
        coverage=covered,
        seconds=progress.seconds,
        start=result.start,
        held_out=result.held_out,
        messages=tuple(progress.messages),
        backend='pytorch',
    )


def _place(
    image: NDArray[numpy.complex64],
    coverage: NDArray[numpy.float32],
    origin: NDArray[numpy.int64],
    object_: NDArray[numpy.complex64],
) -> tuple[NDArray[numpy.complex64], NDArray[numpy.float32]]:
    """Returns the image on the object's grid and its coverage; unscanned pixels stay as given."""
    placed = numpy.array(object_, dtype=numpy.complex64)
    covered = numpy.zeros(placed.shape, dtype=numpy.float32)
    y0, x0 = (int(value) for value in origin)
    top, left = max(0, y0), max(0, x0)
    bottom = min(placed.shape[0], y0 + image.shape[0])
    right = min(placed.shape[1], x0 + image.shape[1])
    if bottom <= top or right <= left:
        return placed, covered
    inside = (slice(top - y0, bottom - y0), slice(left - x0, right - x0))
    target = (slice(top, bottom), slice(left, right))
    covered[target] = coverage[inside]
    is_seen = coverage[inside] > COVERED
    placed[target][is_seen] = image[inside][is_seen]
    return placed, covered
