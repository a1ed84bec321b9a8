"""Photon noise of the roots of counts, against drawn counts."""

from __future__ import annotations

import torch

from ptychodus_pinn_torch.physics.noise import lost_part, root_bias, root_noise

EXPECTED = torch.tensor([1e-3, 0.03, 0.3, 1.0, 3.0, 20.0, 120.0, 1e4])


def drawn() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.poisson(EXPECTED.repeat(400_000, 1), generator=generator).to(torch.float64)


def test_noise_and_bias_are_those_of_drawn_counts() -> None:
    counts = drawn()
    noise = (counts.sqrt() - EXPECTED.sqrt()).square().mean(dim=0)
    torch.testing.assert_close(root_noise(EXPECTED).to(noise), noise, rtol=0.05, atol=2e-4)
    bias = EXPECTED - counts.sqrt().mean(dim=0).square()
    clear = EXPECTED < 100.0  # above, the mean of so many draws is not exact enough
    torch.testing.assert_close(
        root_bias(EXPECTED)[clear].to(bias), bias[clear], rtol=0.05, atol=0.02
    )


def test_mended_roots_of_bright_pixels_are_right_on_average() -> None:
    bright = EXPECTED >= 3.0
    missing = 1.0 - drawn().sqrt().mean(dim=0) / EXPECTED.sqrt()
    mended = missing - lost_part(EXPECTED)
    assert (mended[bright].abs() < 0.35 * missing[bright].abs() + 1e-5).all()
    assert lost_part(EXPECTED)[0] < 1e-4  # dim pixels stay as they are


def test_what_does_not_stand_out_from_the_background_is_not_mended() -> None:
    background = torch.tensor(2.0)
    parts = lost_part(torch.tensor([2.1, 4.0, 100.0]), background)
    assert parts[0] < 0.05 * parts[1]
    assert parts[2] > 0.9 * lost_part(torch.tensor([100.0]))[0]
