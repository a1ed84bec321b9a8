"""`ptychodus-pinn demo`: simulate, reconstruct, train, compare; one picture and its metrics."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from .. import api
from ..metrics.comparison import compare_objects, coverage_map, coverage_mask
from ..models.archive import read_archive
from ..pictures import Panel, draw_comparison
from ..progress import ProgressLine, format_duration
from ..scan.io.output import write_atomically, write_scan_npz
from ..scan.scan import Scan
from ._images import write_image
from ._outputs import add_overwrite_option, check_output

NUM_POSITIONS = 400
REFINE_EPOCHS = 4
TRAINING = {
    'training.start': 'none',
    'network.num_stages': 3,
    'network.width': 16,
    'training.max_steps': 700,
}

SCANS = ('this_scan', 'unseen')
FILES = (
    'demo.png',
    'metrics.json',
    'trained.h5.zip',
    *(f'{scan}_{what}' for scan in SCANS for what in ('scan.npz', 'image.npz', 'product.h5')),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the options of the command."""
    parser.add_argument('--output', type=Path, required=True, help='folder for everything')
    add_overwrite_option(parser)
    parser.add_argument('--seed', type=int, default=0, help='seed of simulation and training')
    parser.add_argument(
        '--steps', type=int, default=TRAINING['training.max_steps'], help='training steps'
    )


def _format_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f'{"scan":<10} {"method":<32} {"NRMSE":>7} {"SSIM a":>7} {"SSIM p":>7} '
        f'{"phase rms":>9} {"FRC 0.5":>8} {"time":>7}'
    ]
    lines += [
        f'{row["scan"]:<10} {row["method"]:<32} {row["nrmse"]:7.4f} '
        f'{row["ssim_amplitude"]:7.3f} {row["ssim_phase"]:7.3f} {row["phase_rms_rad"]:9.4f} '
        f'{row["frc_half_per_nyquist"]:8.2f} {row["seconds"]:6.2f}s'
        for row in rows
    ]
    return '\n'.join(lines) + '\n'


def run(arguments: argparse.Namespace) -> int:
    """Runs the demonstration."""
    folder: Path = arguments.output
    for name in FILES:
        check_output(folder / name, arguments, suffixes=('',))
    started = time.monotonic()
    scans: dict[str, Scan] = {}
    for number, name in enumerate(SCANS):
        scans[name] = api.simulate(
            num_positions=NUM_POSITIONS,
            object_kind='independent',
            seed=arguments.seed,
            object_seed=1000 * arguments.seed + number,
        )
        write_scan_npz(folder / f'{name}_scan.npz', scans[name])
    model = folder / 'trained.h5.zip'
    options = {**TRAINING, 'training.max_steps': arguments.steps, 'training.seed': arguments.seed}
    sys.stdout.write(f'training on one simulated scan, {arguments.steps} steps, no labels\n')
    with ProgressLine(is_quiet=arguments.quiet) as progress:
        api.train(scans[SCANS[0]], model, options=options, report=progress)
    table, pictures = [], []
    for name, scan in scans.items():
        panels, rows = _compare(name, scan, model, folder)
        table += rows
        pictures.append((name.replace('_', ' '), panels, coverage_map(scan)))
    picture = draw_comparison(folder / 'demo.png', pictures, read_archive(model).history)
    seconds = time.monotonic() - started
    peak_mb = _peak_memory_mb()
    summary = {'rows': table, 'seconds': seconds, 'peak_memory_MB': peak_mb}
    text = json.dumps(summary, indent=2)
    write_atomically(folder / 'metrics.json', lambda path: path.write_text(text, encoding='utf-8'))
    sys.stdout.write(_format_table(table))
    sys.stdout.write(
        f'{picture}: the picture; all files are in {folder}; {format_duration(seconds)}'
        + ('' if peak_mb is None else f', peak memory {peak_mb:.0f} MB')
        + '\n'
    )
    return 0


def _peak_memory_mb() -> float | None:
    """Returns the largest memory that the process has had; None where nobody counts it."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == 'darwin' else peak / 1024


def _compare(
    name: str, scan: Scan, model: Path, folder: Path
) -> tuple[list[Panel], list[dict[str, Any]]]:
    """Returns the panels of one scan and its rows of the table; writes one of its images."""
    assert scan.truth is not None
    panels, rows = [Panel('truth', scan.truth)], []
    area = coverage_mask(scan)
    refined = f'+ {REFINE_EPOCHS} epochs'
    cases: list[tuple[str, Path | None, str, int]] = [
        ('shipped model', None, 'network', 0),
        (f'shipped model {refined}', None, 'network', REFINE_EPOCHS),
        ('trained here', model, 'network', 0),
        (f'trained here {refined}', model, 'network', REFINE_EPOCHS),
        (f'flat start {refined}', None, 'flat', REFINE_EPOCHS),
    ]
    for title, archive, start, epochs in cases:
        options = {'reconstruction.start': start, 'reconstruction.refine_epochs': epochs}
        if start == 'network':
            options['reconstruction.guard'] = False  # the network as it is
        result = api.reconstruct(scan, archive, options=options)
        metrics = compare_objects(result.object_, scan.truth, weights=area)
        panels.append(Panel(title, result.object_, metrics))
        about = {'scan': name.replace('_', ' '), 'method': title}
        seconds = sum(result.seconds.values())
        rows.append({**about, **metrics.to_dict(with_curve=False), 'seconds': seconds})
        if title == f'shipped model {refined}':
            write_image(folder / f'{name}_image.npz', scan, result)
            write_image(folder / f'{name}_product.h5', scan, result)
    return panels, rows
