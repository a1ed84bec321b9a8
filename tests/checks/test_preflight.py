"""What the examination of a scan finds, and what it must not find."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch.checks.orientation import (
    ORIENTATIONS,
    OrientationErrors,
    compare_orientations,
    describe_orientation,
)
from ptychodus_pinn_torch.checks.preflight import examine_scan, probe_diameter_px, probe_support_px
from ptychodus_pinn_torch.scan.calibration import calibrate_probe
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.positions import PositionTransform
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import examine_frames
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

OTHERS = [name for name in ORIENTATIONS if name != 'as given']


def _find(scan: Scan, topic: str) -> tuple[str, str]:
    found = [item for item in examine_scan(scan) if item.topic == topic]
    worst = sorted(found, key=lambda item: ['error', 'warning', 'ok'].index(item.level))[0]
    return worst.level, worst.message


def _turn(scan: Scan, orientation: str) -> Scan:
    positions = ORIENTATIONS[orientation].apply(scan.positions_px)
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


def test_a_probe_of_one_pixel_is_warned_of(simulated_scan: Scan):
    probe = numpy.zeros_like(simulated_scan.probe)
    probe[:, probe.shape[1] // 2, probe.shape[2] // 2] = 1.0
    level, message = _find(replace(simulated_scan, probe=probe), 'overlap')
    assert level == 'warning' and 'within 1.0' in message


def test_simulated_scan_is_well(simulated_scan: Scan):
    assert [item for item in examine_scan(simulated_scan) if item.level != 'ok'] == []


@pytest.mark.parametrize('orientation', OTHERS)
def test_wrong_orientation_of_a_measured_scan_is_noticed(
    small_real_scan: Scan, orientation, monkeypatch
):
    monkeypatch.setattr('ptychodus_pinn_torch.checks.orientation._NUM_EPOCHS', 4)
    result = compare_orientations(_turn(small_real_scan, orientation))
    assert result.gain > 2.0
    wrong = ORIENTATIONS[orientation].apply(small_real_scan.positions_px)
    restored = ORIENTATIONS[result.best].apply(wrong)
    numpy.testing.assert_allclose(
        restored - restored.mean(0),
        small_real_scan.positions_px - small_real_scan.positions_px.mean(0),
        atol=1e-9,
    )


@pytest.mark.parametrize('orientation', OTHERS)
def test_wrong_orientation_of_a_simulated_scan_is_noticed(simulated_scan: Scan, orientation):
    level, message = _find(_turn(simulated_scan, orientation), 'orientation')
    assert level == 'warning' and 'times better' in message
    flags = message.partition('pass ')[2].partition(',')[0]
    remedy = next(change for change in ORIENTATIONS.values() if change.flags() == flags)
    positions = ORIENTATIONS[orientation].then(remedy).apply(simulated_scan.positions_px)
    numpy.testing.assert_allclose(positions, simulated_scan.positions_px)


@pytest.mark.parametrize('probe_kind', ['disk', 'fzp', 'kb'])
@pytest.mark.parametrize('object_kind', ['leaves', 'star'])
def test_right_orientation_is_never_doubted(probe_kind, object_kind):
    spec = SimulationSpec(num_positions=100, probe_kind=probe_kind, object_kind=object_kind)
    assert compare_orientations(simulate_scan(spec)).best == 'as given'


def test_uncalibrated_probe_is_noticed_and_repaired(simulated_scan: Scan):
    scan = replace(simulated_scan, probe=simulated_scan.probe * numpy.float32(64))
    level, message = _find(scan, 'calibration')
    assert level == 'warning' and 'times more power' in message
    assert 'multiply its amplitude by 0.0146' in message
    probe, factor = calibrate_probe(scan)
    brightest = examine_frames(scan).brightest
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


def test_pixels_that_the_door_leaves_out_are_named(tmp_path: Path, simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns, dtype=numpy.uint32)
    patterns[:, 34, 29] = 0
    patterns[:, 5, 50] = 7000 + numpy.arange(len(patterns)) % 5
    scan = read_scan(
        write_scan_npz(tmp_path / 'scan.npz', replace(simulated_scan, patterns=patterns))
    )
    messages = [item.message for item in examine_scan(scan) if item.topic == 'pixels']
    assert '1 detector pixel is dead (the first at y 34, x 29)' in messages[0]
    assert '1 detector pixel is hot (the first at y 5, x 50)' in messages[1]
    assert messages[2].startswith('2 of 4096 detector pixels are left out')


def test_saturation_is_noticed(tmp_path: Path, simulated_scan: Scan):
    brighter = 8 * simulated_scan.patterns.astype(numpy.int64)
    patterns = numpy.minimum(brighter, 65535).astype(numpy.uint16)
    path = write_scan_npz(tmp_path / 'scan.npz', replace(simulated_scan, patterns=patterns))
    assert 'counts of single frames are saturated' in _find(read_scan(path), 'frames')[1]


def test_empty_and_weak_patterns_are_noticed(simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns)
    patterns[3:5] = 0
    scan = replace(simulated_scan, patterns=patterns)
    level, message = _find(scan, 'frames')
    assert level == 'warning' and '2 frames are empty (numbers 3, 4)' in message
    assert 'left out everywhere' in message
    weak = replace(simulated_scan, patterns=simulated_scan.patterns / 1e5)
    assert 'if they were normalised' in _find(weak, 'counts')[1]


def test_what_cannot_work_is_an_error(simulated_scan: Scan):
    outside = replace(simulated_scan, positions_px=simulated_scan.positions_px + 100.0)
    assert _find(outside, 'positions')[0] == 'error'
    dark = replace(simulated_scan, patterns=0 * simulated_scan.patterns)
    assert _find(dark, 'counts')[0] == 'error'
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


def test_bad_frames_are_named_and_spoil_nothing_else(simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns, dtype=numpy.uint32)
    patterns[40] = 0
    patterns[70] *= 30
    patterns[100, 5, 50] = 4_000_000_000
    spoilt = examine_scan(replace(simulated_scan, patterns=patterns))
    (named,) = (item for item in spoilt if item.level != 'ok')
    assert named.topic == 'frames'
    for words in (
        '1 frame is empty (number 40)',
        '1 frame is far too bright (number 70)',
        '1 pixel spikes in single frames (number 100)',
    ):
        assert words in named.message
    of_well = {item.topic: item.message for item in examine_scan(simulated_scan)}
    for item in spoilt:
        if item.topic in ('calibration', 'pixels', 'overlap'):
            assert item.message == of_well[item.topic]
    mean = next(item.message for item in spoilt if item.topic == 'counts')
    assert float(mean.split()[3]) == pytest.approx(float(of_well['counts'].split()[3]), rel=0.01)


def test_dark_frames_among_dark_ones_are_named(simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns)
    patterns[:72] = 0
    levels = [
        item.message
        for item in examine_scan(replace(simulated_scan, patterns=patterns))
        if item.topic == 'frames' and item.level == 'warning'
    ]
    assert any('72 frames are empty (numbers 0, 1' in message for message in levels)


@pytest.mark.parametrize(
    ('factor', 'words'),
    [
        (1 / 16, '256 times less power (16 times less amplitude) than the brightest pattern'),
        (8.0, '64 times more power (8 times more amplitude) than the brightest pattern'),
    ],
)
def test_a_wrong_calibration_is_told_in_power_and_in_amplitude(
    simulated_scan: Scan, factor, words, caplog
):
    power = numpy.sum(numpy.abs(simulated_scan.probe) ** 2)
    right = numpy.sqrt(examine_frames(simulated_scan).brightest / power)
    scan = replace(simulated_scan, probe=simulated_scan.probe * numpy.float32(right * factor))
    level, message = _find(scan, 'calibration')
    assert level == 'warning' and words in message
    assert f'reconstruct and train multiply its amplitude by {1 / factor:.4g}' in message
    assert caplog.text.count('was multiplied by') == 1


def test_positions_of_other_frames_are_explained_by_no_orientation(simulated_scan: Scan):
    order = numpy.random.default_rng(3).permutation(simulated_scan.num_patterns)
    scan = replace(simulated_scan, positions_px=simulated_scan.positions_px[order])
    level, message = _find(scan, 'orientation')
    assert level == 'warning' and message.startswith('No orientation explains the counts')
    for words in ('--scale-positions', 'the probe', 'order of the positions', 'in random order'):
        assert words in message
    assert '--flip' not in message and '--exchange' not in message


def test_a_measured_scan_with_another_probe_is_explained_by_no_orientation(small_real_scan: Scan):
    y, x = numpy.indices(small_real_scan.pattern_shape) - 63.5
    spot = numpy.exp(-(y**2 + x**2) / 512.0)[numpy.newaxis].astype(numpy.complex64)
    message = _find(replace(small_real_scan, probe=spot), 'orientation')[1]
    assert message.startswith('No orientation explains the counts')


def test_positions_of_a_wrong_scale_are_noticed(simulated_scan: Scan):
    small = PositionTransform(scale=0.5).apply(simulated_scan.positions_px)
    level, message = _find(replace(simulated_scan, positions_px=small), 'orientation')
    assert level == 'warning' and 'best as given, but badly' in message
    assert '--scale-positions' in message


def test_the_orientation_of_a_flat_object_is_not_told(simulated_scan: Scan):
    far_field = numpy.fft.fftshift(numpy.fft.fft2(simulated_scan.probe, norm='ortho'), (1, 2))
    rng = numpy.random.default_rng(0)
    patterns = rng.poisson((numpy.abs(far_field) ** 2).sum(0), simulated_scan.patterns.shape)
    scan = replace(simulated_scan, patterns=patterns.astype(numpy.uint32))
    level, message = _find(scan, 'orientation')
    assert level == 'ok' and 'hardly tell the orientation' in message


def test_few_photons_tell_the_orientation_where_others_do_worse():
    spec = SimulationSpec(
        num_positions=36, step_px=5.0, photons=3.5e3, object_kind='leaves', probe_kind='kb'
    )
    level, message = _find(simulate_scan(spec), 'orientation')
    assert level == 'ok' and 'best as given' in message


def test_an_orientation_that_explains_the_counts_alike_is_named():
    errors = {'as given': 0.01, 'y flipped': 0.0105, 'x flipped': 0.05}
    result = OrientationErrors(errors, by_chance=0.05, noise=0.002)
    finding = describe_orientation(result, PositionTransform())
    assert finding.level == 'warning' and 'as well with y flipped (0.0105)' in finding.message


def test_a_line_scan_is_not_doubted_for_what_a_flip_leaves_as_it_is():
    scan = simulate_scan(SimulationSpec(num_positions=64, step_px=3.0, jitter_px=0.0))
    middle = scan.positions_px[numpy.abs(scan.positions_px[:, 0] - 52.5) < 30]
    row = numpy.unique(middle[:, 0])[3]
    line = scan.select(numpy.flatnonzero(scan.positions_px[:, 0] == row))
    result = compare_orientations(line)
    assert 'y flipped' not in result.errors and 'x flipped' in result.errors


def test_flags_that_were_passed_count_into_those_that_are_named(simulated_scan: Scan):
    def remedy(change: PositionTransform) -> str:
        scan = replace(simulated_scan, positions_px=change.apply(simulated_scan.positions_px))
        found = [item for item in examine_scan(scan, change) if item.topic == 'orientation']
        return found[0].message

    assert 'leave out --flip-y, or' in remedy(PositionTransform(flip_y=True))
    scan = _turn(simulated_scan, 'y and x exchanged, then y flipped')
    passed = PositionTransform(flip_x=True)
    scan = replace(scan, positions_px=passed.apply(scan.positions_px))
    found = {item.topic: item.message for item in examine_scan(scan, passed)}
    assert 'pass --exchange-axes --flip-x instead of --flip-x, or' in found['orientation']


def test_check_names_copies(simulated_scan: Scan):
    mode = simulated_scan.probe[0]
    doubled = numpy.stack([0.8 * mode, 0.6 * mode]).astype(numpy.complex64)
    found = {item.topic: item for item in examine_scan(replace(simulated_scan, probe=doubled))}
    assert found['modes'].level == 'warning' and '1 and 2 (100 %)' in found['modes'].message
