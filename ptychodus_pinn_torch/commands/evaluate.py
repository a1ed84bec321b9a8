"""`ptychodus-pinn evaluate`: compares an image with a reference, and with the measured counts."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from typing import Any

import numpy
from numpy.typing import NDArray

from ..scan.io.images import Image, read_image
from . import UsageError, describe_shape
from ._scan_options import add_scan_options, read_scan_from, refuse_scan_options

__all__ = ['configure', 'judge_by_counts', 'modes_of', 'run']

_ROWS = (
    ('nrmse', 'NRMSE (complex)', '{:.4f}'),
    ('phase_rms_rad', 'phase rms', '{:.4f} rad'),
    ('ssim_phase', 'SSIM of the phase', '{:.4f}'),
    ('ssim_amplitude', 'SSIM of the amplitude', '{:.4f}'),
    ('ms_ssim_phase', 'MS-SSIM of the phase', '{:.4f}'),
    ('ms_ssim_amplitude', 'MS-SSIM of the amplitude', '{:.4f}'),
    ('psnr_phase_dB', 'PSNR of the phase', '{:.2f} dB for a range of {phase_range_rad:.3f} rad'),
    (
        'psnr_amplitude_dB',
        'PSNR of the amplitude',
        '{:.2f} dB for a range of {amplitude_range:.3f}',
    ),
    ('frc_half_per_nyquist', 'FRC falls below 0.5 at', '{:.3f} Nyquist'),
    ('num_pixels', 'pixels compared', '{}'),
    ('data_error', 'relative amplitude error', '{:.5f} over {num_patterns} patterns'),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument(
        'image', metavar='A', help='image: reconstruction NPZ, product.h5, or simulated scan'
    )
    parser.add_argument(
        '--reference', metavar='B', help='what to compare with, in one of the same formats'
    )
    parser.add_argument(
        '--scan',
        metavar='SCAN',
        help='scan of the image: compares where it was illuminated, and with its counts',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.3,
        help='part of the highest probe power from which on a pixel counts (default: 0.3)',
    )
    parser.add_argument(
        '--held-out',
        metavar='FILE',
        help='text file with the numbers of the patterns to judge by (default: all)',
    )
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after the figures were printed."""
    if arguments.reference is None and arguments.scan is None:
        raise UsageError('nothing to compare with: name --reference, --scan, or both.')
    if arguments.scan is None:
        refuse_scan_options(arguments, 'without --scan')
    image = read_image(arguments.image)
    scan = None if arguments.scan is None else read_scan_from(arguments, arguments.scan)
    figures: dict[str, Any] = {}
    if arguments.reference is not None:
        reference = read_image(arguments.reference, is_reference=True)
        figures |= _compare(image, reference, scan, arguments.threshold)
    if scan is not None:
        figures |= judge_by_counts(image, scan, arguments.held_out)
    if arguments.json:
        sys.stdout.write(json.dumps(figures, indent=2) + '\n')
        return 0
    for key, title, form in _ROWS:
        if key in figures:
            value = 'infinite' if figures[key] is None else form.format(figures[key], **figures)
            sys.stdout.write(f'{title:<26} {value}\n')
    return 0


def _compare(image: Image, reference: Image, scan: Any, threshold: float) -> dict[str, Any]:
    from ..metrics.comparison import compare_objects

    _check_grid(image, str(reference.path), reference.object_)
    return compare_objects(
        image.object_,
        reference.object_,
        weights=_find_weights(image, reference, scan, threshold),
        pixel_size_m=reference.pixel_size_m,
    ).to_dict()


def _check_grid(image: Image, what: str, object_: NDArray[Any]) -> None:
    if image.object_.shape != object_.shape:
        raise ValueError(
            f'{image.path} holds an image of {describe_shape(image.object_.shape)} pixels but '
            f'{what} one of {describe_shape(object_.shape)}: both must lie on one grid.'
        )


def _find_weights(
    image: Image, reference: Image, scan: Any, threshold: float
) -> NDArray[Any] | None:
    """Returns the area to compare: the reference's own, else where the probe was."""
    from ..metrics.comparison import coverage_of

    if reference.weights is not None:
        return reference.weights
    for source in (image, reference) if scan is None else (scan,):
        modes = modes_of(source)
        if source.positions_px is not None and modes is not None:
            if isinstance(source, Image):
                _check_positions(source, source.positions_px, modes.shape[1:])
            return coverage_of(image.object_.shape, modes, source.positions_px) > threshold
    return image.weights


def modes_of(source: Any) -> NDArray[Any] | None:
    """Returns the probe (P, H, W) of an image or a scan, which an image may have as (H, W)."""
    if source.probe is None:
        return None
    return source.probe if source.probe.ndim == 3 else source.probe[None]


def _check_positions(
    image: Image, positions_px: NDArray[numpy.float64], pattern_shape: tuple[int, ...]
) -> None:
    """Refuses positions of an image whose patches do not lie on it."""
    first = positions_px - numpy.asarray(pattern_shape) / 2.0
    last = numpy.asarray(image.object_.shape) - numpy.asarray(pattern_shape)
    is_inside = ((first >= -1.0) & (first < last)).all(axis=1)
    if not is_inside.all():
        number = int(numpy.argmin(is_inside))
        y_px, x_px = positions_px[number]
        raise ValueError(
            f'{image.path}: position number {number} is ({y_px:.4g}, {x_px:.4g}) px, outside of its '
            f'{describe_shape(image.object_.shape)} pixels: it belongs to another image.'
        )


def judge_by_counts(image: Image, scan: Any, held_out: str | None = None) -> dict[str, Any]:
    """Returns how well an image explains the counts of a scan, or those of patterns in a list.

    Raises:
        ValueError: they do not belong together; says why.
    """
    from ..metrics.comparison import data_error
    from ..scan.calibration import calibrate_scan

    _check_grid(image, f'the scan {scan.name}', scan.object_)
    indices = None if held_out is None else _read_indices(held_out, scan.num_patterns)
    probe, variation, positions_px = modes_of(image), image.probe_variation, image.positions_px
    if probe is None or probe.shape[-2:] != scan.pattern_shape:
        calibrated, _ = calibrate_scan(scan)
        probe, variation = calibrated.probe, calibrated.probe_variation
    elif variation is not None and len(variation.weights) != scan.num_patterns:
        raise ValueError(
            f'{image.path}: its probe has weights for {len(variation.weights)} patterns, but the '
            f'scan {scan.name} has {scan.num_patterns}: name the scan that the image was made of.'
        )
    if positions_px is not None and len(positions_px) != scan.num_patterns:
        positions_px = None
    if positions_px is not None:
        _check_positions(image, positions_px, scan.pattern_shape)
    error = data_error(
        scan, image.object_, probe, indices, positions_px=positions_px, variation=variation
    )
    number = scan.num_patterns if indices is None else len(indices)
    return {'data_error': error, 'num_patterns': number}


def _read_indices(path: str, num_patterns: int) -> NDArray[numpy.int64]:
    """Returns the numbers in a text file; what follows a # is a comment."""
    try:
        with open(path, encoding='utf-8') as file:
            words = (word for line in file for word in line.partition('#')[0].split())
            numbers = [int(word) for word in itertools.islice(words, num_patterns + 1)]
    except ValueError as error:
        raise ValueError(f'{path} is no list of pattern numbers: one whole number per line.') from (
            error
        )
    if not numbers or min(numbers) < 0 or max(numbers) >= num_patterns:
        raise ValueError(
            f'{path}: pattern numbers from 0 to {num_patterns - 1} are needed; check the list.'
        )
    if len(set(numbers)) < len(numbers):
        raise ValueError(f'{path}: has a pattern number twice; check the list.')
    return numpy.asarray(numbers, dtype=numpy.int64)
