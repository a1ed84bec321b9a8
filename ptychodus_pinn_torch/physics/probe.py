"""The probe: under sub-pixel shifts, and where its power is."""

from __future__ import annotations

import math

import numpy
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

__all__ = ['probe_spectrum', 'shift_probe', 'shift_spectrum', 'support_box', 'unshift_probe']

SUPPORT_POWER = 0.999


def _ramp(size: int, shifts: Tensor, dtype: torch.dtype) -> Tensor:
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    frequencies = torch.fft.fftfreq(size, dtype=real, device=shifts.device)
    angle = -2.0 * math.pi * shifts.to(real)[:, None] * frequencies
    return torch.polar(torch.ones_like(angle), angle)


def probe_spectrum(
    probe: Complex[Tensor, '*batch mode height width'],
) -> Complex[Tensor, '*batch mode height width']:
    """Returns what `shift_spectrum` takes; made once for a probe that is shifted often."""
    return torch.fft.fft2(probe)


def shift_spectrum(
    spectrum: Complex[Tensor, '*pattern mode height width'],
    shifts: Float[Tensor, 'pattern 2'],
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns the probe modes whose spectrum is given, moved by `shifts` (y, x) pixels.

    `spectrum` is (P, H, W), the same for all patterns, or (J, P, H, W).
    """
    height, width = spectrum.shape[-2:]
    ramp_y = _ramp(height, shifts[:, 0], spectrum.dtype)[:, :, None]
    ramp_x = _ramp(width, shifts[:, 1], spectrum.dtype)[:, None, :]
    ramp = (ramp_y * ramp_x)[:, None]
    if spectrum.ndim == 3:
        spectrum = spectrum[None]
    return torch.fft.ifft2(spectrum * ramp)


def shift_probe(
    probe: Complex[Tensor, '*pattern mode height width'],
    shifts: Float[Tensor, 'pattern 2'],
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns the probe modes moved by `shifts` (y, x) pixels, once per pattern.

    `probe` is (P, H, W), the same for all patterns, or (J, P, H, W).

    Exact for band-limited periodic modes (Fourier shift theorem); power is conserved.
    """
    return shift_spectrum(probe_spectrum(probe), shifts)


def unshift_probe(
    modes: Complex[Tensor, 'pattern mode height width'],
    shifts: Float[Tensor, 'pattern 2'],
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns modes moved back by `shifts`; the adjoint of `shift_probe` for each pattern."""
    return shift_spectrum(probe_spectrum(modes), -shifts)


def support_box(power: NDArray[numpy.floating]) -> tuple[slice, slice]:
    """Returns the smallest centred box, a multiple of 8, with 99.9 % of the probe's power.

    The whole window if none has. `power` is (H, W).
    """
    height, width = power.shape
    total = float(power.sum())
    for cut in range((min(height, width) - 8) // 8 * 4, 0, -4):
        box = (slice(cut, height - cut), slice(cut, width - cut))
        if float(power[box].sum()) >= SUPPORT_POWER * total:
            return box
    return slice(0, height), slice(0, width)
