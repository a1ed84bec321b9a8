"""One step of the positions, from what the patterns say of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..physics.chunk import Chunk
from ..physics.forward_model import Exposure
from ..physics.propagation import to_detector
from ..physics.roots import square_root

__all__ = ['expected_spread', 'position_change']

FIRST_SPREAD_PX, LEAST_SPREAD_PX = 1.0, 0.1
"""Errors that positions are expected to have before any has moved; and at least, afterwards."""

ROOT_VARIANCE = 0.25
"""Of the root of a Poisson count."""


def expected_spread(moves: Float[Tensor, 'pattern 2']) -> Float[Tensor, '']:
    """Returns the standard deviation, per axis, of errors of positions that have moved so far, pixels."""
    squares = moves.square().mean(dim=1)
    usual = torch.minimum(squares, 9.0 * squares.median()).mean().sqrt()
    return torch.where((moves == 0.0).all(), FIRST_SPREAD_PX, usual.clamp(min=LEAST_SPREAD_PX))


def position_change(
    exposure: Exposure, chunk: Chunk, moved: Tensor, spread: Tensor
) -> Float[Tensor, 'pattern 2']:
    """Returns one Gauss-Newton step of the positions on the detector amplitudes, in pixels.

    It is drawn back towards the given position as strongly as photon noise could have `moved` (J, 2)
    it, if errors of positions have a certain `spread`: a frame that says little stays.

    The amplitude A changes with the position by `sum_p Re(conj(F_p) F[dP_p O]) / A`; the two
    slopes are fitted to `sqrt(D) - A`, pattern by pattern. In the sample plane the same fit would
    be dominated by the phase ramp that a shift puts on the far field, and that no detector sees.
    """
    slopes = _amplitude_slopes(exposure, chunk)
    residual = chunk.roots(0.0) - square_root(exposure.expected)
    if chunk.good_pixels is not None:
        residual = residual * chunk.good_pixels
        slopes = [slope * chunk.good_pixels for slope in slopes]

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=(-2, -1))

    a, b, c = dot(slopes[0], slopes[0]), dot(slopes[0], slopes[1]), dot(slopes[1], slopes[1])
    hold = ROOT_VARIANCE / spread**2
    p = dot(slopes[0], residual) - hold * moved[:, 0]
    q = dot(slopes[1], residual) - hold * moved[:, 1]
    # over a flat object the slopes are rounding noise and must not move anything
    damping = 1e-3 * (a + c) + 1e-6 * exposure.expected.sum(dim=(-2, -1)) + hold
    a, c = a + damping, c + damping
    determinant = a * c - b * b
    return torch.stack([(c * p - b * q) / determinant, (a * q - b * p) / determinant], dim=1)


def _amplitude_slopes(exposure: Exposure, chunk: Chunk) -> Sequence[Tensor]:
    """Returns by how much the amplitudes (J, H, W) change per pixel of shift in y and in x."""
    height, width = chunk.window
    spectrum = torch.fft.fft2(chunk.probe)
    frequencies = (
        torch.fft.fftfreq(height, device=spectrum.device)[:, None],
        torch.fft.fftfreq(width, device=spectrum.device)[None, :],
    )
    amplitude = square_root(exposure.expected) + 1e-6
    slopes, far_field = [], exposure.far_field
    for frequency in frequencies:
        derivative = torch.fft.ifft2(spectrum * (-2j * torch.pi * frequency))
        change = to_detector(derivative * exposure.patches[:, None])
        real = (far_field.real * change.real + far_field.imag * change.imag).sum(dim=1)
        slopes.append(real / amplitude)
    return slopes
