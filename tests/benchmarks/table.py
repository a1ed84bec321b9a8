"""All situations in one table: `python tests/benchmarks/table.py [--seeds N] [--cases NAME ...]`.

Medians over seeds of the error, the CPU seconds of one core and what is said of the image, for simulated scans of
two families, and the two measured ones. Another revision: the same with its sources in PYTHONPATH, `--json FILE` with
both, and `--beside FILE FILE` shows the ratios.
"""

from __future__ import annotations

import argparse
import collections
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from measure import DATA, error, image, say, spoil, swap_frames, under_flicker

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.backend import Reconstruction
from ptychodus_pinn_torch.metrics.comparison import compare_objects
from ptychodus_pinn_torch.scan.scan import Scan

Spoil = Callable[[Scan, int], Scan]

SPARSE = {'num_positions': 256, 'step_px': 8.0, 'jitter_px': 2.0}
SPARSER = {'num_positions': 144, 'step_px': 12.0, 'jitter_px': 3.0}


def _with_positions(scan: Scan, move: Callable[[Any], Any]) -> Scan:
    middle = scan.positions_px.mean(axis=0)
    return replace(scan, positions_px=middle + move(scan.positions_px - middle))


def _drifted(scan: Scan, seed: int) -> Scan:
    """Returns the scan with positions that wander by 2 px rms, in three slow waves."""
    rng, time_ = numpy.random.default_rng(seed), numpy.linspace(0.0, 1.0, len(scan.patterns))
    waves = [numpy.sin(2.0 * numpy.pi * (k * time_[:, None] + rng.random(2))) for k in (1, 2, 3)]
    drift = sum(rng.standard_normal(2) * wave for wave in waves)
    return _with_positions(scan, lambda p: p + 2.0 * drift / numpy.sqrt((drift**2).sum(1).mean()))


def _rng(seed: int) -> numpy.random.Generator:
    return numpy.random.default_rng([seed, 3])


CASES: dict[str, tuple[dict[str, Any], Spoil | None, dict[str, Any]]] = {
    '80 %': ({}, None, {}),
    '60 %': (SPARSE, None, {}),
    '40 %': (SPARSER, None, {}),
    '1e5': ({'photons': 1e5}, None, {}),
    '1e4': ({'photons': 1e4}, None, {}),
    '1e3': ({'photons': 1e3}, None, {}),
    'beamstop': ({'beamstop_px': 6.0}, None, {}),
    'probe .80': ({}, lambda scan, seed: spoil(scan, 'probe 0.80', seed), {}),
    'probe .5': ({}, lambda scan, seed: spoil(scan, 'probe 0.5', seed), {}),
    'raster, probe .80': ({'jitter_px': 0.0}, lambda x, seed: spoil(x, 'probe 0.80', seed), {}),
    '1 px': ({}, lambda scan, seed: spoil(scan, 'positions 1', seed), {}),
    '3 px': ({}, lambda scan, seed: spoil(scan, 'positions 3', seed), {}),
    'drift 2 px': ({}, _drifted, {}),
    'stretched 0.4 %': ({}, lambda x, seed: _with_positions(x, lambda p: 1.004 * p), {}),
    'exact, told': ({}, None, {'update_positions': 'on'}),
    'background': ({}, lambda scan, seed: spoil(scan, 'background', seed), {}),
    'dirty': ({}, lambda scan, seed: spoil(scan, 'background and bad frames', seed), {}),
    'flicker': ({}, lambda scan, seed: under_flicker(scan, _rng(seed)), {}),
    'swapped': ({}, lambda scan, seed: swap_frames(scan, _rng(seed)), {}),
}


def measured(name: str) -> tuple[float, float, Reconstruction]:
    """Returns for a measured scan the error of the phase, rad, or the part on the raster; and seconds."""
    path = DATA / f'{name}.npz'
    scan = pinn.read_scan(path)
    result, seconds = image(scan)
    if name.startswith('electron'):
        return lattice_share(result, scan), seconds, result
    with numpy.load(path) as file:
        area = file['illumination'] > 0.3
    return (
        compare_objects(result.object_, scan.object_, weights=area).phase_rms_rad,
        seconds,
        result,
    )


def lattice_share(result: Reconstruction, scan: Scan, size: int = 160, order: int = 8) -> float:
    """Returns the part of the amplitude's variance, in the middle, on the frequencies of the raster."""
    y, x = (numpy.asarray(result.object_.shape) - size) // 2
    amplitude = numpy.abs(result.object_[y : y + size, x : x + size])
    power = numpy.abs(numpy.fft.fft2(amplitude - amplitude.mean())) ** 2
    places = scan.positions_px
    ways = numpy.diff(places, axis=0)
    across = ways[numpy.abs(ways).max(axis=1) < 2.0 * numpy.median(numpy.abs(ways).max(axis=1))]
    first = numpy.median(across, axis=0)
    rest = places - places[0]
    off = rest[numpy.abs(rest @ [first[1], -first[0]]) > 0.5 * (first @ first)]
    second = off[numpy.hypot(*off.T).argmin()]
    inverse = numpy.linalg.inv(numpy.stack([first, second])).T * size
    is_lattice = numpy.zeros((size, size), dtype=bool)
    for one in range(-order, order + 1):
        for other in range(-order, order + 1):
            place = numpy.rint(one * inverse[0] + other * inverse[1]).astype(int)
            if (one or other) and numpy.abs(place).max() < size // 2:
                for dy in (-1, 0, 1):
                    for dx in (-1, 0, 1):
                        is_lattice[(place[0] + dy) % size, (place[1] + dx) % size] = True
    return float(power[is_lattice].sum() / power.sum())


def run(cases: list[str], seeds: range) -> dict[str, list[Any]]:
    """Returns the row of each case and family: error, seconds, verdicts."""
    rows: dict[str, list[Any]] = {}

    def note(name: str, found: list[tuple[float, float, Reconstruction]]) -> None:
        verdicts = collections.Counter(result.trust.verdict for _, _, result in found)
        freed = collections.Counter(' '.join(result.freed) or '-' for _, _, result in found)
        middle = numpy.median([item[:2] for item in found], axis=0).tolist()
        rows[name] = [*middle, dict(verdicts)]
        say(f'{name:26} {middle[0]:.4f} {middle[1]:6.1f} s {dict(verdicts)} {dict(freed)}')

    for name in cases:
        if name not in CASES:
            note(name, [measured(name)])
            continue
        spec, way, options = CASES[name]
        for kind in ('leaves', 'photo'):
            found = []
            for seed in seeds:
                given = {'num_positions': 1024, **spec}
                scan = pinn.simulate(object_kind=kind, seed=seed, **given)
                result, seconds = image(way(scan, seed) if way else scan, **options)
                found.append((error(scan, result), seconds, result))
            note(f'{name} {kind}', found)
    return rows


def main() -> None:
    """Runs the table, or shows two of them side by side."""
    parser = argparse.ArgumentParser()
    measured_names = ['velociprobe_siemens_128', 'electron_cryo_160']
    parser.add_argument('--cases', nargs='+', default=[*CASES, *measured_names])
    parser.add_argument('--seeds', type=int, default=10)
    parser.add_argument('--first-seed', type=int, default=100)
    parser.add_argument('--json', type=Path)
    parser.add_argument('--beside', type=Path, nargs=2)
    words = parser.parse_args()
    if words.beside:
        old, new = (json.loads(path.read_text()) for path in words.beside)
        for name in new:
            (a, s, _), (b, t, said) = old[name], new[name]
            say(f'{name:26} {a:.4f} -> {b:.4f} ({b / a:.2f}x), {s:.1f} -> {t:.1f} s, {said}')
        ratio = sum(row[1] for row in new.values()) / sum(old[name][1] for name in new)
        say(f'time of all: {ratio:.2f}x')
        return
    started = time.process_time()
    rows = run(words.cases, range(words.first_seed, words.first_seed + words.seeds))
    say(f'all: {time.process_time() - started:.0f} CPU-s')
    if words.json:
        words.json.write_text(json.dumps(rows))


if __name__ == '__main__':
    main()
