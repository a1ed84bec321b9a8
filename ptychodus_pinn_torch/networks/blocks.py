"""Building blocks that networks share."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..physics.team import ALONE, Team

__all__ = ['CanvasUNet', 'ConvPair', 'Features']

Features = Callable[[slice, slice], Tensor]
Use = Callable[[slice, slice, Tensor], None]

HALO_PX = 32
"""No output pixel of `CanvasUNet` depends on an input pixel farther away than this."""

SMALLEST_TILE_PX = 96
"""Height of a tile that is computed as the whole is, bit by bit."""


class ConvPair(nn.Module):
    """Two 3x3 convolutions, each followed by a rectifier; where asked, by a norm before it."""

    def __init__(self, num_inputs: int, num_outputs: int, *, has_norm: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_inputs, num_outputs, 3, padding=1)
        self.conv2 = nn.Conv2d(num_outputs, num_outputs, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(num_outputs) if has_norm else nn.Identity()
        self.bn2 = nn.BatchNorm2d(num_outputs) if has_norm else nn.Identity()

    def forward(
        self, x: Float[Tensor, 'batch channel height width']
    ) -> Float[Tensor, 'batch output height width']:
        """Returns features at the same resolution."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class CanvasUNet(nn.Module):
    """A three-level U-Net (Ronneberger et al., 2015) for canvases of any size.

    Average pooling, nearest upsampling and zero-initialised biases; the last layer starts at a
    tenth of its usual size, so that the network begins as a small correction.
    """

    def __init__(self, num_inputs: int, num_outputs: int, width: int) -> None:
        super().__init__()
        self.down0 = ConvPair(num_inputs, width)
        self.down1 = ConvPair(width, 2 * width)
        self.bottom = ConvPair(2 * width, 2 * width)
        self.up1 = ConvPair(4 * width, 2 * width)
        self.up0 = ConvPair(3 * width, width)
        self.last = nn.Conv2d(width, num_outputs, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
                assert module.bias is not None
                nn.init.zeros_(module.bias)
        with torch.no_grad():
            self.last.weight.mul_(0.05)

    def forward(
        self, x: Float[Tensor, 'batch channel height width']
    ) -> Float[Tensor, 'batch output height width']:
        """Returns the correction, of the same height and width."""
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % 4, 0, -height % 4))
        level0 = self.down0(x)
        level1 = self.down1(F.avg_pool2d(level0, 2))
        level2 = self.bottom(F.avg_pool2d(level1, 2))
        level1 = self.up1(torch.cat([F.interpolate(level2, scale_factor=2.0), level1], dim=1))
        level0 = self.up0(torch.cat([F.interpolate(level1, scale_factor=2.0), level0], dim=1))
        return self.last(level0)[..., :height, :width]

    def forward_tiled(
        self,
        features: Features,
        shape: tuple[int, int, int],
        use: Use,
        tile: int = 256,
        team: Team = ALONE,
    ) -> None:
        """Hands over the same as `forward` returns, tile by tile, in bounded memory.

        Args:
            features: Returns what `forward` takes, on some rows and columns of the canvases.
            shape: (B, Y, X) of the canvases.
            use: Takes rows, columns and the output there (B, C, y, x). It may change what
                `features` looks at in that place: no other tile needs it any more.
            tile: Pixels per side.
            team: Processes that share the tiles.
        """
        number, height, width = shape
        everything, sides = (slice(0, height), slice(0, width)), _sides(shape, tile, team.size)
        places = [(y, x) for y in range(0, height, sides[0]) for x in range(0, width, sides[1])]
        if len(places) == 1:
            use(*everything, self(features(*everything)))
            return
        if team.size == 1:
            waiting: list[tuple[slice, slice, Tensor]] = []
            for y, x in places:
                # a row of tiles looks at the one before, and at none before that
                while waiting and waiting[0][0].start < y - sides[0]:
                    use(*waiting.pop(0))
                waiting.append(self._on_tile(features, shape, (y, x), sides))
            for found in waiting:
                use(*found)
            return
        device = self.last.weight.device
        whole = torch.zeros((number, self.last.out_channels, height, width), device=device)
        for place in places[team.rank :: team.size]:
            rows, columns, output = self._on_tile(features, shape, place, sides)
            whole[..., rows, columns] = output
        use(*everything, team.add_up(whole))

    def _on_tile(
        self,
        features: Features,
        shape: tuple[int, int, int],
        place: tuple[int, int],
        sides: tuple[int, int],
    ) -> tuple[slice, slice, Tensor]:
        """Returns rows and columns of the tile that begins at a place, and the output there."""
        (y, x), (_, height, width) = place, shape
        top, left = max(0, y - HALO_PX), max(0, x - HALO_PX)
        bottom, right = min(height, y + sides[0]), min(width, x + sides[1])
        window = slice(top, bottom + HALO_PX), slice(left, right + HALO_PX)
        inside = slice(y - top, bottom - top), slice(x - left, right - left)
        found = self(features(*window))[..., *inside].clone()
        return slice(y, bottom), slice(x, right), found


def _sides(shape: tuple[int, int, int], tile: int, size: int) -> tuple[int, int]:
    """Returns the sides of tiles of about one size, as pooling wants them; a few take the least time.

    For a team, which shares them, they are so many that each process has as many, unless they get
    so small that they would be computed otherwise, in their last bits, than larger ones.
    """
    _, height, width = shape
    rows, columns = (max(1, -(-(length - 2 * HALO_PX) // tile)) for length in (height, width))
    shared = -(-rows // size) * size
    rows = shared if height >= shared * SMALLEST_TILE_PX else rows
    return -(-height // (4 * rows)) * 4, -(-width // (4 * columns)) * 4
