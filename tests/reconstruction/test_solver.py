"""Refinement: it finds the object, and the probe and the positions where asked."""

from __future__ import annotations

import numpy
import pytest
import torch

from ptychodus_pinn_torch.physics.measurement import ScanReader
from ptychodus_pinn_torch.reconstruction.solver import (
    AdamRefiner,
    RefinementState,
    RpieSettings,
    adam_epoch,
    relative_error,
    rpie_epoch,
)
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, photons=1e6, seed=3)
    )


def flat_state(reader: ScanReader) -> RefinementState:
    canvas = torch.full(reader.canvas_shape, 0.85 + 0j, dtype=torch.complex64)
    return RefinementState(canvas, reader.probe.clone(), reader.shifts.clone())


def batches(reader: ScanReader, epoch: int, size: int = 8) -> tuple[torch.Tensor, ...]:
    order = numpy.random.default_rng(epoch).permutation(reader.num_patterns)
    return torch.from_numpy(order).split(size)


def run(reader: ScanReader, state: RefinementState, settings: RpieSettings, epochs: int) -> float:
    with torch.inference_mode():
        for epoch in range(epochs):
            rpie_epoch(state, reader, batches(reader, epoch), settings)
        return relative_error(state, reader, batches(reader, 0))


def test_rpie_explains_the_counts_far_better_than_a_flat_object(scan: Scan) -> None:
    reader = ScanReader(scan)
    state = flat_state(reader)
    before = relative_error(state, reader, batches(reader, 0))
    assert run(reader, state, RpieSettings(), 6) < 0.15 * before


def test_the_true_object_is_a_fixed_point_up_to_noise(scan: Scan) -> None:
    assert scan.truth is not None
    reader = ScanReader(scan)
    y, x = reader.origin
    _, height, width = reader.canvas_shape
    truth = torch.from_numpy(scan.truth[y : y + height, x : x + width].copy())[None]
    state = RefinementState(truth.clone(), reader.probe.clone(), reader.shifts.clone())
    before = relative_error(state, reader, batches(reader, 0))
    after = run(reader, state, RpieSettings(alpha=1.0), 1)
    assert after < 1.05 * before
    assert float((state.canvas - truth).abs().mean()) < 0.05


def test_probe_update_mends_a_wrong_probe(scan: Scan) -> None:
    reader = ScanReader(scan)
    frequency = torch.fft.fftfreq(32)
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    wrong = torch.fft.ifft2(torch.fft.fft2(reader.probe) * torch.exp(-15j * squared))
    fixed, free = flat_state(reader), flat_state(reader)
    fixed.probe, free.probe = wrong.clone(), wrong.clone()
    error_fixed = run(reader, fixed, RpieSettings(), 6)
    error_free = run(reader, free, RpieSettings(update_probe=True), 6)
    assert error_free < 0.5 * error_fixed
    assert torch.equal(fixed.probe, wrong)


def test_position_update_moves_positions_towards_the_truth(scan: Scan) -> None:
    reader = ScanReader(scan)
    rng = torch.Generator().manual_seed(0)
    offset = 0.5 * torch.randn(reader.shifts.shape, generator=rng, dtype=torch.float64)
    state = flat_state(reader)
    run(reader, state, RpieSettings(), 10)
    state.shifts = reader.shifts + offset
    run(reader, state, RpieSettings(update_positions=True, step=0.2), 8)
    residual = state.shifts - reader.shifts
    residual = residual - residual.mean(dim=0)
    assert float(residual.std()) < 0.6 * float(offset.std())


def test_adam_explains_the_counts_far_better_than_a_flat_object(scan: Scan) -> None:
    reader = ScanReader(scan)
    state = flat_state(reader)
    before = relative_error(state, reader, batches(reader, 0))
    refiner = AdamRefiner(state, learning_rate=0.02)
    for epoch in range(10):
        adam_epoch(refiner, reader, batches(reader, epoch, 16))
    refiner.finish()
    with torch.no_grad():
        assert relative_error(state, reader, batches(reader, 0)) < 0.2 * before


def test_bad_pixels_do_not_change_the_result(scan: Scan) -> None:
    from dataclasses import replace

    good = numpy.ones(scan.pattern_shape, dtype=bool)
    good[10:13, 14:20] = False
    spoilt = scan.patterns.copy()
    spoilt[:, ~good] = 60000
    images = []
    for patterns in (scan.patterns, spoilt):
        reader = ScanReader(replace(scan, patterns=patterns, good_pixels=good))
        state = flat_state(reader)
        run(reader, state, RpieSettings(), 2)
        images.append(state.canvas)
    assert torch.allclose(images[0], images[1], atol=1e-6)
