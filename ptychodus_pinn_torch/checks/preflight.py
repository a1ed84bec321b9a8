"""Examines a scan before a long run: each finding is a sentence with a number and a remedy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy
from numpy.typing import NDArray
from scipy.spatial import KDTree

from ..config import Config
from ..physics.probe import support_box
from ..reconstruction.defocus import with_found_defocus
from ..reconstruction.near_field import describe_near_field
from ..scan.calibration import calibrate_scan
from ..scan.findings import Finding, Level, found_error, found_ok, found_warning
from ..scan.positions import PositionTransform
from ..scan.probe_modes import describe_similar_modes
from ..scan.scan import Scan, split_positions
from ..scan.triage import examine_frames
from .frame_checks import examine_counts, examine_pixels
from .orientation import examine_orientation

__all__ = ['Finding', 'Level', 'examine_scan', 'probe_diameter_px', 'probe_support_px']

_MIN_OVERLAP = 0.5
_MAX_BORDER_POWER = 0.10
_PATTERNS_PER_SECOND_64 = 700.0
_TRAINING_PATTERNS_PER_SECOND_64 = 300.0


def examine_scan(scan: Scan, change: PositionTransform | None = None) -> list[Finding]:
    """Returns what was found, in the order in which a reader would ask.

    Args:
        scan: As read.
        change: What was done to its positions then, so that the flags that are named stand for
            all that has to be done to those of the file.
    """
    triage, said = examine_frames(scan), list[Finding]()
    scan = with_found_defocus(
        scan,
        lambda text: said.append(found_ok('probe', text.partition(': ')[2].capitalize())),
        triage,
    )
    has_probe = numpy.isfinite(scan.probe).all() and 0.0 < _probe_power(scan).sum() < numpy.inf
    findings = [*scan.findings, *said, *examine_counts(scan, triage)]
    has_counts = all(finding.level != 'error' for finding in findings)
    if not has_probe:
        findings.append(
            found_error('probe', 'The probe is zero or not finite: give another probe.')
        )
    elif has_counts:
        calibrated, factor = calibrate_scan(scan, triage)
        findings.append(_examine_calibration(scan, triage.brightest, factor))
    findings += _examine_positions(scan)
    is_usable = all(finding.level != 'error' for finding in findings)
    if has_probe:
        findings += _examine_probe(scan)
    if is_usable:
        findings += _examine_overlap(scan, scan.positions_px[triage.kept(scan.num_patterns)])
    if has_counts:
        findings += examine_pixels(scan)
        if sentence := describe_near_field(scan, triage):
            findings.append(found_error('far field', sentence))
    if is_usable:
        findings += examine_orientation(calibrated, triage, change or PositionTransform())
    return [*findings, _estimate_cost(scan)]


def _probe_power(scan: Scan) -> NDArray[numpy.float64]:
    return (numpy.abs(scan.probe.astype(numpy.complex128)) ** 2).sum(axis=0)


def probe_support_px(scan: Scan) -> int:
    """Returns the side of the smallest central box with 99.9 % of the power (see `support_box`)."""
    rows, _ = support_box(_probe_power(scan))
    return rows.stop - rows.start


def probe_diameter_px(scan: Scan) -> float:
    """Returns the diameter of the circle about the probe's centroid with 90 % of the power, 1 px at least."""
    power = _probe_power(scan)
    y, x = numpy.indices(power.shape)
    middle_y, middle_x = (power * y).sum() / power.sum(), (power * x).sum() / power.sum()
    radius = numpy.hypot(y - middle_y, x - middle_x).ravel()
    order = numpy.argsort(radius)
    inside = numpy.cumsum(power.ravel()[order]) / power.sum()
    return max(1.0, 2.0 * float(radius[order][numpy.searchsorted(inside, 0.9)]))


def _examine_calibration(scan: Scan, brightest: float, factor: float) -> Finding:
    power = float(_probe_power(scan).sum())
    if factor == 1.0:
        return found_ok(
            'calibration',
            f'The brightest pattern holds {100 * brightest / power:.0f} % of the '
            f'{power:.4g} photons of the probe.',
        )
    visible = brightest / factor**2
    how, times = ('less', factor) if factor > 1.0 else ('more', 1.0 / factor)
    return found_warning(
        'calibration',
        f'The probe carries {times**2:.4g} times {how} power ({times:.4g} times {how} amplitude) '
        f'than the brightest pattern has counts ({visible:.4g} against {brightest:.4g}): '
        f'reconstruct and train multiply its amplitude by {factor:.4g} themselves; for an absolute '
        'transmission, give the probe with the power of a frame without object.',
    )


def _examine_positions(scan: Scan) -> Iterator[Finding]:
    positions_px = scan.positions_px[scan.frames()]
    if not numpy.isfinite(positions_px).all():
        yield found_error('positions', 'Some positions are not finite: leave them out.')
        return
    corners, _ = split_positions(positions_px, scan.pattern_shape)
    limit = numpy.asarray(scan.object_.shape) - numpy.asarray(scan.pattern_shape)
    outside = int(((corners < 0) | (corners > limit)).any(axis=1).sum())
    if outside:
        yield found_error(
            'positions',
            f'{outside} of {scan.num_patterns} positions lie outside the object of '
            f'{scan.object_.shape[0]} x {scan.object_.shape[1]} pixels: enlarge the object or '
            'check the pixel size.',
        )
        return
    span = numpy.ptp(positions_px, axis=0)
    yield found_ok(
        'positions',
        f'{scan.num_patterns} positions span {span[0]:.0f} x {span[1]:.0f} pixels, inside the '
        f'object of {scan.object_.shape[0]} x {scan.object_.shape[1]}.',
    )
    unique = len(numpy.unique(numpy.round(positions_px, 3), axis=0))
    repeated = len(positions_px) - unique
    if repeated > 0.1 * scan.num_patterns:
        yield found_warning(
            'duplicates',
            f'{repeated} of {scan.num_patterns} positions are repeated: check that the positions '
            'changed during the scan.',
        )
    elif repeated:
        yield found_ok('duplicates', f'{repeated} positions are repeated, which does no harm.')


def _examine_probe(scan: Scan) -> Iterator[Finding]:
    power = _probe_power(scan)
    size = power.shape[0]
    rim = max(2, size // 16)
    border = 1.0 - float(power[rim:-rim, rim:-rim].sum() / power.sum())
    if border > _MAX_BORDER_POWER:
        yield found_warning(
            'probe',
            f'{100 * border:.1f} % of the probe lies within {rim} pixels of the border of its '
            f'{size} pixel window and wraps around: use patterns with more pixels.',
        )
    else:
        yield found_ok(
            'probe',
            f'99.9 % of the probe lies within {probe_support_px(scan)} of {size} pixels; '
            f'{scan.num_modes} mode{"s" if scan.num_modes > 1 else ""}, '
            f'{100 * border:.1f} % at the border.',
        )
    if (variation := scan.probe_variation) is not None:
        yield found_ok('variation', f'The probe has {variation.describe(scan.probe)}.')
    if similar := describe_similar_modes(scan.probe):
        yield found_warning('modes', similar)


def _examine_overlap(scan: Scan, positions_px: NDArray[numpy.float64]) -> Iterator[Finding]:
    diameter = probe_diameter_px(scan)
    positions = numpy.unique(numpy.round(positions_px, 3), axis=0)
    if len(positions) < 2:
        yield found_warning(
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
        yield found_warning(
            'overlap',
            f'{what}an overlap of {100 * max(overlap, 0.0):.0f} %; scan in steps below '
            f'{(1.0 - _MIN_OVERLAP) * diameter:.1f} pixels.',
        )
    else:
        yield found_ok('overlap', f'{what}an overlap of {100 * overlap:.0f} %.')
    if alone:
        yield found_warning(
            'coverage',
            f'{alone} positions have no neighbour within the probe and leave holes in the image: '
            'leave them out or scan between them.',
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
    return found_ok(
        'cost',
        f'The patterns take {scan.patterns.nbytes / 1e6:.0f} MB; expect up to {memory:.0f} MB in '
        f'all, on one CPU core about {seconds:.0f} s for an image and {training / 60:.0f} min for '
        f'{config.training.max_steps} training steps.',
    )
