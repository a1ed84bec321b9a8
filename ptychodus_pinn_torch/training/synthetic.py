"""Batches of simulated groups: random scans, or random objects under a scan's own probe."""

from __future__ import annotations

from dataclasses import replace

import numpy
import torch

from ..physics.forward_model import predict
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement
from ..scan.scan import split_positions
from ..simulation.random_scans import RandomScan, random_object, random_scan

__all__ = ['random_batch', 'with_random_objects']

WRONG_PROBE_ODDS, BACKGROUND_ODDS, BEAMSTOP_ODDS = 0.25, 0.12, 0.12
DEFOCUS = 8.0
"""Standard deviation of the curvature of a wrong probe's spectrum, rad per squared frequency."""


def random_batch(
    seed: int | list[int],
    *,
    num_groups: int,
    num_patterns: int,
    pattern_size: int,
    canvas_size: int,
) -> GroupBatch:
    """Returns groups of random objects under random probes, with Poisson noise and the truth.

    The same seed gives the same batch.
    """
    rng = numpy.random.default_rng(seed)
    num_modes = int(rng.choice([1, 2, 3], p=[0.55, 0.2, 0.25]))
    scans = [
        random_scan(
            rng,
            pattern_size=pattern_size,
            canvas_size=canvas_size,
            num_patterns=num_patterns,
            num_modes=num_modes,
        )
        for _ in range(num_groups)
    ]
    batch = _assemble(scans, canvas_size, pattern_size)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return _spoil(_measure(batch, generator), rng)


def _spoil(batch: GroupBatch, rng: numpy.random.Generator) -> GroupBatch:
    """Returns the batch as measurements are: a probe not quite right, some light, a beamstop."""
    measurement = batch.measurement
    y, x = (torch.fft.fftfreq(length) for length in measurement.window)
    squared = y[:, None].square() + x.square()
    if rng.random() < WRONG_PROBE_ODDS:
        ramp = torch.polar(torch.ones_like(squared), rng.normal(0.0, DEFOCUS) * squared)
        probe = torch.fft.ifft2(torch.fft.fft2(measurement.probe) * ramp)
        measurement = replace(measurement, probe=probe.to(torch.complex64))
    if rng.random() < BACKGROUND_ODDS:
        light = rng.poisson(rng.uniform(0.0, 1.0), tuple(measurement.counts.shape))
        counts = torch.as_tensor(measurement.counts) + torch.from_numpy(light.astype(numpy.float32))
        measurement = replace(measurement, counts=counts)
    if rng.random() < BEAMSTOP_ODDS:
        stop = (rng.uniform(1.0, 6.0) / min(measurement.window)) ** 2
        measurement = replace(measurement, good_pixels=squared > stop)
    return replace(batch, measurement=measurement)


def with_random_objects(batch: GroupBatch, seed: int) -> GroupBatch:
    """Returns the batch as if random objects had been in the beam: same probe, same positions.

    The dose stays that of the batch's probe.
    """
    rng = numpy.random.default_rng(seed)
    num_groups, height, width = batch.measurement.canvas_shape
    size = max(height, width)
    objects = numpy.stack([random_object(rng, size)[:height, :width] for _ in range(num_groups)])
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    return _measure(replace(batch, object_=torch.from_numpy(objects)), generator)


def _assemble(scans: list[RandomScan], canvas_size: int, pattern_size: int) -> GroupBatch:
    num_modes = max(len(scan.probe) for scan in scans)
    probes = numpy.zeros((len(scans), num_modes, pattern_size, pattern_size), numpy.complex64)
    corners, shifts, rows = [], [], []
    for row, scan in enumerate(scans):
        probes[row, : len(scan.probe)] = scan.probe
        corner, shift = split_positions(scan.positions_px, (pattern_size, pattern_size))
        corners.append(corner)
        shifts.append(shift)
        rows.append(numpy.full(len(corner), row))
    all_rows = torch.from_numpy(numpy.concatenate(rows))
    return GroupBatch(
        Measurement(
            counts=torch.zeros(len(all_rows), pattern_size, pattern_size),
            rows=all_rows,
            corners=torch.from_numpy(numpy.concatenate(corners)),
            shifts=torch.from_numpy(numpy.concatenate(shifts).astype(numpy.float32)),
            probe=torch.from_numpy(probes),
            canvas_shape=(len(scans), canvas_size, canvas_size),
        ),
        object_=torch.from_numpy(numpy.stack([scan.object_ for scan in scans])),
    )


def _measure(batch: GroupBatch, generator: torch.Generator) -> GroupBatch:
    assert batch.object_ is not None
    measurement = batch.measurement
    chunk = measurement.chunk(torch.arange(measurement.num_patterns))
    counts = torch.poisson(predict(batch.object_, chunk), generator=generator)
    return replace(batch, measurement=replace(measurement, counts=counts))
