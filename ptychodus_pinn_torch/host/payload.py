"""What crosses from Ptychodus to the worker process: paths and options, never the patterns."""

from __future__ import annotations

import contextlib
import json
import logging
import mmap
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter

from ..config import Config

if TYPE_CHECKING:
    from ptychodus.api.reconstruct import ReconstructInput

    from ..scan.scan import Scan

__all__ = [
    'PatternFile',
    'ReconstructPayload',
    'ScanFiles',
    'TrainPayload',
    'decode_payload',
    'encode_payload',
    'read_scan_files',
    'working_folder',
    'write_scan_files',
]

logger = logging.getLogger(__name__)

FOLDER_PREFIX = 'ptychodus-pinn-'
_LOCK_NAME = 'lock'
_ARRAYS = 'scan.npz'


@dataclass(frozen=True)
class PatternFile:
    """Where the patterns lie: raw numbers of one dtype and shape from an offset of a file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int

    def open(self) -> NDArray[Any]:
        """Returns the patterns as a read-only memory map."""
        return numpy.memmap(
            self.path, dtype=self.dtype, mode='r', offset=self.offset, shape=self.shape
        )


@dataclass(frozen=True)
class ScanFiles:
    """A scan on disk: the patterns' file, and a folder with the small arrays."""

    name: str
    patterns: PatternFile
    folder: Path
    pixel_size_m: tuple[float, float]
    object_center_m: tuple[float, float]
    metadata: Mapping[str, Any]


@dataclass(frozen=True)
class TrainPayload:
    """A training run. `engine` is 'module:attribute', or empty for the registered backend."""

    backend: str
    config: Config
    folder: Path
    inputs: tuple[Path, ...]
    validation: tuple[Path, ...]
    output: Path
    engine: str = ''


@dataclass(frozen=True)
class ReconstructPayload:
    """A reconstruction. No model means the shipped one."""

    backend: str
    config: Config
    folder: Path
    scan: ScanFiles
    model: Path | None = None
    engine: str = ''


def encode_payload(level: int, payload: TrainPayload | ReconstructPayload) -> bytes:
    """Returns a line of JSON with the log level and the payload: nothing in it can execute."""
    tree = TypeAdapter(type(payload)).dump_python(payload, mode='json')
    return json.dumps([level, tree]).encode() + b'\n'


def decode_payload(line: bytes) -> tuple[int, TrainPayload | ReconstructPayload]:
    """Returns what `encode_payload` was given.

    Raises:
        ValueError: the line is something else.
    """
    level, tree = json.loads(line)
    kind: Any = ReconstructPayload if 'scan' in tree else TrainPayload
    return int(level), TypeAdapter(kind).validate_python(tree)


@contextlib.contextmanager
def working_folder() -> Iterator[Path]:
    """Yields a temporary folder that is gone afterwards; removes those of dead processes too.

    A lock tells living from dead: the kernel drops it with the process, however that ended.
    """
    _remove_abandoned_folders(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=FOLDER_PREFIX, ignore_cleanup_errors=True) as name,
        Path(name, f'new {_LOCK_NAME}').open('w') as lock,
    ):
        if _try_lock(lock):
            os.replace(lock.name, Path(name, _LOCK_NAME))  # never seen before it is locked
        yield Path(name)


def _try_lock(file: IO[str]) -> bool:
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # such a folder is never taken for an abandoned one
        return False
    return True


def _remove_abandoned_folders(parent: Path) -> None:
    for lock_file in parent.glob(f'{FOLDER_PREFIX}*/{_LOCK_NAME}'):
        try:
            with lock_file.open('r') as lock:
                is_abandoned = _try_lock(lock)
        except OSError:
            continue
        if is_abandoned:
            logger.info('Removing %s, left behind by a process that was killed.', lock_file.parent)
            shutil.rmtree(lock_file.parent, ignore_errors=True)


def _find_file_of(patterns: NDArray[Any]) -> PatternFile | None:
    """Returns where an array lies on disk, if it is a contiguous part of a memory map."""
    if not patterns.flags.c_contiguous or patterns.dtype.hasobject:
        return None
    top: Any = patterns
    while isinstance(top.base, numpy.ndarray):
        top = top.base
    is_mapped = isinstance(top, numpy.memmap) and isinstance(top.base, mmap.mmap)
    if not is_mapped or top.filename is None or top.mode == 'c':
        return None
    distance = patterns.__array_interface__['data'][0] - top.__array_interface__['data'][0]
    path = Path(str(top.filename))
    if not path.is_file() or path.stat().st_size < top.offset + distance + patterns.nbytes:
        return None
    return PatternFile(path, patterns.dtype.str, patterns.shape, int(top.offset + distance))


def _write_patterns(patterns: NDArray[Any], folder: Path) -> PatternFile:
    free = shutil.disk_usage(folder).free
    if patterns.nbytes > free:
        raise RuntimeError(
            f'The diffraction patterns need {patterns.nbytes / 1e9:.1f} GB in {folder.parent}, '
            f'where {free / 1e9:.1f} GB are free: set the variable TMPDIR to a larger disk.'
        )
    path = folder / 'patterns.raw'
    with path.open('wb') as file:
        for frame in patterns:
            file.write(numpy.ascontiguousarray(frame).data)
    return PatternFile(path, patterns.dtype.str, patterns.shape, 0)


def _check_input(parameters: ReconstructInput) -> None:
    product = parameters.product
    num_patterns, num_positions = len(parameters.diffraction_patterns), len(product.probe_positions)
    probes, shape = product.probes, parameters.diffraction_patterns.shape[-2:]
    fault = ''
    if num_patterns == 0:
        fault = 'the scan has no diffraction patterns: load some.'
    elif num_patterns != num_positions:
        fault = (
            f'there are {num_patterns} patterns but {num_positions} positions: bind the product '
            'to the dataset that it was made for.'
        )
    elif product.object_.get_array().size == 0:
        fault = 'the product has no object: initialize it in the Object panel.'
    elif probes.get_array().size == 0:
        fault = 'the product has no probe: initialize it in the Probe panel.'
    elif tuple(shape) != (probes.height_px, probes.width_px):
        fault = (
            f'the patterns are {shape[0]} x {shape[1]} pixels but the probe is '
            f'{probes.height_px} x {probes.width_px}: initialize the probe again.'
        )
    if fault:
        raise ValueError(f'{product.metadata.name}: {fault}')


def write_scan_files(parameters: ReconstructInput, folder: Path) -> ScanFiles:
    """Returns a scan that was written into a folder for the worker process.

    Patterns that already are a memory map on a file stay where they are. Of an object with
    several layers the first is used.

    Raises:
        ValueError: nothing to reconstruct, or arrays that do not belong together.
        RuntimeError: the disk is full.
    """
    from ..scan.io.products import arrays_of_product

    _check_input(parameters)
    found = arrays_of_product(parameters.product)
    patterns = numpy.asanyarray(parameters.diffraction_patterns)
    varying: dict[str, Any] = {}
    if found.variation is not None:
        varying['probe_variations'] = found.variation.modes.astype(numpy.complex64)
        varying['probe_weights'] = found.variation.weights
    numpy.savez(
        folder / _ARRAYS,
        positions_px=found.positions_px,
        probe=found.probe.astype(numpy.complex64),
        object_=found.object_.astype(numpy.complex64),
        bad_pixels=find_bad_pixels(parameters),
        **varying,
    )
    return ScanFiles(
        name=str(found.metadata['name'] or 'scan'),
        patterns=_find_file_of(patterns) or _write_patterns(patterns, folder),
        folder=folder,
        pixel_size_m=found.pixel_size_m,
        object_center_m=found.object_center_m,
        metadata=found.metadata,
    )


def find_bad_pixels(parameters: ReconstructInput) -> NDArray[numpy.bool_]:
    """Returns (H, W), True where the detector cannot be trusted."""
    if parameters.bad_pixels is None:
        return numpy.zeros(parameters.diffraction_patterns.shape[-2:], dtype=bool)
    return numpy.asarray(parameters.bad_pixels, dtype=bool)


def read_scan_files(files: ScanFiles) -> Scan:
    """Returns the scan, checked, with its patterns as a memory map.

    Raises:
        ValueError: a scan that cannot be used; says why and what to do.
    """
    from ..scan.io.build import build_scan
    from ..scan.io.raw import RawScan

    with numpy.load(files.folder / _ARRAYS, allow_pickle=False) as arrays:
        raw = RawScan(
            patterns=files.patterns.open(),
            pixel_size_m=files.pixel_size_m,
            object_center_m=files.object_center_m,
            metadata=dict(files.metadata),
            **arrays,
        )
    return replace(build_scan(Path(files.name), raw), source=None)
