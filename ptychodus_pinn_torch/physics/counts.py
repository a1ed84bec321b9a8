"""Measured counts by index: in memory, or read whenever they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ['Counts', 'SomeCounts']


@runtime_checkable
class Counts(Protocol):
    """Measured counts by index: a tensor in memory, or a scan that is read as needed."""

    @property
    def shape(self) -> Sequence[int]:
        """(N, H, W)."""

    def __getitem__(self, indices: Any, /) -> Any:
        """Returns (J, H, W), float32, corner order of frequencies, on the measurement's device."""


@dataclass(frozen=True)
class SomeCounts:
    """Those of some patterns, read whenever somebody asks for them.

    Attributes:
        everything: The counts of all patterns.
        chosen: (J,) numbers of those that are looked at, on the host.
    """

    everything: Counts
    chosen: Tensor

    @property
    def shape(self) -> Sequence[int]:
        """(J, H, W)."""
        return (len(self.chosen), *self.everything.shape[1:])

    def __getitem__(self, indices: Tensor) -> Tensor:
        return self.everything[self.chosen[indices]]  # type: ignore[no-any-return]

    def total(self) -> float:
        """Returns the sum of all counts."""
        return sum(float(self[part].sum()) for part in torch.arange(len(self.chosen)).split(256))
