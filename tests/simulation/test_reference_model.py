"""The numpy forward model against known answers and against Ptychodus."""

from __future__ import annotations

import numpy
import pytest

from ptychodus_pinn_torch.metrics.comparison import data_error
from ptychodus_pinn_torch.scan.io.products import make_host_product
from ptychodus_pinn_torch.scan.scan import Scan, split_positions
from ptychodus_pinn_torch.simulation.reference_model import (
    predict_counts,
    shift_probe,
    take_patches,
)


def _random(rng, *shape):
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)


def test_counts_of_an_empty_object_add_up_to_the_photons_of_the_probe():
    rng = numpy.random.default_rng(0)
    probe = _random(rng, 2, 32, 32)
    positions = numpy.array([[20.3, 21.7], [25.0, 19.5]])
    counts = predict_counts(numpy.ones((50, 48), dtype=complex), probe, positions)
    numpy.testing.assert_allclose(counts.sum(axis=(1, 2)), numpy.sum(numpy.abs(probe) ** 2))


def test_a_flat_wave_lands_on_the_middle_pixel():
    probe = numpy.ones((1, 32, 32), dtype=complex)
    counts = predict_counts(numpy.ones((40, 40)), probe, numpy.array([[15.5, 15.5]]))[0]
    assert numpy.unravel_index(counts.argmax(), counts.shape) == (16, 16)
    assert counts[16, 16] == pytest.approx(32.0**2)


def test_a_ramp_along_x_moves_the_beam_along_x():
    probe = numpy.ones((1, 32, 32), dtype=complex)
    ramp = numpy.exp(2j * numpy.pi * 5 * numpy.arange(40) / 32) * numpy.ones((40, 1))
    counts = predict_counts(ramp, probe, numpy.array([[15.5, 15.5]]))[0]
    assert numpy.unravel_index(counts.argmax(), counts.shape) == (16, 21)


def test_whole_pixel_shift_of_the_probe_is_a_roll():
    probe = _random(numpy.random.default_rng(1), 2, 16, 16)
    shifted = shift_probe(probe, numpy.array([[2.0, -3.0]]))[0]
    numpy.testing.assert_allclose(shifted, numpy.roll(probe, (2, -3), axis=(1, 2)), atol=1e-12)


def test_position_names_the_centre_of_the_window():
    object_ = numpy.arange(60.0 * 70.0).reshape(60, 70)
    corners, rest = split_positions(numpy.array([[20.0, 31.25]]), (32, 32))
    patch = take_patches(object_, corners, (32, 32))[0]
    centre_value = patch[15:17, 15:17].mean()
    # The rest is what the integer window misses of the centre.
    exact = 20.0 * 70.0 + 31.25
    assert centre_value + rest[0, 0] * 70.0 + rest[0, 1] == pytest.approx(exact)


def test_counts_agree_with_ptychodus_own_simulation(tiny_scan: Scan):
    from ptychodus.api.simulate.diffraction import generate_diffraction_data

    product = make_host_product(tiny_scan, tiny_scan.truth, tiny_scan.positions_px,
                                tiny_scan.probe.astype(complex), [])  # fmt: skip
    host = numpy.asarray(generate_diffraction_data(product).get_patterns())
    ours = predict_counts(tiny_scan.truth, tiny_scan.probe, tiny_scan.positions_px)
    scale = host.sum() / ours.sum()
    # The host splits positions by truncation; windows one pixel apart see slightly other borders.
    error = numpy.sum((numpy.sqrt(host / scale) - numpy.sqrt(ours)) ** 2) / ours.sum()
    assert error < 1e-4


def test_stored_object_explains_the_measured_counts(real_scan: Scan):
    indices = numpy.arange(0, real_scan.num_patterns, 13)
    error = data_error(real_scan, real_scan.object_, real_scan.probe, indices)
    assert error == pytest.approx(0.0089, abs=2e-4)


def test_error_of_the_truth_is_the_photon_noise(simulated_scan: Scan):
    error = data_error(simulated_scan, simulated_scan.truth, simulated_scan.probe)
    flat = data_error(simulated_scan, simulated_scan.object_, simulated_scan.probe)
    # A quarter of a count per pixel where there are counts (Anscombe, Biometrika 35, 246, 1948).
    bound = 0.25 * 64 * 64 / simulated_scan.mean_counts()
    assert 0.5 * bound < error < 1.3 * bound
    assert flat > 10.0 * error
