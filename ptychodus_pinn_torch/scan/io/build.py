"""The one step from arrays by name to a `Scan`; or a sentence that says why there is none."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..findings import found_ok, found_warning
from ..positions import MAX_OBJECT_PIXELS, find_lone, make_room
from ..probe_estimate import estimate_probe
from ..probe_variation import ProbeVariation
from ..scan import Scan, split_positions
from ..triage import name_frames
from .axes import order_patterns, order_probe
from .pattern_counts import Door, settle_patterns
from .raw import RawScan, ReadOptions

__all__ = ['ESTIMATED', 'build_scan', 'check_object']

logger = logging.getLogger(__name__)

ESTIMATED = 'probe_is_estimated'
"""Key of the metadata of a scan that came without a probe."""

NOTHING = ReadOptions()

_MIN_EXTENT_PX = 1.0
_BORDER_PX = 4


def build_scan(path: Path, raw: RawScan, options: ReadOptions = NOTHING) -> Scan:
    """Returns the scan, after every decision that needs no physics; each of them is said.

    Args:
        path: What to call it in messages.
        raw: Which array of the file is which.
        options: What the user says of the file. Its crop and bin are left to the caller.

    Raises:
        ValueError: something is missing, does not fit, or cannot be told; names the flag that
            settles it.
    """
    positions = _check_positions(path, raw)
    door = Door(path, raw, options, order_patterns(path, raw.patterns, len(positions)))
    if raw.probe is not None:
        door.probe, said = order_probe(path, raw.probe, len(positions), door.window)
        door.said += said
    good_pixels, saturation = settle_patterns(door)
    metadata = dict(raw.metadata)
    if door.probe is None:
        door.probe = _estimate_probe(door, good_pixels)
        metadata[ESTIMATED] = True
    positions_px, is_lone = _place(door, positions)
    center_m = raw.object_center_m
    if raw.object_ is None:
        positions_px, object_, center_m = _fit_object(door, positions_px, is_lone)
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
        patterns=door.patterns,
        positions_px=positions_px,
        probe=door.probe,
        object_=object_,
        good_pixels=good_pixels,
        pixel_size_m=raw.pixel_size_m,
        object_center_m=center_m,
        truth=truth,
        has_object=bool(numpy.any(object_ != object_.flat[0])),
        metadata=metadata,
        source=path,
        probe_variation=_check_variation(door),
        findings=tuple(door.said),
        left_out=door.left_out,
        saturation=saturation,
    )
    if not len(scan.frames()):
        raise ValueError(f'{path}: no frame can be used, all are {" or ".join(door.left_out)}.')
    if options.positions.moves_the_border:
        scan = make_room(scan)
    _check_inside(path, scan)
    for finding in door.said:
        logger.log(
            logging.WARNING if finding.level == 'warning' else logging.INFO,
            '%s: %s', path.name, finding.message,
        )  # fmt: skip
    return scan


def _check_positions(path: Path, raw: RawScan) -> NDArray[numpy.float64]:
    """Returns the positions (N, 2) in the unit of the file."""
    given = raw.positions_px if raw.positions_m is None else raw.positions_m
    if given is None:
        raise ValueError(f'{path} holds no positions: name their file with --positions.')
    if given.ndim > 2 and given.size == 2 * len(given):
        given = given.reshape(-1, 2)
    if given.ndim == 2 and len(given) == 2 < given.shape[1]:
        given = given.T
    if given.ndim != 2 or given.shape[1] != 2:
        raise ValueError(
            f'{path}: the positions have shape {given.shape} but (positions, 2) is needed: '
            'export the scan again.'
        )
    if given.dtype.kind not in 'iuf':
        raise ValueError(
            f'{path}: the positions are of type {str(given.dtype)[:60]} but must be real numbers: '
            'export the scan again.'
        )
    if raw.positions_m is not None and raw.pixel_size_m is None:
        raise ValueError(
            f'{path}: the positions are in metres and the pixel size of the object is not known: '
            'say --energy-ev, --distance-m and --detector-pixel-um.'
        )
    if raw.pixel_size_m is not None and not min(raw.pixel_size_m) > 0.0:
        raise ValueError(
            f'{path}: pixel_size_m is {raw.pixel_size_m}: it must be positive, in metres.'
        )
    return given.astype(numpy.float64)


def _place(
    door: Door, positions: NDArray[numpy.float64]
) -> tuple[NDArray[numpy.float64], NDArray[numpy.bool_]]:
    """Returns positions (N, 2) in object pixels, and which of them are none; these are left out."""
    raw, path = door.raw, door.path
    if raw.positions_m is not None:
        assert raw.pixel_size_m is not None
        positions = (positions - raw.object_center_m) / raw.pixel_size_m
        if raw.object_ is not None:
            positions += (numpy.asarray(raw.object_.shape[-2:]) - 1.0) / 2.0
    is_bad = numpy.any(~(numpy.abs(positions) < 1e15), axis=1).reshape(
        -1
    )  # beyond, pixels are not whole numbers
    if is_bad.all():
        raise ValueError(f'{path}: no position is finite: check the file of the positions.')
    if is_bad.any():
        door.left_out['without a position'] = numpy.flatnonzero(is_bad)
        positions[is_bad] = numpy.median(positions[~is_bad], axis=0)
    extent = float(numpy.ptp(positions, axis=0).max())
    if 0.0 < extent < _MIN_EXTENT_PX:
        raise ValueError(
            f'{path}: the positions span {extent:.2g} object pixels: check their unit, pixels of the '
            'object are needed, not metres.'
        )
    change = door.options.positions
    lone = find_lone(
        positions, door.window, None if raw.object_ is None else raw.object_.shape[-2:]
    )
    if len(lone):
        door.left_out['far from all others'] = lone
        is_bad[lone] = True
    if not change.is_nothing:
        positions[~is_bad] = change.apply(positions[~is_bad])
        door.said.append(found_ok('positions', f'Positions: {change.describe()}.'))
    return positions, is_bad


def _estimate_probe(door: Door, good: NDArray[numpy.bool_]) -> NDArray[numpy.complex64]:
    try:
        probe = estimate_probe(door.patterns, good)
    except ValueError as error:
        raise ValueError(f'{door.path} has no probe, and {error}') from error
    door.said.append(
        found_warning(
            'probe',
            'There is no probe: one is estimated from the mean pattern, in focus. A reconstruction '
            'will have to adjust it; give a measured probe where there is one.',
        )
    )
    return probe


def _check_variation(door: Door) -> ProbeVariation | None:
    """Returns how the probe varies, where the file says it for each of the patterns."""
    path, modes, weights = door.path, door.raw.probe_variations, door.raw.probe_weights
    if modes is None or weights is None:
        return None
    number = len(door.patterns)
    wanted = (number, 1 + len(modes)) if modes.ndim == 3 else (number, 2)
    if weights.shape != wanted or modes.shape[1:] != door.window:
        raise ValueError(
            f'{path}: the variations of the probe have shape {modes.shape} and weights '
            f'{weights.shape}, but {number} patterns of {door.window} need '
            f'weights {wanted}: export the scan again.'
        )
    if not numpy.isfinite(weights).all() or not numpy.isfinite(modes).all():
        raise ValueError(
            f'{path}: the variations of the probe or their weights are not finite: give others.'
        )
    return ProbeVariation(modes.astype(numpy.complex64), weights.real.astype(numpy.float64))


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
    with numpy.errstate(over='ignore', invalid='ignore'):
        found = object_.astype(numpy.complex64) if object_.dtype.kind in 'cfiu' else None
    if found is None or not numpy.isfinite(found).all():
        raise ValueError(f'{path}: the {what} is not finite: replace it by ones and try again.')
    return found


def _check_inside(path: Path, scan: Scan) -> None:
    (height, width), (rows, columns) = scan.pattern_shape, scan.object_.shape
    corners, _ = split_positions(scan.positions_px, scan.pattern_shape)
    limit = numpy.asarray([rows - height, columns - width])
    outside = ((corners < 0) | (corners > limit)).any(axis=1)
    outside = numpy.intersect1d(numpy.flatnonzero(outside), scan.frames())
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
    door: Door, positions_px: NDArray[numpy.float64], is_lone: NDArray[numpy.bool_]
) -> tuple[NDArray[numpy.float64], NDArray[numpy.complex64], tuple[float, float]]:
    """Returns positions moved onto a flat object that just covers them, that one, and its centre.

    Positions of a file without object are metres / pixel size, that is, pixels about zero.
    """
    half = (numpy.asarray(door.window) - 1.0) / 2.0
    shift = numpy.floor(positions_px[~is_lone].min(axis=0) - half) - _BORDER_PX
    moved = positions_px - shift
    size = numpy.ceil(moved[~is_lone].max(axis=0) + half) + 1 + _BORDER_PX
    if numpy.prod(size) > MAX_OBJECT_PIXELS:
        middle = numpy.median(positions_px, axis=0)
        far = int(numpy.abs(positions_px - middle).max(axis=1).argmax())
        raise ValueError(
            f'{door.path}: the positions span {size[0]:.4g} x {size[1]:.4g} object pixels, more than '
            f'memory holds; {name_frames(numpy.array([far]))} lies farthest out: check their unit '
            'and that one.'
        )
    middle_m = ((size - 1.0) / 2.0 + shift) * (door.raw.pixel_size_m or (0.0, 0.0))
    y_m, x_m = door.raw.object_center_m + middle_m
    shape = int(size[0]), int(size[1])
    return moved, numpy.ones(shape, dtype=numpy.complex64), (float(y_m), float(x_m))
