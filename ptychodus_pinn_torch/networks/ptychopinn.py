"""The networks of the published PtychoPINN codes, for weights that were trained with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from ..config import NetworkConfig, PtychoPinnConfig
from .attention import AttentionKind, make_attention
from .blocks import ConvPair
from .fourier import FactorisedBody, FourierBody
from .patchwise import Level, encoder_parameters, patchwise_canvas, stitch
from .pinn_layout import PinnLayout

__all__ = ['PinnLayout', 'PtychoPinnNetwork']

BORDER_FLOOR = 1e-3
"""Added by TensorFlow's merge to the number of patches whose central half covers a pixel."""


class PoolLevel(nn.Module):
    """An encoder level: two convolutions, attention, a maximum over 2 x 2 pixels."""

    def __init__(
        self, num_inputs: int, width: int, attention: AttentionKind, has_norm: bool
    ) -> None:
        super().__init__()
        self.pair = ConvPair(num_inputs, width, has_norm=has_norm)
        self.gate = make_attention(attention, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features at half the size, and those for the skip at the same size."""
        x = self.gate(self.pair(x))
        return F.max_pool2d(x, 2), F.avg_pool2d(x, 2)


class Refiner(nn.Sequential):
    """Three convolutions that are added to their input; rectified before, between and after."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__(
            nn.Conv2d(width, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Returns features of the same shape."""
        return F.relu(x + super().forward(x))


class PinnDecoder(nn.Module):
    """From the bottleneck to one of the two maps, not yet activated: inner and outer part."""

    def __init__(
        self, layout: PinnLayout, num_outputs: int, *, has_norm: bool, is_shared: bool = False
    ) -> None:
        super().__init__()
        widths = [layout.encoder_widths[-1], *layout.decoder_widths]
        self.num_outer = layout.outer_channels
        self.levels = nn.ModuleList(
            ConvPair(a, b, has_norm=has_norm) for a, b in zip(widths, widths[1:])
        )
        skips = layout.encoder_widths[-2::-1] if layout.has_skips else ()
        self.merges = nn.ModuleList(
            ConvPair(width + skip, width) for width, skip in zip(widths[1:], skips)
        )
        self.refiners = nn.ModuleList(
            Refiner(*pair) for pair in zip(widths[1:], layout.refiner_widths if is_shared else ())
        )
        self.gate = make_attention('eca' if is_shared else 'none', widths[-1])
        self.inner = nn.Conv2d(widths[-1] - self.num_outer, num_outputs, 3, padding=1)
        self.inner_norm = nn.BatchNorm2d(num_outputs) if has_norm else nn.Identity()
        self.has_outer = layout.has_outer
        if layout.has_outer:
            self.outer_pair = ConvPair(self.num_outer, layout.outer_width, has_norm=has_norm)
            self.outer = nn.Conv2d(layout.outer_width, num_outputs, 3, padding=1)
            self.outer_norm = nn.BatchNorm2d(num_outputs) if has_norm else nn.Identity()

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns the inner part at half the pattern size, and the outer one at full size."""
        for index, level in enumerate(self.levels):
            x = F.interpolate(level(x), scale_factor=2.0)
            if len(self.merges):
                x = self.merges[index](torch.cat([x, skips[-1 - index]], dim=1))
            if len(self.refiners):
                x = self.refiners[index](x)
        x = self.gate(x)
        split = x.shape[1] - self.num_outer
        inner = self.inner_norm(self.inner(x[:, :split]))
        if not self.has_outer:
            return inner, None
        outer = F.interpolate(self.outer_pair(x[:, split:]), scale_factor=2.0)
        return inner, self.outer_norm(self.outer(outer))


class PtychoPinnNetwork(nn.Module):
    """A published PtychoPINN network with its own normalisation; results come in our units.

    Runs, and can be trained on. Its patches are scaled as a whole so that they let through the
    counts that were measured.
    """

    needs_level = True
    num_passes = 1
    is_precise = False
    config_type: ClassVar[type[NetworkConfig]] = PtychoPinnConfig

    def __init__(self, config: PtychoPinnConfig) -> None:
        super().__init__()
        if not config.layout:
            raise ValueError(
                'network.kind = ptychopinn is for converted models: choose cnn to train '
                'a new one, or name the model to start from.'
            )
        layout = PinnLayout.from_text(config.layout)
        self.layout = layout
        self.pattern_size, self.num_channels = layout.pattern_size, layout.num_channels
        if layout.operator != 'none':
            self.operator = _make_operator(layout)
            return
        widths = [layout.num_channels, *layout.encoder_widths]
        self.encoder = nn.ModuleList(
            PoolLevel(a, b, layout.encoder_attention, layout.has_norm)
            for a, b in zip(widths, widths[1:])
        )
        kind: AttentionKind = 'cbam' if layout.has_bottleneck_attention else 'none'
        self.bottleneck = make_attention(kind, widths[-1])
        channels, has_norm = (layout.first_channels, layout.second_channels), layout.has_norm
        if layout.has_shared_decoder:
            self.shared = PinnDecoder(layout, sum(channels), has_norm=has_norm, is_shared=True)
        else:  # the first decoder of the published code never has batch normalisation
            self.first = PinnDecoder(layout, channels[0], has_norm=False)
            self.second = PinnDecoder(layout, channels[1], has_norm=has_norm)

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
        patches = self.patches(self._normalised(counts, level))
        if self.layout.has_amplified_border:
            patches = patches / (_central_half(patches) + BORDER_FLOOR)
        return patches.expand(-1, self.num_channels, -1, -1)

    def _normalised(self, counts: Tensor, level: Level | None) -> Tensor:
        """Returns the input as the published code scales it."""
        layout = self.layout
        x = torch.sqrt(counts) if layout.is_input_root else counts
        target = layout.input_energy * layout.pattern_size**2
        if layout.is_group_scaled or level is None:
            power = x.square().sum(dim=(-2, -1)).mean(dim=1)[:, None, None, None]
            return x * torch.sqrt(target / power.clamp(min=1e-12))
        energy = level.counts if layout.is_input_root else level.squared_counts
        return x * math.sqrt(target / max(energy, 1e-12))

    def patches(
        self, x: Float[Tensor, 'stack channel height width']
    ) -> Complex[Tensor, 'stack output height width']:
        """Returns what the published network answers to a normalised input."""
        first, second = self._maps(x)
        if self.layout.object_kind != 'polar':
            return torch.complex(first.to(torch.float32), second.to(torch.float32))
        real, imaginary = first * torch.cos(second), first * torch.sin(second)
        return torch.complex(real.to(torch.float32), imaginary.to(torch.float32))

    def _maps(self, x: Tensor) -> list[Tensor]:
        """Returns the two maps: amplitude and phase, or real and imaginary part."""
        activations, layout = _activations(self.layout), self.layout
        if layout.operator != 'none':
            return [act(part) for act, part in zip(activations, self.operator(x).chunk(2, dim=1))]
        skips = []
        for stage in self.encoder:
            x, skip = stage(x)
            skips.append(skip)
        x = self.bottleneck(x)
        if layout.has_shared_decoder:
            inner, outer = self.shared(x, skips[:-1])
            parts = _sum(inner, self._bordered(outer)).split(
                [layout.first_channels, layout.second_channels], dim=1
            )
            return [act(part) for act, part in zip(activations, parts)]
        both = self.first(x, skips[:-1]), self.second(x, skips[:-1])
        if layout.object_kind == 'rectangular':
            return [act(_sum(*parts)) for act, parts in zip(activations, both)]
        return [
            _sum(act(inner), self._bordered(outer))
            for act, (inner, outer) in zip(activations, both)
        ]

    def _bordered(self, outer: Tensor | None) -> Tensor | None:
        """Returns the outer part, activated and, where the layout says so, zero in the middle."""
        if outer is None:
            return None
        outer = F.silu(outer)
        return outer * (1.0 - _central_half(outer)) if self.layout.is_masked else outer


def _make_operator(layout: PinnLayout) -> nn.Module:
    channels = layout.num_channels, layout.first_channels + layout.second_channels
    sizes: dict[str, Any] = {
        'width': layout.operator_width,
        'num_modes': layout.num_modes,
        'num_blocks': layout.num_blocks,
        'num_refiners': layout.num_refiners,
    }
    if layout.operator == 'fno':
        return FourierBody(*channels, **sizes, has_negative_rows=False)
    return FactorisedBody(*channels, **sizes, expansion=layout.operator_expansion)


def _activations(layout: PinnLayout) -> Sequence[Callable[[Tensor], Tensor]]:
    """Returns what acts on the first and on the second map."""
    if layout.object_kind == 'rectangular':
        return torch.tanh, torch.tanh
    if layout.object_kind == 'shifted_rectangular':
        return (lambda x: torch.tanh(x) + 0.2), (lambda x: 1.2 * torch.tanh(x))
    if layout.object_kind == 'plain_rectangular':
        return nn.Identity(), nn.Identity()
    return getattr(F, layout.activation), (lambda x: math.pi * torch.tanh(x))


def _padded(inner: Tensor) -> Tensor:
    """Returns maps of half the pattern size with zeros around them."""
    return F.pad(inner, (inner.shape[-1] // 2,) * 2 + (inner.shape[-2] // 2,) * 2)


def _sum(inner: Tensor, outer: Tensor | None) -> Tensor:
    padded = _padded(inner)
    return padded if outer is None else padded + outer


def _central_half(x: Any) -> Tensor:
    """Returns ones (H, W) on the central half, zeros around it."""
    height, width = x.shape[-2:]
    return _padded(torch.ones(1, 1, height // 2, width // 2, device=x.device))[0, 0]
