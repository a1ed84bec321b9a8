"""The networks of the published PtychoPINN codes, for weights that were trained with them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from ..config import NetworkConfig, PtychoPinnConfig
from .attention import AttentionKind, make_attention
from .blocks import ConvPair
from .patchwise import Level, encoder_parameters, patchwise_canvas, stitch

__all__ = ['PinnLayout', 'PtychoPinnNetwork']

Activation = Literal['sigmoid', 'silu', 'softplus', 'relu']
ObjectKind = Literal['polar', 'rectangular', 'shifted_rectangular']
BORDER_FLOOR = 1e-3
"""Added by TensorFlow's merge to the number of patches whose central half covers a pixel."""


@dataclass(frozen=True)
class PinnLayout:
    """Everything that tells one published network from another.

    Attributes:
        family: The code it comes from.
        pattern_size: N.
        num_channels: C, patterns stacked at the entrance.
        encoder_widths: Channels of each encoder level; each level halves the size.
        decoder_widths: Channels of each decoder level; each level doubles the size.
        outer_channels: Features that go to the outer branch, the last of the decoder.
        outer_width: Channels of the outer branch.
        first_channels: Output channels of the first decoder, amplitude or real part: 1 or C.
        second_channels: Output channels of the second decoder, phase or imaginary part.
        activation: Of the amplitude.
        object_kind: polar; rectangular: tanh of both; shifted_rectangular: tanh + 0.2, 1.2 tanh.
        encoder_attention: After each encoder level.
        has_bottleneck_attention: CBAM after the encoder.
        has_skips: Whether the decoder levels see the encoder's.
        has_outer: Whether the outer branch is used.
        is_masked: Whether the outer branch is zero in the central half.
        has_amplified_border: Whether patches are divided as TensorFlow's merge does.
        is_input_root: Whether the input is the root of the counts, or the counts.
        input_energy: Mean of the sum of squares of an input, in units of N**2.
        is_group_scaled: Whether that mean is taken over each stack instead of the scan.
    """

    family: Literal['tensorflow', 'latent', 'torchapi', 'main']
    pattern_size: int
    num_channels: int
    encoder_widths: tuple[int, ...]
    decoder_widths: tuple[int, ...]
    outer_channels: int
    outer_width: int
    first_channels: int
    second_channels: int
    activation: Activation = 'silu'
    object_kind: ObjectKind = 'polar'
    encoder_attention: AttentionKind = 'none'
    has_bottleneck_attention: bool = False
    has_skips: bool = False
    has_outer: bool = True
    is_masked: bool = False
    has_amplified_border: bool = False
    is_input_root: bool = False
    input_energy: float = 1.0
    is_group_scaled: bool = False

    def to_text(self) -> str:
        """Returns the layout as the configuration holds it."""
        return json.dumps(asdict(self), separators=(',', ':'))

    @classmethod
    def from_text(cls, text: str) -> PinnLayout:
        """Returns the layout that a configuration holds.

        Raises:
            ValueError: not the text of a layout.
        """
        try:
            values = json.loads(text)
            names = {item.name for item in fields(cls)}
            given: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
                if name in names
            }
            layout = cls(**given)
            layout.check()
        except (TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(
                'network.layout is no layout of a PtychoPINN network: convert the '
                'model with ptychodus-pinn convert instead of writing it by hand.'
            ) from error
        return layout

    def check(self) -> None:
        """Refuses a layout that no published network has.

        Raises:
            ValueError: says which part is wrong.
        """
        size, levels = self.pattern_size, len(self.encoder_widths)
        if levels < 2 or size % 2**levels or size < 16 or size > 1024:
            raise ValueError(f'a PtychoPINN network of {levels} levels cannot take {size} px.')
        if len(self.decoder_widths) != levels - 1:
            raise ValueError(
                f'a PtychoPINN network with {levels} encoder levels has {levels - 1} decoder '
                f'levels, not {len(self.decoder_widths)}.'
            )
        widths = (*self.encoder_widths, *self.decoder_widths, self.outer_width)
        if min(widths) < 1 or max(widths) > 4096:
            raise ValueError(f'a PtychoPINN network cannot have layers of {max(widths)} channels.')
        if not 0 < self.outer_channels < self.decoder_widths[-1]:
            raise ValueError(f'the outer branch cannot take {self.outer_channels} channels.')
        known = (
            (self.activation, Activation),
            (self.object_kind, ObjectKind),
            (self.encoder_attention, AttentionKind),
        )
        for value, choices in known:
            if value not in get_args(choices):
                raise ValueError(f'{value!r} is none of {", ".join(get_args(choices))}.')


class PoolLevel(nn.Module):
    """An encoder level: two convolutions, attention, a maximum over 2 x 2 pixels."""

    def __init__(self, num_inputs: int, width: int, attention: AttentionKind) -> None:
        super().__init__()
        self.pair = ConvPair(num_inputs, width)
        self.gate = make_attention(attention, width)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns features at half the size, and those for the skip at the same size."""
        x = self.gate(self.pair(x))
        return F.max_pool2d(x, 2), F.avg_pool2d(x, 2)


class PinnDecoder(nn.Module):
    """From the bottleneck to one of the two maps, not yet activated: inner and outer part."""

    def __init__(self, layout: PinnLayout, num_outputs: int) -> None:
        super().__init__()
        widths = [layout.encoder_widths[-1], *layout.decoder_widths]
        self.num_outer = layout.outer_channels
        self.levels = nn.ModuleList(ConvPair(a, b) for a, b in zip(widths, widths[1:]))
        skips = layout.encoder_widths[-2::-1] if layout.has_skips else ()
        self.merges = nn.ModuleList(
            ConvPair(width + skip, width) for width, skip in zip(widths[1:], skips)
        )
        self.inner = nn.Conv2d(widths[-1] - self.num_outer, num_outputs, 3, padding=1)
        if layout.has_outer:
            self.outer_pair = ConvPair(self.num_outer, layout.outer_width)
            self.outer = nn.Conv2d(layout.outer_width, num_outputs, 3, padding=1)
        self.has_outer = layout.has_outer

    def forward(self, x: Tensor, skips: Sequence[Tensor]) -> tuple[Tensor, Tensor | None]:
        """Returns the inner part at half the pattern size, and the outer one at full size."""
        for index, level in enumerate(self.levels):
            x = F.interpolate(level(x), scale_factor=2.0)
            if len(self.merges):
                x = self.merges[index](torch.cat([x, skips[-1 - index]], dim=1))
        split = x.shape[1] - self.num_outer
        inner = self.inner(x[:, :split])
        if not self.has_outer:
            return inner, None
        return inner, self.outer(F.interpolate(self.outer_pair(x[:, split:]), scale_factor=2.0))


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
        widths = [layout.num_channels, *layout.encoder_widths]
        self.encoder = nn.ModuleList(
            PoolLevel(a, b, layout.encoder_attention) for a, b in zip(widths, widths[1:])
        )
        kind: AttentionKind = 'cbam' if layout.has_bottleneck_attention else 'none'
        self.bottleneck = make_attention(kind, widths[-1])
        self.first = PinnDecoder(layout, layout.first_channels)
        self.second = PinnDecoder(layout, layout.second_channels)

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
        skips = []
        for stage in self.encoder:
            x, skip = stage(x)
            skips.append(skip)
        x = self.bottleneck(x)
        first, second = self.first(x, skips[:-1]), self.second(x, skips[:-1])
        layout = self.layout
        if layout.object_kind == 'rectangular':
            real, imaginary = (torch.tanh(_sum(*part)) for part in (first, second))
        elif layout.object_kind == 'shifted_rectangular':
            real = self._activated(torch.tanh(first[0]) + 0.2, first[1])
            imaginary = self._activated(1.2 * torch.tanh(second[0]), second[1])
        else:
            inner = getattr(F, layout.activation)(first[0])
            amplitude = self._activated(inner, first[1])
            phase = self._activated(math.pi * torch.tanh(second[0]), second[1])
            real, imaginary = amplitude * torch.cos(phase), amplitude * torch.sin(phase)
        return torch.complex(real.to(torch.float32), imaginary.to(torch.float32))

    def _activated(self, inner: Tensor, outer: Tensor | None) -> Tensor:
        if outer is None:
            return _padded(inner)
        outer = F.silu(outer)
        if self.layout.is_masked:
            outer = outer * (1.0 - _central_half(outer))
        return _sum(inner, outer)


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
