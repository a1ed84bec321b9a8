"""Which scan is which: probes, held-out patterns, and the data that a run belongs to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest
from numpy.typing import NDArray

from ptychodus_pinn_torch.backend import EpochReport, ReconstructRequest, TrainRequest
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.models.archive import read_archive
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.grouping import choose_held_out
from ptychodus_pinn_torch.scan.scan import Scan, fingerprint
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.training.run import train

SMALL = {
    'training.start': 'none',
    'training.max_steps': 12,
    'network.num_stages': 2,
    'network.width': 4,
    'network.num_subsets': 4,
    'grouping.group_size': 16,
    'execution.num_threads': 1,
    'execution.accelerator': 'cpu',
    'execution.logger': 'none',
}


def ignore(report: EpochReport) -> None:
    """Takes a report."""


def simulate(kind: str = 'disk', size: int = 32, seed: int = 2) -> Scan:
    spec = SimulationSpec(
        pattern_size=size, num_positions=64, step_px=size / 12, probe_kind=kind, seed=seed
    )
    return simulate_scan(spec)


def fit(scans: tuple[Scan, ...], path: Path, *validation: Scan, **options: object) -> dict:
    named = {key.replace('__', '.'): value for key, value in options.items()}
    config = override_config(Config(), {**SMALL, **named})
    return dict(read_archive(train(TrainRequest(scans, config, path, validation), ignore)).details)


def test_a_validation_scan_is_judged_with_its_own_probe(tmp_path: Path) -> None:
    disk, plate = simulate(), simulate('fzp')
    both = fit((disk,), tmp_path / 'a.h5.zip', plate)
    # under the probe of the training scan even the flat object would be predicted wrongly
    alone = fit((plate,), tmp_path / 'b.h5.zip', plate)
    assert both['held_out_flat'] == pytest.approx(alone['held_out_flat'], rel=1e-4)
    assert both['held_out'] < both['held_out_flat']


def test_more_validation_scans_than_training_scans_of_another_size_are_judged(
    tmp_path: Path,
) -> None:
    details = fit((simulate(),), tmp_path / 'm.h5.zip', simulate(seed=3), simulate(size=64))
    assert 0.0 < details['held_out'] < 0.5


def test_a_run_is_resumed_on_the_same_counts_only(tmp_path: Path) -> None:
    path, config = tmp_path / 'm.h5.zip', override_config(Config(), SMALL)
    first, other = simulate(), simulate(seed=5)
    train(TrainRequest((first,), config, path), ignore)
    with pytest.raises(ConfigError, match='other scans'):
        train(TrainRequest((other,), config, path, is_resumed=True), ignore)
    renamed = replace(first, name='another name', patterns=first.patterns.astype(numpy.float64))
    train(TrainRequest((renamed,), config, path, is_resumed=True), ignore)


def test_a_trained_probe_is_used_for_the_same_counts_and_for_no_others(tmp_path: Path) -> None:
    scan, other = simulate(), simulate(seed=5)
    other = replace(other, name=scan.name)
    path = tmp_path / 'm.h5.zip'
    fit((scan,), path, physics__train_probe=True)
    trained = read_archive(path).weights['probe.0']
    options = {'reconstruction.refine_epochs': 0, 'execution.num_threads': 1}
    config = override_config(Config(), options)

    def probe_of(item: Scan) -> NDArray[numpy.complex64]:
        found: NDArray[numpy.complex64] = reconstruct(
            ReconstructRequest(item, config, path), ignore
        ).probe
        return found

    renamed = replace(scan, name='moved/to/elsewhere.h5')
    assert numpy.allclose(probe_of(renamed).real, trained[..., 0], rtol=1e-5)
    assert numpy.array_equal(probe_of(other), other.probe)


def test_a_fingerprint_is_of_the_counts_alone() -> None:
    scan = simulate()
    same = replace(scan, name='x', probe=2 * scan.probe, patterns=scan.patterns.astype('f4'))
    assert fingerprint(same) == fingerprint(scan)
    changed = numpy.array(scan.patterns)
    changed[0, 16, 16] += 1
    assert fingerprint(replace(scan, patterns=changed)) != fingerprint(scan)


def test_a_repeated_frame_is_held_out_with_its_like() -> None:
    places = numpy.stack(numpy.mgrid[:8, :8], axis=-1).reshape(-1, 2) * 5.0
    positions = numpy.concatenate([places, places])  # every position twice
    held_out = choose_held_out(positions, 0.1, numpy.random.default_rng(0))
    twins = set((held_out + len(places)) % len(positions))
    assert len(held_out) >= 12 and twins == set(held_out)
    still = numpy.zeros((40, 2))
    assert len(choose_held_out(still, 0.1, numpy.random.default_rng(0))) == 4


def test_modes_that_were_left_out_come_back_with_the_image() -> None:
    spec = SimulationSpec(pattern_size=32, num_positions=36, step_px=3.0, num_modes=3, seed=1)
    scan = simulate_scan(spec)
    config = override_config(
        Config(), {'physics.num_probe_modes': 1, 'reconstruction.refine_epochs': 1}
    )
    image = reconstruct(ReconstructRequest(scan, config), ignore)
    assert numpy.array_equal(image.probe, scan.probe)
