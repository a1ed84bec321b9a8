"""Turns what a file holds into a `Scan`, or says in one sentence why it cannot be one."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .npz_layouts import RawScan
from .pattern_store import block_slices, stage_blocks
from .positions import PositionTransform, make_room
from .probe_estimate import estimate_probe
from .probe_variation import ProbeVariation
from .scan import Scan, split_positions

__all__ = ['build_scan', 'check_object']

logger = logging.getLogger(__name__)

ESTIMATED = 'probe_is_estimated'
"""Key of the metadata of a scan that came without a probe."""

_MIN_EXTENT_PX = 1e-3
_BORDER_PX = 4
_MAX_OBJECT_PIXELS = 2**28


def build_scan(path: Path, raw: RawScan, change: PositionTransform | None = None) -> Scan:
    """Returns the scan, after every check that needs no physics.

    Args:
        path: What to call it in messages.
        raw: As it lies in the file.
        change: What is done to the positions; an object that does not hold them is enlarged.

    Raises:
        ValueError: something is missing, of the wrong shape, not finite, negative or outside.
    """
    patterns = _check_patterns(path, raw.patterns)
    pattern_shape = patterns.shape[1], patterns.shape[2]
    positions_px = _check_positions(path, raw.positions_px, len(patterns))
    if change is not None and not change.is_nothing:
        positions_px = change.apply(positions_px)
        logger.info('%s: positions: %s.', path.name, change.describe())
    probe = None if raw.probe is None else _check_probe(path, raw.probe, pattern_shape)
    good_pixels = _check_mask(path, raw.bad_pixels, pattern_shape)
    patterns = _check_values(path, patterns, good_pixels)
    metadata = dict(raw.metadata)
    if probe is None:
        probe = _estimate_probe(path, patterns, good_pixels)
        metadata[ESTIMATED] = True
    center_m = raw.object_center_m
    if raw.object_ is None:
        positions_px, object_, center_m = _fit_object(path, positions_px, pattern_shape, raw)
    else:
        object_ = check_object(path, 'object', raw.object_)
    truth = None if raw.truth is None else check_object(path, 'truth', raw.truth)
    if truth is not None and truth.shape != object_.shape:
        raise ValueError(
            f'{path}: truth has shape {truth.shape} but the object {object_.shape}: '
            'both must lie on one grid.'
        )
    scan = Scan(
        name=path.name,
        patterns=patterns,
        positions_px=positions_px,
        probe=probe,
        object_=object_,
        good_pixels=good_pixels,
        pixel_size_m=raw.pixel_size_m,
        object_center_m=center_m,
        truth=truth,
        has_object=bool(numpy.any(object_ != object_.flat[0])),
        metadata=metadata,
        source=path,
        probe_variation=_check_variation(path, raw, patterns),
    )
    if change is not None and change.moves_the_border:
        scan = make_room(scan)
    _check_inside(path, scan)
    return scan


def _estimate_probe(
    path: Path, patterns: NDArray[Any], good_pixels: NDArray[numpy.bool_]
) -> NDArray[numpy.complex64]:
    try:
        probe = estimate_probe(patterns, good_pixels)
    except ValueError as error:
        raise ValueError(f'{path} has no probe, and {error}') from error
    logger.warning(
        '%s: has no probe: one is estimated from the mean pattern, in focus. A reconstruction will '
        'have to adjust it; give a measured probe where there is one.',
        path.name,
    )
    return probe


def _check_patterns(path: Path, patterns: NDArray[Any]) -> NDArray[Any]:
    if patterns.ndim != 3:
        raise ValueError(
            f'{path}: the patterns have shape {patterns.shape} but (patterns, height, width) is '
            'needed: export the scan again.'
        )
    if patterns.dtype.kind not in 'iuf':
        raise ValueError(
            f'{path}: the patterns are of type {patterns.dtype} but counts are real numbers: '
            'export the scan again.'
        )
    if 0 in patterns.shape:
        raise ValueError(
            f'{path} holds no patterns (shape {patterns.shape}): export the scan again.'
        )
    height, width = patterns.shape[1:]
    if height != width:
        raise ValueError(
            f'{path}: the patterns are {height} x {width} pixels but must be square: crop them '
            'before they are exported.'
        )
    return patterns


def _check_positions(path: Path, positions_px: NDArray[Any], num_patterns: int) -> NDArray[Any]:
    if positions_px.ndim != 2 or positions_px.shape[1] != 2:
        raise ValueError(
            f'{path}: the positions have shape {positions_px.shape} but (positions, 2) is needed: '
            'export the scan again.'
        )
    if len(positions_px) != num_patterns:
        raise ValueError(
            f'{path} holds {num_patterns} patterns but {len(positions_px)} positions: '
            'export the scan again.'
        )
    if positions_px.dtype.kind not in 'iuf':
        raise ValueError(
            f'{path}: the positions are of type {positions_px.dtype} but must be real numbers: '
            'export the scan again.'
        )
    positions_px = positions_px.astype(numpy.float64)
    bad = numpy.flatnonzero(~numpy.isfinite(positions_px).all(axis=1))
    if bad.size:
        raise ValueError(
            f'{path}: {bad.size} positions are not finite, the first is number {bad[0]}: '
            'remove them with their patterns.'
        )
    extent = float(numpy.ptp(positions_px, axis=0).max())
    if 0.0 < extent < _MIN_EXTENT_PX:
        raise ValueError(
            f'{path}: the positions span {extent:.2g} object pixels: check their unit, pixels of the '
            'object are needed, not metres.'
        )
    return positions_px


def _check_probe(
    path: Path, probe: NDArray[Any], pattern_shape: tuple[int, int]
) -> NDArray[numpy.complex64]:
    if probe.ndim == 4:
        if probe.shape[0] > 1:
            logger.info(
                '%s: the probe varies over the scan (%d coherent modes); the first set is used.',
                path,
                probe.shape[0],
            )
        probe = probe[0]
    if probe.ndim == 3 and probe.shape[-1] == 1 and probe.shape[:2] == pattern_shape:
        probe = numpy.moveaxis(probe, -1, 0)
    if probe.ndim == 2:
        probe = probe[numpy.newaxis]
    if probe.ndim != 3 or probe.shape[1:] != pattern_shape or len(probe) == 0:
        raise ValueError(
            f'{path}: the probe has shape {probe.shape} but the patterns are {pattern_shape}: '
            'give a probe of the same size.'
        )
    if probe.dtype.kind not in 'cfiu' or not numpy.isfinite(probe).all():
        raise ValueError(f'{path}: the probe is not finite: give another probe.')
    if not numpy.any(probe):
        raise ValueError(f'{path}: the probe is zero everywhere: give another probe.')
    return probe.astype(numpy.complex64)


def _check_variation(path: Path, raw: RawScan, patterns: NDArray[Any]) -> ProbeVariation | None:
    """Returns how the probe varies, where the file says it for each of the patterns."""
    modes, weights = raw.probe_variations, raw.probe_weights
    if modes is None or weights is None:
        return None
    wanted = (len(patterns), 1 + len(modes))
    if weights.shape != wanted or modes.shape[1:] != patterns.shape[1:]:
        raise ValueError(
            f'{path}: the variations of the probe have shape {modes.shape} and weights '
            f'{weights.shape}, but {len(patterns)} patterns of {patterns.shape[1:]} need '
            f'weights {wanted}: export the scan again.'
        )
    if not numpy.isfinite(weights).all() or not numpy.isfinite(modes).all():
        raise ValueError(
            f'{path}: the variations of the probe or their weights are not finite: give others.'
        )
    return ProbeVariation(modes.astype(numpy.complex64), weights.astype(numpy.float64))


def _check_mask(
    path: Path, bad_pixels: NDArray[Any] | None, pattern_shape: tuple[int, int]
) -> NDArray[numpy.bool_]:
    if bad_pixels is None:
        return numpy.ones(pattern_shape, dtype=bool)
    if bad_pixels.shape != pattern_shape:
        raise ValueError(
            f'{path}: the bad-pixel mask has shape {bad_pixels.shape} but the patterns are '
            f'{pattern_shape}: give a mask of the same size.'
        )
    good_pixels: NDArray[numpy.bool_] = ~bad_pixels.astype(bool)
    if not good_pixels.any():
        raise ValueError(
            f'{path}: the mask says that every detector pixel is bad: True must mean bad.'
        )
    return good_pixels


def _check_values(
    path: Path, patterns: NDArray[Any], good_pixels: NDArray[numpy.bool_]
) -> NDArray[Any]:
    """Returns the patterns; where only bad pixels hold nonsense, a copy with zeros there."""
    is_clean, has_counts = True, False
    for rows in block_slices(len(patterns), patterns[0].nbytes):
        block = numpy.asarray(patterns[rows])
        if not has_counts:
            has_counts = bool(numpy.any(block[:, good_pixels] > 0))
        if block.dtype.kind == 'u':
            if has_counts:
                return patterns
            continue
        wrong = ~(block >= 0) | (block == numpy.inf if block.dtype.kind == 'f' else False)
        if not wrong.any():
            continue
        is_clean = False
        wrong &= good_pixels
        if wrong.any():
            index, y, x = (int(axis[0]) for axis in numpy.nonzero(wrong))
            value = block[index, y, x]
            what = 'negative' if value < 0 else 'not finite'
            raise ValueError(
                f'{path}: pattern {rows.start + index} holds {value} at pixel (y {y}, x {x}), '
                f'which is {what}: mark the pixel as bad or repair the counts.'
            )
    if not has_counts:
        raise ValueError(
            f'{path}: all patterns are zero at the good pixels: check the shutter and the mask.'
        )
    if is_clean:
        return patterns
    logger.info('%s: bad pixels hold negative or undefined counts; they are read as zero.', path)
    return stage_blocks(
        patterns.shape,
        patterns.dtype,
        lambda rows: numpy.where(good_pixels, patterns[rows], 0).astype(patterns.dtype),
    )


def check_object(path: Path, what: str, object_: NDArray[Any]) -> NDArray[numpy.complex64]:
    """Returns the object as (Y, X), complex64; of several layers, the first.

    Raises:
        ValueError: it has another shape or is not finite; names the file.
    """
    if object_.ndim == 3 and len(object_) > 0:
        if len(object_) > 1:
            logger.info(
                '%s: the %s has %d layers; the first one is used.', path, what, len(object_)
            )
        object_ = object_[0]
    if object_.ndim != 2 or 0 in object_.shape:
        raise ValueError(
            f'{path}: the {what} has shape {object_.shape} but (height, width) is needed: '
            'export the scan again.'
        )
    if object_.dtype.kind not in 'cfiu' or not numpy.isfinite(object_).all():
        raise ValueError(f'{path}: the {what} is not finite: replace it by ones and try again.')
    return object_.astype(numpy.complex64)


def _check_inside(path: Path, scan: Scan) -> None:
    (height, width), (rows, columns) = scan.pattern_shape, scan.object_.shape
    corners, _ = split_positions(scan.positions_px, scan.pattern_shape)
    limit = numpy.asarray([rows - height, columns - width])
    outside = numpy.flatnonzero(((corners < 0) | (corners > limit)).any(axis=1))
    if outside.size:
        y, x = scan.positions_px[outside[0]]
        raise ValueError(
            f'{path}: {outside.size} of {scan.num_patterns} positions lie outside the object of '
            f'{rows} x {columns} pixels, the first is number {outside[0]} at '
            f'(y {y:.1f}, x {x:.1f}): a window of {height} x {width} must fit around each; '
            'enlarge the object or check the pixel size, or pass --exchange-axes or '
            '--scale-positions FACTOR where the positions are wrong.'
        )


def _fit_object(
    path: Path, positions_px: NDArray[Any], pattern_shape: tuple[int, int], raw: RawScan
) -> tuple[NDArray[numpy.float64], NDArray[numpy.complex64], tuple[float, float]]:
    """Returns positions moved onto a flat object that just covers them, that one, and its centre.

    Positions of a file without object are metres / pixel size, that is, pixels about zero.
    """
    half = (numpy.asarray(pattern_shape) - 1.0) / 2.0
    shift = numpy.floor(positions_px.min(axis=0) - half) - _BORDER_PX
    moved = positions_px - shift
    size = numpy.ceil(moved.max(axis=0) + half).astype(int) + 1 + _BORDER_PX
    if numpy.prod(size.astype(float)) > _MAX_OBJECT_PIXELS:
        raise ValueError(
            f'{path}: the positions span {size[0]} x {size[1]} object pixels: check their unit, '
            'pixels of the object are needed.'
        )
    middle_m = ((size - 1.0) / 2.0 + shift) * (raw.pixel_size_m or (0.0, 0.0))
    y_m, x_m = raw.object_center_m + middle_m
    return moved, numpy.ones(tuple(size), dtype=numpy.complex64), (float(y_m), float(x_m))
