"""Shifted probes that are kept are those that would be computed."""

from dataclasses import replace

import torch

from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.physics.shifted_probes import ShiftedProbes
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.state import SolverState


def measurements() -> tuple[Measurement, Measurement]:
    given = measure_scan(simulate_scan(SimulationSpec(num_positions=36, num_modes=2))).measurement
    kept = ShiftedProbes.within(2**30, given.probe, given.shifts)
    assert kept is not None
    return given, replace(given, shifted=kept)


def assert_alike(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=0.0, atol=1e-5 * float(wanted.abs().max()))


def test_they_are_the_same_in_any_order_and_any_units() -> None:
    given, keeping = measurements()
    level = given.level()
    for plain, with_kept in (
        (given, keeping),
        (given.in_units_of(level), keeping.in_units_of(level)),
        (
            given.in_units_of(level).in_units_of(level),
            keeping.in_units_of(level).in_units_of(level),
        ),
    ):
        for _ in range(2):
            for part in torch.randperm(36).split(7):
                assert_alike(with_kept.chunk(part).probe, plain.chunk(part).probe)


def test_a_probe_or_positions_that_move_are_computed_anew() -> None:
    given, keeping = measurements()
    everything = torch.arange(36)
    keeping.chunk(everything)
    state = SolverState.start(given.flat(), keeping)
    assert state.seen(keeping).probe is keeping.probe, 'nothing has moved yet'
    state.probe *= 1.5
    assert_alike(state.seen(keeping).chunk(everything).probe, 1.5 * given.chunk(everything).probe)
    state = SolverState.start(given.flat(), keeping)
    state.shifts += 0.25
    moved = replace(given, shifts=given.shifts + 0.25)
    assert_alike(state.seen(keeping).chunk(everything).probe, moved.chunk(everything).probe)


def test_large_scans_keep_none() -> None:
    given, _ = measurements()
    size = 36 * 2 * 64 * 64 * 8
    assert ShiftedProbes.within(size, given.probe, given.shifts) is not None
    assert ShiftedProbes.within(size - 1, given.probe, given.shifts) is None
