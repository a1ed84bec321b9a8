"""`ptychodus-pinn inspect`: says in plain words what is in a scan, an image or a model."""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy

from ..models.archive import BUNDLE_NAME
from ..scan.io.images import Image, is_image, read_image
from ..scan.io.npz import damage_named, is_zip
from ..scan.scan import Scan
from . import UsageError, describe_shape
from ._outputs import add_overwrite_option, check_output
from ._scan_options import add_scan_options, read_scan_from, refuse_scan_options

__all__ = ['configure', 'describe_scan', 'run']


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags."""
    parser.add_argument('file', metavar='FILE', help='scan, image, product or model archive')
    parser.add_argument('--draw', type=Path, metavar='OUT.png', help='draw it as well')
    add_overwrite_option(parser)
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after the description was printed."""
    from ..pictures import draw_image, draw_scan

    path = Path(arguments.file)
    if arguments.draw:
        inputs = (path, arguments.product)
        check_output(arguments.draw, arguments, suffixes=('.png',), inputs=inputs)
    names = _names(path)
    is_bundle = path.is_dir() and (path / BUNDLE_NAME).is_file()
    if is_bundle or names and not any(name.endswith('.npy') for name in names):
        if arguments.draw:
            raise UsageError(f'{path} is a model: there is nothing to draw.')
        refuse_scan_options(arguments, f'on {path}, which is a model')
        from ..models.opening import describe_model

        sys.stdout.write(describe_model(path).rstrip() + '\n')
        return 0
    if _is_image(path, names):
        refuse_scan_options(arguments, f'on {path}, which is an image')
        image = read_image(path)
        sys.stdout.write(describe_image(image))
        if arguments.draw:
            draw_image(arguments.draw, image)
    else:
        scan = read_scan_from(arguments, path)
        sys.stdout.write(describe_scan(scan))
        if arguments.draw:
            draw_scan(arguments.draw, scan)
    return 0


def _names(path: Path) -> set[str]:
    """Returns the names in a zip; none where the file is something else."""
    if not is_zip(path):
        return set()
    with damage_named(path), zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def _is_image(path: Path, names: set[str]) -> bool:
    """Returns whether the file holds an image but no patterns, nor lies beside its patterns."""
    return is_image(path) and (bool(names) or not path.with_name('diffraction.h5').exists())


def describe_image(image: Image) -> str:
    """Returns what is in an image file, one line for each part."""
    amplitude, phase = numpy.abs(image.object_), numpy.angle(image.object_)
    rows = {
        'image': str(image.path),
        'object': _describe_size(image),
        'amplitude': f'from {amplitude.min():.3f} to {amplitude.max():.3f}',
        'phase': f'from {phase.min():.3f} to {phase.max():.3f} rad',
    }
    if image.positions_px is not None:
        rows['positions'] = str(len(image.positions_px))
    if image.probe is not None:
        rows['probe'] = describe_shape(image.probe.shape)
    return _format(rows)


def _format(rows: dict[str, str]) -> str:
    return ''.join(f'{name:<12} {text}\n' for name, text in rows.items())


def _describe_size(item: Scan | Image) -> str:
    shape, pixel_m = item.object_.shape, item.pixel_size_m
    text = f'{describe_shape(shape)} pixels'
    if pixel_m is None:
        return f'{text}, pixel size not known'
    height_um, width_um = (1e6 * length * pixel for length, pixel in zip(shape, pixel_m))
    return f'{text} of {1e9 * pixel_m[0]:.4g} nm, {height_um:.3g} x {width_um:.3g} µm'


def describe_scan(scan: Scan) -> str:
    """Returns what is in a scan, one line for each part."""
    from ..checks.preflight import probe_diameter_px

    power = numpy.sum(numpy.abs(scan.probe.astype(numpy.complex128)) ** 2, axis=(1, 2))
    parts = ' '.join(f'{part:.0%}' for part in power / power.sum())
    span = numpy.ptp(scan.positions_px, axis=0)
    num_bad = int(numpy.count_nonzero(~scan.good_pixels))
    where = 'read from disk as needed' if _is_mapped(scan.patterns) else 'in memory'
    rows = {
        'scan': str(scan.source or scan.name),
        'patterns': f'{scan.num_patterns} of {describe_shape(scan.pattern_shape)} pixels, '
        f'{scan.patterns.dtype}, {scan.patterns.nbytes / 1e6:.1f} MB, {where}',
        'counts': f'{scan.mean_counts():.4g} per pattern on average',
        'mask': f'{num_bad} bad pixels' if num_bad else 'no bad pixels',
        'positions': f'over {span[0]:.0f} x {span[1]:.0f} object pixels',
        'probe': f'{scan.num_modes} mode{"" if scan.num_modes == 1 else "s"} ({parts}), '
        f'{power.sum():.4g} photons, 90 % of them within {probe_diameter_px(scan):.1f} pixels',
        'object': f'{_describe_size(scan)}, {"from the file" if scan.has_object else "flat"}',
        'truth': 'known: the scan is simulated' if scan.truth is not None else 'not known',
    }
    if scan.metadata.get('probe_is_estimated'):
        rows['probe'] += '; estimated from the mean pattern'
    if scan.probe_variation is not None:
        rows['variation'] = scan.probe_variation.describe(scan.probe)
    if 'photon_energy_eV' in scan.metadata:
        rows['energy'] = f'{float(scan.metadata["photon_energy_eV"]) / 1e3:.4g} keV'
    return _format(rows)


def _is_mapped(array: Any) -> bool:
    while array is not None:
        if isinstance(array, numpy.memmap):
            return True
        array = getattr(array, 'base', None)
    return False
