"""Some patterns of a measurement, read and ready to be compared with a canvas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from .roots import square_root

__all__ = ['Chunk', 'ChunkStream']


@dataclass(frozen=True)
class Chunk:
    """Some patterns of a measurement, ready to be compared with a canvas.

    Attributes:
        indices: (J,) numbers of the patterns, on the host.
        rows: (J,) canvas of each pattern; `corners` (J, 2) first pixel (y, x) of its window.
        shifts: (J, 2) sub-pixel rest of the positions, pixels.
        probe: (J, P, H, W) modes at each pattern's sub-pixel position, calibrated to counts.
        counts: (J, H, W) in corner order; what bad pixels hold must not be looked at.
        good_pixels: (H, W), or (J, H, W) where single frames have spikes; corner order; None when
            all are good.
        background: Counts that every pixel has beside those of the object, or None.
    """

    indices: Int[Tensor, ' pattern']
    rows: Int[Tensor, ' pattern']
    corners: Int[Tensor, 'pattern 2']
    shifts: Float[Tensor, 'pattern 2']
    probe: Complex[Tensor, 'pattern mode height width']
    counts: Float[Tensor, 'pattern height width']
    good_pixels: Bool[Tensor, '*frame height width'] | None = None
    background: Float[Tensor, ''] | None = None

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of a pattern."""
        return int(self.counts.shape[-2]), int(self.counts.shape[-1])

    def roots(self, floor: float) -> Float[Tensor, 'pattern height width']:
        """Returns the root of the counts, after `floor` counts were added."""
        return square_root(self.counts + floor if floor else self.counts)

    def good_counts(self) -> Float[Tensor, 'pattern height width']:
        """Returns the counts with zeros at bad pixels."""
        return self.counts if self.good_pixels is None else self.counts * self.good_pixels

    def select(self, keep: Tensor) -> Chunk:
        """Returns the chunk with some of its patterns; `keep` are places (k,) on the host."""
        there = keep.to(self.rows.device, non_blocking=True)
        return replace(
            self,
            indices=self.indices[keep],
            rows=self.rows[there],
            corners=self.corners[there],
            shifts=self.shifts[there],
            probe=self.probe[there],
            counts=self.counts[there],
            good_pixels=self._good_pixels_of(there),
        )

    def _good_pixels_of(self, there: Tensor) -> Tensor | None:
        good = self.good_pixels
        return good if good is None or good.ndim == 2 else good[there]


@dataclass
class ChunkStream:
    """The chunks of some patterns, read whenever somebody goes through them, or only once.

    Attributes:
        read: Yields the chunks of patterns whose numbers it is given.
        indices: (J,) numbers of the patterns, on the host.
        are_kept: Keep in memory what was read.
        after_kept: Called with the patterns of a chunk when one that was kept has been used.
    """

    read: Callable[[Tensor], Iterator[Chunk]]
    indices: Int[Tensor, ' pattern']
    are_kept: bool = False
    after_kept: Callable[[int], None] | None = None
    _kept: list[Chunk] = field(default_factory=list)

    def __iter__(self) -> Iterator[Chunk]:
        if not self._kept:
            found = []
            for chunk in self.read(self.indices):
                found += [chunk] if self.are_kept else []
                yield chunk
            self._kept = found
            return
        for chunk in self._kept:
            yield chunk
            if self.after_kept is not None:
                self.after_kept(len(chunk.indices))
