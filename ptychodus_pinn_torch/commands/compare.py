"""`ptychodus-pinn compare`: several images of one scan in one table and one picture."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..scan.io.images import Image, read_image
from . import UsageError, describe_shape
from ._outputs import add_overwrite_option, check_output
from ._scan_options import add_scan_options, read_scan_from
from .evaluate import judge_by_counts, modes_of

__all__ = ['configure', 'run']

_COLUMNS = (
    ('data_error', 'data error', '{:.5f}'),
    ('nrmse', 'NRMSE', '{:.4f}'),
    ('phase_rms_rad', 'phase rms', '{:.4f}'),
    ('ms_ssim_phase', 'MS-SSIM', '{:.4f}'),
    ('frc_half_per_nyquist', 'FRC 1/2', '{:.3f}'),
    ('single_image_frc', 'alone', '{:.3f}'),
    ('probe_overlap', 'probe', '{:.4f}'),
)
"""Key, title and form of each column; those that no image has are left out."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.usage = 'ptychodus-pinn compare IMAGE IMAGE [...] --scan SCAN [option ...]'
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE',
        help='reconstruction NPZ or product.h5, of anyone; NAME=FILE gives it a name',
    )
    parser.add_argument('--scan', required=True, metavar='SCAN', help='scan of all of them')
    parser.add_argument(
        '--reference',
        metavar='B',
        help='what to compare with (default: the truth of a simulated scan, else the first image)',
    )
    parser.add_argument(
        '--threshold',
        type=float,
        default=0.3,
        help='part of the highest probe power from which on a pixel counts (default: 0.3)',
    )
    parser.add_argument('--picture', type=Path, metavar='PNG', help='picture to write')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')
    add_overwrite_option(parser)
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after table and picture were written."""
    given = [_named(word) for word in arguments.images]
    names = [name for name, _ in given]
    if len(set(names)) < len(names):
        again = next(name for name in names if names.count(name) > 1)
        raise UsageError(f'{again} is the name of two images: say NAME=FILE to tell them apart.')
    if arguments.picture is not None:
        files = (*(path for _, path in given), arguments.scan, arguments.reference)
        check_output(arguments.picture, arguments, suffixes=('.png',), inputs=files)
    scan = read_scan_from(arguments, arguments.scan)
    images = {name: read_image(path) for name, path in given}
    reference, what = _reference(arguments.reference, scan, images)
    for image in images.values():
        if image.object_.shape != reference.shape:
            raise ValueError(
                f'{image.path} holds an image of {describe_shape(image.object_.shape)} pixels but '
                f'{what} one of {describe_shape(reference.shape)}: all must lie on one grid.'
            )
    from ..metrics.comparison import coverage_map

    coverage = coverage_map(scan)
    rows, panels = {}, []
    for name, image in images.items():
        rows[name], panel = _figures(name, image, reference, scan, coverage > arguments.threshold)
        panels.append(panel)
    if arguments.picture is not None:
        from ..pictures import Panel, draw_comparison

        title = f'{scan.name}, compared with {what}'
        is_shown = any(image.object_ is reference for image in images.values())
        shown = panels if is_shown else [Panel(what, reference), *panels]
        draw_comparison(arguments.picture, [(title, shown, coverage)])
    if arguments.json:
        sys.stdout.write(json.dumps({'reference': what, 'images': rows}, indent=2) + '\n')
    elif not arguments.quiet:
        sys.stdout.write(_table(rows, what))
    return 0


def _named(word: str) -> tuple[str, str]:
    """Returns name and path of an image; what stands before = is a name unless it is a path."""
    name, separator, path = word.partition('=')
    if separator and '/' not in name and not Path(word).exists():
        return name, path
    return Path(word).name, word


def _reference(path: str | None, scan: Any, images: dict[str, Image]) -> tuple[NDArray[Any], str]:
    if path is not None:
        return read_image(path, is_reference=True).object_, Path(path).name
    if scan.truth is not None:
        return scan.truth, 'the truth'
    first = next(iter(images))
    if len(images) < 2:
        raise UsageError('nothing to compare with: name two images, or --reference.')
    return images[first].object_, first


def _figures(
    name: str, image: Image, reference: NDArray[Any], scan: Any, area: NDArray[numpy.bool_]
) -> tuple[dict[str, Any], Any]:
    """Returns the figures of an image, and its panel."""
    from ..metrics.comparison import compare_objects
    from ..metrics.similarity import compare_probes, single_image_resolution
    from ..pictures import Panel

    found = compare_objects(image.object_, reference, weights=area, pixel_size_m=scan.pixel_size_m)
    figures = found.to_dict(with_curve=False) | judge_by_counts(image, scan)
    figures['single_image_frc'] = single_image_resolution(image.object_, area)
    probe = modes_of(image)
    if probe is not None and probe.shape[1:] == scan.pattern_shape:
        alike = compare_probes(probe, scan.probe)
        figures['probe_overlap'] = alike.overlap
        figures['probe_shared_power'] = alike.shared_power
        figures['probe_power_ratio'] = alike.power_ratio
    return figures, Panel(name, image.object_, found)


def _table(rows: dict[str, dict[str, Any]], what: str) -> str:
    columns = [
        item for item in _COLUMNS if any(row.get(item[0]) is not None for row in rows.values())
    ]
    lines = [['', *(title for _, title, _ in columns)]]
    for name, row in rows.items():
        cells = ('-' if row.get(key) is None else form.format(row[key]) for key, _, form in columns)
        lines.append([name, *cells])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = [
        '  '.join(
            cell.ljust(width) if not i else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    ]
    return '\n'.join(
        [
            *text,
            f'compared with {what}; FRC as a part of Nyquist; probe: overlap with that of the scan',
            '',
        ]
    )
