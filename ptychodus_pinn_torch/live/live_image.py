"""What a live reconstruction says and shows at one moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy
from numpy.typing import NDArray

__all__ = ['LiveImage', 'LiveStatus']


@dataclass(frozen=True)
class LiveStatus:
    """How far a live reconstruction is.

    Attributes:
        frames: Frames that have come, each number once; `positions` likewise.
        joined: Frames with counts and position.
        waiting_frames: Frames without a position; `waiting_positions` likewise.
        repeated: Frames and positions that came again and were left out.
        far: Joined frames that are left out of the image, too far from the others.
        late: Frames that came after `finish`, and are not in its image.
        seen: Joined frames that are in the image.
        lag_s: How long the oldest joined frame has been waiting to be seen; 0 when all are.
        frames_per_s: Rate at which frames were joined in the last seconds.
        trouble: What has gone wrong with the image; frames are kept all the same.
    """

    frames: int
    positions: int
    joined: int
    waiting_frames: int
    waiting_positions: int
    repeated: int
    late: int
    seen: int
    lag_s: float
    frames_per_s: float
    trouble: str = ''
    far: int = 0

    def sentence(self) -> str:
        """Returns the same as a line."""
        parts = [f'{self.seen} of {self.joined} joined frames in the image']
        if self.waiting_frames or self.waiting_positions:
            parts.append(
                f'{self.waiting_frames} frames and {self.waiting_positions} positions wait for '
                'their partners'
            )
        if self.repeated:
            parts.append(f'{self.repeated} came again')
        if self.far:
            parts.append(f'{self.far} left out, too far from the others')
        parts.append(f'{self.frames_per_s:.0f} frames/s, lag {self.lag_s:.1f} s')
        return ', '.join([*parts, *([self.trouble] if self.trouble else [])])


@dataclass(frozen=True)
class LiveImage:
    """The image at one moment.

    Attributes:
        object_: (Y, X) complex64; unseen pixels are flat.
        coverage: (Y, X) float32, photons that each pixel saw, at most 1.
        origin_px: Position (y, x) of pixel (0, 0), in the coordinates of the positions.
        num_frames: Frames that are in it.
        misfit_map: (Y, X) float32, how well some of the frames that saw a pixel are explained, over
            photon noise; NaN where none did, None as long as nothing was judged.
    """

    object_: NDArray[numpy.complex64]
    coverage: NDArray[numpy.float32]
    origin_px: tuple[float, float]
    num_frames: int
    misfit_map: NDArray[numpy.float32] | None = None
