"""The convolutional network of PtychoPINN: patterns in, patches of the object out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..config import CnnConfig, NetworkConfig
from .attention import ChannelGate, make_attention
from .blocks import ConvPair
from .stack_network import StackNetwork

__all__ = ['CnnNetwork', 'PatchUNet']

DEFAULT_PATTERN_SIZE = 64
STEM_FROM_PX = 128
BOTTLENECK_PX = 8
MAX_WIDENING = 4


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
            self.encoder.append(_make_level(config, before, width))
        has_gate = config.bottleneck_attention
        self.bottleneck = make_attention('cbam' if has_gate else 'none', widths[-1])
        self.decoder = _make_decoder(config, widths)
        self.second_decoder = None if config.has_shared_decoder else _make_decoder(config, widths)
        self.num_outputs = widths[0]

    def forward(
        self, x: Float[Tensor, 'stack channel height width']
    ) -> list[Float[Tensor, 'stack feature height width']]:
        """Returns the features of each decoder, at the resolution of the input."""
        skips = []
        for index, level in enumerate(self.encoder):
            x = level(F.max_pool2d(x, 2) if index else x)
            skips.append(x)
        x = self.bottleneck(x)
        decoders = (
            [self.decoder] if self.second_decoder is None else [self.decoder, self.second_decoder]
        )
        return [self._decode(decoder, x, skips[-2::-1]) for decoder in decoders]

    def _decode(self, decoder: nn.ModuleList, x: Tensor, skips: Sequence[Tensor]) -> Tensor:
        for level, skip in zip(decoder, skips):
            x = F.interpolate(x, scale_factor=2.0)
            x = level(torch.cat([x, skip], dim=1) if self.has_skips else x)
        return x


def _make_level(config: CnnConfig, num_inputs: int, width: int) -> nn.Sequential:
    pair = ConvPair(num_inputs, width, has_norm=config.has_norm)
    return nn.Sequential(pair, make_attention(config.attention, width))


def _make_decoder(config: CnnConfig, widths: Sequence[int]) -> nn.ModuleList:
    return nn.ModuleList(
        _make_level(config, below + (width if config.has_skips else 0), width)
        for below, width in zip(widths[:0:-1], widths[-2::-1])
    )


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


class CnnNetwork(StackNetwork):
    """The PtychoPINN network, after our own design: single patterns or ordered stacks of C.

    An encoder, and one decoder for both parts of the object or one for each.
    """

    config_type: ClassVar[type[NetworkConfig]] = CnnConfig

    def __init__(self, config: CnnConfig) -> None:
        super().__init__(
            pattern_size=config.pattern_size or DEFAULT_PATTERN_SIZE,
            num_channels=config.num_channels,
            head=config.head,
            amplitude=config.amplitude,
        )
        self.stem = stem_factor(config, self.pattern_size)
        folded = self.num_channels * self.stem**2
        self.body = PatchUNet(config, folded, self.pattern_size // self.stem)
        width = self.body.num_outputs
        self.num_outer = width // 4 if config.has_outer_branch else 0
        is_shared = config.has_shared_decoder
        number = 2 * folded if is_shared else folded
        self.head, self.outer_head = self._make_heads(width, number)
        self.second_head: nn.Conv2d | None = None
        self.second_outer_head: nn.Conv2d | None = None
        if not is_shared:
            self.second_head, self.second_outer_head = self._make_heads(width, number)
        self._start()

    def _make_heads(self, width: int, num_outputs: int) -> tuple[nn.Conv2d, nn.Conv2d | None]:
        """Returns the layers that make maps of features, inside and, where asked, outside."""
        inner = nn.Conv2d(width - self.num_outer, num_outputs, 3, padding=1)
        if not self.num_outer:
            return inner, None
        return inner, nn.Conv2d(self.num_outer, num_outputs, 3, padding=1)

    def _start(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            if isinstance(module, ChannelGate):
                nn.init.ones_(module.squeeze.bias)  # no gate starts with all its rectifiers shut
        for head in (self.head, self.outer_head, self.second_head, self.second_outer_head):
            if head is not None:
                nn.init.zeros_(head.weight)

    def features(
        self, roots: Float[Tensor, 'stack channel height width']
    ) -> Float[Tensor, 'stack feature height width']:
        """Returns 2 C features."""
        x = F.pixel_unshuffle(roots, self.stem) if self.stem > 1 else roots
        # channels last take a quarter less time
        first, *second = self.body(x.contiguous(memory_format=torch.channels_last))
        y = self._map(first, self.head, self.outer_head)
        if second:
            assert self.second_head is not None
            y = torch.cat(
                [y, self._map(second[0], self.second_head, self.second_outer_head)], dim=1
            )
        return F.pixel_shuffle(y, self.stem) if self.stem > 1 else y

    def _map(self, x: Tensor, head: nn.Module, outer_head: nn.Module | None) -> Tensor:
        if outer_head is None:
            return head(x)
        split = x.shape[1] - self.num_outer
        return torch.where(_is_inner(x), head(x[:, :split]), outer_head(x[:, split:]))


def _is_inner(x: Tensor) -> Tensor:
    """Returns the mask (H, W) of the central half."""
    mask = torch.zeros(x.shape[-2:], dtype=torch.bool, device=x.device)
    height, width = x.shape[-2:]
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return mask
