"""What every network promises: all that training and reconstruction need to know of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar, Protocol, runtime_checkable

from torch import nn

from ..config import NetworkConfig
from ..physics.canvas import Canvas
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement

__all__ = ['Network', 'TrainableNetwork']


@runtime_checkable
class Network(Protocol):
    """Maps measured patterns to a canvas.

    Attributes:
        num_passes: How often a reconstruction goes through all patterns; for the progress line.
        is_precise: Whether its image is so good that the refinement has to be gentle.
    """

    num_passes: int
    is_precise: bool

    def reconstruct(self, measurement: Measurement) -> Canvas:
        """Returns the canvases of a measurement, read by chunks of any size.

        The order of the patterns and the size of the chunks must not matter.
        """


@runtime_checkable
class TrainableNetwork(Network, Protocol):
    """A network that is an `nn.Module` as well; built from the options in `config_type`.

    The entry point of its name in `ptychodus_pinn_torch.networks` names the class.
    """

    config_type: ClassVar[type[NetworkConfig]]

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of groups, differentiable.

        Held-out patterns must not be looked at: `batch.seen()` is what the network may see.
        """

    def early_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the parameters that fine-tuning of the decoder leaves alone."""
