"""What networks have in common that map stacks of patterns to patches, after our own design."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from .patchwise import Level, encoder_parameters, patchwise_canvas, stitch

__all__ = ['AMPLITUDES', 'StackNetwork']

AMPLITUDES = {
    'softplus': (math.log(math.e - 1.0), 1.0),
    'sigmoid': (0.0, 2.0),
    'silu': (1.2784645, 1.0),
    'relu': (1.0, 1.0),
}
"""What makes an amplitude a of a feature x, `a = factor * f(x + shift)`: shift and factor by the name
of f. All are 1 at 0, where networks start."""


class StackNetwork(nn.Module):
    """Sees roots of counts relative to their rms, and answers with patches relative to the mean level.

    The mean level is that of the object that counts and probe imply; so neither dose nor probe
    power matter. Networks start at the flat object. A pattern does not tell the phase of its
    patch as a whole: outside training, phases are synchronised before patches are put together.

    Args:
        pattern_size: N.
        num_channels: C, the patterns that go through the network together.
        head: `amplitude_phase` or `real_imaginary`, what the features stand for.
        amplitude: Name in `AMPLITUDES`.
    """

    needs_level = False
    num_passes = 1
    is_precise = False

    def __init__(self, *, pattern_size: int, num_channels: int, head: str, amplitude: str) -> None:
        super().__init__()
        self.pattern_size, self.num_channels = pattern_size, num_channels
        self.is_polar, self.amplitude = head == 'amplitude_phase', amplitude

    forward = patchwise_canvas
    reconstruct = stitch
    early_parameters = encoder_parameters

    @abstractmethod
    def features(
        self, roots: Float[Tensor, 'stack channel height width']
    ) -> Float[Tensor, 'stack feature height width']:
        """Returns 2 C features of the roots of C patterns; zeros stand for the flat object."""

    def map_stacks(
        self,
        counts: Float[Tensor, 'stack channel height width'],
        photons: Float[Tensor, 'stack channel'],
        level: Level | None,
    ) -> Complex[Tensor, 'stack channel height width']:
        """Returns one patch per pattern (see `PatchwiseNetwork`)."""
        mean = counts.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        features = self.features(torch.sqrt(counts / mean)).to(torch.float32)
        pixels = counts.shape[-2] * counts.shape[-1]
        amplitude = torch.sqrt(mean * pixels / photons.mean(dim=1)[:, None, None, None])
        return amplitude * self._patches(features)

    def _patches(self, features: Tensor) -> Complex[Tensor, 'stack channel height width']:
        first, second = features.chunk(2, dim=1)
        if self.is_polar:
            shift, factor = AMPLITUDES[self.amplitude]
            amplitude = factor * getattr(F, self.amplitude)(first + shift)
            return torch.polar(amplitude, math.pi * torch.tanh(second))
        return torch.complex(1.0 + first, second)
