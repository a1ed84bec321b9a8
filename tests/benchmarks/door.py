"""What comes through the door: spoilt scans beside their unspoilt twins, beams without a probe, speed.

python tests/benchmarks/door.py damages | defocus | reading
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_of
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import examine_frames
from ptychodus_pinn_torch.simulation.sample_probes import focus_beam, normalize_power

Spoil = Callable[[Any, Any], tuple[Any, Any]]


def error_of(image: Any, scan: Scan, frames: Any) -> float:
    """Returns the NRMSE where some frames saw the object."""
    light = coverage_of(scan.object_.shape, scan.probe, scan.positions_px[frames])
    return compare_objects(image.object_, scan.truth, weights=light > 0.3).nrmse


def damages(scan: Scan, rng: numpy.random.Generator) -> Iterator[tuple[str, Spoil]]:
    """Yields damages by name, as functions of counts (uint32) and positions."""
    mean, half = scan.patterns.mean(axis=0), scan.num_patterns // 2
    bright = numpy.argwhere(mean > numpy.quantile(mean, 0.9))
    places = bright[rng.choice(len(bright), 21, replace=False)].T

    def pixels(counts: Any, positions: Any) -> tuple[Any, Any]:
        counts[:, places[0, :12], places[1, :12]] = 0
        counts[:, places[0, 12:], places[1, 12:]] = 65535
        return counts.astype(numpy.uint16), positions

    def gap(counts: Any, positions: Any) -> tuple[Any, Any]:
        counts[:, :, 34:37] = 0
        return counts, positions

    def dark(counts: Any, positions: Any) -> tuple[Any, Any]:
        counts[4 * half // 3 :] = 0
        return counts, positions

    def glare(counts: Any, positions: Any) -> tuple[Any, Any]:
        counts[:half] *= 200
        return counts, positions

    def glitch(place: float) -> Spoil:
        def spoil(counts: Any, positions: Any) -> tuple[Any, Any]:
            positions[40] = place
            return counts, positions

        return spoil

    yield '12 dead, 9 saturated pixels', pixels
    yield 'gap of 3 pixels', gap
    yield 'last third dark', dark
    yield 'first half 200x', glare
    yield 'position at 1e4 px', glitch(1e4)
    yield 'position at 1e6 px', glitch(1e6)
    yield 'gain 13', lambda counts, positions: (13 * counts, positions)
    yield 'gain 1.7, rounded', lambda c, p: (numpy.rint(1.7 * c).astype(numpy.uint32), p)
    yield 'gain 1.7', lambda c, p: ((1.7 * c).astype(numpy.float32), p)


def run_damages() -> None:
    """Prints the error of spoilt scans, and that of the good frames of the unspoilt ones."""
    folder = Path(tempfile.mkdtemp())
    for kind, seed in (('leaves', 3), ('photo', 4)):
        scan = pinn.simulate(
            pattern_size=64, num_positions=144, step_px=5, object_kind=kind, photons=3e4, seed=seed,
            probe_kind='fzp',
        )  # fmt: skip
        for name, spoil in damages(scan, numpy.random.default_rng(seed)):
            counts, positions = spoil(
                numpy.array(scan.patterns).astype(numpy.uint32), scan.positions_px.copy()
            )
            spoilt = replace(scan, patterns=counts, positions_px=positions, truth=None)
            given = read_scan(write_scan_npz(folder / 'scan.npz', spoilt))
            triage = examine_frames(given)
            kept = triage.kept(given.num_patterns)
            image, twin = pinn.reconstruct(given), pinn.reconstruct(scan.select(kept))
            errors = [error_of(each, scan, kept) for each in (image, twin)]
            told = [*(item.message for item in given.findings), triage.describe()]
            print(
                f'{kind:7} {name:28} {errors[0]:.4f} / {errors[1]:.4f} = {errors[0] / errors[1]:.2f} '
                f'{image.trust.verdict}: {" ".join(told)[:90]}'
            )


def run_defocus() -> None:
    """Prints errors with the probe given, and without one, against the defocus in Rayleigh ranges."""
    for lens, outer, stop in (('mirrors', 1 / 8, 0.0), ('zone plate', 1 / 6, 1 / 15)):
        aperture = (outer, outer) if lens == 'mirrors' else outer
        for ranges in (-4, -2, -1, -0.5, 0, 0.5, 1, 2, 4):
            beam = focus_beam(
                64, aperture=aperture, stop=stop, edge=0.003, spread_px=ranges / outer
            )
            probe = normalize_power(beam, 1e5)[None].astype(numpy.complex64)
            scan = pinn.simulate(
                pattern_size=64, num_positions=144, step_px=4, object_kind='leaves', photons=1e5,
                probe=probe,
            )  # fmt: skip
            path = Path(tempfile.mkdtemp()) / 'scan.npz'
            y, x = scan.positions_px.T
            numpy.savez(path, diff3d=scan.patterns, xcoords=x, ycoords=y, objectGuess=scan.object_)
            frames = numpy.arange(scan.num_patterns)
            given, blind = (pinn.reconstruct(each) for each in (scan, read_scan(path)))
            errors = [error_of(image, scan, frames) for image in (given, blind)]
            print(f'{lens:10} {ranges:+5.1f}: {errors[0]:.4f} given, {errors[1]:.4f} without')


def run_reading() -> None:
    """Prints seconds to read 36 864 frames of 64 x 64 by a memory map, and to look at all of them."""
    path, rng = Path(tempfile.mkdtemp()) / 'scan.npz', numpy.random.default_rng(0)
    fall = numpy.exp(-((numpy.arange(64) - 32) ** 2) / 200.0)
    frames = rng.poisson(rng.exponential(20.0, (256, 64, 64)) * numpy.outer(fall, fall))
    y, x = 3.0 * numpy.stack(numpy.divmod(numpy.arange(36864), 192)) + 40.0
    probe = numpy.fft.fftshift(numpy.outer(fall, fall)).astype(numpy.complex64)
    counts = numpy.tile(frames.astype(numpy.uint16), (144, 1, 1))
    numpy.savez(path, diff3d=counts, xcoords=x, ycoords=y, probeGuess=probe)
    for _ in range(5):
        began = time.perf_counter()
        scan = read_scan(path)
        read = time.perf_counter()
        examine_frames(scan)
        print(f'read {read - began:.4f} s, frames {time.perf_counter() - read:.4f} s')


if __name__ == '__main__':
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    {'damages': run_damages, 'defocus': run_defocus, 'reading': run_reading}[sys.argv[1]]()
