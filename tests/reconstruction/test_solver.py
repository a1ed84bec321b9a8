"""Refinement: it finds the object, and the probe and the positions where asked."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch

from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.reconstruction.misfit import misfit
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.annealing import anneal, phases_of
from ptychodus_pinn_torch.solver.momentum import Momentum
from ptychodus_pinn_torch.solver.rpie import RpieSettings, rpie_epoch
from ptychodus_pinn_torch.solver.sketching import sketch
from ptychodus_pinn_torch.solver.state import Freed, SolverState


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=100, step_px=3.0, photons=1e6, seed=3)
    )


def flat_state(measurement: Measurement) -> SolverState:
    canvas = torch.full(measurement.canvas_shape, 0.85 + 0j, dtype=torch.complex64)
    return SolverState.start(canvas, measurement)


def batches(measurement: Measurement, epoch: int, size: int = 8) -> tuple[torch.Tensor, ...]:
    order = numpy.random.default_rng(epoch).permutation(measurement.num_patterns)
    return torch.from_numpy(order).split(size)


def run(measurement: Measurement, state: SolverState, settings: RpieSettings, epochs: int) -> float:
    with torch.inference_mode():
        for epoch in range(epochs):
            rpie_epoch(state, measurement, batches(measurement, epoch), settings)
        return misfit(state, measurement).relative


def test_rpie_explains_the_counts_far_better_than_a_flat_object(scan: Scan) -> None:
    measurement = measure_scan(scan).measurement
    state = flat_state(measurement)
    before = misfit(state, measurement).relative
    assert run(measurement, state, RpieSettings(), 6) < 0.15 * before


def test_momentum_and_smaller_steps_bring_the_object_nearer_in_the_same_epochs(
    scan: Scan,
) -> None:
    assert scan.truth is not None
    measured = measure_scan(scan)
    measurement = measured.measurement
    truth = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    seen = measurement.coverage() > 0.3 * measurement.coverage().max()

    def distance(state: SolverState) -> float:
        phase = torch.vdot(state.canvas[seen], truth[seen]).sgn()
        return float((phase * state.canvas - truth)[seen].abs().square().mean().sqrt())

    plain, ours = flat_state(measurement), flat_state(measurement)
    run(measurement, plain, RpieSettings(alpha=1.0), 20)
    epoch = 0
    with torch.inference_mode():
        for phase in phases_of(20, is_low=False, is_gentle=False):
            momentum = Momentum(ours)
            for _ in range(phase.num_epochs):
                order = batches(measurement, epoch, phase.batch)
                settings = RpieSettings(alpha=1.0, step=phase.step)
                rpie_epoch(ours, measurement, order, settings, momentum=momentum)
                epoch += 1
    assert epoch == 20
    assert distance(ours) < 0.6 * distance(plain)


@pytest.mark.parametrize('is_low', [False, True])
@pytest.mark.parametrize('is_gentle', [False, True])
def test_a_run_has_the_epochs_that_were_asked_for_and_steps_that_fall(
    is_low: bool, is_gentle: bool
) -> None:
    for number in range(1, 60):
        phases = phases_of(number, is_low=is_low, is_gentle=is_gentle)
        assert sum(phase.num_epochs for phase in phases) == number
        steps = [phase.step for phase in phases]
        assert steps == sorted(steps, reverse=True)
        assert all(phase.num_epochs > 0 for phase in phases)
    assert phases[0].num_epochs >= sum(
        phase.num_epochs for phase in anneal(phases[0].num_epochs, is_low=is_low)
    )


def test_the_true_object_is_a_fixed_point_up_to_noise(scan: Scan) -> None:
    assert scan.truth is not None
    measurement = measure_scan(scan).measurement
    measured = measure_scan(scan)
    measurement = measured.measurement
    truth = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    state = SolverState.start(truth, measurement)
    before = misfit(state, measurement).relative
    after = run(measurement, state, RpieSettings(alpha=1.0), 1)
    assert after < 1.05 * before
    assert float((state.canvas - truth).abs().mean()) < 0.05


def test_probe_update_mends_a_wrong_probe(scan: Scan) -> None:
    measurement = measure_scan(scan).measurement
    frequency = torch.fft.fftfreq(32)
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    wrong = torch.fft.ifft2(torch.fft.fft2(measurement.probe) * torch.exp(-15j * squared))
    fixed, free = flat_state(measurement), flat_state(measurement)
    fixed.probe, free.probe = wrong.clone(), wrong.clone()
    error_fixed = run(measurement, fixed, RpieSettings(), 6)
    error_free = run(measurement, free, RpieSettings(freed=Freed(probe=True)), 6)
    assert error_free < 0.5 * error_fixed
    assert torch.equal(fixed.probe, wrong)


def test_position_update_moves_positions_towards_the_truth(scan: Scan) -> None:
    measurement = measure_scan(scan).measurement
    rng = torch.Generator().manual_seed(0)
    offset = 0.5 * torch.randn(measurement.shifts.shape, generator=rng)
    state = flat_state(measurement)
    run(measurement, state, RpieSettings(), 10)
    state.shifts = measurement.shifts + offset
    run(measurement, state, RpieSettings(freed=Freed(positions=True), step=0.2), 8)
    residual = state.shifts - measurement.shifts
    residual = residual - residual.mean(dim=0)
    assert float(residual.std()) < 0.6 * float(offset.std())


def test_bad_pixels_do_not_change_the_result(scan: Scan) -> None:
    from dataclasses import replace

    good = numpy.ones(scan.pattern_shape, dtype=bool)
    good[10:13, 14:20] = False
    spoilt = scan.patterns.copy()
    spoilt[:, ~good] = 60000
    images = []
    for patterns in (scan.patterns, spoilt):
        spoilt_scan = replace(scan, patterns=patterns, good_pixels=good)
        measurement = measure_scan(spoilt_scan).measurement
        state = flat_state(measurement)
        run(measurement, state, RpieSettings(), 2)
        images.append(state.canvas)
    assert torch.allclose(images[0], images[1], atol=1e-6)


def test_a_sketch_does_not_look_at_patterns_that_are_held_out(scan: Scan) -> None:
    measurement = measure_scan(scan).measurement
    held_out = torch.arange(0, measurement.num_patterns, 20)
    everything = torch.arange(measurement.num_patterns)
    seen = everything[~torch.isin(everything, held_out)]
    counts = measurement.chunk(everything).counts.clone()
    counts[held_out] = counts[held_out.roll(1)]
    changed = replace(measurement, counts=counts)
    *_, blind = sketch(measurement, which=seen)
    *_, other = sketch(changed, which=seen)
    torch.testing.assert_close(blind.canvas, other.canvas, rtol=1e-4, atol=1e-4)
    *_, peeking = sketch(changed)
    assert (peeking.canvas - blind.canvas).abs().max() > 0.05


def lattice_part(object_: torch.Tensor, positions_px: numpy.ndarray) -> float:
    """Returns the part of the amplitude's variance, in the middle, at frequencies of a raster."""
    size = 160
    y, x = ((length - size) // 2 for length in object_.shape)
    amplitude = object_[y : y + size, x : x + size].abs().numpy()
    amplitude = (amplitude - amplitude.mean()) * numpy.outer(*[numpy.hanning(size)] * 2)
    power = numpy.abs(numpy.fft.fft2(amplitude)) ** 2
    middle = positions_px[numpy.hypot(*(positions_px - positions_px.mean(axis=0)).T).argmin()]
    ways = positions_px - middle
    order = numpy.hypot(*ways.T).argsort()[1:]
    first = ways[order[0]]
    second = next(ways[k] for k in order if abs(ways[k] @ first) < 0.1 * (first @ first))
    frequency = numpy.stack(numpy.meshgrid(*[numpy.fft.fftfreq(size)] * 2, indexing='ij'), axis=-1)
    numbers = frequency @ numpy.stack([first, second], axis=1)
    off = numpy.hypot(*numpy.moveaxis(numbers - numpy.rint(numbers), -1, 0))
    is_near = (off < (0.05 / numpy.pi) ** 0.5) & numpy.rint(numbers).any(axis=-1)
    return float(power[is_near].sum() / power.sum())  # of 5 % of the frequencies


def test_momentum_makes_no_lattice_of_a_raster_where_the_probe_is_freed(
    electron_scan: Scan,
) -> None:
    measured = measure_scan(electron_scan)
    measurement, freed = measured.measurement, Freed(probe=True)
    state = SolverState.start(measurement.flat(), measurement)
    momentum = Momentum(state, freed)
    with torch.inference_mode():
        for epoch in range(6):
            rpie_epoch(state, measurement, batches(measurement, epoch),
                       RpieSettings(freed=freed), momentum=momentum)  # fmt: skip
    assert lattice_part(state.canvas[0], measured.positions_px) < 0.1
