"""Figures of merit: known truths, and nothing from outside the compared area."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy
import pytest
from numpy.typing import NDArray

from ptychodus_pinn_torch.metrics.comparison import (
    compare_objects,
    coverage_map,
    coverage_mask,
    data_error,
)
from ptychodus_pinn_torch.metrics.registration import register
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.sample_objects import make_object

SHAPE = (150, 130)


@pytest.fixture(scope='module')
def truth() -> NDArray[numpy.complex64]:
    """A band-limited object: a Fourier shift of it is exact."""
    object_ = make_object(numpy.random.default_rng(2), 'independent', SHAPE)
    spectrum = numpy.fft.fft2(object_)
    frequency = numpy.hypot(*numpy.meshgrid(*map(numpy.fft.fftfreq, SHAPE), indexing='ij'))
    return numpy.fft.ifft2(spectrum * numpy.exp(-((frequency / 0.25) ** 4))).astype(complex)


@pytest.fixture(scope='module')
def mask() -> NDArray[numpy.bool_]:
    y, x = numpy.indices(SHAPE)
    return numpy.hypot(y - 70, 1.2 * (x - 66)) < 45


def _disguise(object_, *, shift=(0.0, 0.0)):
    """Returns the object under another factor, ramp and position: the same measurement."""
    y, x = numpy.indices(object_.shape)
    frequency_y, frequency_x = map(numpy.fft.fftfreq, object_.shape)
    ramp = numpy.exp(
        -2j * numpy.pi * (frequency_y[:, None] * shift[0] + frequency_x[None, :] * shift[1])
    )
    moved = numpy.fft.ifft2(numpy.fft.fft2(object_) * ramp)
    return 2.7 * numpy.exp(1j * (0.9 + 0.021 * y - 0.034 * x)) * moved


def test_an_image_is_at_no_distance_from_itself(truth, mask):
    for weights in (None, mask):
        metrics = compare_objects(truth, truth, weights=weights)
        assert metrics.nrmse < 1e-12 and metrics.phase_rms_rad < 1e-12
        assert metrics.ssim_phase == pytest.approx(1.0)
        assert metrics.frc_half_per_nyquist == 1.0
        assert metrics.psnr_phase_dB > 150.0


@pytest.mark.parametrize('shift', [(0.0, 0.0), (0.3, -0.2), (1.4, 0.9), (-3.0, 2.0)])
def test_factor_ramp_and_shift_do_not_count(truth, mask, shift):
    metrics = compare_objects(_disguise(truth, shift=shift), truth, weights=mask)
    assert metrics.nrmse < 2e-3 and metrics.phase_rms_rad < 2e-3
    assert metrics.shift_px == pytest.approx((-shift[0], -shift[1]), abs=0.01)
    assert metrics.ssim_amplitude > 0.999 and metrics.frc_half_per_nyquist == 1.0


def test_whole_array_is_compared_without_weights(truth):
    metrics = compare_objects(_disguise(truth, shift=(0.3, -0.2)), truth)
    assert metrics.num_pixels == truth.size and metrics.nrmse < 0.02


def test_noise_is_measured_as_it_is_also_in_disguise(truth, mask):
    rng = numpy.random.default_rng(0)
    noise = 0.05 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE))
    expected = numpy.linalg.norm(noise[mask]) / numpy.linalg.norm(truth[mask])
    plain = compare_objects(truth + noise, truth, weights=mask)
    disguised = compare_objects(_disguise(truth + noise, shift=(0.4, 0.1)), truth, weights=mask)
    assert plain.nrmse == pytest.approx(expected, rel=0.02)
    assert disguised.nrmse == pytest.approx(expected, rel=0.03)
    assert disguised.ssim_phase == pytest.approx(plain.ssim_phase, abs=0.02)
    assert disguised.frc_half_per_nyquist == pytest.approx(plain.frc_half_per_nyquist, abs=0.05)


@pytest.mark.parametrize('outside', [0.0, numpy.nan, 1e6, 'shifted'])
def test_pixels_outside_the_area_have_no_influence(truth, mask, outside):
    rng = numpy.random.default_rng(0)
    image = truth + 0.05 * rng.normal(size=SHAPE)
    other = numpy.roll(image, 9, axis=0) if outside == 'shifted' else outside
    spoilt = numpy.where(mask, image, other)
    spoilt_truth = numpy.where(mask, truth, 3.0)
    reference = compare_objects(image, truth, weights=mask)
    for first, second in ((spoilt, truth), (image, spoilt_truth), (spoilt, spoilt_truth)):
        metrics = compare_objects(first, second, weights=mask)
        assert metrics.nrmse == pytest.approx(reference.nrmse, rel=1e-3)
        assert metrics.phase_rms_rad == pytest.approx(reference.phase_rms_rad, rel=1e-3)
        assert metrics.frc_half_per_nyquist == pytest.approx(
            reference.frc_half_per_nyquist, abs=0.02
        )


def test_a_wrong_area_is_not_excused(truth, mask):
    half = mask & (numpy.indices(SHAPE)[1] < 66)
    image = numpy.where(half, 1.0, truth)
    assert compare_objects(image, truth, weights=mask).nrmse > 0.1


def test_blurring_lowers_the_ring_correlation_where_it_should(truth, mask):
    rng = numpy.random.default_rng(3)
    frequency = numpy.hypot(*numpy.meshgrid(*map(numpy.fft.fftfreq, SHAPE), indexing='ij'))
    spectrum = numpy.fft.fft2(truth)
    wrong = numpy.fft.fft2(0.2 * (rng.normal(size=SHAPE) + 1j * rng.normal(size=SHAPE)))
    image = numpy.fft.ifft2(numpy.where(frequency < 0.2, spectrum, wrong))
    assert compare_objects(image, truth).frc_half_per_nyquist == pytest.approx(0.4, abs=0.03)


def test_flat_and_empty_images_are_the_null(truth, mask):
    flat = compare_objects(numpy.ones(SHAPE), truth, weights=mask)
    area = truth[mask]
    null = numpy.sqrt(1 - abs(area.mean()) ** 2 / numpy.mean(numpy.abs(area) ** 2))
    assert 0.9 * null < flat.nrmse < 1.01 * null, 'a ramp may help a flat image a little'
    assert flat.frc_half_per_nyquist < 0.1 and flat.ssim_phase < 0.3
    empty = compare_objects(numpy.zeros(SHAPE), truth, weights=mask)
    assert empty.nrmse == pytest.approx(1.0, abs=0.01)


def test_flat_object_on_the_measured_scan_is_at_the_known_distance(real_scan: Scan):
    mask = coverage_mask(real_scan)
    flat = compare_objects(numpy.ones_like(real_scan.object_), real_scan.object_, weights=mask)
    assert flat.phase_rms_rad == pytest.approx(0.39, abs=0.02)
    assert flat.nrmse == pytest.approx(0.38, abs=0.01)


def test_coverage_is_the_stored_illumination(real_scan: Scan, real_scan_path):
    with numpy.load(real_scan_path) as file:
        stored = file['illumination']
    numpy.testing.assert_allclose(coverage_map(real_scan), stored, atol=0.02)


def test_psnr_and_ssim_are_those_of_ptychodus_on_a_whole_array(truth):
    from ptychodus.api.metrics import (
        compute_peak_signal_to_noise_ratio,
        compute_structural_similarity,
    )

    rng = numpy.random.default_rng(1)
    image = truth + 0.04 * rng.normal(size=SHAPE)
    metrics = compare_objects(image, truth)
    ones = numpy.ones(SHAPE)
    aligned = register(image, truth, ones, numpy.ones(2)).array
    assert metrics.psnr_amplitude_dB == pytest.approx(
        compute_peak_signal_to_noise_ratio(numpy.abs(truth), numpy.abs(aligned))
    )
    assert metrics.ssim_amplitude == pytest.approx(
        compute_structural_similarity(numpy.abs(truth), numpy.abs(aligned)), abs=1e-6
    )
    assert metrics.amplitude_range == pytest.approx(numpy.ptp(numpy.abs(truth)))


def test_phases_beyond_pi_do_not_wrap_into_errors(truth, mask):
    steep = numpy.abs(truth) * numpy.exp(6j * numpy.angle(truth))
    metrics = compare_objects(steep * numpy.exp(2.9j), steep, weights=mask)
    assert metrics.phase_rms_rad < 1e-6 and metrics.ssim_phase == pytest.approx(1.0)


def test_figures_are_json(truth):
    values = json.loads(json.dumps(compare_objects(truth, truth).to_dict(), allow_nan=False))
    assert values['nrmse'] < 1e-9 and len(values['frc_frequency']) == len(values['frc_correlation'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda t, w: (t[:-1], t, w), 'both must be on one grid'),
        (lambda t, w: (t, t, w[1:]), 'the weights have shape'),
        (lambda t, w: (t, t, w * 0), 'only 0 pixels have a weight'),
        (lambda t, w: (t * numpy.nan, t, w), 'the image is not finite'),
        (lambda t, w: (t, t * 0, w), 'the reference is zero'),
    ],
)
def test_what_cannot_be_compared_is_refused(truth, mask, change, message):
    image, reference, weights = change(truth, mask)
    with pytest.raises(ValueError, match=message):
        compare_objects(image, reference, weights=weights)


def test_error_on_some_patterns_is_that_of_a_scan_of_them(simulated_scan: Scan):
    rows = numpy.array([3, 99, 50])
    part = simulated_scan.select(rows)
    assert data_error(
        simulated_scan, simulated_scan.truth, simulated_scan.probe, rows
    ) == pytest.approx(data_error(part, part.truth, part.probe))


def test_bad_pixels_do_not_enter_the_error(simulated_scan: Scan):
    patterns = numpy.array(simulated_scan.patterns, dtype=numpy.uint32)
    patterns[:, 7, 8] = 10**6
    good = simulated_scan.good_pixels.copy()
    good[7, 8] = False
    spoilt = replace(simulated_scan, patterns=patterns)
    masked = replace(spoilt, good_pixels=good)
    assert data_error(masked, masked.truth, masked.probe) < 0.003
    assert data_error(spoilt, spoilt.truth, spoilt.probe) > 0.3
