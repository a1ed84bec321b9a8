"""What tells the published PtychoPINN networks from each other."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from ..trees import parse_json, show
from .attention import AttentionKind

__all__ = ['PinnLayout']

Activation = Literal['sigmoid', 'silu', 'softplus', 'relu']
ObjectKind = Literal['polar', 'rectangular', 'shifted_rectangular', 'plain_rectangular']
OperatorKind = Literal['none', 'fno', 'ffno']


MAX_NUMBER = 4096
"""Of anything that a layout counts: pixels, channels, modes, blocks."""


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
        object_kind: polar; rectangular: tanh of both; shifted_rectangular: tanh + 0.2, 1.2 tanh;
            plain_rectangular: as they come.
        encoder_attention: After each encoder level.
        has_bottleneck_attention: CBAM after the encoder.
        has_skips: Whether the decoder levels see the encoder's.
        has_outer: Whether the outer branch is used.
        is_masked: Whether the outer branch is zero in the central half.
        has_amplified_border: Whether patches are divided as TensorFlow's merge does.
        is_input_root: Whether the input is the root of the counts, or the counts.
        input_energy: Mean of the sum of squares of an input, in units of N**2.
        is_group_scaled: Whether that mean is taken over each stack instead of the scan.
        has_norm: Batch normalisation in the encoder and the second decoder, or the shared one.
        has_shared_decoder: One decoder makes both maps, and refines its features at each level.
        refiner_widths: Channels inside of the refinement of each of its levels.
        operator: A Fourier operator instead of encoder and decoders; of what follows.
        operator_width: Its channels; `operator_expansion` those inside of its blocks.
        num_modes: Spatial frequencies per axis that its spectral layers weigh.
        num_blocks: Its blocks; `num_refiners` the convolutions after them.
    """

    family: Literal['tensorflow', 'latent', 'torchapi', 'main']
    pattern_size: int
    num_channels: int
    encoder_widths: tuple[int, ...] = ()
    decoder_widths: tuple[int, ...] = ()
    outer_channels: int = 0
    outer_width: int = 0
    first_channels: int = 1
    second_channels: int = 1
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
    has_norm: bool = False
    has_shared_decoder: bool = False
    refiner_widths: tuple[int, ...] = ()
    operator: OperatorKind = 'none'
    operator_width: int = 0
    operator_expansion: int = 0
    num_modes: int = 0
    num_blocks: int = 0
    num_refiners: int = 0

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
            values = parse_json(text)
            names = {item.name for item in fields(cls)}
            given: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value
                for name, value in values.items()
                if name in names
            }
            layout = cls(**given)
        except (TypeError, AttributeError, ValueError) as error:
            raise ValueError(
                'network.layout is no layout of a PtychoPINN network: convert the '
                'model with ptychodus-pinn convert instead of writing it by hand.'
            ) from error
        layout.check()
        return layout

    def check(self) -> None:
        """Refuses a layout that no published network has.

        Raises:
            ValueError: says which part is wrong.
        """
        self._check_numbers()
        if not 0.0 < self.input_energy < math.inf:
            raise ValueError(f'input_energy of a PtychoPINN network cannot be {self.input_energy}.')
        if self.operator == 'none':
            self._check_levels()
        else:
            self._check_operator()
        known = (
            (self.activation, Activation),
            (self.object_kind, ObjectKind),
            (self.encoder_attention, AttentionKind),
            (self.operator, OperatorKind),
        )
        for value, choices in known:
            if value not in get_args(choices):
                raise ValueError(f'{value!r} is none of {", ".join(get_args(choices))}.')

    def _check_numbers(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            is_list = str(item.type) == 'tuple[int, ...]'
            numbers = value if is_list and isinstance(value, tuple) else (value,)
            if (is_list or str(item.type) == 'int') and not all(
                isinstance(number, int) and 0 <= number <= MAX_NUMBER for number in numbers
            ):
                raise ValueError(f'{item.name} of a PtychoPINN network cannot be {show(value)}.')
            if not isinstance(value, (str, int, float, tuple)):
                raise ValueError(f'{item.name} of a PtychoPINN network cannot be {show(value)}.')

    def _check_levels(self) -> None:
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
        if self.has_shared_decoder and len(self.refiner_widths) != len(self.decoder_widths):
            raise ValueError('a shared decoder refines the features of every level.')

    def _check_operator(self) -> None:
        if not 16 <= self.pattern_size <= 1024 or not 1 <= self.operator_width <= 4096:
            raise ValueError(
                f'a Fourier operator of {self.operator_width} channels cannot take '
                f'{self.pattern_size} px.'
            )
        if not 1 <= self.num_modes <= self.pattern_size // 2 or not 1 <= self.num_blocks <= 256:
            raise ValueError(
                f'a Fourier operator has 1 to 256 blocks, and 1 to {self.pattern_size // 2} '
                f'modes for patterns of {self.pattern_size} px, not {self.num_modes}.'
            )
