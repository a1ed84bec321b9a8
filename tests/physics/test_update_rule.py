"""Steps from counts to exit waves, by roots and by likelihood."""

from __future__ import annotations

from dataclasses import replace

import torch

from ptychodus_pinn_torch.physics.forward_model import Exposure, expose
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.propagation import to_detector
from ptychodus_pinn_torch.physics.update_rule import DARK, likelihood_difference, wave_difference
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


def exposed(photons: float = 2e3) -> tuple[Exposure, object]:
    scan = simulate_scan(SimulationSpec(pattern_size=32, num_positions=36, photons=photons, seed=2))
    measured = measure_scan(scan)
    measurement = measured.measurement
    truth = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    chunk = measurement.chunk(torch.arange(measurement.num_patterns))
    return expose(truth, chunk), chunk


def ratios(difference: torch.Tensor, exposure: Exposure) -> torch.Tensor:
    """Returns by which part the step changes the far field (J, H, W)."""
    return (to_detector(difference) / exposure.far_field)[:, 0].real


def test_the_likelihood_asks_for_nothing_on_average_where_the_roots_of_counts_do() -> None:
    exposure, chunk = exposed()
    generator = torch.Generator().manual_seed(0)
    draws = [torch.poisson(exposure.expected, generator=generator) for _ in range(40)]
    dim = (exposure.expected > 0.5) & (exposure.expected < 3.0)

    def mean(rule: object) -> float:
        found = [ratios(rule(exposure, replace(chunk, counts=draw)), exposure) for draw in draws]
        return float(torch.stack(found).mean(dim=0)[dim].mean())

    by_roots = mean(lambda *given: wave_difference(*given, floor=0.01))
    assert abs(mean(likelihood_difference)) < 0.25 * abs(by_roots)


def test_single_counts_in_the_dark_move_the_far_field_no_further_than_roots_do() -> None:
    exposure, chunk = exposed()
    lit = torch.full_like(chunk.counts, 50.0)
    ratio = ratios(likelihood_difference(exposure, replace(chunk, counts=lit)), exposure)
    dark = (exposure.expected < 1.0) & (exposure.expected > 1e-3)
    limit = torch.sqrt((50.0 + DARK) / (exposure.expected + DARK)) - 1.0
    assert (ratio[dark] <= limit[dark].clamp(min=1.0) * 1.01).all()


def test_bad_pixels_ask_for_nothing() -> None:
    exposure, chunk = exposed(1e5)
    good = torch.ones(chunk.window, dtype=torch.bool)
    good[3:9, :5] = False
    spoilt = replace(chunk, counts=chunk.counts.masked_fill(~good, 1e9), good_pixels=good)
    clean = replace(chunk, good_pixels=good)
    both = [likelihood_difference(exposure, item) for item in (spoilt, clean)]
    assert torch.equal(both[0], both[1])
