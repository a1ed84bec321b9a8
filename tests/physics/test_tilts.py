"""Local tilts: found pattern by pattern, and put together to one phase."""

from __future__ import annotations

import numpy
import pytest
import torch

from ptychodus_pinn_torch.physics.forward_model import expose
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.physics.tilts import (
    TiltMap,
    integrate_tilts,
    local_tilts,
    measure_tilts,
)
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.momentum import Momentum
from ptychodus_pinn_torch.solver.rpie import RpieSettings, rpie_epoch
from ptychodus_pinn_torch.solver.state import Freed, SolverState


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=144, step_px=5.0, photons=1e6, seed=4)
    )


def true_canvas(scan: Scan) -> tuple[torch.Tensor, Measurement]:
    measured = measure_scan(scan)
    shape = measured.measurement.canvas_shape[1:]
    return torch.from_numpy(measured.cut(scan.truth, shape))[None], measured.measurement


def ramp(shape: torch.Size, y: float, x: float) -> torch.Tensor:
    phase = y * torch.arange(shape[-2])[:, None] + x * torch.arange(shape[-1])
    return torch.polar(torch.ones_like(phase), phase)[None]


def wave(shape: tuple[int, int], length_px: float) -> torch.Tensor:
    y, x = torch.arange(shape[0])[:, None] / length_px, torch.arange(shape[1]) / length_px
    return 0.4 * torch.sin(2 * torch.pi * y) * torch.cos(2 * torch.pi * x)


def test_the_ramp_on_a_patch_is_found_in_its_sign_axis_and_size(scan: Scan) -> None:
    truth, measurement = true_canvas(scan)
    chunk = measurement.chunk(torch.arange(measurement.num_patterns))
    wrong = truth * ramp(truth.shape, -0.02, 0.01)
    tilts = local_tilts(expose(wrong, chunk), chunk)
    numpy.testing.assert_allclose(tilts.median(dim=0).values, [0.02, -0.01], atol=1e-3)
    at_truth = local_tilts(expose(truth, chunk), chunk)
    assert at_truth.abs().max() < 2e-3  # photon noise


def test_a_beamstop_does_not_pull(scan: Scan) -> None:
    truth, measurement = true_canvas(scan)
    chunk = measurement.chunk(torch.arange(measurement.num_patterns))
    hidden = torch.zeros(measurement.window, dtype=torch.bool)
    hidden[:3, :2] = True
    counts = chunk.counts.masked_fill(hidden, 9e6)
    masked = type(chunk)(**{**vars(chunk), 'counts': counts, 'good_pixels': ~hidden})
    assert local_tilts(expose(truth, masked), masked).abs().max() < 2e-3


def test_tilts_are_put_together_to_the_phase_whose_gradients_they_are() -> None:
    shape = (96, 83)
    phase = wave(shape, 72.0)
    slopes = torch.stack(torch.gradient(phase))[:, None]
    weights = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)) + 0.5
    weights[:, :, 70:] = 0.0  # nothing is known there
    found = integrate_tilts(TiltMap(slopes * weights, weights))
    assert found.shape == (1, *shape)
    inside = numpy.s_[4:-4, 4:66]  # at its rim a coarse map goes on as a constant
    assert (found[0] - phase)[inside].std() < 0.05 * phase.std()
    assert torch.isfinite(found).all()


def test_a_ramp_over_everything_goes_with_the_mean_and_nothing_else_does(scan: Scan) -> None:
    truth, measurement = true_canvas(scan)
    state = SolverState.start(truth * ramp(truth.shape, 0.01, 0.0), measurement)
    everything = torch.arange(measurement.num_patterns)
    free, held = state.clone(), state.clone()
    free.straighten(measurement, everything, Freed(probe=True))
    held.straighten(measurement, everything, Freed())
    assert mean_tilt(free, measurement) == pytest.approx(-0.01, abs=1e-3)
    assert mean_tilt(held, measurement) == pytest.approx(0.0, abs=1e-3)


def mean_tilt(state: SolverState, measurement: Measurement) -> float:
    tilts = measure_tilts(state.canvas, measurement)
    return float(tilts.sums[0].sum() / tilts.weights.sum())


def test_the_large_scales_come_right_that_a_search_is_slow_to_find(scan: Scan) -> None:
    truth, measurement = true_canvas(scan)
    phase = wave(truth.shape[1:], 60.0)
    wrong = SolverState.start(truth * torch.polar(torch.ones_like(phase), phase), measurement)
    everything = torch.arange(measurement.num_patterns)
    seen = measurement.coverage() > 0.3 * measurement.coverage().max()

    def error(state: SolverState) -> float:
        found, wanted = state.canvas[seen], truth[seen]
        overlap = torch.vdot(found, wanted)
        return float(torch.linalg.vector_norm(found * overlap / overlap.abs() - wanted))

    straight, searched = wrong.clone(), wrong.clone()
    straight.straighten(measurement, everything, Freed())
    momentum = Momentum(searched)
    for epoch in range(2):
        order = torch.from_numpy(numpy.random.default_rng(epoch).permutation(len(everything)))
        rpie_epoch(searched, measurement, order.split(8), RpieSettings(alpha=1.0), None, momentum)
    assert error(straight) < 0.4 * error(wrong)
    assert error(straight) < 0.6 * error(searched)
