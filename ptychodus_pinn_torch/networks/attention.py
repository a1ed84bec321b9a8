"""Attention: gates that weigh channels and places of feature maps."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ['AttentionKind', 'ChannelGate', 'EfficientChannelGate', 'SpatialGate', 'make_attention']

AttentionKind = Literal['none', 'cbam', 'eca', 'spatial']


class ChannelGate(nn.Module):
    """Weighs channels by a small perceptron on their means and maxima.

    The channel half of CBAM (Woo et al., ECCV 2018).
    """

    def __init__(self, num_channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, num_channels // reduction)
        self.squeeze = nn.Linear(num_channels, hidden)
        self.excite = nn.Linear(hidden, num_channels)

    def forward(
        self, x: Float[Tensor, 'batch channel height width']
    ) -> Float[Tensor, 'batch channel height width']:
        """Returns the weighted features."""
        weights = sum(
            self.excite(F.relu(self.squeeze(pooled)))
            for pooled in (x.mean(dim=(-2, -1)), x.amax(dim=(-2, -1)))
        )
        return x * torch.sigmoid(weights)[..., None, None]


class SpatialGate(nn.Module):
    """Weighs places by a convolution on the maximum and the mean over channels (CBAM)."""

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.compress = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(
        self, x: Float[Tensor, 'batch channel height width']
    ) -> Float[Tensor, 'batch channel height width']:
        """Returns the weighted features."""
        summary = torch.stack([x.amax(dim=1), x.mean(dim=1)], dim=1)
        return x * torch.sigmoid(self.compress(summary))


class EfficientChannelGate(nn.Module):
    """Weighs channels by a convolution along their means (ECA, Wang et al., CVPR 2020)."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(
        self, x: Float[Tensor, 'batch channel height width']
    ) -> Float[Tensor, 'batch channel height width']:
        """Returns the weighted features."""
        weights = self.conv(x.mean(dim=(-2, -1))[:, None])[:, 0]
        return x * torch.sigmoid(weights)[..., None, None]


def make_attention(kind: AttentionKind, num_channels: int) -> nn.Module:
    """Returns the attention of that kind; `none` passes features through."""
    if kind == 'cbam':
        return nn.Sequential(ChannelGate(num_channels), SpatialGate())
    if kind == 'eca':
        return EfficientChannelGate()
    if kind == 'spatial':
        return SpatialGate()
    return nn.Identity()
