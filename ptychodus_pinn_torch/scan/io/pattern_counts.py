"""Counts of whatever the patterns of a file hold, and the pixels and frames that can be trusted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..findings import Finding, found_ok, found_warning
from .axes import order_mask
from .kinds import PatternKind, recognise_kind
from .pattern_store import stage_blocks
from .pixels import (
    BROKEN,
    MOST_COUNTS,
    Survey,
    corner_axes,
    fill_wrong_values,
    find_wrong_values,
    odd_pixels,
    survey_patterns,
    unlike_pixels,
)
from .raw import RawScan, ReadOptions

__all__ = ['Door', 'settle_patterns']

_NUM_FRAMES, _NUM_VALUES = 32, 2**18
"""Frames and values by which it is told what the numbers are."""


@dataclass
class Door:
    """A scan on its way in: what the file says, what the user says, and what was decided."""

    path: Path
    raw: RawScan
    options: ReadOptions
    patterns: NDArray[Any]
    probe: NDArray[numpy.complex64] | None = None
    said: list[Finding] = field(default_factory=list)
    left_out: dict[str, NDArray[numpy.int64]] = field(default_factory=dict)

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of a pattern."""
        return self.patterns.shape[1], self.patterns.shape[2]


def settle_patterns(door: Door) -> tuple[NDArray[numpy.bool_], float]:
    """Makes counts of the patterns of a door; returns good pixels and where saturation begins."""
    survey, good = _find_odd_pixels(door)
    kind = _settle_kind(door, good)
    counts = kind.factor * (survey.power if kind.is_amplitude else survey.total)
    highest = kind.factor * survey.highest ** (2 if kind.is_amplitude else 1)
    axes = corner_axes(counts, good)
    beam = None
    if door.probe is not None:
        far_field = numpy.fft.fft2(door.probe)
        beam = (far_field.real**2 + far_field.imag**2).sum(axis=0, dtype=numpy.float64)
        beam = numpy.fft.fftshift(beam, [axis for axis in (0, 1) if not axes[axis]])
    for what, pixels in unlike_pixels(survey, counts, highest, good, beam).items():
        good = _call_bad(door, good, what, pixels)
    broken, num_wrong = find_wrong_values(door.patterns, good, has_noise=survey.has_noise)
    if len(broken):
        door.left_out['broken'] = broken
    is_often = num_wrong > BROKEN * (len(door.patterns) - len(broken))
    good = _call_bad(door, good, 'without counts in some frames', is_often)
    num_filled = int(num_wrong[good].sum())
    if num_filled:
        door.said.append(
            found_warning(
                'pixels',
                f'{num_filled} values in single frames are no counts: each has the mean of its pixel.',
            )
        )
    if not good.any() or 2 * good.sum() < good.size:
        raise ValueError(
            f'{door.path}: only {good.sum()} of {good.size} detector pixels hold counts that can be '
            'trusted: check kind and type of the patterns, or name the bad ones with --bad-pixels.'
        )
    if not (counts[good] > 0.0).any() and not _has_counts(door.patterns, good):
        raise ValueError(
            f'{door.path}: all patterns are zero at the good pixels: check the shutter and the mask.'
        )
    has_nonsense = bool(survey.num_wrong.any()) or len(broken) > 0 or num_filled > 0
    if any(axes):
        door.said.append(
            found_warning(
                'centre',
                f'The frames are fft-shifted along {" and ".join(numpy.array(["y", "x"])[list(axes)])}'
                ': their zero frequency is put into the middle.',
            )
        )
        good = numpy.fft.fftshift(good, [axis for axis in (0, 1) if axes[axis]])
    if survey.has_noise:
        door.said.append(
            found_ok('counts', f'Values below zero (down to {survey.lowest.min():.4g}) are noise of '
                     'a background that was taken off: they are read as zero.')
        )  # fmt: skip
    if has_nonsense or any(axes) or not kind.is_plain:
        filling = numpy.maximum(survey.total / max(1, survey.num_frames), 0.0)
        filled = partial(fill_wrong_values, filling=filling, has_noise=survey.has_noise)
        door.patterns = _convert(door.patterns, kind, axes, good, broken, filled)
    return good, (1.0 - 1e-6) * kind.factor * survey.limit ** (2 if kind.is_amplitude else 1)


def _find_odd_pixels(door: Door) -> tuple[Survey, NDArray[numpy.bool_]]:
    """Returns what the frames hold, and good pixels by the mask and by values that are no counts."""
    raw, good = door.raw, numpy.ones(door.window, bool)
    if raw.bad_pixels is not None:
        is_good = raw.is_good_mask != door.options.invert_mask
        bad = order_mask(door.path, raw.bad_pixels, door.window, is_good=is_good)
        if bad.any():
            door.said.append(found_ok('mask', f'The mask leaves out {bad.sum()} pixels.'))
        good = ~bad
    elif door.options.invert_mask:
        raise ValueError(f'{door.path}: there is no mask: leave out --invert-mask.')
    survey = survey_patterns(door.patterns, good, door.options.saturation)
    for what, pixels in odd_pixels(survey).items():
        good = _call_bad(door, good, what, pixels)
    return survey, good


def _call_bad(
    door: Door, good: NDArray[numpy.bool_], what: str, pixels: NDArray[numpy.bool_]
) -> NDArray[numpy.bool_]:
    """Returns good pixels without some, which are said."""
    new = numpy.argwhere(pixels & good)
    if not len(new):
        return good
    y, x = new[0]
    number = '1 detector pixel is' if len(new) == 1 else f'{len(new)} detector pixels are'
    door.said.append(
        found_warning('pixels', f'{number} {what} (the first at y {y}, x {x}): left out.')
    )
    return good & ~pixels


def _settle_kind(door: Door, good: NDArray[numpy.bool_]) -> PatternKind:
    """Returns what the patterns are: what the user says decides, then the file, then the values."""
    said, options = door.raw.kind, door.options
    if said not in (None, 'counts', 'intensity', 'amplitude'):
        raise ValueError(
            f'{door.path}: diff3d_kind is {said[:40]!r} but counts or amplitude is needed: say '
            '--diffraction-kind counts or amplitude.'
        )
    known = said if options.diffraction_kind == 'auto' else options.diffraction_kind
    is_amplitude = known == 'amplitude'
    if options.gain is not None:
        kind = PatternKind(is_amplitude, 1.0 / options.gain)
    elif options.diffraction_kind == 'counts':
        kind = PatternKind()
    else:
        step = max(1, len(door.patterns) // _NUM_FRAMES)
        sample = numpy.asarray(door.patterns[::step])[:, good]
        sample = sample[:, :: max(1, sample.size // _NUM_VALUES)]
        sample = numpy.where(numpy.abs(sample) < MOST_COUNTS, sample, 0)
        found = recognise_kind(sample, (True,) if is_amplitude else (False, True))
        if found is None and known is None:
            raise ValueError(
                f'{door.path}: the patterns may hold counts or amplitudes; {door.patterns.dtype} '
                f'values up to {sample.max():.4g} do not tell: say --diffraction-kind counts or '
                'amplitude.'
            )
        kind = found or PatternKind(is_amplitude)
        if known is not None and kind.is_amplitude != is_amplitude:
            kind = PatternKind()  # the file says so
    if text := kind.describe():
        door.said.append(found_ok('counts', text))
    return kind


def _has_counts(patterns: NDArray[Any], good: NDArray[numpy.bool_]) -> bool:
    return any(bool((numpy.asarray(frame)[good] > 0).any()) for frame in patterns)


def _convert(
    patterns: NDArray[Any],
    kind: PatternKind,
    axes: tuple[bool, ...],
    good: NDArray[numpy.bool_],
    broken: NDArray[numpy.int64],
    filled: Callable[[NDArray[Any]], NDArray[Any]],
) -> NDArray[Any]:
    """Returns counts (N, H, W) on disk: zero where pixels or frames are bad, and below zero."""
    dtype = patterns.dtype if kind.is_plain else numpy.dtype(numpy.float32)
    moved = [axis for axis in (1, 2) if axes[axis - 1]]

    def read(rows: slice) -> NDArray[Any]:
        values = filled(patterns[rows])
        values = numpy.fft.fftshift(values, moved) if moved else values
        values = numpy.where(good & (values > 0), values, 0)
        values[broken[(broken >= rows.start) & (broken < rows.stop)] - rows.start] = 0
        return (values if kind.is_plain else kind.to_counts(values)).astype(dtype, copy=False)

    return stage_blocks(patterns.shape, dtype, read)
