"""Propagation to the far field, unitary, with the order of frequencies that the FFT likes."""

from __future__ import annotations

from typing import Any

import numpy
import torch
from jaxtyping import Complex, Float
from torch import Tensor

__all__ = [
    'center_frequencies',
    'corner_frequencies',
    'intensity',
    'squared_modulus',
    'to_detector',
    'to_sample',
]


def to_detector(
    wave: Complex[Tensor, '*batch height width'],
) -> Complex[Tensor, '*batch height width']:
    """Returns the far field of exit waves (Fraunhofer diffraction).

    Convention: unitary, zero frequency at [0, 0] (corner order); see `center_frequencies`.
    """
    return torch.fft.fft2(wave, norm='ortho')


def to_sample(
    far_field: Complex[Tensor, '*batch height width'],
) -> Complex[Tensor, '*batch height width']:
    """Returns the exit waves of far fields; the inverse and the adjoint of `to_detector`."""
    return torch.fft.ifft2(far_field, norm='ortho')


def intensity(
    far_field: Complex[Tensor, '*batch mode height width'],
) -> Float[Tensor, '*batch height width']:
    """Returns the counts that a detector expects: modes add incoherently."""
    counts: Tensor = _SquaredModulus.apply(far_field)
    return counts[..., 0, :, :] if counts.shape[-3] == 1 else counts.sum(dim=-3)


def squared_modulus(field: Complex[Tensor, '*shape']) -> Float[Tensor, '*shape']:
    """Returns `re**2 + im**2`; its gradient is finite everywhere, zero included."""
    return _SquaredModulus.apply(field)


class _SquaredModulus(torch.autograd.Function):
    """One pass forward and one backward, where autograd would take eight."""

    @staticmethod
    def forward(ctx: Any, field: Tensor) -> Tensor:
        ctx.save_for_backward(field)
        if field.device.type == 'cpu' and torch.get_num_threads() == 1:
            # on one core, numpy goes through strided numbers twice as fast
            values = field.detach().resolve_conj().numpy()
            found = numpy.square(values.real)
            found += numpy.square(values.imag)
            return torch.from_numpy(numpy.asarray(found))
        real, imaginary = field.real, field.imag
        return torch.addcmul(real * real, imaginary, imaginary)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (field,) = ctx.saved_tensors
        return field * (2.0 * gradient)


def center_frequencies(
    counts: Float[Tensor, '*batch height width'],
) -> Float[Tensor, '*batch height width']:
    """Returns counts with zero frequency at [H//2, W//2], as files hold them."""
    return torch.fft.fftshift(counts, dim=(-2, -1))


def corner_frequencies(
    counts: Float[Tensor, '*batch height width'],
) -> Float[Tensor, '*batch height width']:
    """Returns counts with zero frequency at [0, 0], as the FFT has them."""
    return torch.fft.ifftshift(counts, dim=(-2, -1))
