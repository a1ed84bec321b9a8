"""Positions that are free have the scale that the patterns want, and so has their image."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch

from ptychodus_pinn_torch.backend import ReconstructRequest, ignore_report
from ptychodus_pinn_torch.config import Config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.reconstruction.run_log import RunLog
from ptychodus_pinn_torch.reconstruction.scaling import (
    measure_scale,
    scaling_epochs,
    settle_scale,
    stretched,
)
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.state import SolverState


@pytest.fixture(scope='module')
def true_state() -> tuple[SolverState, Measurement]:
    scan = simulate_scan(SimulationSpec(num_positions=196, object_kind='photo', seed=3))
    measured = measure_scan(scan)
    measurement = measured.measurement
    assert scan.truth is not None
    canvas = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    return SolverState.start(canvas, measurement), measurement


def mean_distance(state: SolverState) -> float:
    places = (state.corners + state.shifts).double()
    return float((places - places.mean(dim=0)).norm(dim=1).mean())


@pytest.mark.parametrize('part', [0.01, -0.004, 0.0])
def test_counts_that_no_image_has_seen_tell_the_scale(
    true_state: tuple[SolverState, Measurement], part: float
) -> None:
    truth, measurement = true_state
    state, log = stretched(truth, part), RunLog(ignore_report)
    assert mean_distance(state) == pytest.approx((1.0 + part) * mean_distance(truth), rel=2e-4)
    found = settle_scale(state, measurement, 0, log, 'scan')
    assert (1.0 + part) * (1.0 + found) == pytest.approx(1.0, abs=1e-3)
    assert bool(found) == bool(part) == bool(log.messages)


def test_a_scale_of_which_counts_say_nothing_is_left(
    true_state: tuple[SolverState, Measurement],
) -> None:
    truth, measurement = true_state
    counts = torch.poisson(torch.full((196, *measurement.window), 0.01))
    dark = replace(measurement, counts=counts)
    assert not measure_scale(SolverState.start(dark.flat(), dark), dark, 0).is_sure()


def test_a_state_is_stretched_about_its_middle_and_back(
    true_state: tuple[SolverState, Measurement],
) -> None:
    truth, _ = true_state
    back = stretched(stretched(truth, 0.01), 1.0 / 1.01 - 1.0)
    places = [(state.corners + state.shifts).double() for state in (truth, back)]
    torch.testing.assert_close(places[0], places[1], atol=1e-4, rtol=0.0)
    inside = (slice(None), slice(30, -30), slice(30, -30))
    lost = (back.canvas - truth.canvas)[inside].norm() / truth.canvas[inside].norm()
    assert float(lost) < 0.01


def test_it_can_be_stopped_and_says_how_far_it_is(
    true_state: tuple[SolverState, Measurement],
) -> None:
    truth, measurement = true_state
    seen: list[int] = []
    measure_scale(truth, measurement, 0, seen.append)
    assert sum(seen) == pytest.approx(scaling_epochs(196) * 196, rel=0.03)

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_scale(truth, measurement, 0, stop)


def test_positions_far_off_come_right_in_scale_and_so_does_the_image() -> None:
    """The scale stayed as it was given, 0.6 % wrong by chance: 1.42 times the error."""
    spec = SimulationSpec(
        num_positions=196, step_px=6.0, photons=2.4e5, object_kind='photo', seed=73
    )
    scan = simulate_scan(spec)
    moves = numpy.random.default_rng(73).standard_normal(scan.positions_px.shape)
    spoilt = replace(scan, positions_px=scan.positions_px + 3.0 / 2**0.5 * moves)

    def image_of(given: object) -> tuple[float, tuple[str, ...]]:
        image = reconstruct(ReconstructRequest(given, Config()), ignore_report)
        area = coverage_mask(scan)
        return compare_objects(image.object_, scan.truth, weights=area).nrmse, image.messages

    clean, spoilt_error = image_of(scan), image_of(spoilt)
    assert spoilt_error[0] < 1.3 * clean[0]
    said = 'the positions, and the image, are stretched by -'
    assert any(said in message for message in spoilt_error[1])
    assert not any('stretched' in message for message in clean[1])


@pytest.mark.parametrize('update_positions', ['auto', 'on'])
@pytest.mark.parametrize('kind', ['leaves', 'photo'])
def test_positions_of_the_wrong_scale_are_put_right(kind: str, update_positions: str) -> None:
    """They were called right, with twice the error; put back where they were given, they lose it again."""
    scan = simulate_scan(SimulationSpec(num_positions=256, object_kind=kind, seed=5))
    middle = scan.positions_px.mean(axis=0)
    wrong = replace(scan, positions_px=middle + 1.004 * (scan.positions_px - middle))
    config = Config.model_validate({'reconstruction': {'update_positions': update_positions}})
    images = [
        reconstruct(ReconstructRequest(*given), ignore_report)
        for given in ((scan, Config()), (wrong, config))
    ]
    errors = [
        compare_objects(x.object_, scan.truth, weights=coverage_mask(scan)).nrmse for x in images
    ]
    assert errors[1] < 1.2 * errors[0]
    assert any('are stretched by -0.' in message for message in images[1].messages)
    assert not images[0].messages
    moved = images[1].positions_px - images[1].positions_px.mean(axis=0)
    off = moved - (scan.positions_px - middle)
    assert numpy.sqrt((off**2).mean()) < 0.03  # 0.07 as given
    if not images[1].freed:
        numpy.testing.assert_allclose(off, 0.0, atol=0.05)
    options = {'reconstruction': {'update_positions': 'off'}}
    held = reconstruct(ReconstructRequest(wrong, Config.model_validate(options)), ignore_report)
    assert not held.messages and numpy.array_equal(held.positions_px, wrong.positions_px)
