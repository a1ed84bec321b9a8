"""`ptychodus-pinn simulate`: writes a simulated scan with its truth."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path

from ..simulation.sample_objects import OBJECT_KINDS
from ..simulation.sample_probes import PROBE_KINDS
from ..simulation.simulated_scan import PATH_KINDS, SimulationSpec
from . import UsageError
from ._outputs import add_overwrite_option, check_output

__all__ = ['configure', 'run']


_FLAGS = (
    ('--pattern-size', 'pattern_size', 'PIXELS', 'detector pixels per side, even'),
    ('--num-positions', 'num_positions', 'COUNT', 'patterns'),
    ('--step', 'step_px', 'PIXELS', 'distance of neighbours in object pixels'),
    ('--jitter', 'jitter_px', 'PIXELS', 'largest random move of a position'),
    ('--num-modes', 'num_modes', 'COUNT', 'incoherent probe modes'),
    ('--photons', 'photons', 'COUNT', 'photons in a frame without object'),
    ('--beamstop', 'beamstop_px', 'PIXELS', 'radius of a beamstop'),
    ('--position-error', 'position_error_px', 'PIXELS', 'rms error of the positions, per axis'),
    ('--seed', 'seed', 'NUMBER', 'seed of everything'),
    ('--pixel-size', 'pixel_size_m', 'METRES', 'object pixel'),
    ('--energy', 'photon_energy_eV', 'EV', 'photon energy'),
    ('--object', 'object_kind', OBJECT_KINDS, 'kind of object'),
    ('--probe', 'probe_kind', PROBE_KINDS, 'kind of probe'),
    ('--path', 'path', PATH_KINDS, 'path of the scan'),
)
"""Flag, field of `SimulationSpec`, unit or choices, and meaning."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the flags; defaults are those of `SimulationSpec`."""
    spec = SimulationSpec()
    parser.add_argument(
        'output', type=Path, metavar='OUT.npz', help='training NPZ to write, plus the truth'
    )
    add_overwrite_option(parser)
    for flag, name, allowed, text in _FLAGS:
        default = getattr(spec, name)
        is_number = isinstance(allowed, str)
        shown = f'{default:g}' if is_number else default
        kind = {'type': type(default), 'metavar': allowed} if is_number else {'choices': allowed}
        parser.add_argument(
            flag, dest=name, default=default, help=f'{text} (default: {shown})', **kind
        )
    parser.add_argument(
        '--object-seed', type=int, metavar='NUMBER', help='another object under the same probe'
    )
    parser.add_argument(
        '--from-object', metavar='FILE', help='use the object of an image, a product or a scan'
    )
    parser.add_argument(
        '--from-probe', metavar='FILE', help='use the probe of an image, a product or a scan'
    )
    parser.add_argument(
        '--doses',
        type=float,
        nargs='+',
        metavar='COUNT',
        help='write a scan for each of these numbers of photons, OUT-COUNT.npz',
    )
    parser.add_argument(
        '--no-noise', dest='has_noise', action='store_false', help='write the expected counts'
    )


def run(arguments: argparse.Namespace) -> int:
    """Returns 0 after the scan was written."""
    from ..scan.io.images import read_image
    from ..scan.io.output import write_scan_npz
    from ..simulation.simulated_scan import simulate_scan

    _refuse_idle_flags(arguments)
    spec = _read_spec(arguments)
    scans = {arguments.output: spec}
    if arguments.doses:
        scans = {
            arguments.output.with_name(f'{arguments.output.stem}-{dose:g}.npz'): _with(spec, dose)
            for dose in arguments.doses
        }
    inputs = (arguments.from_object, arguments.from_probe)
    for path in scans:
        check_output(path, arguments, suffixes=('.npz',), inputs=inputs)
    object_ = probe = None
    if arguments.from_object:
        object_ = read_image(arguments.from_object, is_reference=True).object_
    if arguments.from_probe:
        probe = read_image(arguments.from_probe).probe
        if probe is None:
            raise ValueError(f'{arguments.from_probe}: holds no probe.')
    for path, item in scans.items():
        scan = simulate_scan(item, object_=object_, probe=probe)
        write_scan_npz(path, scan)
        if not arguments.quiet:
            sys.stdout.write(
                f'{path}: {scan.num_patterns} patterns of {spec.pattern_size} x '
                f'{spec.pattern_size}, {scan.mean_counts():.4g} counts each; object of '
                f'{scan.object_.shape[0]} x {scan.object_.shape[1]} pixels with its truth.\n'
            )
    return 0


def _refuse_idle_flags(arguments: argparse.Namespace) -> None:
    plain = SimulationSpec()
    for taken, names in (
        ('doses', ('photons',)),
        ('from_object', ('object_kind',)),
        ('from_probe', ('probe_kind', 'num_modes')),
    ):
        idle = [name for name in names if getattr(arguments, name) != getattr(plain, name)]
        if getattr(arguments, taken) and idle:
            flag = next(flag for flag, name, *_ in _FLAGS if name == idle[0])
            raise UsageError(
                f'{flag} has no effect with --{taken.replace("_", "-")}: leave it out.'
            )


def _with(spec: SimulationSpec, photons: float) -> SimulationSpec:
    try:
        return replace(spec, photons=photons)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _read_spec(arguments: argparse.Namespace) -> SimulationSpec:
    names = {item.name for item in fields(SimulationSpec)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    try:
        return SimulationSpec(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error
