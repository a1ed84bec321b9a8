"""Reconstruction: place, scale, guards, stopping, and independence of chunks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch.backend import EpochReport, Reconstruction, ReconstructRequest
from ptychodus_pinn_torch.config import Config, override_config, preset
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.reconstruction import refining
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver import annealing

ONLY_OBJECT = {f'update_{name}': 'off' for name in ('probe', 'positions', 'factors', 'background')}
"""With nothing to decide about, the refinement is all there is."""


def ignore(report: EpochReport) -> None:
    """Takes a report."""


def image_of(scan: Scan, **options: Any) -> Reconstruction:
    named = {f'reconstruction.{key}': value for key, value in options.items()}
    return reconstruct(ReconstructRequest(scan, override_config(Config(), named)), ignore)


def error_of(scan: Scan, result: Reconstruction) -> float:
    assert scan.truth is not None
    return compare_objects(result.object_, scan.truth, weights=coverage_mask(scan)).nrmse


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(SimulationSpec(num_positions=196, seed=4))


@pytest.fixture(scope='module')
def result(scan: Scan) -> Reconstruction:
    return image_of(scan, refine_epochs=2)


def test_the_shipped_model_beats_a_flat_start_with_the_same_refinement(
    scan: Scan, result: Reconstruction
) -> None:
    flat = image_of(scan, refine_epochs=2, start='flat', **ONLY_OBJECT)
    assert error_of(scan, result) < 0.6 * error_of(scan, flat)
    assert error_of(scan, result) < 0.08


def test_the_image_is_in_its_place_and_orientation_without_any_fit(
    scan: Scan, result: Reconstruction
) -> None:
    assert scan.truth is not None
    area = coverage_mask(scan, 0.5)
    truth = scan.truth * area

    def overlap(image: Any) -> float:
        product = numpy.vdot(image * area, truth)
        return float(abs(product) / numpy.linalg.norm(image * area) / numpy.linalg.norm(truth))

    right = overlap(result.object_)
    assert right > 0.99
    moved = [numpy.roll(result.object_, shift, axis) for axis in (0, 1) for shift in (-1, 1)]
    turned = [result.object_[::-1], result.object_[:, ::-1], result.object_.conj()]
    assert all(overlap(image) < right for image in [*moved, *turned])


def test_the_amplitude_has_the_right_scale(scan: Scan, result: Reconstruction) -> None:
    assert scan.truth is not None
    area = coverage_mask(scan, 0.5)
    ratio = numpy.abs(result.object_[area]).mean() / numpy.abs(scan.truth[area]).mean()
    assert 0.98 < ratio < 1.02


def test_the_image_lies_on_the_input_grid_and_keeps_what_was_not_scanned(scan: Scan) -> None:
    padding = ((30, 10), (5, 40))
    object_ = numpy.pad(scan.object_, padding, constant_values=0.25 + 0.5j)
    offset = numpy.array([30.0, 5.0])
    moved = replace(scan, object_=object_, positions_px=scan.positions_px + offset, truth=None)
    image = image_of(moved, refine_epochs=1)
    assert image.object_.shape == object_.shape
    assert numpy.isfinite(image.object_).all()
    assert (image.object_[:20] == object_[:20]).all()
    assert (image.object_[:, -30:] == object_[:, -30:]).all()
    plain = image_of(scan, refine_epochs=1)
    inner = (slice(40, -20), slice(20, -50))
    assert numpy.allclose(image.object_[inner], numpy.pad(plain.object_, padding)[inner], atol=1e-4)


def test_positions_and_probe_come_back_unchanged_unless_asked(
    scan: Scan, result: Reconstruction
) -> None:
    assert numpy.allclose(result.positions_px, scan.positions_px)
    assert numpy.allclose(result.probe, scan.probe, rtol=1e-6)
    changed = image_of(scan, refine_epochs=1, update_probe=True, update_positions=True)
    assert not numpy.allclose(changed.positions_px, scan.positions_px)
    assert not numpy.allclose(changed.probe, scan.probe, rtol=1e-6)


def test_the_order_of_patterns_does_not_matter(scan: Scan) -> None:
    order = numpy.random.default_rng(0).permutation(scan.num_patterns)
    straight = image_of(scan, refine_epochs=0)
    shuffled = image_of(scan.select(order), refine_epochs=0)
    assert numpy.allclose(straight.object_, shuffled.object_, atol=1e-3)


def test_memory_budget_does_not_change_the_image(scan: Scan) -> None:
    small = image_of(scan, refine_epochs=0, memory_MB=16)
    large = image_of(scan, refine_epochs=0, memory_MB=4096)
    assert numpy.array_equal(small.object_, large.object_)


@pytest.mark.parametrize(
    'error',
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")],
    ids=['python', 'torch'],
)
def test_running_out_of_memory_halves_the_chunk_and_says_so(
    scan: Scan, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    from ptychodus_pinn_torch.physics.measurement import Measurement

    chunk = Measurement.chunk

    def tight(self: Measurement, indices: Any) -> Any:
        if len(indices) > 4:
            raise error
        return chunk(self, indices)

    expected = image_of(scan, refine_epochs=0)
    monkeypatch.setattr(Measurement, 'chunk', tight)
    image = image_of(scan, refine_epochs=0)
    assert any('out of memory' in message for message in image.messages)
    assert numpy.array_equal(image.object_, expected.object_)


def test_a_badly_wrong_probe_falls_back_to_the_flat_start_and_says_so(scan: Scan) -> None:
    rng = numpy.random.default_rng(0)
    noise = rng.standard_normal(scan.probe.shape) + 1j * rng.standard_normal(scan.probe.shape)
    power = numpy.linalg.norm(scan.probe) / numpy.linalg.norm(noise)
    wrong = replace(scan, probe=(power * noise).astype(numpy.complex64))
    image = image_of(wrong, refine_epochs=1)
    network = image_of(wrong, refine_epochs=0, guard=False)
    assert image.start in {'flat', 'network'}
    if image.start == 'flat':
        assert any('from the flat one' in message for message in image.messages)
    assert network.start == 'network'


@pytest.mark.parametrize('kind', ['defocus', 'wide', 'narrow'])
def test_with_probe_update_the_network_start_is_never_worse_than_the_flat_one(
    scan: Scan, kind: str
) -> None:
    if kind == 'defocus':
        for strength in range(10, 400, 5):
            wrong = _defocused(scan.probe, float(strength))
            overlap = abs(numpy.vdot(wrong, scan.probe)) / numpy.linalg.norm(scan.probe) ** 2
            if overlap < 0.95:
                break
    else:
        from scipy.ndimage import affine_transform

        factor = 1 / 1.1 if kind == 'wide' else 1.1
        offset = 31.5 * (1 - factor)
        parts = [
            affine_transform(part, [factor, factor], offset, order=3)
            for part in (scan.probe[0].real, scan.probe[0].imag)
        ]
        wrong = (parts[0] + 1j * parts[1])[None]
        wrong *= numpy.linalg.norm(scan.probe) / numpy.linalg.norm(wrong)
    given = replace(scan, probe=wrong.astype(numpy.complex64))
    ours = image_of(given, refine_epochs=4, update_probe=True)
    flat = image_of(given, refine_epochs=4, update_probe=True, start='flat')
    assert error_of(scan, ours) <= 1.02 * error_of(scan, flat)


def test_positions_that_are_half_a_pixel_off_cost_little_and_can_be_mended(scan: Scan) -> None:
    rng = numpy.random.default_rng(0)
    off = replace(
        scan, positions_px=scan.positions_px + 0.5 * rng.standard_normal(scan.positions_px.shape)
    )
    mended = image_of(off, refine_epochs=6, update_positions=True)
    residual = mended.positions_px - scan.positions_px
    assert (residual - residual.mean(axis=0)).std() < 0.25


@pytest.mark.parametrize('start', ['network', 'flat'])
def test_without_options_the_image_is_as_good_as_the_solver_can_make_it(
    scan: Scan, start: str
) -> None:
    """A fixed number of epochs of plain rPIE leaves 0.05 from the network, 0.12 from flat."""
    image = image_of(scan, start=start)
    assert error_of(scan, image) < 0.035
    assert image.held_out is not None and image.held_out < 0.01
    assert [epoch for epoch, _ in image.losses] == list(range(1, len(image.losses) + 1))


def test_from_flat_a_few_epochs_go_into_the_search(scan: Scan) -> None:
    """Annealing an object that has not been found yet left 0.086 after four epochs."""
    errors = [
        error_of(scan, image_of(scan, start='flat', refine_epochs=n, **ONLY_OBJECT))
        for n in (1, 2, 4, 8)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.065


def test_a_small_scan_of_which_nothing_is_held_out_is_searched_as_well() -> None:
    scan = simulate_scan(SimulationSpec(num_positions=49, object_kind='leaves', seed=2))
    image = image_of(scan)
    assert image.held_out is None
    assert error_of(scan, image) < 0.06


def test_at_low_dose_the_refinement_does_not_fit_noise() -> None:
    scan = simulate_scan(SimulationSpec(num_positions=400, photons=1e3, seed=4))
    alone, refined = image_of(scan, refine_epochs=0), image_of(scan)
    assert error_of(scan, refined) < 1.02 * error_of(scan, alone)


def test_of_few_photons_the_network_does_no_harm_once_its_large_scales_are_put_right() -> None:
    """Before they were, it left a quarter more error than the solver alone.

    Steps of all patterns at once have taken from both what the network alone took from the noise.
    """
    spec = SimulationSpec(num_positions=400, photons=1e3, object_kind='photo', seed=4)
    scan = simulate_scan(spec)
    network, flat = image_of(scan), image_of(scan, start='flat')
    assert network.start == 'network'
    assert error_of(scan, network) < 1.03 * error_of(scan, flat)


def test_a_search_whose_noise_hides_what_it_has_found_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its held-out error was compared with that of a start that has less noise."""
    scan = simulate_scan(
        SimulationSpec(
            num_positions=400,
            pattern_size=128,
            step_px=8.0,
            jitter_px=2.0,
            object_kind='leaves',
            seed=0,
        )
    )
    image = image_of(scan, start='flat')
    answers = iter((True, False))  # it is better without the search; and than the start
    monkeypatch.setattr(refining.Refinement, '_is_better', lambda *state, than: next(answers))
    assert error_of(scan, image) < 0.8 * error_of(scan, image_of(scan, start='flat'))


def test_counts_of_a_clean_bright_scan_are_believed_one_by_one(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(scan)
    monkeypatch.setattr(refining, 'TRIED_STEPS', 0)  # of which nothing can be seen
    assert error_of(scan, image) < 0.97 * error_of(scan, image_of(scan))


def test_they_are_believed_as_well_where_a_number_of_epochs_is_given(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = image_of(scan, refine_epochs=16)
    monkeypatch.setattr(refining, 'WELL_EXPLAINED', 0.0)
    assert error_of(scan, image) < 0.97 * error_of(scan, image_of(scan, refine_epochs=16))


def test_steps_of_all_patterns_at_once_make_a_better_image_the_more_they_are(scan: Scan) -> None:
    errors = [error_of(scan, image_of(scan, final_steps=number)) for number in (0, 8, 64)]
    assert errors[1] < 0.99 * errors[0]
    assert errors[2] < 0.97 * errors[1]


def test_steps_that_unseen_counts_do_not_want_are_not_made(scan: Scan) -> None:
    """Counts twenty times as bright as they scatter: the likelihood believes each of them too much."""
    rng = numpy.random.default_rng(0)
    blurred = 20.0 * scan.patterns * rng.gamma(20.0, 1.0 / 20.0, scan.patterns.shape)
    spoilt = replace(scan, patterns=numpy.rint(blurred).astype(numpy.uint32))
    images = [image_of(spoilt, final_steps=number, **ONLY_OBJECT) for number in (0, 8)]
    assert error_of(scan, images[1]) < 1.03 * error_of(scan, images[0])


def test_held_out_patterns_are_judged_with_positions_of_their_own(scan: Scan) -> None:
    rng = numpy.random.default_rng(0)
    off = replace(
        scan, positions_px=scan.positions_px + 0.7 * rng.standard_normal(scan.positions_px.shape)
    )
    image = image_of(off, update_positions=True)
    residual = image.positions_px - scan.positions_px
    assert (residual - residual.mean(axis=0)).std() < 0.25
    assert image.held_out is not None and image.held_out < 2.0 * image.losses[-1][1]


def test_one_epoch_with_probe_update_is_guarded_too(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ptychodus_pinn_torch.networks.unrolled import UnrolledNetwork

    reconstruct_ = UnrolledNetwork.reconstruct

    def spoil(self: Any, measurement: Any) -> Any:
        canvas = reconstruct_(self, measurement)
        return replace(canvas, object_=3.0 * canvas.object_)

    monkeypatch.setattr(UnrolledNetwork, 'reconstruct', spoil)
    image = image_of(scan, refine_epochs=1, update_probe=True)
    assert image.start == 'flat'
    assert any('flat object' in message for message in image.messages)


@pytest.mark.parametrize('options', [{}, {'update_probe': True}, {'guard': False}])
def test_a_start_that_is_not_finite_never_reaches_the_image(
    scan: Scan, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    from ptychodus_pinn_torch.networks.unrolled import UnrolledNetwork

    reconstruct_ = UnrolledNetwork.reconstruct

    def spoil(self: Any, measurement: Any) -> Any:
        canvas = reconstruct_(self, measurement)
        canvas.object_[:, 50:60] = numpy.nan
        return canvas

    monkeypatch.setattr(UnrolledNetwork, 'reconstruct', spoil)
    image = image_of(scan, **options)
    assert image.start == 'flat'
    assert numpy.isfinite(image.object_).all()
    assert any('not finite' in message for message in image.messages)
    assert error_of(scan, image) < 0.05


@pytest.mark.parametrize('epochs', [-1, 4])
def test_a_refinement_that_is_not_finite_is_taken_back_and_said(
    scan: Scan, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    from ptychodus_pinn_torch.reconstruction import refining

    original = refining.rpie_epoch

    def spoil(state: Any, *arguments: Any) -> float:
        error = original(state, *arguments)
        state.canvas[:, 50:60] = numpy.nan
        return error

    monkeypatch.setattr(refining, 'rpie_epoch', spoil)
    image = image_of(scan, refine_epochs=epochs)
    assert numpy.isfinite(image.object_).all()
    assert any('not finite' in message for message in image.messages)
    assert error_of(scan, image) < 0.1


def _defocused(probe: Any, strength: float) -> Any:
    frequency = torch.fft.fftfreq(probe.shape[-1])
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    spectrum = torch.fft.fft2(torch.from_numpy(probe))
    return torch.fft.ifft2(spectrum * torch.exp(-1j * strength * squared)).numpy()


def test_the_refinement_lowers_the_data_error(scan: Scan) -> None:
    image = image_of(scan, refine_epochs=4, start='flat', **ONLY_OBJECT)
    values = [value for _, value in image.losses]
    assert values[-1] < 0.5 * values[0]


@pytest.mark.parametrize('number', [1, 2, 5])
def test_a_few_patterns_are_enough_for_an_image(scan: Scan, number: int) -> None:
    image = image_of(scan.select(numpy.arange(number)))
    assert numpy.isfinite(image.object_).all()


def test_an_empty_scan_is_a_sentence(scan: Scan) -> None:
    with pytest.raises(ValueError, match='no patterns'):
        image_of(scan.select(numpy.arange(0)))


def test_a_stop_from_the_report_ends_the_work(scan: Scan) -> None:
    def stop(report: EpochReport) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reconstruct(ReconstructRequest(scan, Config()), stop)


@pytest.mark.parametrize('size', [32, 48, 96])
def test_pattern_sizes_that_the_model_never_met_work(size: int) -> None:
    scan = simulate_scan(
        SimulationSpec(pattern_size=size, num_positions=100, step_px=size / 16, seed=1)
    )
    network = image_of(scan, refine_epochs=1)
    flat = image_of(scan, refine_epochs=1, start='flat')
    assert error_of(scan, network) < 0.75 * error_of(scan, flat)


def test_a_measured_scan_that_it_never_saw_comes_out_right(real_scan: Scan) -> None:
    image = image_of(real_scan, refine_epochs=1)
    area = coverage_mask(real_scan)
    metrics = compare_objects(image.object_, real_scan.object_, weights=area)
    assert metrics.phase_rms_rad < 0.06


def test_a_search_goes_on_while_the_error_of_a_bright_scan_still_falls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It had ended after six epochs, the most that its number of patterns was thought to need."""
    spec = SimulationSpec(
        pattern_size=128, num_positions=480, step_px=10.0, jitter_px=2.0, photons=5e7, seed=0
    )
    large = simulate_scan(replace(spec, object_kind='leaves'))
    image = image_of(large, **ONLY_OBJECT)
    assert len(image.losses) > 12
    # of 5e7 photons the network makes a few per cent of what rounding errors differ by
    assert error_of(large, image) < 0.045
    monkeypatch.setattr(refining, 'STILL_FALLING', 0.0)
    assert error_of(large, image) < 0.8 * error_of(large, image_of(large, **ONLY_OBJECT))


def test_each_preset_makes_a_better_image_than_the_one_before() -> None:
    sparse = simulate_scan(
        SimulationSpec(num_positions=196, step_px=8.0, jitter_px=2.0, object_kind='leaves', seed=0)
    )
    errors = [
        error_of(sparse, reconstruct(ReconstructRequest(sparse, preset(name)), ignore))
        for name in ('quick', 'default', 'best')
    ]
    assert errors[0] > 1.5 * errors[1]
    assert errors[1] > 1.03 * errors[2]


def test_behind_a_beamstop_the_large_scales_are_searched_for_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are in the pixels that it hides."""
    spec = SimulationSpec(num_positions=1024, object_kind='photo', beamstop_px=6.0, seed=0)
    hidden = simulate_scan(spec)
    error = error_of(hidden, image_of(hidden))
    assert error < 0.02
    monkeypatch.setattr(annealing, 'MIN_HIDDEN_SEARCH', 2)
    assert error < 0.8 * error_of(hidden, image_of(hidden))
