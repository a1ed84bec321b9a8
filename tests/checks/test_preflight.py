"""What the examination of a scan finds, and what it must not find."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from ptychodus_pinn_torch.checks.orientation import (
    ORIENTATIONS,
    compare_orientations,
    orient_positions,
)
from ptychodus_pinn_torch.checks.preflight import examine_scan, probe_diameter_px, probe_support_px
from ptychodus_pinn_torch.scan.calibration import calibrate_probe
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

OTHERS = [name for name in ORIENTATIONS if name != 'as given']


def _find(scan: Scan, topic: str) -> tuple[str, str]:
    found = [item for item in examine_scan(scan) if item.topic == topic]
    worst = sorted(found, key=lambda item: ['error', 'warning', 'ok'].index(item.level))[0]
    return worst.level, worst.message


def _turn(scan: Scan, orientation: str) -> Scan:
    positions = orient_positions(scan.positions_px, orientation)
    half = scan.pattern_shape[0] / 2 + 2
    positions = positions - positions.min(axis=0) + half
    size = numpy.ceil(positions.max(axis=0) + half).astype(int)
    return replace(scan, positions_px=positions, object_=numpy.ones(size, dtype=numpy.complex64))


def test_measured_scan_is_well(real_scan: Scan):
    findings = examine_scan(real_scan)
    assert [item for item in findings if item.level != 'ok'] == []
    topics = {item.topic for item in findings}
    assert topics >= {'counts', 'calibration', 'overlap', 'probe', 'pixels', 'orientation', 'cost'}
    assert all(item.message.endswith('.') for item in findings)


def test_simulated_scan_is_well(simulated_scan: Scan):
    assert [item for item in examine_scan(simulated_scan) if item.level != 'ok'] == []


@pytest.mark.parametrize('orientation', OTHERS)
def test_wrong_orientation_of_a_measured_scan_is_noticed(
    small_real_scan: Scan, orientation, monkeypatch
):
    monkeypatch.setattr('ptychodus_pinn_torch.checks.orientation._NUM_EPOCHS', 4)
    result = compare_orientations(_turn(small_real_scan, orientation))
    assert result.gain > 2.0
    restored = orient_positions(
        orient_positions(small_real_scan.positions_px, orientation), result.best
    )
    numpy.testing.assert_allclose(
        restored - restored.mean(0),
        small_real_scan.positions_px - small_real_scan.positions_px.mean(0),
        atol=1e-9,
    )


@pytest.mark.parametrize('orientation', OTHERS)
def test_wrong_orientation_of_a_simulated_scan_is_noticed(simulated_scan: Scan, orientation):
    level, message = _find(_turn(simulated_scan, orientation), 'orientation')
    assert level == 'warning' and 'times better' in message and 'check the axes' in message


@pytest.mark.parametrize('probe_kind', ['disk', 'fzp', 'kb'])
@pytest.mark.parametrize('object_kind', ['leaves', 'star'])
def test_right_orientation_is_never_doubted(probe_kind, object_kind):
    spec = SimulationSpec(num_positions=100, probe_kind=probe_kind, object_kind=object_kind)
    assert compare_orientations(simulate_scan(spec)).best == 'as given'


def test_uncalibrated_probe_is_noticed_and_repaired(simulated_scan: Scan):
    scan = replace(simulated_scan, probe=simulated_scan.probe * numpy.float32(64))
    level, message = _find(scan, 'calibration')
    assert level == 'warning' and 'multiplied by 0.01' in message
    probe, factor = calibrate_probe(scan)
    brightest = scan.max_counts()
    assert numpy.sum(numpy.abs(probe) ** 2) == pytest.approx(brightest, rel=1e-3) and factor < 1


def test_beamstop_does_not_look_like_a_wrong_calibration():
    scan = simulate_scan(SimulationSpec(num_positions=49, beamstop_px=3.0))
    assert calibrate_probe(scan)[1] == 1.0
    assert _find(scan, 'calibration')[0] == 'ok'


def test_wide_steps_are_noticed():
    scan = simulate_scan(SimulationSpec(num_positions=49, step_px=24.0, jitter_px=0.0))
    level, message = _find(scan, 'overlap')
    assert level == 'warning' and 'median distance of neighbours is 24.0' in message


def test_lone_positions_are_noticed(simulated_scan: Scan):
    shape = tuple(length + 200 for length in simulated_scan.object_.shape)
    positions = simulated_scan.positions_px.copy()
    positions[0] += 180.0
    scan = replace(
        simulated_scan, positions_px=positions, object_=numpy.ones(shape, dtype=numpy.complex64)
    )
    assert '1 positions have no neighbour' in _find(scan, 'coverage')[1]


def test_repeated_positions_are_counted(simulated_scan: Scan):
    twice = simulated_scan.select(numpy.repeat(numpy.arange(60), 2))
    level, message = _find(twice, 'duplicates')
    assert level == 'warning' and message.startswith('60 of 120')
    once = simulated_scan.select(numpy.r_[numpy.arange(100), 0])
    assert _find(once, 'duplicates')[0] == 'ok'


def test_dead_and_hot_pixels_are_named(simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns, dtype=numpy.uint32)
    patterns[:, 34, 29] = 0
    patterns[:, 5, 50] = 70000
    scan = replace(simulated_scan, patterns=patterns)
    messages = [item.message for item in examine_scan(scan) if item.topic == 'pixels']
    assert '1 detector pixels look dead' in messages[0] and '(y 34, x 29)' in messages[0]
    assert '1 detector pixels look hot' in messages[1] and '(y 5, x 50)' in messages[1]
    masked = simulated_scan.good_pixels.copy()
    masked[34, 29] = masked[5, 50] = False
    assert _find(replace(scan, good_pixels=masked), 'pixels')[0] == 'ok'


def test_saturation_is_noticed(simulated_scan: Scan):
    brighter = 8 * simulated_scan.patterns.astype(numpy.int64)
    patterns = numpy.minimum(brighter, 65535).astype(numpy.uint16)
    assert 'saturated' in _find(replace(simulated_scan, patterns=patterns), 'pixels')[1]


def test_empty_and_weak_patterns_are_noticed(simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns)
    patterns[3:5] = 0
    scan = replace(simulated_scan, patterns=patterns)
    assert '2 of 144 patterns are empty' in _find(scan, 'counts')[1]
    weak = replace(simulated_scan, patterns=simulated_scan.patterns / 1e5)
    assert 'if they were normalised' in _find(weak, 'counts')[1]


def test_what_cannot_work_is_an_error(simulated_scan: Scan):
    outside = replace(simulated_scan, positions_px=simulated_scan.positions_px + 100.0)
    assert _find(outside, 'positions')[0] == 'error'
    patterns = simulated_scan.patterns.astype(numpy.float32)
    patterns[4, 2, 2] = numpy.nan
    assert _find(replace(simulated_scan, patterns=patterns), 'counts')[0] == 'error'
    zero = replace(simulated_scan, probe=numpy.zeros_like(simulated_scan.probe))
    assert _find(zero, 'probe')[0] == 'error'


def test_probe_that_fills_its_window_is_noticed(simulated_scan: Scan):
    flat = numpy.ones((1, 64, 64), dtype=numpy.complex64) * numpy.float32(15.6)
    level, message = _find(replace(simulated_scan, probe=flat), 'probe')
    assert level == 'warning' and 'wraps around' in message


def test_probe_measures(real_scan: Scan, simulated_scan: Scan):
    assert probe_diameter_px(real_scan) == pytest.approx(77.8, abs=0.5)
    assert probe_support_px(real_scan) == 128
    assert probe_support_px(simulated_scan) in (40, 48)


def test_one_pattern_can_be_examined(simulated_scan: Scan):
    findings = examine_scan(simulated_scan.select(numpy.array([3])))
    assert any('only one position' in item.message for item in findings)
