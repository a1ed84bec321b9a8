"""In which order the axes of patterns, probes and masks lie, told by their shapes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..findings import Finding, found_ok, found_warning
from .pixels import corner_axes

__all__ = ['order_mask', 'order_patterns', 'order_probe']

logger = logging.getLogger(__name__)

_MOST_MODES = 8
"""More probes than that, as many as patterns, are one for each pattern."""


def order_patterns(path: Path, patterns: NDArray[Any], num_positions: int) -> NDArray[Any]:
    """Returns the patterns as (N, H, W).

    Known are that, (H, W, N), rows and columns of a raster (Y, X, H, W), and axes of length one.

    Raises:
        ValueError: they are no stack of frames of real numbers, or not as many as the positions.
    """
    if patterns.ndim > 3 and 1 in (lengths := patterns.shape):
        frames = [length for length in lengths[1:] if length > 1]
        patterns = patterns.reshape(-1, *frames) if lengths[0] > 1 else patterns.reshape(frames)
    if patterns.ndim == 4 and patterns.shape[0] * patterns.shape[1] == num_positions:
        patterns = patterns.reshape(num_positions, *patterns.shape[2:])
    if patterns.ndim == 2 and num_positions == 1:
        patterns = patterns[numpy.newaxis]
    if patterns.ndim != 3:
        raise ValueError(
            f'{path}: the patterns have shape {patterns.shape} but (patterns, height, width) is '
            'needed: export the scan again.'
        )
    if patterns.dtype.kind not in 'iuf':
        raise ValueError(
            f'{path}: the patterns are of type {str(patterns.dtype)[:60]} but counts are real '
            'numbers: export the scan again.'
        )
    is_last = patterns.shape[-1] == num_positions and len(patterns) != num_positions
    if set(patterns.shape) == {num_positions} and _is_frame_last(patterns):
        is_last = True
        logger.warning(
            '%s: the frames are taken to lie along the last axis of %s: there they are of like '
            'brightness.', path, patterns.shape,
        )  # fmt: skip
    if is_last:
        patterns = numpy.moveaxis(patterns, -1, 0)
    if 0 in patterns.shape:
        raise ValueError(
            f'{path} holds no patterns (shape {patterns.shape}): export the scan again.'
        )
    if len(patterns) != num_positions:
        raise ValueError(
            f'{path} holds {len(patterns)} patterns but {num_positions} positions: frames or '
            'positions were lost or come twice; export the scan again.'
        )
    return patterns


def _is_frame_last(patterns: NDArray[Any]) -> bool:
    """Returns whether the last of three axes of one length is that of the frames.

    Frames have about as many counts as each other; rows and columns of a detector have not.
    """
    first, last = (numpy.asarray(patterns.sum(axis=axes, dtype=float)) for axes in ((1, 2), (0, 1)))
    return bool(last.std() * first.mean() < first.std() * last.mean())


def order_probe(
    path: Path, probe: NDArray[Any], num_patterns: int, window: tuple[int, int]
) -> tuple[NDArray[numpy.complex64], list[Finding]]:
    """Returns the probe as (P, H, W), and what was decided.

    Known are (H, W), (P, H, W), (H, W, P), sets of modes (V, P, H, W), one set per pattern
    (N, P, H, W) or (N, H, W), any of these with axes of length one in front, real and imaginary part
    first or last; and probes whose middle is in the corner.

    Raises:
        ValueError: another shape, or values that make no probe.
    """
    given, said = probe.shape, []
    if not probe.size:
        raise ValueError(
            f'{path}: the probe has shape {given}, no pixels at all: give another probe.'
        )
    while probe.ndim > 2 and 1 in (probe.shape[0], probe.shape[-1]):
        probe = probe[0] if probe.shape[0] == 1 else probe[..., 0]
    for axis in (0, -1):
        if probe.ndim > 2 and probe.dtype.kind == 'f' and probe.shape[axis] == 2:
            probe = numpy.take(probe, 0, axis) + 1j * numpy.take(probe, 1, axis)
            told = 'The probe is real: its two parts are read as real and imaginary.'
            said.append(found_warning('probe', told))
    if probe.ndim == 3 and probe.shape[1:] != window and probe.shape[:2] == window:
        probe = numpy.moveaxis(probe, -1, 0)
    if probe.ndim == 3 and len(probe) == num_patterns > _MOST_MODES:
        probe = probe[:, numpy.newaxis]
    if probe.ndim == 4 and probe.shape[0] == num_patterns and num_patterns > 1:
        probe = probe.mean(axis=0)
        said.append(
            found_warning(
                'probe', f'There is a probe for each of {given[0]} patterns: the mean is used.'
            )
        )
    elif probe.ndim == 4:
        said.append(
            found_ok(
                'probe',
                f'The probe varies over the scan ({len(probe)} coherent modes): the first set is used.',
            )
        )
        probe = probe[0]
    probe = probe[numpy.newaxis] if probe.ndim == 2 else probe
    if probe.ndim != 3 or probe.shape[1:] != window or len(probe) == 0:
        raise ValueError(
            f'{path}: the probe has shape {given} but the patterns are {window}: give a probe of '
            'the same size.'
        )
    with numpy.errstate(over='ignore'):
        modes = probe.astype(numpy.complex64)
    if not numpy.isfinite(modes).all() or not numpy.isfinite(numpy.abs(modes).max() ** 2):
        raise ValueError(f'{path}: the probe is not finite: give another probe.')
    if not numpy.any(modes):
        raise ValueError(f'{path}: the probe is zero everywhere: give another probe.')
    power = (numpy.abs(modes) ** 2).sum(axis=0, dtype=numpy.float64)
    moved = [1 + axis for axis in (0, 1) if corner_axes(power, power > -1.0)[axis]]
    if moved:
        said.append(found_warning('probe', 'The probe is fft-shifted: it is put into the middle.'))
    return numpy.fft.fftshift(modes, moved), said


def order_mask(
    path: Path, mask: NDArray[Any], window: tuple[int, int], *, is_good: bool
) -> NDArray[numpy.bool_]:
    """Returns where pixels are bad (H, W), of a mask, or of one per pattern, where most say so.

    Raises:
        ValueError: it has another shape, or calls more than half of the pixels bad.
    """
    shape = mask.shape
    mask = numpy.squeeze(mask, tuple(axis for axis in range(mask.ndim) if mask.shape[axis] == 1))
    if mask.ndim not in (2, 3) or mask.shape[-2:] != window or not len(mask):
        raise ValueError(
            f'{path}: the bad-pixel mask has shape {shape} but the patterns are {window}: give a '
            'mask of the same size.'
        )
    bad = ((mask == 0) if is_good else (mask != 0)) | numpy.isnan(mask)
    bad = bad if bad.ndim == 2 else 2 * bad.sum(axis=0) > len(bad)
    if 2 * numpy.count_nonzero(bad) > bad.size:
        raise ValueError(
            f'{path}: the mask calls {numpy.count_nonzero(bad)} of {bad.size} detector pixels bad: if '
            f'it means the others, pass --invert-mask (now {"zero" if is_good else "not zero"} is bad).'
        )
    return bad
