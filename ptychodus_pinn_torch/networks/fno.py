"""A Fourier neural operator: patterns in, patches of the object out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..config import FnoConfig, NetworkConfig
from .fourier import FourierBody
from .stack_network import StackNetwork

__all__ = ['FnoNetwork']

DEFAULT_PATTERN_SIZE = 64


class FnoNetwork(StackNetwork):
    """Spectral layers (Li et al., ICLR 2021) between patterns and patches; see `StackNetwork`.

    Raises:
        ValueError: more modes than patterns of that size have.
    """

    config_type: ClassVar[type[NetworkConfig]] = FnoConfig

    def __init__(self, config: FnoConfig) -> None:
        super().__init__(
            pattern_size=config.pattern_size or DEFAULT_PATTERN_SIZE,
            num_channels=config.num_channels,
            head=config.head,
            amplitude=config.amplitude,
        )
        if config.num_modes > self.pattern_size // 2:
            raise ValueError(
                f'network.num_modes = {config.num_modes}: patterns of {self.pattern_size} px have '
                f'{self.pattern_size // 2} at most.'
            )
        self.body = FourierBody(
            config.num_channels,
            2 * config.num_channels,
            width=config.operator_width,
            num_modes=config.num_modes,
            num_blocks=config.num_blocks,
            num_refiners=config.num_refiners,
        )
        nn.init.zeros_(self.body.output.weight)
        assert self.body.output.bias is not None
        nn.init.zeros_(self.body.output.bias)

    def features(
        self, roots: Float[Tensor, 'stack channel height width']
    ) -> Float[Tensor, 'stack feature height width']:
        """Returns 2 C features."""
        return self.body(roots)

    def early_parameters(self) -> Iterator[nn.Parameter]:
        """Returns the lifter and the first half of the blocks."""
        yield from self.body.lifter.parameters()
        yield from self.body.blocks[: len(self.body.blocks) // 2].parameters()
