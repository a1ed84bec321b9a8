"""The verdict on an image: right where it is, and never right where it is spoilt."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch.backend import Moved, Reconstruction, ReconstructRequest, ignore_report
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.reconstruction.misfit import SUPPORTED, misfit, misfit_map
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.reconstruction.refined import Refined
from ptychodus_pinn_torch.reconstruction.trust import measure_moves
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.state import Freed, SolverState

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


def test_the_map_is_one_where_counts_are_explained_and_nan_where_nothing_was_seen() -> None:
    scan = simulate(seed=3)
    image = image_of(scan)
    assert image.trust is not None
    found = image.trust.map
    assert found.shape == scan.object_.shape and found.dtype == numpy.float32
    is_supported = numpy.isfinite(found)
    numpy.testing.assert_array_equal(is_supported, image.coverage > SUPPORTED)
    assert 0.2 < is_supported.mean() < 1.0
    low, high = numpy.nanquantile(found, [0.0, 1.0])
    assert 0.7 < low <= numpy.nanmedian(found) <= high < 1.3
    assert image.trust.moved == Moved() and image.trust.moved.sentence() == ''


def swapped(scan: Scan, number: int) -> tuple[Scan, numpy.ndarray]:
    """Returns a scan with patterns of other places around the first one, and which they are."""
    distances = numpy.linalg.norm(scan.positions_px - scan.positions_px[0], axis=1)
    near = numpy.argsort(distances)[:number]
    patterns = numpy.array(scan.patterns)
    patterns[near] = patterns[numpy.argsort(distances)[-number:]]
    return replace(scan, patterns=patterns), near


def test_the_map_and_the_frames_show_where_the_image_is_wrong() -> None:
    scan, near = swapped(simulate(object_kind='leaves', seed=3), 15)
    image = image_of(scan, **ONLY_OBJECT)
    assert image.trust is not None
    assert image.trust.verdict != 'right'
    far = numpy.setdiff1d(numpy.arange(196), near)
    frames, there = image.trust.frames, numpy.rint(scan.positions_px).astype(int)
    assert numpy.median(frames[near]) > 3.0 * numpy.median(frames[far])
    values = image.trust.map[there[:, 0], there[:, 1]]
    distances = numpy.linalg.norm(scan.positions_px - scan.positions_px[0], axis=1)
    assert values[near].mean() > 2.0 * values[distances > 2.0 * distances[near].max()].mean()


def test_an_image_that_is_wrong_in_one_place_is_not_called_right() -> None:
    scan, near = swapped(simulate_scan(SimulationSpec(object_kind='leaves', seed=3)), 6)
    image = image_of(scan, **{**ONLY_OBJECT, 'update_positions': 'on'})
    assert image.trust is not None
    assert image.trust.to_noise < 1.5 and (image.trust.frames > 2.0).mean() < 0.05
    assert image.trust.verdict == 'doubtful'
    told = re.search(r'% of it, around row (\d+) and column (\d+)', image.trust.sentence)
    assert told is not None
    place_px = numpy.array([int(told[1]), int(told[2])])
    distance_px = numpy.linalg.norm(scan.positions_px[near].mean(axis=0) - place_px)
    assert distance_px < 25.0


def test_the_map_is_the_mean_of_the_frames_that_saw_a_pixel_whatever_the_chunks() -> None:
    scan = simulate(object_kind='leaves', num_modes=2, seed=3)
    measurement = measure_scan(scan).measurement
    state = SolverState.start(measurement.flat(), measurement)
    ratios = misfit(state, measurement).ratios
    whole = misfit_map(state, measurement, ratios)
    parts = misfit_map(state, replace(measurement, chunk_size=7), ratios)
    torch.testing.assert_close(parts, whole, rtol=0.0, atol=0.0, equal_nan=True)
    power, height = numpy.abs(scan.probe) ** 2, scan.pattern_shape[0]
    y, x = (length // 2 for length in whole.shape)
    weights = numpy.zeros(196)
    for index, (first_y, first_x) in enumerate(measurement.corners.tolist()):
        if 0 <= y - first_y < height and 0 <= x - first_x < height:
            weights[index] = power[:, y - first_y, x - first_x].sum()
    expected = (weights * ratios.numpy()).sum() / weights.sum()
    assert float(whole[y, x]) == pytest.approx(expected, rel=1e-3)


def test_what_was_freed_is_told_with_how_far_it_moved() -> None:
    scan = simulate(object_kind='leaves', seed=3)
    errors_px = numpy.random.default_rng(0).normal(0.0, 0.7, scan.positions_px.shape)
    told = replace(scan, positions_px=scan.positions_px + errors_px)
    image = image_of(told, **{**ONLY_OBJECT, 'update_positions': 'on'})
    assert image.trust is not None
    moved = image.trust.moved
    assert set(moved.figures()) == {'positions_rms_px', 'positions_max_px'}
    assert moved.positions_rms_px is not None and moved.positions_max_px is not None
    assert 0.6 < moved.positions_rms_px / (0.7 * 2**0.5) < 1.2
    assert 1.5 < moved.positions_max_px < 5.0
    assert f'moved by {moved.positions_rms_px:.2g} px rms' in moved.sentence()
    assert image.trust.summary() == f'{image.trust.sentence} {moved.sentence()}'


def test_a_shift_of_all_positions_is_no_move() -> None:
    measurement = measure_scan(simulate(seed=3)).measurement
    state = SolverState.start(measurement.flat(), measurement)
    state.shifts += torch.tensor([0.3, -0.2])
    state.shifts[5] += torch.tensor([3.0, 4.0])
    refined = Refined(state, 'flat', Freed(positions=True))
    moved = measure_moves(refined, measurement)
    assert moved.positions_max_px == pytest.approx(5.0, abs=1e-4)
    assert moved.positions_rms_px == pytest.approx(5.0 / 14.0, abs=1e-4)


def test_moves_of_probe_brightness_and_background_are_measured() -> None:
    measurement = measure_scan(simulate(num_modes=2, seed=3)).measurement
    state = SolverState.start(measurement.flat(), measurement)
    mixing = torch.tensor([[0.6, 0.8], [-0.8, 0.6]], dtype=torch.complex64) * 1j
    state.probe = 2.0 * torch.einsum('pq,qyx->pyx', mixing, state.probe)
    state.factors = torch.ones(196)
    state.factors[::2], state.factors[1::2] = 0.9, 1.1
    state.background = torch.tensor(0.25)
    freed = Freed(probe=True, factors=True, background=True)
    moved = measure_moves(Refined(state, 'flat', freed), measurement)
    assert moved.positions_rms_px is None
    assert moved.probe_overlap == pytest.approx(1.0, abs=1e-3)
    assert moved.probe_power_ratio == pytest.approx(4.0, rel=1e-4)
    assert moved.factors_rms == pytest.approx(0.1, rel=1e-4)
    assert moved.background_counts == pytest.approx(0.25)
    sentence = moved.sentence()
    assert sentence.startswith('The probe overlaps with the given one by 1.000 and has 4 times')
    assert 'varies by 0.1 rms; the background is 0.25 counts per pixel.' in sentence
