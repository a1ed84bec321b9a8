"""The convolutional network of PtychoPINN: patterns in, patches of the object out."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from ..config import CnnConfig, NetworkConfig
from .attention import ChannelGate, make_attention
from .blocks import ConvPair
from .patchwise import Level, encoder_parameters, patchwise_canvas, stitch

__all__ = ['CnnNetwork', 'PatchUNet']

DEFAULT_PATTERN_SIZE = 64
STEM_FROM_PX = 128
BOTTLENECK_PX = 8
MAX_WIDENING = 4
ONE = math.log(math.e - 1.0)
"""softplus(ONE) = 1."""


class PatchUNet(nn.Module):
    """Encoder and decoder between a stack of patterns and as many feature maps as asked for.

    The encoder halves the size until it is about 8 px, doubling the channels up to four times the
    first width; the decoder mirrors it, with skips (Ronneberger et al., 2015) where asked. Every
    level ends in the attention of the configuration.
    """

    def __init__(self, config: CnnConfig, num_inputs: int, size: int) -> None:
        super().__init__()
        self.has_skips = config.has_skips
        widths = [
            config.first_width * min(2**level, MAX_WIDENING)
            for level in range(num_levels(size) + 1)
        ]
        self.encoder = nn.ModuleList()
        for before, width in zip([num_inputs, *widths], widths):
            attention = make_attention(config.attention, width)
            self.encoder.append(nn.Sequential(ConvPair(before, width), attention))
        self.decoder = nn.ModuleList()
        for below, width in zip(widths[:0:-1], widths[-2::-1]):
            attention = make_attention(config.attention, width)
            num_merged = below + (width if config.has_skips else 0)
            self.decoder.append(nn.Sequential(ConvPair(num_merged, width), attention))
        self.num_outputs = widths[0]

    def forward(
        self, x: Float[Tensor, 'stack channel height width']
    ) -> Float[Tensor, 'stack feature height width']:
        """Returns features at the resolution of the input."""
        skips = []
        for index, level in enumerate(self.encoder):
            x = level(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        for level, skip in zip(self.decoder, skips[-2::-1]):
            x = F.interpolate(x, scale_factor=2.0)
            x = level(torch.cat([x, skip], dim=1) if self.has_skips else x)
        return x


def num_levels(size: int) -> int:
    """Returns how often a size can be halved without going below about 8 px."""
    levels = 0
    while size % 2 == 0 and size // 2 >= BOTTLENECK_PX:
        size, levels = size // 2, levels + 1
    return levels


def stem_factor(config: CnnConfig, size: int) -> int:
    """Returns the pixels per side that are folded into channels at the entrance.

    Raises:
        ValueError: the pattern size is no multiple of it.
    """
    factor = config.stem or (2 if size >= STEM_FROM_PX and size % 4 == 0 else 1)
    if size % factor:
        raise ValueError(
            f'network.stem = {factor} does not divide patterns of {size} px: choose 1, or crop '
            'the patterns.'
        )
    return factor


class CnnNetwork(nn.Module):
    """The PtychoPINN network, after our own design: single patterns or ordered stacks of C.

    It sees the roots of counts relative to their rms, and answers with patches relative to the
    mean level of the object that counts and probe imply; so neither dose nor probe power matter.
    It starts at the flat object. A pattern does not tell the phase of its patch as a whole:
    outside training, phases are synchronised before patches are put together.
    """

    needs_level = False
    num_passes = 1
    is_precise = False
    config_type: ClassVar[type[NetworkConfig]] = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        self.pattern_size = config.pattern_size or DEFAULT_PATTERN_SIZE
        self.num_channels = config.num_channels
        self.is_polar = config.head == 'amplitude_phase'
        self.stem = stem_factor(config, self.pattern_size)
        folded = self.num_channels * self.stem**2
        self.body = PatchUNet(config, folded, self.pattern_size // self.stem)
        width = self.body.num_outputs
        self.num_outer = width // 4 if config.has_outer_branch else 0
        self.head = nn.Conv2d(width - self.num_outer, 2 * folded, 3, padding=1)
        self.outer_head = (
            nn.Conv2d(self.num_outer, 2 * folded, 3, padding=1) if self.num_outer else None
        )
        self._start()

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, ChannelGate):
                nn.init.ones_(module.squeeze.bias)  # no gate starts with all its rectifiers shut
        for head in (self.head, self.outer_head):
            if head is not None:
                nn.init.zeros_(head.weight)

    forward = patchwise_canvas
    reconstruct = stitch
    early_parameters = encoder_parameters

    def map_stacks(
        self,
        counts: Float[Tensor, 'stack channel height width'],
        photons: Float[Tensor, 'stack channel'],
        level: Level | None,
    ) -> Complex[Tensor, 'stack channel height width']:
        """Returns one patch per pattern (see `PatchwiseNetwork`)."""
        mean = counts.mean(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
        features = self._features(torch.sqrt(counts / mean))
        pixels = counts.shape[-2] * counts.shape[-1]
        amplitude = torch.sqrt(mean * pixels / photons.mean(dim=1)[:, None, None, None])
        return amplitude * self._patches(features.to(torch.float32))

    def _features(self, roots: Tensor) -> Float[Tensor, 'stack feature height width']:
        x = F.pixel_unshuffle(roots, self.stem) if self.stem > 1 else roots
        x = self.body(x.contiguous(memory_format=torch.channels_last))  # a quarter less time
        if self.outer_head is None:
            y = self.head(x)
        else:
            split = x.shape[1] - self.num_outer
            y = torch.where(_is_inner(x), self.head(x[:, :split]), self.outer_head(x[:, split:]))
        return F.pixel_shuffle(y, self.stem) if self.stem > 1 else y

    def _patches(self, features: Tensor) -> Complex[Tensor, 'stack channel height width']:
        first, second = features.chunk(2, dim=1)
        if self.is_polar:
            return torch.polar(F.softplus(first + ONE), math.pi * torch.tanh(second))
        return torch.complex(1.0 + first, second)


def _is_inner(x: Tensor) -> Tensor:
    """Returns the mask (H, W) of the central half."""
    mask = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
    height, width = x.shape[-2:]
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return mask
