"""A time budget: the steps are planned to end in time, and small ones come last."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.physics.chunk import Chunk
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.reconstruction.refining import Refinement
from ptychodus_pinn_torch.reconstruction.run_log import RunLog
from ptychodus_pinn_torch.reconstruction.splitting import split_patterns
from ptychodus_pinn_torch.reconstruction.time_budget import (
    Pace,
    epochs_after,
    fit_phases,
    measure_pace,
)
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.annealing import anneal
from ptychodus_pinn_torch.solver.batch_update import BatchUpdate
from ptychodus_pinn_torch.solver.state import SolverState

BATCHES_PER_EPOCH = 25


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(SimulationSpec(pattern_size=32, num_positions=196, photons=1e5, seed=2))


def clock_of_readings() -> Callable[[], float]:
    """Returns a clock on which a second passes whenever it is read: once per batch, or nearly."""
    readings = itertools.count()
    return lambda: float(next(readings))


def refine(scan: Scan, log: RunLog, **options: float) -> tuple[SolverState, int]:
    measured = measure_scan(scan)
    named = {f'reconstruction.{key}': value for key, value in options.items()}
    run = Refinement(
        measured,
        override_config(Config(), named),
        log,
        split=split_patterns(measured.positions_px, 0),
        pace=Pace(log, BATCHES_PER_EPOCH + 5.0),
    )
    start = SolverState.start(measured.measurement.flat(), measured.measurement)
    with torch.inference_mode():
        refined = run.begin('flat', start)
        run.finish(refined)
    return refined.state, len(refined.losses)


def noise_of(state: SolverState, scan: Scan) -> float:
    object_ = scan.object_.copy()
    canvas, (y, x) = state.canvas[0].numpy(), measure_scan(scan).origin
    object_[y : y + canvas.shape[0], x : x + canvas.shape[1]] = canvas
    return compare_objects(object_, scan.truth, weights=coverage_mask(scan)).nrmse


@pytest.mark.parametrize('epochs', [-1, 200])
def test_a_run_ends_in_time_and_more_time_makes_a_better_image(scan: Scan, epochs: int) -> None:
    errors = []
    for budget_s in (200.0, 350.0, 600.0):
        log = RunLog(lambda report: None, budget_s=budget_s, clock=clock_of_readings())
        state, num_epochs = refine(scan, log, refine_epochs=epochs)
        assert log.left_s > 0
        assert num_epochs > 0.4 * budget_s / (BATCHES_PER_EPOCH + 5)
        assert 'more would make a better image' in ' '.join(log.messages)
        errors.append(noise_of(state, scan))
    assert errors[0] > 1.15 * errors[1]
    assert errors[1] > 1.05 * errors[2]


def test_a_budget_that_is_longer_than_needed_changes_nothing(scan: Scan) -> None:
    free, ample = RunLog(lambda report: None), RunLog(lambda report: None, budget_s=1e6)
    found, again = (refine(scan, log, refine_epochs=-1)[0].canvas for log in (free, ample))
    assert torch.equal(found, again)
    assert not ample.messages


def test_the_time_of_all_that_follows_a_search_is_set_aside() -> None:
    for is_low in (False, True):
        assert epochs_after(8, is_low=is_low, steps=4) > epochs_after(4, is_low=is_low, steps=4)

    def make(epochs: int) -> list:  # type: ignore[type-arg]
        return anneal(epochs, is_low=False)

    assert fit_phases(make, 32, math.inf) == make(32)
    shorter = fit_phases(make, 32, 10.0)
    assert sum(phase.num_epochs for phase in shorter) <= 10
    assert [phase.step for phase in shorter] == [phase.step for phase in make(32)]


def test_what_a_budget_leaves_out_is_said(scan: Scan) -> None:
    result = pinn.reconstruct(scan, options={'reconstruction.time_budget_s': 1e-3})
    said = ' '.join(result.messages)
    assert 'too short for the network' in said
    assert 'allows 0 epochs' in said
    assert result.start == 'flat'
    assert result.trust is not None
    assert result.trust.verdict != 'right'


def test_a_budget_without_refinement_is_refused() -> None:
    sentence = r'^configuration: time_budget_s has no effect where refine_epochs is 0: leave [^,]*$'
    with pytest.raises(ConfigError, match=sentence):
        override_config(
            Config(), {'reconstruction.time_budget_s': 3.0, 'reconstruction.refine_epochs': 0}
        )


def test_the_pace_of_a_wide_scan_is_measured_in_whole_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wide = pinn.simulate(num_positions=2500, pattern_size=32, step_px=8.0)
    met: list[int] = []
    log = RunLog(lambda report: None, budget_s=100.0, clock=lambda: float(sum(met)))
    add = BatchUpdate.add

    def count(update: BatchUpdate, chunk: Chunk) -> None:
        met.append(1)  # a second for each batch, whatever its size
        add(update, chunk)

    monkeypatch.setattr(BatchUpdate, 'add', count)
    measured = measure_scan(wide)
    with torch.inference_mode():
        pace = measure_pace(measured, log)
    assert 2500 / 8 <= pace.epoch_s < 1.1 * 2500 / 8
