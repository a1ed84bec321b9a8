"""What was measured, as physics, networks, training and reconstruction read it: by chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from .canvas import add_patches, check_windows
from .chunk import Chunk, ChunkStream
from .counts import Counts, SomeCounts
from .memory import ChunkLimit
from .probe import probe_spectrum, shift_spectrum
from .propagation import intensity, squared_modulus, to_detector
from .shifted_probes import ShiftedProbes
from .team import ALONE, Team
from .variation import Variation

__all__ = ['Chunk', 'Counts', 'Measurement']

KEPT_BYTES = 2**27
"""Memory that chunks may take which are gone through more than once."""


@dataclass(frozen=True)
class Measurement:
    """Patterns with what is needed to place them on B canvases; read in chunks.

    Places stay on the host, so that boxes and orders are found without waiting for a device.

    Attributes:
        counts: Measured counts (N, H, W) by index, corner order of frequencies.
        rows: (N,) the canvas of each pattern, on the host.
        corners: (N, 2) window corners (y, x) on the canvas, integers, on the host.
        shifts: (N, 2) sub-pixel rest of the positions, float32.
        probe: Modes (P, H, W) or, one probe per canvas, (B, P, H, W), calibrated to counts.
        canvas_shape: (B, Y, X).
        good_pixels: (H, W), corner order, or None when all are good.
        spikes: (n, 3) frame, row and column (corner order) of pixels that cannot be trusted in one
            frame only, on the host, or None.
        variation: How the first mode of the probe varies from pattern to pattern, or None.
        factors: (N,) brightness of the beam, frame by frame, around 1; None for a steady beam.
        background: Counts that every pixel has beside those of the object, or None.
        chunk_size: Patterns that are read at a time.
        after_chunk: Called with the patterns of a chunk when it was used; may raise to stop.
        shifted: The probe at the position of each pattern, where it is kept, or None.
        limit: How many patterns fit into memory at once; shared by all that is made of this one.
        team: The processes that share what is to be done with the patterns.

    Raises:
        IndexError: a window leaves its canvas.
    """

    counts: Counts
    rows: Int[Tensor, ' pattern']
    corners: Int[Tensor, 'pattern 2']
    shifts: Float[Tensor, 'pattern 2']
    probe: Complex[Tensor, '*group mode height width']
    canvas_shape: tuple[int, int, int]
    good_pixels: Bool[Tensor, 'height width'] | None = None
    spikes: Int[Tensor, 'spike 3'] | None = None
    variation: Variation | None = None
    factors: Float[Tensor, ' pattern'] | None = None
    background: Float[Tensor, ''] | None = None
    chunk_size: int = 4096
    after_chunk: Callable[[int], None] | None = None
    shifted: ShiftedProbes | None = None
    limit: ChunkLimit = field(default_factory=ChunkLimit)
    team: Team = ALONE

    def __post_init__(self) -> None:
        check_windows(self.corners, self.window, self.canvas_shape[1:])

    @property
    def num_patterns(self) -> int:
        """N, the number of patterns."""
        return int(self.counts.shape[0])

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of a pattern."""
        return int(self.counts.shape[-2]), int(self.counts.shape[-1])

    @property
    def device(self) -> torch.device:
        """Where the physics happens."""
        return self.probe.device

    @property
    def patterns_at_once(self) -> int:
        """Patterns of a chunk: fewer than planned where memory has run out."""
        return min(self.chunk_size, self.limit.most)

    @cached_property
    def _spectrum(self) -> Complex[Tensor, '*group mode height width']:
        return probe_spectrum(self.probe)

    def chunk(self, indices: Int[Tensor, ' pattern']) -> Chunk:
        """Returns some patterns; `indices` are on the host."""
        there = self._hand_over(indices)
        rows, shifts = self._hand_over(self.rows[indices]), self.shifts[there]
        probe = self._shifted_probe(there, rows, shifts)
        if self.factors is not None:
            probe = probe * torch.sqrt(self.factors[there])[:, None, None, None]
        return Chunk(
            indices=indices,
            rows=rows,
            corners=self._hand_over(self.corners[indices]),
            shifts=shifts,
            probe=probe,
            counts=self.counts[there if isinstance(self.counts, Tensor) else indices],
            good_pixels=self._good_pixels_of(indices),
            background=self.background,
        )

    def _shifted_probe(self, there: Tensor, rows: Tensor, shifts: Tensor) -> Tensor:
        """Returns the probe (J, P, H, W) of patterns `there`, on canvases `rows`."""
        kept = self.shifted
        if kept is not None and self.variation is None and kept.are_of(self.probe, self.shifts):
            return kept[there]
        spectrum = self._spectrum if self.probe.ndim == 3 else self._spectrum[rows]
        if self.variation is not None:
            spectrum = self.variation.vary(spectrum, there)
        return shift_spectrum(spectrum, shifts)

    def _good_pixels_of(self, indices: Tensor) -> Tensor | None:
        """Returns (H, W), or (J, H, W) where one of the frames has spikes."""
        spikes = self.spikes_of(indices)
        if spikes is None or not len(spikes):
            return self.good_pixels
        shape = (len(indices), *self.window)
        good = torch.ones(shape, dtype=torch.bool, device=self.device)
        if self.good_pixels is not None:
            good &= self.good_pixels
        frame, y, x = (self._hand_over(places) for places in spikes.T)
        good[frame, y, x] = False
        return good

    def _hand_over(self, places: Int[Tensor, '*shape']) -> Int[Tensor, '*shape']:
        """Returns places on the device; indexing with those of the host would wait for it."""
        return places.to(self.device, non_blocking=True)

    def chunks(self, indices: Int[Tensor, ' pattern'] | None = None) -> Iterator[Chunk]:
        """Yields the patterns, or those of `indices`, a chunk at a time."""
        chosen = torch.arange(self.num_patterns) if indices is None else indices
        for part in chosen.split(self.patterns_at_once) if len(chosen) else ():
            yield self.chunk(part)
            if self.after_chunk is not None:
                self.after_chunk(len(part))

    def subsets(self, numbers: Int[Tensor, ' pattern'], num_subsets: int) -> list[Iterable[Chunk]]:
        """Returns for each subset its chunks, to be gone through as often as wanted.

        What is in memory, or small, is prepared once; a large scan is read again each time. Of a
        team, every process gets its share.

        Args:
            numbers: (N,) subset of each pattern, on the host.
            num_subsets: K.
        """
        members = [self.team.share(torch.nonzero(numbers == k)[:, 0]) for k in range(num_subsets)]
        if isinstance(self.counts, Tensor) and self.num_patterns <= self.chunk_size:
            whole = self.chunk(torch.arange(self.num_patterns))
            return [[whole.select(part)] for part in members]
        frame_bytes = (4 + 8 * self.probe.shape[-3]) * self.window[0] * self.window[1]
        are_kept = self.num_patterns * frame_bytes <= KEPT_BYTES
        return [ChunkStream(self.chunks, part, are_kept, self.after_chunk) for part in members]

    @cached_property
    def totals(self) -> Float[Tensor, ' group']:
        """The counts over good pixels of all patterns of each canvas; they are added up once."""
        total = torch.zeros(self.canvas_shape[0], device=self.device)
        if hasattr(self.counts, 'total'):
            return total + self.counts.total() - self._spiking_counts()
        counts: Any = self.counts
        good = counts if self.good_pixels is None else counts * self.good_pixels
        sums = good.sum(dim=(-2, -1))
        return total.index_put_((self._hand_over(self.rows),), sums, accumulate=True)

    def _spiking_counts(self) -> float:
        """Returns what a lazily read measurement has counted where it cannot be trusted."""
        if self.spikes is None or not len(self.spikes):
            return 0.0
        frames, y, x = self.spikes.T
        return float(self.counts[frames][torch.arange(len(frames)), y, x].sum())

    @cached_property
    def power(self) -> Float[Tensor, '*group']:
        """The photons of the probe, all modes together; their mean where it varies."""
        if self.variation is not None:
            return self._mean(self.variation.photons(self.probe, self._hand_over(self.rows)))
        return squared_modulus(self.probe).sum(dim=(-3, -2, -1))

    @cached_property
    def visible_power(self) -> Float[Tensor, '*group']:
        """Those that meet good pixels when there is no object; a beamstop hides the others.

        No brightness may be compared with what is hidden.
        """
        if self.good_pixels is None:
            return self.power
        if self._visible_photons is not None:
            return self._mean(self._visible_photons)
        return (intensity(to_detector(self.probe)) * self.good_pixels).sum(dim=(-2, -1))

    @cached_property
    def _visible_photons(self) -> Float[Tensor, ' pattern'] | None:
        """Those of each pattern (N,) that meet good pixels; None where the probe does not vary."""
        if self.variation is None:
            return None
        return self.variation.photons(self.probe, self._hand_over(self.rows), self.good_pixels)

    def _mean(self, photons: Float[Tensor, ' pattern']) -> Float[Tensor, '*group']:
        """Returns the mean of all patterns, or of those of each canvas that has its own probe."""
        if self.probe.ndim == 3:
            return photons.mean()
        return self._per_row(photons) / self._per_row(None).clamp(min=1)

    @property
    def visible_part(self) -> Float[Tensor, '*group']:
        """The part of the photons that meets good pixels when there is no object."""
        return self.visible_power / self.power.clamp(min=1e-20)

    def sent(self) -> Float[Tensor, ' group']:
        """Returns the counts that the probe would send onto good pixels without object."""
        if self._visible_photons is not None:
            photons = self._visible_photons
            return self._per_row(photons if self.factors is None else photons * self.factors)
        return self._per_row(self.factors) * self.visible_power

    def _per_row(self, values: Tensor | None) -> Tensor:
        """Returns the sums (B,) of values (N,) of the patterns of each canvas, by default ones."""
        if values is None:
            number = torch.bincount(self.rows, minlength=self.canvas_shape[0])
            return self._hand_over(number)
        sums = torch.zeros(self.canvas_shape[0], device=self.device)
        return sums.index_put_((self._hand_over(self.rows),), values, accumulate=True)

    def level(self) -> Float[Tensor, ' group']:
        """Returns the mean amplitude of each object: the root of measured over sent counts."""
        totals = self.totals
        if self.background is not None:
            height, width = self.window
            good = height * width if self.good_pixels is None else self.good_pixels.sum()
            totals = totals - self.background * good * self._per_row(None)
        return torch.sqrt(totals.clamp(min=1.0) / self.sent().clamp(min=1e-20))

    def flat(self) -> Complex[Tensor, 'group y x']:
        """Returns the flat canvases that let the measured counts through, to be read only."""
        level = self.level().to(torch.complex64)
        return level[:, None, None].expand(self.canvas_shape)

    def in_units_of(self, level: Float[Tensor, ' group']) -> Measurement:
        """Returns the measurement with probes in units in which an object of `level` is one."""
        factor, variation = level[:, None, None, None], self.variation
        is_shared = self.probe.ndim == 3 and len(level) == 1
        if variation is not None:
            variation = variation.scaled(level[self._hand_over(self.rows)])
        probe = self.probe * (factor[0] if is_shared else factor)
        shifted = self.shifted
        if shifted is not None and is_shared and shifted.are_of(self.probe, self.shifts):
            shifted = shifted.in_units_of(level[0], probe)
        return replace(self, probe=probe, variation=variation, shifted=shifted)

    def coverage(self) -> Float[Tensor, 'group y x']:
        """Returns the photons that the unshifted probe sends through each pixel of the canvases.

        Where the probe varies, its mean stands for that of each pattern.
        """
        power = intensity(self.probe)
        found = torch.zeros(self.canvas_shape, device=self.device)
        with torch.no_grad():
            mine = self.team.share(torch.arange(self.num_patterns))
            for part in mine.split(self.patterns_at_once):
                rows, corners = (self._hand_over(x[part]) for x in (self.rows, self.corners))
                each = power.expand(len(part), -1, -1) if power.ndim == 2 else power[rows]
                found = add_patches(found, each, rows, corners)
            return self.team.add_up(found)

    def select(self, keep: Tensor, *, are_read: bool = True) -> Measurement:
        """Returns the measurement with some of its patterns: a mask or indices, on the host.

        Their counts are read, or else when they are needed.
        """
        chosen = torch.nonzero(keep)[:, 0] if keep.dtype == torch.bool else keep
        there = self._hand_over(chosen)
        counts: Counts = SomeCounts(self.counts, chosen)
        if are_read or isinstance(self.counts, Tensor):
            counts = self.counts[there if isinstance(self.counts, Tensor) else chosen]
        return replace(
            self,
            counts=counts,
            rows=self.rows[chosen],
            corners=self.corners[chosen],
            shifts=self.shifts[there],
            spikes=self.spikes_of(chosen),
            factors=None if self.factors is None else self.factors[there],
            variation=None if self.variation is None else self.variation.select(there),
            shifted=None,  # of all patterns
        )

    def spikes_of(self, chosen: Int[Tensor, ' pattern']) -> Int[Tensor, 'spike 3'] | None:
        """Returns the spikes of some patterns, by their place among these."""
        if self.spikes is None:
            return None
        near = self.spikes[torch.isin(self.spikes[:, 0], chosen)]
        place, spike = torch.nonzero(chosen[:, None] == near[:, 0], as_tuple=True)
        return torch.cat([place[:, None], near[spike, 1:]], dim=1)

    def part(self, chosen: Int[Tensor, ' pattern']) -> tuple[Measurement, tuple[slice, slice]]:
        """Returns some patterns of one canvas on a canvas of their own, and where that one lies.

        The counts are read when they are needed.
        """
        corners = self.corners[chosen]
        (y, x), (last_y, last_x) = corners.amin(dim=0).tolist(), corners.amax(dim=0).tolist()
        size = last_y - y + self.window[0], last_x - x + self.window[1]
        some = replace(
            self.select(chosen, are_read=False), corners=corners - torch.tensor([y, x]),
            canvas_shape=(1, *size),
        )  # fmt: skip
        return some, (slice(y, y + size[0]), slice(x, x + size[1]))

    def to(self, device: torch.device) -> Measurement:
        """Returns the measurement, whose counts are in memory, on a device; places stay."""

        def move(value: Any) -> Any:
            return None if value is None else value.to(device, non_blocking=True)

        return replace(
            self,
            counts=move(self.counts),
            shifts=move(self.shifts),
            probe=move(self.probe),
            good_pixels=move(self.good_pixels),
            variation=None if self.variation is None else self.variation.to(device),
            factors=move(self.factors),
            background=move(self.background),
        )
