"""A scan without a probe: one is estimated, it is said, and the image comes right."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch.backend import ReconstructRequest, ignore_report
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.config import Config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.probe_estimate import estimate_probe
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


def without_probe(path: Path, scan: Scan) -> Path:
    y, x = scan.positions_px.T
    numpy.savez(
        path, xcoords=x, ycoords=y, diff3d=scan.patterns, objectGuess=scan.object_, truth=scan.truth
    )
    return path


def error_of(scan: Scan, given: Scan) -> float:
    image = reconstruct(ReconstructRequest(given, Config()), ignore_report)
    assert image.trust is not None
    assert image.trust.verdict == (
        'doubtful' if 'probe_is_estimated' in given.metadata else 'right'
    )
    return compare_objects(image.object_, scan.truth, weights=coverage_mask(scan)).nrmse


@pytest.mark.parametrize('probe_kind', ['kb', 'fzp'])
def test_a_scan_without_a_probe_comes_right(
    tmp_path: Path,
    probe_kind: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    scan = simulate_scan(SimulationSpec(probe_kind=probe_kind, object_kind='photo', seed=1))
    path = without_probe(tmp_path / 'scan.npz', scan)
    with caplog.at_level(logging.WARNING):
        given = read_scan(path)
    assert 'scan.npz: There is no probe: one is estimated' in caplog.text
    overlap = abs(numpy.vdot(given.probe, scan.probe))
    overlap /= numpy.linalg.norm(given.probe) * numpy.linalg.norm(scan.probe)
    assert overlap < 0.5, 'nothing is known of the defocus'
    assert error_of(scan, given) < 1.5 * error_of(scan, scan)
    assert main(['inspect', str(path)]) == 0
    assert 'estimated from the mean pattern' in capsys.readouterr().out


def test_the_far_field_is_that_of_the_mean_pattern_and_the_beam_in_the_middle() -> None:
    scan = simulate_scan(SimulationSpec(num_positions=36))
    good = numpy.ones((64, 64), dtype=bool)
    probe = estimate_probe(scan.patterns, good)
    far_field = numpy.fft.fftshift(numpy.fft.fft2(probe[0], norm='ortho'))
    assert numpy.allclose(
        numpy.abs(far_field) ** 2, scan.patterns.mean(axis=0), rtol=1e-3, atol=1e-2
    )
    power = numpy.abs(probe[0]) ** 2
    center = (power.sum(axis=1) @ numpy.arange(64)) / power.sum()
    assert center == pytest.approx(32.0, abs=0.1)
    good[30:34, 30:34] = False
    hidden = estimate_probe(numpy.asarray(scan.patterns) * good, good)
    assert numpy.abs(hidden).max() > 0.5 * numpy.abs(probe).max()


def test_dark_patterns_say_nothing(tmp_path: Path) -> None:
    scan = simulate_scan(SimulationSpec(num_positions=36))
    dark = replace(scan, patterns=numpy.zeros_like(scan.patterns))
    with pytest.raises(ValueError, match='the patterns are dark'):
        estimate_probe(dark.patterns, dark.good_pixels)
    with pytest.raises(ValueError, match='all patterns are zero'):
        read_scan(without_probe(tmp_path / 'scan.npz', dark))
