"""Examines a scan before a long run: each finding is a sentence with a number and a remedy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from ..config import Config
from ..physics.probe import support_box
from ..scan.calibration import calibrate_probe
from ..scan.pattern_store import block_slices
from ..scan.scan import Scan, split_positions
from .orientation import compare_orientations

__all__ = ['Finding', 'Level', 'examine_scan', 'probe_diameter_px', 'probe_support_px']

Level = Literal['ok', 'warning', 'error']

_MIN_OVERLAP = 0.5
_MAX_BORDER_POWER = 0.10
_ORIENTATION_GAIN = 1.25
_MIN_COUNTS = 200.0
_MAX_PATTERNS = 256
_NEIGHBOURHOOD_PX = 5
_MIN_NEIGHBOUR_COUNTS = 50.0
_HOT_FACTOR = 20.0
_BEAM_RADIUS = 1.0 / 16.0
_PATTERNS_PER_SECOND_64 = 700.0
_TRAINING_PATTERNS_PER_SECOND_64 = 300.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: ok, warning (the result will suffer), or error (there will be none).
        topic: One word or two, for tables.
        message: A sentence with the number found and, unless ok, what to do.
    """

    level: Level
    topic: str
    message: str


_ok, _warning = partial(Finding, 'ok'), partial(Finding, 'warning')
_error = partial(Finding, 'error')


def examine_scan(scan: Scan) -> list[Finding]:
    """Returns what was found, in the order in which a reader would ask."""
    findings = [*_examine_counts(scan), *_examine_positions(scan)]
    is_usable = all(finding.level != 'error' for finding in findings)
    findings += _examine_probe(scan)
    if is_usable:
        findings += _examine_overlap(scan)
    findings += _examine_pixels(scan)
    if is_usable:
        findings += _examine_orientation(scan)
    return [*findings, _estimate_cost(scan)]


def _probe_power(scan: Scan) -> NDArray[numpy.float64]:
    return (numpy.abs(scan.probe.astype(numpy.complex128)) ** 2).sum(axis=0)


def probe_support_px(scan: Scan) -> int:
    """Returns the side of the smallest central box with 99.9 % of the power (see `support_box`)."""
    rows, _ = support_box(_probe_power(scan))
    return rows.stop - rows.start


def probe_diameter_px(scan: Scan) -> float:
    """Returns the diameter of the circle about the probe's centroid with 90 % of the power."""
    power = _probe_power(scan)
    y, x = numpy.indices(power.shape)
    middle_y, middle_x = (power * y).sum() / power.sum(), (power * x).sum() / power.sum()
    radius = numpy.hypot(y - middle_y, x - middle_x).ravel()
    order = numpy.argsort(radius)
    inside = numpy.cumsum(power.ravel()[order]) / power.sum()
    return 2.0 * float(radius[order][numpy.searchsorted(inside, 0.9)])


def _examine_counts(scan: Scan) -> Iterator[Finding]:
    power = float(_probe_power(scan).sum())
    if not 0.0 < power < numpy.inf or not numpy.isfinite(scan.probe).all():
        yield _error('probe', 'The probe is zero or not finite: give another probe.')
        return
    broken, empty = 0, 0
    for rows in block_slices(scan.num_patterns, scan.patterns[0].nbytes):
        good = numpy.asarray(scan.patterns[rows])[:, scan.good_pixels]
        if good.dtype.kind == 'f':
            broken += int(numpy.count_nonzero(~numpy.isfinite(good).all(axis=1)))
        empty += int(numpy.count_nonzero(~(good > 0).any(axis=1)))
    if broken:
        yield _error('counts', f'{broken} patterns hold values that are not finite: mask them.')
        return
    mean, brightest = scan.mean_counts(), scan.max_counts()
    if empty:
        yield _warning(
            'counts', f'{empty} of {scan.num_patterns} patterns are empty: leave them out.'
        )
    if mean < _MIN_COUNTS:
        yield _warning(
            'counts',
            f'The patterns hold {mean:.3g} counts on average, which is very little: if they were '
            'normalised, export counts; if they are amplitudes, say --diffraction-kind amplitude.',
        )
    else:
        yield _ok('counts', f'The patterns hold {mean:.4g} counts on average.')
    factor = calibrate_probe(scan)[1]
    if factor == 1.0:
        yield _ok(
            'calibration',
            f'The brightest pattern holds {100 * brightest / power:.0f} % of the {power:.4g} '
            'photons of the probe.',
        )
    else:
        yield _warning(
            'calibration',
            f'The probe holds {power:.4g} photons but the brightest pattern {brightest:.4g} '
            f'counts: the probe will be multiplied by {factor:.4g}; calibrate it to be certain.',
        )


def _examine_positions(scan: Scan) -> Iterator[Finding]:
    if not numpy.isfinite(scan.positions_px).all():
        yield _error('positions', 'Some positions are not finite: leave them out.')
        return
    corners, _ = split_positions(scan.positions_px, scan.pattern_shape)
    limit = numpy.asarray(scan.object_.shape) - numpy.asarray(scan.pattern_shape)
    outside = int(((corners < 0) | (corners > limit)).any(axis=1).sum())
    if outside:
        yield _error(
            'positions',
            f'{outside} of {scan.num_patterns} positions lie outside the object of '
            f'{scan.object_.shape[0]} x {scan.object_.shape[1]} pixels: enlarge the object or '
            'check the pixel size.',
        )
        return
    span = numpy.ptp(scan.positions_px, axis=0)
    yield _ok(
        'positions',
        f'{scan.num_patterns} positions span {span[0]:.0f} x {span[1]:.0f} pixels, inside the '
        f'object of {scan.object_.shape[0]} x {scan.object_.shape[1]}.',
    )
    unique = len(numpy.unique(numpy.round(scan.positions_px, 3), axis=0))
    repeated = scan.num_patterns - unique
    if repeated > 0.1 * scan.num_patterns:
        yield _warning(
            'duplicates',
            f'{repeated} of {scan.num_patterns} positions are repeated: check that the positions '
            'changed during the scan.',
        )
    elif repeated:
        yield _ok('duplicates', f'{repeated} positions are repeated, which does no harm.')


def _examine_probe(scan: Scan) -> Iterator[Finding]:
    power = _probe_power(scan)
    size = power.shape[0]
    if not 0.0 < power.sum() < numpy.inf:
        return
    rim = max(2, size // 16)
    border = 1.0 - float(power[rim:-rim, rim:-rim].sum() / power.sum())
    if border > _MAX_BORDER_POWER:
        yield _warning(
            'probe',
            f'{100 * border:.1f} % of the probe lies within {rim} pixels of the border of its '
            f'{size} pixel window and wraps around: use patterns with more pixels.',
        )
    else:
        yield _ok(
            'probe',
            f'99.9 % of the probe lies within {probe_support_px(scan)} of {size} pixels; '
            f'{scan.num_modes} mode{"s" if scan.num_modes > 1 else ""}, '
            f'{100 * border:.1f} % at the border.',
        )


def _examine_overlap(scan: Scan) -> Iterator[Finding]:
    diameter = probe_diameter_px(scan)
    positions = numpy.unique(numpy.round(scan.positions_px, 3), axis=0)
    if len(positions) < 2:
        yield _warning(
            'overlap',
            'There is only one position: without overlap the image rests on the probe alone; scan '
            'more positions.',
        )
        return
    distance = KDTree(positions).query(positions, k=2)[0][:, 1]
    step = float(numpy.median(distance))
    alone = int(numpy.count_nonzero(distance > diameter))
    overlap = 1.0 - step / diameter
    what = (
        f'The median distance of neighbours is {step:.1f} pixels and 90 % of the probe lies '
        f'within {diameter:.1f}: '
    )
    if overlap < _MIN_OVERLAP:
        yield _warning(
            'overlap',
            f'{what}an overlap of {100 * max(overlap, 0.0):.0f} %; scan in steps below '
            f'{(1.0 - _MIN_OVERLAP) * diameter:.1f} pixels.',
        )
    else:
        yield _ok('overlap', f'{what}an overlap of {100 * overlap:.0f} %.')
    if alone:
        yield _warning(
            'coverage',
            f'{alone} positions have no neighbour within the probe and leave holes in the image: '
            'leave them out or scan between them.',
        )


def _examine_pixels(scan: Scan) -> Iterator[Finding]:
    """Yields what hints at pixels that the mask should name but does not."""
    good = scan.good_pixels
    sample = numpy.asarray(scan.patterns[:: max(1, scan.num_patterns // _MAX_PATTERNS)])
    is_well = True
    for what, is_suspicious in zip(('dead', 'hot'), _find_dead_and_hot_pixels(sample, good)):
        pixels = numpy.argwhere(is_suspicious)
        if len(pixels):
            y, x = pixels[0]
            is_well = False
            yield _warning(
                'pixels',
                f'{len(pixels)} detector pixels look {what} but are not in the mask, the first at '
                f'(y {y}, x {x}): mark them as bad.',
            )
    num_saturated = 0
    if sample.dtype.kind in 'iu':
        limit = numpy.iinfo(sample.dtype).max
        num_saturated = int(numpy.count_nonzero(sample[:, good] == limit))
    if num_saturated:
        yield _warning(
            'pixels',
            f'{num_saturated} counts are at the limit of {sample.dtype}: the detector saturated; '
            'mask those pixels or attenuate the beam.',
        )
    elif is_well:
        masked = int(numpy.count_nonzero(~good))
        yield _ok('pixels', f'No dead or hot pixels; the mask leaves out {masked} pixels.')


def _find_dead_and_hot_pixels(
    sample: NDArray[Any], good: NDArray[numpy.bool_]
) -> tuple[NDArray[numpy.bool_], NDArray[numpy.bool_]]:
    """Returns (H, W) of what never counted, and of what is far above, unlike its neighbours."""
    total = filled = sample.sum(axis=0, dtype=numpy.float64) * good
    if not good.all():  # bad pixels count nothing and would drag a median down
        _, nearest = ndimage.distance_transform_edt(~good, return_indices=True)
        filled = total[tuple(nearest)]
    around = ndimage.median_filter(filled, _NEIGHBOURHOOD_PX, mode='nearest')
    dead = good & (total == 0.0) & (around > _MIN_NEIGHBOUR_COUNTS)
    y, x = numpy.indices(total.shape)
    middle = ndimage.center_of_mass(total) if total.any() else (0.0, 0.0)
    is_beam = numpy.hypot(y - middle[0], x - middle[1]) < _BEAM_RADIUS * len(total) + 1.0
    floor = _HOT_FACTOR * (around + 1.0) + 10.0 * numpy.sqrt(around + 1.0)
    return dead, good & ~is_beam & (total > floor) & (total > 2.0 * len(sample))


def _examine_orientation(scan: Scan) -> Iterator[Finding]:
    if scan.num_patterns < 4:
        return
    result = compare_orientations(scan)
    given, best = result.errors['as given'], result.errors[result.best]
    if result.gain > _ORIENTATION_GAIN:
        yield _warning(
            'orientation',
            f'With {result.best} the positions explain the counts {result.gain:.1f} times better '
            f'(error {best:.4f} against {given:.4f}): check the axes of scan and detector.',
        )
    else:
        others = sorted(value for name, value in result.errors.items() if name != 'as given')
        yield _ok(
            'orientation',
            f'The positions explain the counts best as given (error {given:.4f}, flipped or '
            f'exchanged at least {others[0]:.4f}).',
        )


def _estimate_cost(scan: Scan) -> Finding:
    """Returns what to expect of memory and time, with the default options."""
    config = Config()
    size = scan.pattern_shape[0]
    # FFTs of all modes; measured at 64 pixels and one mode on one core.
    effort = (size / 64.0) ** 2 * (1.0 + 0.4 * (scan.num_modes - 1))
    seconds = scan.num_patterns * effort / _PATTERNS_PER_SECOND_64
    group = config.grouping.group_size or (36 if size < 96 else 16)
    training = config.training.max_steps * group * effort / _TRAINING_PATTERNS_PER_SECOND_64
    memory = scan.patterns.nbytes / 1e6 + config.reconstruction.memory_MB
    return _ok(
        'cost',
        f'The patterns take {scan.patterns.nbytes / 1e6:.0f} MB; expect up to {memory:.0f} MB in '
        f'all, on one CPU core about {seconds:.0f} s for an image and {training / 60:.0f} min for '
        f'{config.training.max_steps} training steps.',
    )
