"""The verdict on an image: right where it is, and never right where it is spoilt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch.backend import Reconstruction, ReconstructRequest, ignore_report
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

ONLY_OBJECT = {f'update_{name}': 'off' for name in ('probe', 'positions', 'factors', 'background')}


def image_of(scan: Scan, **options: Any) -> Reconstruction:
    named = {f'reconstruction.{key}': value for key, value in options.items()}
    return reconstruct(ReconstructRequest(scan, override_config(Config(), named)), ignore_report)


def simulate(**options: Any) -> Scan:
    return simulate_scan(SimulationSpec(num_positions=196, **options))


@pytest.mark.parametrize('kind', ['leaves', 'photo', 'independent'])
@pytest.mark.parametrize('photons', [1e3, 1e6, 1e8])
def test_a_clean_scan_gives_a_right_image(kind: str, photons: float) -> None:
    image = image_of(simulate(object_kind=kind, photons=photons, seed=3))
    assert image.trust is not None
    assert image.trust.verdict == 'right', image.trust.sentence
    assert image.trust.frames.shape == (196,)
    assert numpy.isfinite(image.trust.frames).all()


def moved(scan: Scan) -> Scan:
    moves = numpy.random.default_rng(0).normal(0.0, 1.0, scan.positions_px.shape)
    return replace(scan, positions_px=scan.positions_px + moves)


def wider(scan: Scan) -> Scan:
    frequency = numpy.fft.fftfreq(scan.pattern_shape[0])
    ramp = numpy.exp(-120j * (frequency[:, None] ** 2 + frequency[None] ** 2))
    return replace(scan, probe=numpy.fft.ifft2(numpy.fft.fft2(scan.probe) * ramp).astype('c8'))


def shuffled(scan: Scan) -> Scan:
    order = numpy.random.default_rng(0).permutation(scan.num_patterns)
    return replace(scan, positions_px=scan.positions_px[order])


def flipped(scan: Scan) -> Scan:
    return replace(scan, positions_px=scan.positions_px * [1.0, -1.0] + [0.0, 2.0 * middle(scan)])


def middle(scan: Scan) -> float:
    return float(scan.positions_px[:, 1].max() + scan.positions_px[:, 1].min()) / 2.0


@pytest.mark.parametrize('spoil', [moved, wider, shuffled, flipped])
def test_a_spoilt_image_is_not_called_right(spoil: Any) -> None:
    image = image_of(spoil(simulate(object_kind='leaves', seed=3)), **ONLY_OBJECT)
    assert image.trust is not None
    assert image.trust.verdict in ('doubtful', 'wrong')
    assert image.trust.sentence in image.messages
    assert 'ptychodus-pinn check' in image.trust.sentence


@pytest.mark.parametrize('spoil', [shuffled, flipped])
def test_positions_that_nothing_mends_are_not_called_right_either(spoil: Any) -> None:
    image = image_of(spoil(simulate(object_kind='leaves', seed=3)))
    assert image.trust is not None
    assert image.trust.verdict in ('doubtful', 'wrong')


def test_counts_that_are_no_photons_cannot_be_judged() -> None:
    scan = simulate(seed=3)
    scaled = replace(scan, patterns=(scan.patterns / 50.0).astype(numpy.float32))
    image = image_of(scaled)
    assert image.trust is not None
    assert image.trust.verdict == 'doubtful'
    assert 'photons' in image.trust.sentence


def test_frames_that_were_left_out_have_no_error() -> None:
    scan = simulate(seed=3)
    patterns = numpy.array(scan.patterns)
    patterns[7] = 0
    image = image_of(replace(scan, patterns=patterns))
    assert image.trust is not None
    assert numpy.flatnonzero(numpy.isnan(image.trust.frames)).tolist() == [7]
