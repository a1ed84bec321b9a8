"""Probes, structure on several scales, and one image alone."""

from __future__ import annotations

import numpy
import pytest
from skimage.metrics import structural_similarity

from ptychodus_pinn_torch.metrics.similarity import (
    compare_probes,
    multiscale_similarity,
    single_image_resolution,
)
from ptychodus_pinn_torch.simulation.sample_objects import make_object
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


@pytest.fixture(scope='module')
def probe() -> numpy.ndarray:
    return simulate_scan(SimulationSpec(num_positions=4, num_modes=3, probe_kind='kb')).probe


def test_a_probe_is_itself_whatever_nobody_can_know(probe: numpy.ndarray) -> None:
    y, x = numpy.mgrid[:64, :64] / 64.0
    spectrum = numpy.fft.fft2(probe) * numpy.exp(
        -2j * numpy.pi * (2.3 * numpy.fft.fftfreq(64)[:, None])
    )
    moved = 3j * numpy.fft.ifft2(spectrum) * numpy.exp(2j * numpy.pi * (0.4 * y - 0.7 * x))
    found = compare_probes(moved, probe)
    assert found.overlap > 0.999 and found.shared_power > 0.999
    assert found.shift_px == pytest.approx((-2.3, 0.0), abs=0.02)
    assert found.power_ratio == pytest.approx(9.0, rel=1e-6)


def test_mixed_modes_are_the_same_beam_and_other_beams_are_not(probe: numpy.ndarray) -> None:
    rng = numpy.random.default_rng(0)
    unitary, _ = numpy.linalg.qr(rng.normal(size=(3, 3)) + 1j * rng.normal(size=(3, 3)))
    mixed = numpy.einsum('ab,byx->ayx', unitary, probe)
    assert compare_probes(mixed, probe).shared_power > 0.9999
    assert compare_probes(mixed, probe).overlap > 0.999
    fewer = compare_probes(probe, probe[:1])
    strengths = numpy.sum(numpy.abs(probe) ** 2, axis=(1, 2))
    assert fewer.shared_power == pytest.approx(strengths[0] / strengths.sum(), abs=0.02)
    defocus = numpy.exp(60j * numpy.add.outer(*[numpy.fft.fftfreq(64) ** 2] * 2))
    other = numpy.fft.ifft2(numpy.fft.fft2(probe) * defocus)
    assert compare_probes(other, probe).overlap < 0.97


def test_probes_that_do_not_fit_are_sentences(probe: numpy.ndarray) -> None:
    with pytest.raises(ValueError, match='both must have one size'):
        compare_probes(probe[:, :32], probe)
    with pytest.raises(ValueError, match='zero everywhere'):
        compare_probes(0 * probe, probe)


def test_on_one_scale_it_is_the_structural_similarity_of_others() -> None:
    rng = numpy.random.default_rng(1)
    reference = rng.random((31, 31))
    test = reference + 0.1 * rng.normal(size=(31, 31))
    wanted, values = structural_similarity(
        reference, test, data_range=float(numpy.ptp(reference)), gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    found = multiscale_similarity(test, reference, numpy.ones((31, 31), dtype=bool))
    assert found == pytest.approx(values.mean(), abs=2e-3) and 0.3 < wanted < 0.99


def test_coarse_errors_count_on_coarse_scales_and_what_is_outside_does_not() -> None:
    rng = numpy.random.default_rng(2)
    reference = numpy.abs(make_object(rng, 'leaves', (256, 256)))
    area = numpy.zeros((256, 256), dtype=bool)
    area[40:200, 30:220] = True
    assert multiscale_similarity(reference, reference, area) == pytest.approx(1.0)
    noise = 0.05 * rng.normal(size=(256, 256))
    fine = multiscale_similarity(reference + noise, reference, area)
    single = multiscale_similarity(
        (reference + noise)[:31, :31], reference[:31, :31], area[50:81, 50:81]
    )
    assert single < fine < 1.0, 'noise from pixel to pixel is gone on coarse scales'
    spoilt = numpy.where(area, reference + noise, 7.0)
    assert multiscale_similarity(spoilt, reference, area) == pytest.approx(fine, abs=1e-9)


def test_one_image_alone_tells_its_independent_noise_and_nothing_of_shared_noise() -> None:
    rng = numpy.random.default_rng(3)
    image = make_object(rng, 'independent', (200, 200))
    area = numpy.ones((200, 200), dtype=bool)
    noise = rng.normal(size=(200, 200)) + 1j * rng.normal(size=(200, 200))
    found = [single_image_resolution(image + part * noise, area) for part in (0.0, 0.1, 0.5)]
    assert 0.5 >= found[0] > 1.3 * found[1] > 2.0 * found[2]
    y, x = numpy.meshgrid(*[numpy.fft.fftfreq(200)] * 2, indexing='ij')
    smooth = numpy.fft.ifft2(numpy.fft.fft2(noise) * numpy.exp(-((y**2 + x**2) / 0.15**2)))
    smooth *= 0.5 * numpy.linalg.norm(noise) / numpy.linalg.norm(smooth)
    assert single_image_resolution(image + smooth, area) > 1.5 * found[2]
