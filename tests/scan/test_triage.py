"""Frames that are not like their neighbours are named, and no others."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from ptychodus_pinn_torch.scan.calibration import calibrate_probe
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import examine_frames
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

EMPTY, GLARING, SPIKES = [3, 77], [20, 50], [(10, 5, 40), (90, 33, 2)]


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(SimulationSpec(num_positions=100, seed=1))


@pytest.fixture(scope='module')
def spoilt(scan: Scan) -> Scan:
    patterns = scan.patterns.astype(numpy.uint32)
    patterns[EMPTY] = 0
    patterns[GLARING] *= 4
    for frame, y, x in SPIKES:
        patterns[frame, y, x] = 3_000_000
    return replace(scan, patterns=patterns)


@pytest.mark.parametrize('step_px', [4.0, 12.0])
@pytest.mark.parametrize('kind', ['leaves', 'photo', 'independent'])
def test_nothing_is_found_in_a_clean_scan(kind: str, step_px: float) -> None:
    for seed in range(4):
        scan = simulate_scan(
            SimulationSpec(num_positions=100, step_px=step_px, object_kind=kind, seed=seed)
        )
        assert examine_frames(scan).sentence() == ''


def test_bad_frames_and_pixels_are_named(spoilt: Scan) -> None:
    found = examine_frames(spoilt)
    assert found.left_out['empty'].tolist() == EMPTY
    assert found.left_out['far too bright'].tolist() == GLARING
    assert [tuple(spike) for spike in found.spikes.tolist()] == SPIKES
    assert '2 frames are empty (numbers 3, 77)' in found.sentence()
    assert set(range(100)) - set(found.kept(100).tolist()) == {*EMPTY, *GLARING}


def test_a_glitch_does_not_calibrate_a_calibrated_probe(scan: Scan, spoilt: Scan) -> None:
    assert calibrate_probe(scan)[1] == 1.0
    assert calibrate_probe(spoilt)[1] == 1.0


def test_a_spike_on_a_bad_pixel_is_nothing(scan: Scan) -> None:
    patterns = scan.patterns.astype(numpy.uint32)
    patterns[10, 5, 40] = 3_000_000
    good = scan.good_pixels.copy()
    good[5, 40] = False
    assert examine_frames(replace(scan, patterns=patterns, good_pixels=good)).sentence() == ''


def test_a_flickering_beam_is_no_fault_of_frames(scan: Scan) -> None:
    factors = numpy.random.default_rng(0).choice([1, 4], scan.num_patterns, p=[0.8, 0.2])
    flickering = replace(scan, patterns=scan.patterns * factors[:, None, None])
    assert 'far too bright' not in examine_frames(flickering).left_out
