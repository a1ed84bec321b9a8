"""Which array of a file is which, by the names that Ptychodus, PtychoPINN and this package use."""

from __future__ import annotations

import logging
from typing import Any

import numpy
from numpy.typing import NDArray

from .npz import DamagedFileError, NamedArrays
from .pattern_store import UnreadableError
from .raw import RawScan

__all__ = ['is_named_scan', 'named_mask', 'read_named']

logger = logging.getLogger(__name__)

PATTERNS = ('diff3d', 'diffraction', 'patterns')
POSITIONS_M = ('positions_refined_m', 'positions_m')
PROBE, OBJECT = ('probeGuess', 'probe', 'probe_guess'), ('objectGuess', 'object')
GOOD, BAD = ('good_pixels', 'mask'), ('bad_pixels', 'pixel_mask')
METADATA = {
    'photon_energy_eV': 'photon_energy_eV',
    'energy_eV': 'photon_energy_eV',
    'detector_distance_m': 'detector_distance_m',
    'distance_m': 'detector_distance_m',
    'detector_pixel_m': 'detector_pixel_m',
    'probe_photon_count': 'probe_photon_count',
    'exposure_time_s': 'exposure_time_s',
}


def is_named_scan(arrays: NamedArrays) -> bool:
    """Returns whether a file has patterns and positions by these names, or means to."""
    found = [arrays.first(names) for names in (PATTERNS, ('xcoords',), ('ycoords',), PROBE[:1])]
    has_metres = arrays.first((*POSITIONS_M, 'positions_px')) is not None
    return sum(name is not None for name in found) + has_metres >= 2


def read_named(arrays: NamedArrays, *, needs_positions: bool = True) -> RawScan:
    """Returns what a file holds; positions are in pixels (`xcoords`, `ycoords`) or in metres.

    Raises:
        ValueError: patterns or positions are missing, or not as many x as y.
    """
    positions: dict[str, Any] = {}
    if arrays.first(POSITIONS_M):
        positions['positions_m'] = arrays.array(*POSITIONS_M)
    elif 'positions_px' in arrays and 'xcoords' not in arrays:
        positions['positions_px'] = arrays.array('positions_px')
    elif needs_positions or 'xcoords' in arrays:
        positions['positions_px'] = _columns(arrays)
    mask, is_good = named_mask(arrays)
    return RawScan(
        patterns=arrays.patterns(arrays.require(*PATTERNS)),
        **positions,
        probe=arrays.optional(*PROBE),
        object_=arrays.optional(*OBJECT),
        bad_pixels=mask,
        is_good_mask=is_good,
        pixel_size_m=arrays.pair('pixel_size_m'),
        object_center_m=arrays.pair('object_center_m') or (0.0, 0.0),
        truth=arrays.optional('truth'),
        kind=arrays.text('diff3d_kind'),
        probe_variations=arrays.optional('probe_variations'),
        probe_weights=arrays.optional('probe_weights'),
        metadata=_metadata(arrays),
    )


def _columns(arrays: NamedArrays) -> NDArray[Any]:
    x_px, y_px = arrays.array('xcoords').ravel(), arrays.array('ycoords').ravel()
    if len(x_px) != len(y_px):
        raise ValueError(
            f'{arrays.path} holds {len(x_px)} xcoords but {len(y_px)} ycoords: export it again.'
        )
    return numpy.stack([y_px, x_px], axis=-1)


def named_mask(arrays: NamedArrays) -> tuple[NDArray[Any] | None, bool]:
    """Returns the mask of a file, and whether it is not zero where pixels are good."""
    name = arrays.first((*BAD, *GOOD))
    return (None, False) if name is None else (arrays.array(name), name in GOOD)


def _metadata(arrays: NamedArrays) -> dict[str, Any]:
    """Returns the numbers that describe the experiment, under Ptychodus' names."""
    found: dict[str, Any] = {}
    for key, name in METADATA.items():
        numbers = arrays.numbers(key)
        if numbers and numbers[0] == numbers[-1]:  # a pixel that is not square is asked for
            found[name] = numbers[0]
    try:
        if title := arrays.text('name'):
            found['name'] = title
    except DamagedFileError as error:
        if not isinstance(error.__cause__, UnreadableError):
            raise
        logger.warning('%s It is left out.', error)
    return found
