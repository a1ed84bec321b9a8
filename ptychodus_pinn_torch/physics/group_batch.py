"""Groups of patterns, as training draws them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex
from torch import Tensor

from .measurement import Measurement

__all__ = ['GroupBatch']


@dataclass(frozen=True)
class GroupBatch:
    """Groups of patterns as training draws them: a measurement in memory, and what is known.

    Attributes:
        measurement: J patterns of B groups, a canvas for each group.
        object_: The object on the canvases (B, Y, X), where it is the teacher.
        held_out: (J,) True for patterns that the network must not see, or None; on the host.
        scan: Number of the training scan that the groups come from; None for any other.
    """

    measurement: Measurement
    object_: Complex[Tensor, 'group y x'] | None = None
    held_out: Bool[Tensor, ' pattern'] | None = None
    scan: int | None = None

    def seen(self) -> Measurement:
        """Returns what a network may look at: the patterns that are not held out."""
        if self.held_out is None:
            return self.measurement
        return self.measurement.select(~self.held_out)

    def with_probe(self, probe: Complex[Tensor, '*group mode height width']) -> GroupBatch:
        """Returns the batch under another probe."""
        return replace(self, measurement=replace(self.measurement, probe=probe))

    def to(self, device: torch.device) -> GroupBatch:
        """Returns the batch on a device."""
        object_ = None if self.object_ is None else self.object_.to(device, non_blocking=True)
        return replace(self, measurement=self.measurement.to(device), object_=object_)
