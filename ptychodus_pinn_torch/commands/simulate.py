"""`ptychodus-pinn simulate`: writes a simulated scan with its truth."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..simulation.sample_objects import OBJECT_KINDS
from ..simulation.sample_probes import PROBE_KINDS
from ..simulation.simulated_scan import PATH_KINDS, SimulationSpec
from . import UsageError
from ._outputs import add_overwrite_option, check_output

__all__ = ['configure', 'run']


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; defaults are those of `SimulationSpec`."""
    spec = SimulationSpec()
    parser.add_argument(
        'output', type=Path, metavar='OUT.npz', help='training NPZ to write, plus the truth'
    )
    add_overwrite_option(parser)
    numbers = (
        ('--pattern-size', int, spec.pattern_size, 'PIXELS', 'detector pixels per side, even'),
        ('--num-positions', int, spec.num_positions, 'COUNT', 'patterns'),
        ('--step', float, spec.step_px, 'PIXELS', 'distance of neighbours in object pixels'),
        ('--jitter', float, spec.jitter_px, 'PIXELS', 'largest random move of a position'),
        ('--num-modes', int, spec.num_modes, 'COUNT', 'incoherent probe modes'),
        ('--photons', float, spec.photons, 'COUNT', 'photons in a frame without object'),
        ('--beamstop', float, spec.beamstop_px, 'PIXELS', 'radius of a beamstop'),
        (
            '--position-error',
            float,
            spec.position_error_px,
            'PIXELS',
            'standard deviation of the error of the positions',
        ),
        ('--seed', int, spec.seed, 'NUMBER', 'seed of everything'),
        ('--pixel-size', float, spec.pixel_size_m, 'METRES', 'object pixel'),
        ('--energy', float, spec.photon_energy_eV, 'EV', 'photon energy'),
    )
    for flag, kind, default, unit, text in numbers:
        parser.add_argument(
            flag, type=kind, default=default, metavar=unit, help=f'{text} (default: {default:g})'
        )
    for flag, choices, usual, text in (
        ('--object', OBJECT_KINDS, spec.object_kind, 'kind of object'),
        ('--probe', PROBE_KINDS, spec.probe_kind, 'kind of probe'),
        ('--path', PATH_KINDS, spec.path, 'path of the scan'),
    ):
        parser.add_argument(flag, choices=choices, default=usual, help=f'{text} (default: {usual})')
    parser.add_argument(
        '--object-seed', type=int, metavar='NUMBER', help='another object under the same probe'
    )
    parser.add_argument('--no-noise', action='store_true', help='write the expected counts')


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after the scan was written."""
    from ..scan.files import write_scan_npz
    from ..simulation.simulated_scan import simulate_scan

    spec = _read_spec(arguments)
    check_output(arguments.output, arguments, suffixes=('.npz',))
    scan = simulate_scan(spec)
    path = write_scan_npz(arguments.output, scan)
    if not arguments.quiet:
        sys.stdout.write(
            f'{path}: {scan.num_patterns} patterns of {spec.pattern_size} x {spec.pattern_size}, '
            f'{scan.mean_counts():.4g} counts each; object of {scan.object_.shape[0]} x '
            f'{scan.object_.shape[1]} pixels with its truth.\n'
        )
    return 0


def _read_spec(arguments: argparse.Namespace) -> SimulationSpec:
    try:
        return SimulationSpec(
            pattern_size=arguments.pattern_size,
            num_positions=arguments.num_positions,
            step_px=arguments.step,
            jitter_px=arguments.jitter,
            path=arguments.path,
            object_kind=arguments.object,
            probe_kind=arguments.probe,
            num_modes=arguments.num_modes,
            photons=arguments.photons,
            has_noise=not arguments.no_noise,
            beamstop_px=arguments.beamstop,
            position_error_px=arguments.position_error,
            seed=arguments.seed,
            object_seed=arguments.object_seed,
            pixel_size_m=arguments.pixel_size,
            photon_energy_eV=arguments.energy,
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
