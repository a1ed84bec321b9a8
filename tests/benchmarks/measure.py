"""Measures what docs/benchmarks.md reports: `python tests/benchmarks/measure.py WHAT`.

One thread; seconds are CPU seconds of the process; quality is scored outside of the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy
import torch

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.backend import Reconstruction, get_backend
from ptychodus_pinn_torch.config import Config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask, data_error
from ptychodus_pinn_torch.models.archive import read_archive, shipped_model
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.scan.scan import Scan

DATA = Path(
    os.environ.get('PTYCHODUS_PINN_DATA', Path(__file__).resolve().parents[3] / 'shared' / 'data')
)


def say(*words: object) -> None:
    """Prints a line at once."""
    print(*words, flush=True)


def image(scan: Scan, model: Path | None = None, **options: Any) -> tuple[Reconstruction, float]:
    """Returns an image and the CPU seconds that it took."""
    named = {f'reconstruction.{key}': value for key, value in options.items()}
    started = time.process_time()
    result = pinn.reconstruct(scan, model, options=named)
    return result, time.process_time() - started


def error(scan: Scan, result: Reconstruction) -> float:
    """Returns the NRMSE against the truth."""
    return compare_objects(result.object_, scan.truth, weights=coverage_mask(scan)).nrmse


def bare_physics(scan: Scan) -> Any:
    """Returns the object after the network's physics with its CNN switched off."""
    network: Any = get_backend('pytorch').load_network(read_archive(shipped_model()), Config())
    measured = measure_scan(scan)
    with torch.inference_mode():
        canvas = network.reconstruct(measured.measurement, use_cnn=False).object_[0].numpy()
    object_ = scan.object_.copy()
    y, x = measured.origin
    object_[y : y + canvas.shape[0], x : x + canvas.shape[1]] = canvas
    return object_


def simulated() -> None:
    """Shipped model on families of simulated scans, beside tuned rPIE and the bare physics."""
    cases = {
        '80 %': {'num_positions': 1024, 'step_px': 4.0},
        '60 %': {'num_positions': 256, 'step_px': 8.0, 'jitter_px': 2.0},
        '1e4 photons': {'num_positions': 1024, 'step_px': 4.0, 'photons': 1e4},
    }
    for name, geometry in cases.items():
        for kind in ('leaves', 'independent', 'photo'):
            scan = pinn.simulate(object_kind=kind, seed=11, **geometry)
            alone, alone_s = image(scan, refine_epochs=0)
            one, _ = image(scan, refine_epochs=1)
            four, four_s = image(scan, refine_epochs=4)
            row = {
                'network': error(scan, alone),
                '+1': error(scan, one),
                '+4': error(scan, four),
            }
            area = coverage_mask(scan)
            row['no CNN'] = compare_objects(bare_physics(scan), scan.truth, weights=area).nrmse
            for alpha in (0.1, 0.3):
                epochs, seconds, flat = 4, 0.0, None
                while seconds < four_s and epochs < 64:
                    flat, seconds = image(
                        scan, start='flat', refine_epochs=epochs, alpha=alpha, refine_batch=8
                    )
                    epochs *= 2
                row[f'rPIE {alpha} x{epochs // 2}, {seconds:.1f} s'] = error(scan, flat)
            shown = ', '.join(f'{key} {value:.3f}' for key, value in row.items())
            say(f'{name:<12} {kind:<12} {alone_s:.2f} s, +4 {four_s:.2f} s: {shown}')


def _add_background(scan: Scan, seed: int, *, has_bad_frames: bool) -> Scan:
    """Returns the scan with 2 counts per pixel more; four frames of 4x, four empty, four spikes."""
    rng = numpy.random.default_rng(seed + 77)
    patterns = scan.patterns.astype(numpy.int64) + rng.poisson(2.0, scan.patterns.shape)
    if has_bad_frames:
        bright, empty, hit = rng.permutation(len(patterns))[:12].reshape(3, 4)
        patterns[bright] *= 4
        patterns[empty] = 0
        for frame in hit:
            y, x = rng.integers(0, patterns.shape[1], 2)
            patterns[frame, y, x] = 2 * patterns[frame].sum()
    return replace(scan, patterns=patterns.astype(numpy.uint32))


def spoil(scan: Scan, name: str, seed: int) -> Scan:
    """Returns the scan with what the name of a case says wrong about it."""
    if name.startswith('background'):
        return _add_background(scan, seed, has_bad_frames='bad' in name)
    if name.startswith('positions'):
        rms_px = float(name.split()[1])
        moves = numpy.random.default_rng(seed).standard_normal(scan.positions_px.shape)
        return replace(scan, positions_px=scan.positions_px + rms_px / 2**0.5 * moves)
    if name.startswith('probe'):
        frequency = numpy.fft.fftfreq(scan.pattern_shape[0])
        squared = frequency[:, None] ** 2 + frequency[None] ** 2
        spectrum, power = numpy.fft.fft2(scan.probe), numpy.linalg.norm(scan.probe) ** 2
        for strength in range(10, 900, 5):
            probe = numpy.fft.ifft2(spectrum * numpy.exp(-1j * strength * squared))
            if abs(numpy.vdot(probe, scan.probe)) < float(name.split()[1]) * power:
                return replace(scan, probe=probe.astype(numpy.complex64))
    return scan


def swap_frames(scan: Scan, rng: numpy.random.Generator) -> Scan:
    """Returns the scan with one frame of ten in the place of another."""
    patterns = numpy.array(scan.patterns)
    chosen = rng.permutation(len(patterns))[: len(patterns) // 10]
    patterns[chosen] = patterns[numpy.roll(chosen, 1)]
    return replace(scan, patterns=patterns)


def under_flicker(scan: Scan, rng: numpy.random.Generator) -> Scan:
    """Returns the scan under a beam that loses up to 40 % from frame to frame."""
    factors = rng.uniform(0.6, 1.0, len(scan.patterns))[:, None, None]
    patterns = rng.binomial(numpy.asarray(scan.patterns), factors)
    return replace(scan, patterns=patterns.astype(numpy.uint32))


def _with_positions(scan: Scan, transform: pinn.PositionTransform) -> Scan:
    positions_px = transform.apply(scan.positions_px)
    low = (numpy.asarray(scan.pattern_shape) - 1.0) / 2.0
    high = numpy.asarray(scan.object_.shape) - 1.0 - low
    return replace(scan, positions_px=numpy.clip(positions_px, low, high))


SPOILT: tuple[Callable[[Scan, int, numpy.random.Generator], Scan], ...] = (
    lambda scan, seed, rng: spoil(scan, 'probe 0.80', seed),
    lambda scan, seed, rng: spoil(scan, 'probe 0.5', seed),
    lambda scan, seed, rng: spoil(scan, 'positions 1', seed),
    lambda scan, seed, rng: spoil(scan, 'positions 3', seed),
    lambda scan, seed, rng: _with_positions(scan, pinn.PositionTransform(exchange_axes=True)),
    lambda scan, seed, rng: _with_positions(scan, pinn.PositionTransform(scale=0.9)),
    lambda scan, seed, rng: spoil(scan, 'background', seed),
    lambda scan, seed, rng: swap_frames(scan, rng),
    lambda scan, seed, rng: under_flicker(scan, rng),
    lambda scan, seed, rng: replace(scan, patterns=numpy.roll(scan.patterns, 1, axis=(1, 2))),
)


def verdicts(number: int = 100) -> None:
    """What is said of clean scans and of the same ones spoilt in one of ten ways."""
    names = (
        'probe .80, probe .5, pos 1, pos 3, exchanged, scaled, background, swapped, flicker, off'
    )
    rows: list[tuple[str, float, float, str, str]] = []
    for seed in range(number):
        rng = numpy.random.default_rng([seed, 3])
        scan = pinn.simulate(
            object_kind=('leaves', 'photo', 'independent')[seed % 3],
            seed=seed,
            num_positions=196,
            step_px=float(rng.choice([4.0, 6.0])),
            photons=10.0 ** rng.uniform(4.0, 6.5),
        )
        way = seed % len(SPOILT)
        result, _ = image(scan)
        best = error(scan, result)
        rows.append(('clean', best, result.trust.to_noise, result.trust.verdict, ''))
        result, _ = image(SPOILT[way](scan, seed, rng))
        name = names.split(', ')[way]
        worse = error(scan, result) / best
        rows.append((name, worse, result.trust.to_noise, result.trust.verdict, str(result.freed)))
        say(
            f'{seed:3d}',
            *(f'{x:.3g}' if isinstance(x, float) else x for x in (*rows[-2], *rows[-1])),
        )
    clean = [row for row in rows if row[0] == 'clean']
    bad = [row for row in rows if row[0] != 'clean' and row[1] > 2.0]
    say(f'clean called right: {sum(row[3] == "right" for row in clean)} of {len(clean)}')
    say(f'spoilt (error > 2x) called right: {sum(row[3] == "right" for row in bad)} of {len(bad)}')


def real() -> None:
    """Shipped model on the measured scan that it never saw; half of it held out."""
    scan = pinn.read_scan(DATA / 'velociprobe_siemens_128.npz')
    with numpy.load(DATA / 'velociprobe_siemens_128.npz') as file:
        area = file['illumination'] > 0.3
    for options in (
        {'refine_epochs': 0},
        {'refine_epochs': 1},
        {'refine_epochs': 2},
        {'refine_epochs': 4},
        {'refine_epochs': -1},
        {'refine_epochs': 4, 'start': 'flat', 'alpha': 0.1},
        {'refine_epochs': 8, 'start': 'flat', 'alpha': 0.1},
        {'refine_epochs': 8, 'start': 'flat', 'alpha': 0.3},
    ):
        result, seconds = image(scan, **options)
        metrics = compare_objects(result.object_, scan.object_, weights=area)
        say(
            f'{options}: phase rms {metrics.phase_rms_rad:.4f} rad, SSIM {metrics.ssim_phase:.3f}, '
            f'FRC {metrics.frc_half_per_nyquist:.2f}, {seconds:.1f} CPU-s'
        )
    for name, order in (
        ('even/odd', numpy.argsort(numpy.arange(516) % 2, kind='stable')),
        ('random', numpy.random.default_rng(3).permutation(516)),
    ):
        half, other = scan.select(numpy.sort(order[:258])), scan.select(numpy.sort(order[258:]))
        for epochs in (0, 1, 4):
            result, _ = image(half, refine_epochs=epochs)
            held_out = data_error(other, result.object_, scan.probe)
            say(f'half of the frames, {name}, +{epochs}: held-out error {held_out:.5f}')
        for alpha in (0.1, 0.3):
            result, seconds = image(half, start='flat', refine_epochs=24, alpha=alpha)
            held_out = data_error(other, result.object_, scan.probe)
            say(f'  rPIE {alpha} from flat, 24 epochs, {seconds:.1f} s: {held_out:.5f}')


def wrong() -> None:
    """Wrong probes with probe update, wrong positions: network start against flat start."""
    from scipy.ndimage import affine_transform

    scan = pinn.simulate(object_kind='independent', seed=11, num_positions=1024)
    probe = scan.probe[0]
    frequency = numpy.fft.fftfreq(64)
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    probes = {'exact': probe}
    for strength in range(5, 400, 5):
        moved = numpy.fft.ifft2(numpy.fft.fft2(probe) * numpy.exp(-1j * strength * squared))
        if abs(numpy.vdot(moved, probe)) / numpy.linalg.norm(probe) ** 2 < 0.95:
            break
    probes['defocus, overlap 0.95'] = moved
    for name, factor in (('10 % wider', 1 / 1.1), ('10 % narrower', 1.1)):
        parts = [
            affine_transform(part, [factor, factor], 31.5 * (1 - factor), order=3)
            for part in (probe.real, probe.imag)
        ]
        scaled = parts[0] + 1j * parts[1]
        probes[name] = scaled * numpy.linalg.norm(probe) / numpy.linalg.norm(scaled)
    for name, given in probes.items():
        told = replace(scan, probe=given[None].astype(numpy.complex64))
        row = {}
        for epochs in (4, 8):
            for start in ('network', 'flat'):
                result, _ = image(told, refine_epochs=epochs, update_probe=True, start=start)
                row[f'{start} +{epochs}'] = error(scan, result)
        say(f'probe {name}:', ', '.join(f'{key} {value:.3f}' for key, value in row.items()))
    rng = numpy.random.default_rng(0)
    off = 0.5 / numpy.sqrt(2) * rng.standard_normal(scan.positions_px.shape)
    told = replace(scan, positions_px=scan.positions_px + off)
    for name, given, options in (
        ('right positions', scan, {}),
        ('0.5 px off', told, {}),
        ('0.5 px off, updated', told, {'update_positions': True}),
    ):
        result, _ = image(given, refine_epochs=4, **options)
        say(f'{name}: {error(scan, result):.4f}')


def _in_new_process(code: str, *words: object) -> dict[str, float]:
    output = subprocess.run(
        [sys.executable, '-c', code, *map(str, words)], check=True, capture_output=True, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


_SPEED = """
import json, resource, sys, time
import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.scan.io.output import write_reconstruction_npz
pinn.reconstruct(pinn.simulate(num_positions=36))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
cpu, wall = time.process_time(), time.perf_counter()
scan = pinn.read_scan(sys.argv[1])
image = pinn.reconstruct(scan, options={'reconstruction.refine_epochs': int(sys.argv[2])})
write_reconstruction_npz(sys.argv[1] + '.image.npz', object_=image.object_,
    positions_px=image.positions_px, probe=image.probe, losses=image.losses)
print(json.dumps({'cpu': time.process_time() - cpu, 'wall': time.perf_counter() - wall,
    'grown': (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024,
    'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def speed() -> None:
    """File to image for 1024 and 10 times as many patterns, warm process, one thread."""
    from ptychodus_pinn_torch.scan.io.output import write_scan_npz

    with tempfile.TemporaryDirectory() as folder:
        for number in (1024, 10240):
            path = Path(folder) / f'{number}.npz'
            write_scan_npz(path, pinn.simulate(num_positions=number, seed=1))
            pages = number * 64 * 64 * 2 / 2**20
            for epochs in (0, 1, -1):
                found = _in_new_process(_SPEED, path, epochs)
                say(
                    f'{number} patterns, refine {epochs}: {found["cpu"]:.2f} CPU-s, '
                    f'{number / found["cpu"]:.0f} patterns/s, peak {found["peak"]:.0f} MB, '
                    f'grown by {found["grown"]:.0f} MB, frames {pages:.0f} MB'
                )


_START = """
import time
import ptychodus.model.core
from ptychodus.api.settings import SettingsRegistry
begin_s = time.perf_counter()
from ptychodus_pinn_torch.host.ptychodus_plugin import register_plugins
register_plugins(None)
from ptychodus_pinn_torch.host.attach import load_libraries
load_libraries(SettingsRegistry(), False, [])
print(time.perf_counter() - begin_s)
"""
_IMPORT = """
import time
begin_s = time.perf_counter()
import ptychodus_pinn_torch
print(time.perf_counter() - begin_s)
"""


def start() -> None:
    """What importing the package, and attaching it to Ptychodus, adds to a start; 1024 patterns."""
    for what, code in (('import', _IMPORT), ('attach', _START)):
        found = [
            float(subprocess.run([sys.executable, '-c', code], capture_output=True).stdout)
            for _ in range(3)
        ]
        say(f'{what}: {1e3 * min(found):.0f} ms')
    begin_s = time.process_time()
    pinn.simulate(num_positions=1024)
    say(f'simulate 1024 patterns: {time.process_time() - begin_s:.1f} CPU-s')


def training(kind: str = 'unrolled', seeds: int = 3) -> None:
    """From scratch on the measured scan alone, without labels."""
    scan = pinn.read_scan(DATA / 'velociprobe_siemens_128.npz')
    with numpy.load(DATA / 'velociprobe_siemens_128.npz') as file:
        area = file['illumination'] > 0.3
    options: dict[str, Any] = {'training.start': 'none', 'network.kind': kind}
    if kind == 'unrolled':
        options |= {'network.num_stages': 3, 'network.width': 16, 'training.max_steps': 230}
        options |= {'grouping.group_size': 12}
    else:
        options |= {'loss.kind': 'poisson', 'training.max_steps': 1300}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            started = time.process_time()
            model = pinn.train(
                scan,
                Path(folder) / f'{seed}.h5.zip',
                options=options | {'training.seed': seed, 'execution.num_threads': 1},
            )
            seconds = time.process_time() - started
            row = []
            for epochs in (0, 4):
                result, _ = image(scan, model, refine_epochs=epochs, guard=False)
                metrics = compare_objects(result.object_, scan.object_, weights=area)
                row.append(f'+{epochs} {metrics.phase_rms_rad:.4f}')
            say(f'{kind}, seed {seed}: {seconds:.0f} CPU-s, phase rms {", ".join(row)} rad')


def networks(steps: int = 900) -> None:
    """Networks of one pattern at a time, trained alike from scratch and used without refinement."""
    flat = {'reconstruction.refine_epochs': 0, 'reconstruction.start': 'flat'}
    alone = {'reconstruction.refine_epochs': 0, 'reconstruction.guard': False}
    common = {'training.start': 'none', 'training.max_steps': steps, 'execution.logger': 'none'}
    for objects, others in (('leaves', 'leaves'), ('photo', 'independent')):
        scan = pinn.simulate(object_kind=objects, seed=0)
        other = pinn.simulate(object_kind=others, seed=5)
        errors = [error(each, pinn.reconstruct(each, options=flat)) for each in (scan, other)]
        say(objects, 'flat: own scan {:.3f}, unseen {:.3f}'.format(*errors))
        for kind in ('cnn', 'fno'):
            with tempfile.TemporaryDirectory() as folder:
                began = time.process_time()
                options = {**common, 'network.kind': kind, 'execution.num_threads': 1}
                model = pinn.train(scan, Path(folder) / 'model.h5.zip', options=options)
                spent = time.process_time() - began
                images = [pinn.reconstruct(each, model, options=alone) for each in (scan, other)]
            errors = [error(*pair) for pair in zip((scan, other), images)]
            say(objects, kind, '{:.3f}, {:.3f}'.format(*errors), f'{spent:.0f} CPU-s')


def memory() -> None:
    """Bytes per pattern that training holds beyond the file's own."""
    from ptychodus_pinn_torch.scan.io.output import write_scan_npz
    from ptychodus_pinn_torch.training.plans import plan_epoch

    scan = pinn.simulate(num_positions=10000, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_scan_npz(Path(folder) / 'scan.npz', scan)
        scan = pinn.read_scan(path)
        measured = measure_scan(scan)
        tasks = plan_epoch([measured], Config(), 0)
        held = sum(task.indices.nbytes for task in tasks)
        held += (
            measured.measurement.corners.nbytes
            + measured.measurement.shifts.nbytes
            + scan.positions_px.nbytes
        )
        own = scan.patterns.nbytes
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        say(
            f'{held / scan.num_patterns:.0f} bytes per pattern beyond {own / scan.num_patterns:.0f}'
            f' of the file ({100 * held / own:.2f} %), peak of this process {peak:.0f} MB'
        )


WHAT: dict[str, Callable[[], None]] = {
    'simulated': simulated,
    'real': real,
    'wrong': wrong,
    'verdicts': verdicts,
    'speed': speed,
    'memory': memory,
    'networks': networks,
    'start': start,
    'train': training,
    'train-cnn': lambda: training('cnn'),
}


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('what', choices=WHAT)
    WHAT[parser.parse_args().what]()
