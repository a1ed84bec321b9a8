"""Probe, propagation and forward model: conservation, known answers, gradients."""

from __future__ import annotations

import math

import numpy
import pytest
import torch

from ptychodus_pinn_torch.physics.forward_model import ForwardModel, expected_counts
from ptychodus_pinn_torch.physics.probe import shift_probe, unshift_probe
from ptychodus_pinn_torch.physics.propagation import (
    center_frequencies,
    corner_frequencies,
    intensity,
    squared_modulus,
    to_detector,
    to_sample,
)
from ptychodus_pinn_torch.simulation.reference_model import predict_counts


def random_complex(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.complex128, generator=generator)


def soft_probe(size: int = 16, modes: int = 2) -> torch.Tensor:
    axis = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    envelope = torch.exp(-(axis[:, None] ** 2 + axis[None] ** 2) / (2 * 2.0**2))
    ramp = torch.exp(0.3j * axis)[None, :]
    return torch.stack([(m + 1) * envelope * ramp**m for m in range(modes)]).to(torch.complex128)


def test_propagation_conserves_photons_and_inverts() -> None:
    wave = random_complex(3, 2, 16, 16)
    far_field = to_detector(wave)
    assert torch.allclose(intensity(far_field).sum(), squared_modulus(wave).sum(), rtol=1e-12)
    assert torch.allclose(to_sample(far_field), wave, atol=1e-12)


def test_frequency_orders_are_inverse_for_odd_and_even_sizes() -> None:
    for size in (6, 7):
        counts = torch.rand(2, size, size)
        assert torch.equal(corner_frequencies(center_frequencies(counts)), counts)


def test_a_plane_wave_lands_on_its_frequency() -> None:
    size, frequency = 16, (3, -2)
    axis = torch.arange(size, dtype=torch.float64)
    wave = torch.exp(
        2j * math.pi * (frequency[0] * axis[:, None] + frequency[1] * axis[None]) / size
    )
    pattern = center_frequencies(intensity(to_detector(wave[None, None])))[0]
    peak = divmod(int(pattern.argmax()), size)
    assert peak == (size // 2 + frequency[0], size // 2 + frequency[1])
    assert float(pattern[peak]) == pytest.approx(size**2)


def test_shift_by_whole_pixels_is_a_roll_and_power_is_conserved() -> None:
    probe = soft_probe()
    moved = shift_probe(probe, torch.tensor([[2.0, -3.0], [0.37, 0.21]], dtype=torch.float64))
    assert torch.allclose(moved[0], torch.roll(probe, (2, -3), dims=(-2, -1)), atol=1e-12)
    assert torch.allclose(squared_modulus(moved[1]).sum(), squared_modulus(probe).sum())


def test_unshift_is_the_adjoint_of_shift() -> None:
    probe, other = random_complex(2, 8, 8), random_complex(3, 2, 8, 8, seed=1)
    shifts = torch.tensor([[0.2, -0.4], [0.0, 0.5], [-0.3, 0.1]], dtype=torch.float64)
    left = torch.vdot(shift_probe(probe, shifts).flatten(), other.flatten())
    right = torch.vdot(probe.flatten(), unshift_probe(other, shifts).sum(dim=0).flatten())
    assert torch.allclose(left, right, rtol=1e-12)


def test_forward_model_agrees_with_the_numpy_reference() -> None:
    rng = numpy.random.default_rng(0)
    object_ = (rng.random((40, 44)) + 1j * rng.random((40, 44))).astype(numpy.complex64)
    probe = soft_probe().to(torch.complex64)
    positions = rng.uniform(9.0, 30.0, (5, 2))
    reference = predict_counts(object_, probe.numpy(), positions)
    corners = torch.from_numpy(numpy.floor(positions - 7.5 + 0.5)).to(torch.int64)
    shifts = torch.from_numpy(positions - 7.5) - corners
    ours = expected_counts(
        torch.from_numpy(object_)[None],
        torch.zeros(5, dtype=torch.int64),
        corners,
        shift_probe(probe, shifts),
    )
    difference = numpy.abs(center_frequencies(ours).numpy() - reference).max()
    assert difference < 1e-5 * reference.max()


def test_an_empty_frame_holds_the_photons_of_the_probe() -> None:
    probe = soft_probe()
    canvas = torch.ones(1, 20, 20, dtype=torch.complex128)
    counts = expected_counts(canvas, torch.tensor([0]), torch.tensor([[1, 2]]), probe[None])
    assert torch.allclose(counts.sum(), squared_modulus(probe).sum(), rtol=1e-12)


def test_modes_add_incoherently() -> None:
    probe = soft_probe(modes=2)
    canvas = random_complex(1, 20, 20)
    rows, corners = torch.tensor([0]), torch.tensor([[1, 2]])
    both = expected_counts(canvas, rows, corners, probe[None])
    each = sum(expected_counts(canvas, rows, corners, mode[None, None]) for mode in probe)
    assert torch.allclose(both, each, rtol=1e-12)


def test_gradients_of_the_forward_model_are_right_in_double_precision() -> None:
    canvas = random_complex(1, 7, 8).requires_grad_()
    probe = random_complex(2, 2, 5, 5, seed=3).requires_grad_()
    rows, corners = torch.tensor([0, 0]), torch.tensor([[0, 0], [2, 3]])

    def model(c: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        return expected_counts(c, rows, corners, p)

    assert torch.autograd.gradcheck(model, (canvas, probe))


def test_trained_probe_starts_at_the_given_one_and_scale_scales_counts() -> None:
    given = soft_probe().to(torch.complex64)
    model = ForwardModel([given], train_probe=True, train_scale=True)
    assert torch.equal(model.probe(0), given)
    assert float(model.probe_departure()) == 0.0
    assert model.log_scale.requires_grad
