"""Counts that an image has not seen tell the better image, and end the steps of all patterns at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ptychodus_pinn_torch.physics.forward_model import predict
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.reconstruction.evidence import Evidence, weigh
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.sketching import sketch
from ptychodus_pinn_torch.solver.state import SolverState
from ptychodus_pinn_torch.solver.together import Together

ALL = torch.arange(256)
SEEN, UNSEEN = ALL[ALL % 5 > 0], ALL[ALL % 5 == 0]


def truth_and_sketch(kind: str) -> tuple[Measurement, SolverState, SolverState]:
    """Returns a scan of 1e4 photons, the truth, and what the solver makes of four frames of five."""
    spec = SimulationSpec(num_positions=256, photons=1e4, object_kind=kind, seed=3)
    scan = simulate_scan(spec)
    measured = measure_scan(scan)
    measurement = measured.measurement
    assert scan.truth is not None
    canvas = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    state = list(sketch(measurement, which=SEEN))[-1]
    return measurement, SolverState.start(canvas, measurement), state


def error(state: SolverState, truth: SolverState, measurement: Measurement) -> float:
    seen = measurement.coverage() > 0.3 * measurement.coverage().max()
    image, wanted = state.canvas[seen], truth.canvas[seen]
    image = image * torch.vdot(image, wanted) / torch.vdot(image, image)
    return float((image - wanted).norm() / wanted.norm())


@pytest.mark.parametrize('kind', ['leaves', 'photo'])
def test_unseen_counts_end_steps_near_the_best_image(kind: str) -> None:
    measurement, truth, state = truth_and_sketch(kind)
    together, gain, gains = Together(state, measurement), 0.0, [0.0]
    errors = [error(state, truth, measurement)]
    for _ in range(10):
        before = replace(state)
        together.step(SEEN)
        gain += weigh(before, state, measurement, UNSEEN).mean
        gains.append(gain)
        errors.append(error(state, truth, measurement))
    chosen = errors[gains.index(max(gains))]
    assert chosen < 0.95 * errors[0]
    assert chosen < 1.02 * min(errors)
    assert weigh(state, truth, measurement, UNSEEN).is_sure


def test_what_is_weighed_the_other_way_round_has_the_other_sign() -> None:
    measurement, truth, state = truth_and_sketch('leaves')
    found, back = weigh(state, truth, measurement, ALL), weigh(truth, state, measurement, ALL)
    torch.testing.assert_close(found.gains, -back.gains)
    none = weigh(truth, truth, measurement, ALL)
    assert none.mean == 0.0
    assert not none.is_sure


def test_one_frame_that_gains_much_more_hides_no_gain_of_all() -> None:
    gains = torch.tensor([649.0, 1768.0, 563.0, 280.0, 7719.0, 381.0, 163.0, 2588.0, 1127.0, 326.0])
    assert Evidence(gains).is_sure
    assert not Evidence(-gains).is_sure
    one = torch.tensor([5000.0, -3.0, 2.0, -1.0, 4.0, -6.0, 1.0, -2.0, 3.0, -4.0])
    assert not Evidence(one).is_sure
    assert not Evidence(gains[:1]).is_sure


def test_what_is_fitted_to_each_frame_has_its_price() -> None:
    measurement, truth, state = truth_and_sketch('leaves')
    free = weigh(state, truth, measurement, UNSEEN)
    paid = weigh(state, truth, measurement, UNSEEN, num_fitted=2)
    torch.testing.assert_close(paid.gains, free.gains - 1.0)


def test_one_photon_where_none_is_expected_does_not_decide() -> None:
    measurement, truth, state = truth_and_sketch('leaves')
    chunk = truth.seen(measurement).chunk(UNSEEN[:1])
    y, x = divmod(int(predict(truth.canvas, chunk)[0].argmin()), measurement.window[1])
    counts = torch.as_tensor(measurement.counts[ALL]).clone()
    counts[UNSEEN[0], y, x] += 1.0
    hit = replace(measurement, counts=counts)
    before, after = (weigh(state, truth, m, UNSEEN[:1]).mean for m in (measurement, hit))
    assert abs(after - before) < 1.0


def test_steps_do_not_depend_on_chunks_and_a_stop_changes_nothing() -> None:
    measurement, _, state = truth_and_sketch('photo')
    found = []
    for size in (256, 60):
        own = state.clone()
        part = replace(measurement, chunk_size=size)
        together = Together(own, part)
        for _ in range(3):
            together.step(ALL)
        found.append(own.canvas)
    assert torch.equal(*found)

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    before = state.canvas.clone()
    together = Together(state, measurement)
    together.step(SEEN)
    once = state.canvas.clone()
    assert not torch.equal(before, once)
    with pytest.raises(KeyboardInterrupt):
        together.step(SEEN, stop)
    assert torch.equal(state.canvas, once)


def test_bad_pixels_ask_for_nothing() -> None:
    measurement, _, state = truth_and_sketch('photo')
    good = torch.ones(measurement.window, dtype=torch.bool)
    good[3:6, 5:9] = False
    counts = torch.as_tensor(measurement.counts[ALL]).clone()
    counts[:, ~good] = 1e4
    images = []
    for values in (measurement.counts, counts):
        own = state.clone()
        Together(own, replace(measurement, counts=values, good_pixels=good)).step(ALL)
        images.append(own.canvas)
    torch.testing.assert_close(*images)
