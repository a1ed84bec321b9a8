"""Scans in NPZ files: Ptychodus training data, PtychoPINN data, and scans in metres."""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .diffraction_kind import PatternKind, recognise_kind
from .pattern_store import map_npz_member, stage_blocks, stage_npz_member

__all__ = ['NpzReader', 'RawScan', 'read_npz_layout', 'read_pixel_layout']

logger = logging.getLogger(__name__)

_METADATA_KEYS = {
    'photon_energy_eV': 'photon_energy_eV',
    'energy_eV': 'photon_energy_eV',
    'detector_distance_m': 'detector_distance_m',
    'distance_m': 'detector_distance_m',
    'detector_pixel_m': 'detector_pixel_m',
    'probe_photon_count': 'probe_photon_count',
    'exposure_time_s': 'exposure_time_s',
}


@dataclass(frozen=True)
class RawScan:
    """What a file holds, in the package's conventions but not yet checked.

    Positions (N, 2), object (Y, X), mask (H, W) and probe (P, H, W) may be missing; patterns are
    (N, H, W); see `Scan` for the meaning of the attributes. `source` is the file with
    the patterns, where it is not the path that was asked for. How the probe varies is in
    `probe_variations` (V, H, W) and `probe_weights` (N, 1 + V), where it does.
    """

    patterns: NDArray[Any]
    positions_px: NDArray[Any]
    probe: NDArray[Any] | None
    object_: NDArray[Any] | None
    bad_pixels: NDArray[Any] | None
    pixel_size_m: tuple[float, float] | None = None
    object_center_m: tuple[float, float] = (0.0, 0.0)
    truth: NDArray[Any] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    source: Path | None = None
    probe_variations: NDArray[Any] | None = None
    probe_weights: NDArray[Any] | None = None


class NpzReader:
    """Arrays of one NPZ by name, with errors that say what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except zipfile.BadZipFile as error:
            raise ValueError(
                f'{path} is damaged or cut short ({error}): copy or export it again.'
            ) from error
        self.keys = tuple(name.removesuffix('.npy') for name in names if name.endswith('.npy'))

    def __contains__(self, key: str) -> bool:
        return key in self.keys

    def first(self, names: Iterable[str]) -> str | None:
        """Returns the first of the names that the file holds."""
        return next((name for name in names if name in self.keys), None)

    def require(self, *names: str) -> str:
        """Returns the first of the names that the file holds.

        Raises:
            ValueError: none of them is there.
        """
        name = self.first(names)
        if name is None:
            wanted = ' or '.join(repr(name) for name in names)
            raise ValueError(
                f'{self.path} has no key {wanted}; it holds {", ".join(self.keys) or "nothing"}: '
                'export the scan again.'
            )
        return name

    def array(self, *names: str) -> NDArray[Any]:
        """Returns the array of the first name that is there, in memory."""
        name = self.require(*names)
        try:
            with numpy.load(self.path, allow_pickle=False) as file:
                return numpy.asarray(file[name])
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise self._damaged(name, error) from error

    def patterns(self, name: str) -> NDArray[Any]:
        """Returns the array (N, H, W) as a read-only memory map, in the dtype of the file."""
        try:
            mapped = map_npz_member(self.path, name)
            return stage_npz_member(self.path, name) if mapped is None else mapped
        except (ValueError, zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise self._damaged(name, error) from error

    def optional(self, *names: str) -> NDArray[Any] | None:
        """Returns the array of the first name that is there, else None."""
        name = self.first(names)
        return None if name is None else self.array(name)

    def pair(self, name: str) -> tuple[float, float] | None:
        """Returns (y, x) of a key with two numbers, or one that stands for both, else None."""
        value = self.optional(name)
        if value is None:
            return None
        flat = value.ravel()
        if not flat.size or flat.dtype.kind not in 'fiu':
            raise ValueError(
                f'{self.path}: {name} is {value.dtype} of shape {value.shape}: give a number, or '
                'two for y and x.'
            )
        return float(flat[0]), float(flat[-1])

    def text(self, name: str) -> str | None:
        """Returns a string key, else None."""
        value = self.optional(name)
        return None if value is None else str(value.reshape(-1)[0] if value.size else '')

    def metadata(self) -> dict[str, Any]:
        """Returns the numbers that describe the experiment, under Ptychodus' names."""
        found: dict[str, Any] = {}
        for key, name in _METADATA_KEYS.items():
            value = self.optional(key)
            if value is not None and value.size == 1 and value.dtype.kind in 'fiu':
                found[name] = float(value.reshape(-1)[0])
        title = self.text('name')
        if title:
            found['name'] = title
        return found

    def _damaged(self, name: str, error: Exception) -> ValueError:
        reason = str(error).partition('\n')[0].rstrip('.')
        if 'allow_pickle' in reason:
            reason = 'it holds Python objects, which are never loaded'
        return ValueError(
            f'{self.path} cannot be read at key {name!r} ({reason}): copy or export it again.'
        )


def read_npz_layout(path: Path, _product: Path | None, diffraction_kind: str) -> RawScan:
    """Returns the scan of an NPZ in one of the known layouts.

    Raises:
        ValueError: the keys belong to no known layout, or do not fit each other.
    """
    reader = NpzReader(path)
    if reader.first(('positions_refined_m', 'positions_m')):
        return _read_metre_layout(reader)
    if reader.first(('xcoords', 'ycoords', 'diff3d')):
        return read_pixel_layout(reader, diffraction_kind)
    raise ValueError(
        f'{path} is no scan: it has neither xcoords, ycoords and diff3d (training data) nor '
        f'positions_m and diffraction; it holds {", ".join(reader.keys) or "nothing"}.'
    )


def _read_metre_layout(reader: NpzReader) -> RawScan:
    """Returns a scan with (y, x) positions in metres about the centre of its object array."""
    positions_m = reader.array('positions_refined_m', 'positions_m')
    reader.require('pixel_size_m')
    pixel_size_m, _ = reader.pair('pixel_size_m') or (0.0, 0.0)
    if not pixel_size_m > 0.0:
        raise ValueError(
            f'{reader.path}: pixel_size_m is {pixel_size_m}: it must be positive, in metres.'
        )
    object_ = reader.optional('object')
    offset = 0.0 if object_ is None else (numpy.asarray(object_.shape[-2:]) - 1.0) / 2.0
    mask = reader.optional('mask')
    return RawScan(
        patterns=reader.patterns(reader.require('diffraction', 'diff3d')),
        positions_px=positions_m / pixel_size_m + offset,
        probe=reader.optional('probe', 'probe_guess'),
        object_=object_,
        bad_pixels=None if mask is None else ~mask.astype(bool),
        pixel_size_m=(pixel_size_m, pixel_size_m),
        metadata=reader.metadata(),
    )


def read_pixel_layout(reader: NpzReader, diffraction_kind: str) -> RawScan:
    """Returns a scan in Ptychodus' or PtychoPINN's training layout, or our own."""
    x_px, y_px = reader.array('xcoords').ravel(), reader.array('ycoords').ravel()
    if len(x_px) != len(y_px):
        raise ValueError(
            f'{reader.path} holds {len(x_px)} xcoords but {len(y_px)} ycoords: export it again.'
        )
    name = reader.require('diff3d', 'diffraction')
    patterns = _order_axes(reader.path, name, reader.patterns(name), len(x_px))
    kind = _kind_of(reader, patterns, diffraction_kind)
    if not kind.is_plain:
        if kind.is_amplitude:
            logger.info('%s holds amplitudes: they are squared to counts.', reader.path)
        given, dtype = patterns, numpy.dtype(numpy.float32)
        patterns = stage_blocks(given.shape, dtype, lambda rows: kind.to_counts(given[rows]))
    return RawScan(
        patterns=patterns,
        positions_px=numpy.stack([y_px, x_px], axis=-1),
        probe=reader.optional('probeGuess', 'probe'),
        object_=reader.optional('objectGuess'),
        bad_pixels=reader.optional('bad_pixels'),
        pixel_size_m=reader.pair('pixel_size_m'),
        object_center_m=reader.pair('object_center_m') or (0.0, 0.0),
        truth=reader.optional('truth'),
        probe_variations=reader.optional('probe_variations'),
        probe_weights=reader.optional('probe_weights'),
        metadata=reader.metadata(),
    )


def _order_axes(path: Path, name: str, patterns: NDArray[Any], num_positions: int) -> NDArray[Any]:
    """Returns the patterns as (N, H, W), from (N, H, W), (N, H, W, 1) or (H, W, N)."""
    if patterns.ndim == 4 and patterns.shape[-1] == 1:
        patterns = patterns[..., 0]
    if patterns.ndim != 3:
        raise ValueError(
            f'{path}: {name} has shape {patterns.shape} but (patterns, height, width) is needed: '
            'export the scan again.'
        )
    is_last = patterns.shape[0] != num_positions and patterns.shape[-1] == num_positions
    return numpy.moveaxis(patterns, -1, 0) if is_last else patterns


def _kind_of(reader: NpzReader, patterns: NDArray[Any], diffraction_kind: str) -> PatternKind:
    """Returns what the patterns are; what was asked for decides, then a marker, then values."""
    if diffraction_kind != 'auto':
        return PatternKind(diffraction_kind == 'amplitude')
    marker = reader.text('diff3d_kind')
    remedy = 'say --diffraction-kind counts or amplitude'
    if marker is not None:
        if marker not in ('counts', 'intensity', 'amplitude'):
            raise ValueError(
                f'{reader.path}: diff3d_kind is {marker!r} but counts or amplitude is needed: '
                f'{remedy}.'
            )
        return PatternKind(marker == 'amplitude')
    if 'bad_pixels' in reader:  # Ptychodus writes it, and counts
        return PatternKind()
    return recognise_kind(patterns, str(reader.path), remedy)
