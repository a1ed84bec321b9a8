"""Fourier neural operators (Li et al., ICLR 2021) and their factorised form (Tran et al., ICLR 2023).

Layers of two kinds meet: spectral ones weigh the lowest spatial frequencies of all places at once,
convolutions see neighbours. What a detector measures is the Fourier transform of what an image
needs, so a spectral layer sees in one step what convolutions have to collect in many.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ['FactorisedBody', 'FourierBody', 'Lifter']

Maps = Float[Tensor, 'batch _channel height width']


class Lifter(nn.Module):
    """Convolution, GELU, convolution: from what is measured to features."""

    def __init__(self, num_inputs: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Maps) -> Maps:
        """Returns features (B, width, H, W)."""
        return self.conv2(F.gelu(self.conv1(x)))


class SpectralConv(nn.Module):
    """Weighs the lowest spatial frequencies, each with a matrix over channels.

    Args:
        width: Channels.
        num_modes: Frequencies per axis, from zero on.
        has_negative_rows: Whether rows have their negative frequencies too; columns need none, as
            maps are real. The published PtychoPINN leaves them out.
    """

    def __init__(self, width: int, num_modes: int, *, has_negative_rows: bool) -> None:
        super().__init__()
        self.num_modes = num_modes
        shape = (1 + has_negative_rows, width, width, num_modes, num_modes, 2)
        self.weights = nn.Parameter(torch.randn(shape) / (width * 2**0.5))

    def forward(self, x: Maps) -> Maps:
        """Returns maps of the same shape; in single precision, as FFTs need."""
        height, width = x.shape[-2:]
        spectrum = torch.fft.rfft2(x.to(torch.float32))
        weights, number = torch.view_as_complex(self.weights), self.num_modes
        found = torch.zeros_like(spectrum)
        for part, rows in zip(weights, (slice(None, number), slice(-number, None))):
            low = spectrum[:, :, rows, :number]
            found[:, :, rows, :number] = torch.einsum('bixy,ioxy->boxy', low, part)
        return torch.fft.irfft2(found, s=(height, width)).to(x.dtype)


class FactorisedSpectralConv(nn.Module):
    """The sum of two one-dimensional spectral layers, along rows and along columns."""

    def __init__(self, width: int, num_modes: int) -> None:
        super().__init__()
        self.num_modes = num_modes
        shape = (width, width, num_modes, 2)
        self.weights_x = nn.Parameter(torch.randn(shape) / (width * 2**0.5))
        self.weights_y = nn.Parameter(torch.randn(shape) / (width * 2**0.5))

    def forward(self, x: Maps) -> Maps:
        """Returns maps of the same shape."""
        precise = x.to(torch.float32)
        found = self._along(precise, self.weights_x, -1, 'bihw,iow->bohw')
        return (found + self._along(precise, self.weights_y, -2, 'bihw,ioh->bohw')).to(x.dtype)

    def _along(self, x: Tensor, weights: Tensor, dim: int, rule: str) -> Tensor:
        spectrum = torch.fft.rfft(x, dim=dim)
        low = spectrum.narrow(dim, 0, self.num_modes)
        found = torch.zeros_like(spectrum)
        found.narrow(dim, 0, self.num_modes).copy_(
            torch.einsum(rule, low, torch.view_as_complex(weights))
        )
        return torch.fft.irfft(found, n=x.shape[dim], dim=dim)


class FourierBlock(nn.Module):
    """`x + GELU(S x + C x)`: a spectral layer and a convolution beside each other."""

    def __init__(self, width: int, num_modes: int, *, has_negative_rows: bool) -> None:
        super().__init__()
        self.spectral = SpectralConv(width, num_modes, has_negative_rows=has_negative_rows)
        self.local_conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Maps) -> Maps:
        """Returns features of the same shape."""
        return x + F.gelu(self.spectral(x) + self.local_conv(x))


class FourierBody(nn.Module):
    """Lifter, Fourier blocks, a few convolutions, and one projection onto the maps that are wanted.

    Args:
        num_inputs: Channels of the input; `num_outputs` those of the answer.
        width: Channels in between.
        num_modes: See `SpectralConv`, as `has_negative_rows`.
        num_blocks: Fourier blocks.
        num_refiners: Convolutions after them.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        width: int,
        num_modes: int,
        num_blocks: int,
        num_refiners: int,
        has_negative_rows: bool = True,
    ) -> None:
        super().__init__()
        self.lifter = Lifter(num_inputs, width)
        self.blocks = nn.ModuleList(
            FourierBlock(width, num_modes, has_negative_rows=has_negative_rows)
            for _ in range(num_blocks)
        )
        self.intermediate = nn.Conv2d(width, width, 1)
        self.refiners = nn.ModuleList(
            nn.Conv2d(width, width, 3, padding=1) for _ in range(num_refiners)
        )
        self.output = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Maps) -> Maps:
        """Returns maps (B, num_outputs, H, W), not yet activated."""
        x = self.lifter(x)
        for block in self.blocks:
            x = block(x)
        x = self.intermediate(x)
        for refiner in self.refiners:
            x = F.gelu(refiner(x))
        return self.output(x)


class FactorisedBlock(nn.Module):
    """What is done to the answer of a spectral layer that all blocks share."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.InstanceNorm2d(width, affine=True)
        self.expand = nn.Conv2d(width, expansion, 1)
        self.project = nn.Conv2d(expansion, width, 1)

    def forward(self, x: Maps) -> Maps:
        """Returns features of the same shape, to be added with the weight of the gate."""
        return self.project(F.gelu(self.expand(self.norm(x))))


class LocalRefiner(nn.Module):
    """`x + C GELU(C x)`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Maps) -> Maps:
        """Returns features of the same shape."""
        return x + self.conv2(F.gelu(self.conv1(x)))


class FactorisedBody(nn.Module):
    """The factorised operator of the published PtychoPINN: one spectral layer, shared by all blocks.

    Args:
        num_inputs: Channels of the input; `num_outputs` those of the answer.
        width: Channels in between; `expansion` inside of a block.
        num_modes: Frequencies per axis.
        num_blocks: Blocks; `num_refiners` residual convolutions after them.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        *,
        width: int,
        expansion: int,
        num_modes: int,
        num_blocks: int,
        num_refiners: int,
    ) -> None:
        super().__init__()
        self.lifter = Lifter(num_inputs, width)
        self.spectral = FactorisedSpectralConv(width, num_modes)
        self.gate = nn.Parameter(torch.tensor(0.1))
        self.blocks = nn.ModuleList(FactorisedBlock(width, expansion) for _ in range(num_blocks))
        self.refiners = nn.ModuleList(LocalRefiner(width) for _ in range(num_refiners))
        self.output = nn.Conv2d(width, num_outputs, 1)

    def forward(self, x: Maps) -> Maps:
        """Returns maps (B, num_outputs, H, W), not yet activated."""
        x = self.lifter(x)
        for block in self.blocks:
            x = x + self.gate * block(self.spectral(x))
        for refiner in self.refiners:
            x = refiner(x)
        return self.output(x)
