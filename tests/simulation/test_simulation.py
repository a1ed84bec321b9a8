"""Simulated scans."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.metrics.comparison import data_error
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import split_positions
from ptychodus_pinn_torch.simulation.sample_objects import OBJECT_KINDS, make_object
from ptychodus_pinn_torch.simulation.sample_probes import PROBE_KINDS, make_probe
from ptychodus_pinn_torch.simulation.simulated_scan import (
    PATH_KINDS,
    SimulationSpec,
    simulate_scan,
    simulate_scans,
)

SMALL = SimulationSpec(pattern_size=32, num_positions=20, step_px=2.0)


def test_the_same_seed_gives_the_same_scan():
    first, second = simulate_scan(SMALL), simulate_scan(SMALL)
    numpy.testing.assert_array_equal(first.patterns, second.patterns)
    numpy.testing.assert_array_equal(first.truth, second.truth)
    other = simulate_scan(replace(SMALL, seed=1))
    assert not numpy.array_equal(first.truth, other.truth[: first.truth.shape[0]])


def test_several_scans_share_probe_and_path_but_not_the_object():
    first, second = simulate_scans(SMALL, [1, 2])
    numpy.testing.assert_array_equal(first.probe, second.probe)
    numpy.testing.assert_array_equal(first.positions_px, second.positions_px)
    assert not numpy.array_equal(first.truth, second.truth)
    assert not numpy.array_equal(first.patterns, second.patterns)


@pytest.mark.parametrize('path', PATH_KINDS)
def test_every_path_has_the_number_of_positions_asked_for_inside_the_object(path):
    scan = simulate_scan(replace(SMALL, path=path, num_positions=37))
    corners, _ = split_positions(scan.positions_px, scan.pattern_shape)
    assert scan.num_patterns == 37 and corners.min() >= 0
    assert (corners.max(axis=0) + 32 <= scan.truth.shape).all()


@pytest.mark.parametrize('kind', PROBE_KINDS)
@pytest.mark.parametrize('num_modes', [1, 3])
def test_probe_holds_the_photons_brightest_mode_first(kind, num_modes):
    probe = make_probe(kind, 64, num_modes=num_modes, photons=3e5)
    powers = numpy.sum(numpy.abs(probe.astype(complex)) ** 2, axis=(1, 2))
    assert probe.shape == (num_modes, 64, 64) and probe.dtype == numpy.complex64
    assert powers.sum() == pytest.approx(3e5, rel=1e-5) and numpy.all(numpy.diff(powers) <= 0)
    axis = numpy.arange(64) - 31.5
    total = numpy.sum(numpy.abs(probe) ** 2, axis=0)
    radius = numpy.sqrt(numpy.sum(total * (axis[:, None] ** 2 + axis**2)) / total.sum())
    assert 8.0 < radius < 12.5


@pytest.mark.parametrize('kind', OBJECT_KINDS)
def test_object_has_amplitude_and_phase_in_range(kind):
    object_ = make_object(numpy.random.default_rng(0), kind, (90, 110))
    assert object_.shape == (90, 110) and object_.dtype == numpy.complex64
    amplitude, phase = numpy.abs(object_), numpy.angle(object_)
    assert 0.649 < amplitude.min() < amplitude.max() < 1.001
    assert -0.601 < phase.min() < -0.5 and 0.5 < phase.max() < 0.601


@pytest.mark.parametrize(('kind', 'is_tied'), [('leaves', True), ('independent', False)])
def test_amplitude_and_phase_are_tied_only_in_leaves(kind, is_tied):
    object_ = make_object(numpy.random.default_rng(1), kind, (150, 150))
    correlation = numpy.corrcoef(numpy.abs(object_).ravel(), numpy.angle(object_).ravel())[0, 1]
    assert (abs(correlation) > 0.95) == is_tied


def test_counts_are_whole_unsigned_and_hidden_behind_the_beamstop():
    scan = simulate_scan(replace(SMALL, beamstop_px=2.5))
    assert scan.patterns.dtype.kind == 'u'
    assert not scan.good_pixels[16, 16] and numpy.all(scan.patterns[:, ~scan.good_pixels] == 0)
    assert data_error(scan, scan.truth, scan.probe) < 0.05


def test_weak_counts_take_two_bytes():
    assert simulate_scan(replace(SMALL, photons=1e4)).patterns.dtype == numpy.uint16


def test_position_error_is_told_but_not_done():
    scan = simulate_scan(replace(SMALL, position_error_px=0.5))
    exact = simulate_scan(replace(SMALL, position_error_px=0.0))
    error = scan.positions_px - scan.positions_px.mean(0)
    error -= exact.positions_px - exact.positions_px.mean(0)
    assert 0.3 < error.std() < 0.7
    assert data_error(scan, scan.truth, scan.probe) > 1.5 * data_error(
        exact, exact.truth, exact.probe
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'pattern_size': 33}, 'pattern size is 33'),
        ({'num_positions': 0}, 'num_positions is 0'),
        ({'step_px': float('nan')}, 'step_px is nan'),
        ({'photons': -1.0}, 'photons is -1'),
        ({'object_kind': 'cat'}, "object_kind is 'cat': choose one of"),
        ({'jitter_px': -1.0}, 'jitter_px is -1'),
    ],
)
def test_nonsense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_an_object_and_a_probe_of_ones_own_are_taken() -> None:
    other = simulate_scan(SimulationSpec(num_positions=100, num_modes=2, probe_kind='fzp', seed=4))
    spec = SimulationSpec(num_positions=25, photons=3e4, seed=1)
    scan = simulate_scan(spec, object_=other.truth, probe=other.probe)
    assert numpy.array_equal(scan.truth, other.truth)
    assert numpy.sum(numpy.abs(scan.probe) ** 2) == pytest.approx(3e4, rel=1e-5)
    assert numpy.allclose(scan.probe / scan.probe.max(), other.probe / other.probe.max(), atol=1e-6)
    middle = (numpy.asarray(scan.object_.shape) - 1.0) / 2.0
    span = (scan.positions_px.max(axis=0) + scan.positions_px.min(axis=0)) / 2.0
    assert numpy.abs(span - middle).max() < 1.0
    assert data_error(scan, scan.truth, scan.probe) < 1.3 * 0.25 * 64 * 64 / 3e4


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'object_': numpy.ones((70, 90), complex)}, '70 x 90 pixels, but the scan wants'),
        ({'object_': numpy.zeros((200, 200), complex)}, 'object is zero or not finite'),
        ({'object_': numpy.full((200, 200), numpy.nan + 0j)}, 'object is zero or not finite'),
        ({'probe': numpy.ones((1, 32, 32), complex)}, r'probe has shape \(1, 32, 32\)'),
        ({'probe': numpy.zeros((1, 64, 64), complex)}, 'probe is zero or not finite'),
    ],
)
def test_what_does_not_fit_is_one_sentence(changes: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        simulate_scan(SimulationSpec(num_positions=100), **changes)


def test_the_command_writes_a_ladder_of_doses_and_takes_files(tmp_path, capsys) -> None:
    words = ['simulate', str(tmp_path / 'scan.npz'), '--num-positions', '36', '--quiet']
    assert main([*words, '--doses', '1e3', '2e5', '--object', 'grid']) == 0
    low, high = (read_scan(tmp_path / f'scan-{dose}.npz') for dose in ('1000', '200000'))
    assert numpy.array_equal(low.truth, high.truth)
    assert numpy.array_equal(low.positions_px, high.positions_px)
    assert high.mean_counts() == pytest.approx(200.0 * low.mean_counts(), rel=0.02)
    assert main([*words, '--doses', '1e3']) == 1, 'nothing is overwritten'
    assert main([*words, '--doses', '-3']) == 2
    source = str(tmp_path / 'scan-1000.npz')
    own = ['--from-object', source, '--from-probe', source, '--step', '3']
    assert main([*words, *own]) == 0
    scan = read_scan(tmp_path / 'scan.npz')
    assert numpy.array_equal(scan.truth, low.truth)
    capsys.readouterr()
    assert main([*words, '--doses', '1e3', '--photons', '5']) == 2
    assert '--photons has no effect with --doses' in capsys.readouterr().err
    assert main(['simulate', source, '--from-object', source, '--overwrite']) == 2
    assert 'is an input of this command' in capsys.readouterr().err
