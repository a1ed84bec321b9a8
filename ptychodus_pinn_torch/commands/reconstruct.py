"""`ptychodus-pinn reconstruct`: make an image of a scan."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..backend import Reconstruction, ReconstructRequest
from ..progress import ProgressLine
from ..scan.scan import Scan
from ._config_options import backend_from, config_from
from ._outputs import add_overwrite_option, check_output
from ._scan_options import add_scan_options, read_scan_from


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.usage = 'ptychodus-pinn reconstruct SCAN --output FILE [option ...]'
    parser.add_argument('scan', type=Path, metavar='SCAN', help='file or folder of the scan')
    parser.add_argument(
        '--output', type=Path, required=True, metavar='FILE',
        help='image to write: .npz, or .h5 for Ptychodus',
    )  # fmt: skip
    parser.add_argument(
        '--model', type=Path, metavar='FILE', help='model archive (default: the shipped model)'
    )
    parser.add_argument(
        '--picture', type=Path, help='PNG to write (default: beside the output)', metavar='PNG'
    )
    parser.add_argument('--no-picture', action='store_true', help='write no PNG')
    parser.add_argument('--backend', help='pytorch or tensorflow')
    parser.add_argument('--json', action='store_true', help='print the figures as JSON')
    add_overwrite_option(parser)
    add_scan_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Reads, reconstructs, writes."""
    backend = backend_from(arguments)
    config = config_from(arguments, backend=backend)
    output: Path = arguments.output
    picture: Path = arguments.picture or output.with_suffix('.png')
    inputs = (arguments.scan, arguments.product, arguments.model)
    check_output(output, arguments, suffixes=('.npz', '.h5', '.hdf5'), inputs=inputs)
    if not arguments.no_picture:
        check_output(picture, arguments, suffixes=('.png',), inputs=inputs)
    started = time.monotonic()
    scan = read_scan_from(arguments, arguments.scan)
    read_s = time.monotonic() - started
    request = ReconstructRequest(scan, config, arguments.model, backend)
    from ..reconstruction.procedure import reconstruct

    with ProgressLine(is_quiet=arguments.quiet) as progress:
        result = reconstruct(request, progress)
    started = time.monotonic()
    write_image(output, scan, result)
    write_s = time.monotonic() - started
    if arguments.json:
        seconds = {'read': read_s, **result.seconds, 'write': write_s}
        sys.stdout.write(json.dumps({'output': str(output), **_figures(result, seconds)}) + '\n')
    elif not arguments.quiet:
        sys.stdout.write(_summary(scan, result, output, read_s, write_s))
    if not arguments.no_picture:
        from ..pictures import draw_reconstruction

        draw_reconstruction(picture, scan, result)
    return 0


def write_image(output: Path, scan: Scan, result: Reconstruction) -> None:
    """Writes an image as NPZ or as a product of Ptychodus, by its ending."""
    from ..scan.files import write_product, write_reconstruction_npz

    contents = {
        'object_': result.object_,
        'positions_px': result.positions_px,
        'probe': result.probe,
        'losses': result.losses,
    }
    if output.suffix == '.npz':
        variation = result.probe_variation
        write_reconstruction_npz(output, **contents, judged=_judged(result), variation=variation)
    else:
        comment = '' if result.trust is None else result.trust.summary(without=scan.name)
        scan = replace(scan, probe_variation=result.probe_variation)
        write_product(output, scan, **contents, comment=comment)


def _judged(result: Reconstruction) -> dict[str, Any]:
    """Returns what is known of an image's quality, by the keys of an NPZ."""
    judged = {'coverage': result.coverage}
    if result.trust is not None:
        judged |= {'misfit_map': result.trust.map, 'misfit_frames': result.trust.frames}
    return judged


def _figures(result: Reconstruction, seconds: dict[str, float]) -> dict[str, Any]:
    """Returns what a script wants to know of an image."""
    figures: dict[str, Any] = {
        'start': result.start,
        'epochs': len(result.losses),
        'error': result.losses[-1][1] if result.losses else None,
        'held_out': result.held_out,
        'freed': result.freed,
        'messages': result.messages,
        'seconds': seconds,
    }
    if result.trust is not None:
        frames = result.trust.frames
        figures['verdict'] = result.trust.verdict
        figures['sentence'] = result.trust.sentence
        figures['to_noise'] = result.trust.to_noise
        figures['frames'] = [round(float(x), 3) if x == x else None for x in frames]
        figures['map'] = _describe_map(result.trust.map)
        figures['moved'] = result.trust.moved.figures()
    return figures


def _describe_map(values: NDArray[Any]) -> dict[str, Any] | None:
    """Returns the median of a map (Y, X), its highest value and where that one is, (y, x)."""
    known = numpy.isfinite(values)
    if not known.any():
        return None
    place = numpy.unravel_index(numpy.argmax(numpy.where(known, values, -1.0)), values.shape)
    return {
        'median': float(numpy.median(values[known])),
        'highest': float(values[place]),
        'highest_at_px': [int(index) for index in place],
    }


def _summary(
    scan: Scan, result: Reconstruction, output: Path, read_s: float, write_s: float
) -> str:
    phases = {'read': read_s, **result.seconds, 'write': write_s}
    times = ', '.join(f'{name} {seconds:.2f} s' for name, seconds in phases.items())
    lines = [
        f'{output}: {scan.num_patterns} patterns, started from the {result.start}, '
        f'{len(result.losses)} epochs of refinement'
    ]
    if result.losses:
        lines.append(f'relative amplitude error {result.losses[-1][1]:.5f}')
    if result.held_out is not None:
        lines.append(f'on held-out patterns {result.held_out:.5f}')
    if result.trust is not None:
        lines.append(result.trust.summary())
    lines.append(f'{times}; {scan.num_patterns / sum(phases.values()):.0f} patterns/s')
    return '\n'.join(lines) + '\n'
