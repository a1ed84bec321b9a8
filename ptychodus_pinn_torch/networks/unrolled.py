"""The unrolled network: physics steps by ordered subsets, each stage corrected by a small CNN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from ..config import UnrolledConfig
from ..physics.canvas import Canvas, add_patches, take_patches
from ..physics.forward_model import GroupBatch
from ..physics.propagation import intensity, to_detector, to_sample
from .blocks import CanvasUNet

__all__ = ['BatchSource', 'PatternSource', 'UnrolledNetwork', 'subset_numbers']

COUNT_FLOOR = 0.1
"""Added to counts before roots are taken: keeps the step finite in the dark."""


@dataclass(frozen=True)
class Piece:
    """Some patterns of a subset.

    Attributes:
        rows: (J,) canvas of each pattern; `corners` (J, 2) where it looks.
        probe: (J, P, H, W) shifted modes, in units in which the mean object is one.
        roots: (J, H, W) root of the measured counts plus `COUNT_FLOOR`, corner order.
        good_pixels: (H, W) or None.
    """

    rows: Int[Tensor, ' pattern']
    corners: Int[Tensor, 'pattern 2']
    probe: Complex[Tensor, 'pattern mode height width']
    roots: Float[Tensor, 'pattern height width']
    good_pixels: Bool[Tensor, 'height width'] | None


class PatternSource(Protocol):
    """Patterns in subsets and pieces: a batch in memory, or a whole scan read bit by bit."""

    num_subsets: int
    """K, the number of ordered subsets."""

    canvas_shape: tuple[int, int, int]
    """(B, Y, X)."""

    scale: Float[Tensor, ' group']
    """Mean amplitude of the object of each group: the root of measured over probe counts."""

    def pieces(self, subset: int) -> Iterable[Piece]:
        """Yields the parts of a subset."""


def make_piece(batch: GroupBatch, scale: Float[Tensor, ' group']) -> Piece:
    """Returns a batch as the physics steps want it."""
    probe = batch.shifted_probe() * scale[batch.rows][:, None, None, None]
    return Piece(
        batch.rows,
        batch.corners,
        probe,
        torch.sqrt(batch.counts + COUNT_FLOOR),
        batch.good_pixels,
    )


def subset_numbers(
    rows: Int[Tensor, ' pattern'], corners: Int[Tensor, 'pattern 2'], num_subsets: int
) -> Int[Tensor, ' pattern']:
    """Returns the subset of each pattern: neighbours on a Morton curve get different ones.

    So each subset is spread over the whole group, and the choice depends on where a pattern is,
    not on when it arrived.
    """
    y, x = corners[:, 0].clamp(min=0), corners[:, 1].clamp(min=0)
    code = torch.zeros_like(y)
    for bit in range(16):
        code |= ((x >> bit) & 1) << (2 * bit) | ((y >> bit) & 1) << (2 * bit + 1)
    code = code + (rows.to(torch.int64) << 34)
    order = torch.argsort(code, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    first = torch.zeros(int(rows.max()) + 2, dtype=torch.int64, device=rows.device)
    first[1:] = torch.cumsum(torch.bincount(rows), dim=0)
    return (rank - first[rows]) % num_subsets


class BatchSource:
    """A batch in memory as a source of patterns; what training uses."""

    def __init__(self, batch: GroupBatch, num_subsets: int) -> None:
        if batch.held_out is not None:
            batch = batch.select(~batch.held_out)
        self.batch = batch
        per_group = batch.num_patterns // max(1, batch.canvas_shape[0])
        self.num_subsets = max(1, min(num_subsets, per_group))
        self.canvas_shape = batch.canvas_shape
        self.scale = measured_scale(batch)
        whole = make_piece(batch, self.scale)
        numbers = subset_numbers(batch.rows, batch.corners, self.num_subsets)
        self._pieces = []
        for subset in range(self.num_subsets):
            keep = torch.nonzero(numbers == subset)[:, 0]
            self._pieces.append(
                Piece(
                    whole.rows[keep],
                    whole.corners[keep],
                    whole.probe[keep],
                    whole.roots[keep],
                    whole.good_pixels,
                )
            )

    def pieces(self, subset: int) -> Iterator[Piece]:
        """Yields the one part of the subset."""
        yield self._pieces[subset]


def measured_scale(batch: GroupBatch) -> Float[Tensor, ' group']:
    """Returns the root of measured over probe counts of each group."""
    counts = batch.counts
    if batch.good_pixels is not None:
        counts = counts * batch.good_pixels
    total = torch.zeros(batch.canvas_shape[0], device=counts.device)
    total.index_add_(0, batch.rows, counts.sum(dim=(-2, -1)))
    number = torch.bincount(batch.rows, minlength=batch.canvas_shape[0])
    parts = torch.view_as_real(batch.probe.resolve_conj())
    power = (parts * parts).sum(dim=(-4, -3, -2, -1))
    return torch.sqrt(total.clamp(min=1.0) / (number * power).clamp(min=1e-20))


class UnrolledNetwork(nn.Module):
    """A few stages, each K ordered-subset physics steps and a CNN on the canvas.

    A physics step is the batched ePIE update (Maiden & Rodenburg, Ultramicroscopy 109, 2009):
    `O += gain * sum conj(P) d / (c + beta max c)` with `d` the difference that the measured
    amplitudes make in the exit waves and `c` the coverage. The CNN then adds a correction, and
    hands some channels of memory to the next stage. Any number of patterns, any scan geometry,
    any probe and any pattern size; the network sees the object in units of its mean amplitude.
    """

    def __init__(self, config: UnrolledConfig) -> None:
        super().__init__()
        self.num_subsets = config.num_subsets
        self.num_passes = config.num_stages
        self.num_memory = config.num_memory
        self.log_gain = nn.Parameter(torch.zeros(config.num_stages))
        self.log_beta = nn.Parameter(torch.full((config.num_stages,), -3.0))
        self.stages = nn.ModuleList(
            CanvasUNet(6 + config.num_memory, 2 + config.num_memory, config.width)
            for _ in range(config.num_stages)
        )

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of the groups; held-out patterns are not looked at."""
        return self.run(BatchSource(batch, self.num_subsets))

    def run(self, source: PatternSource, *, use_cnn: bool = True) -> Canvas:
        """Returns the canvases of a source. Without the CNN: the bare physics, for comparison."""
        device = self.log_gain.device.type
        is_mixed = torch.is_autocast_enabled(device)
        with torch.autocast(device_type=device, enabled=False):
            canvas = torch.ones(
                source.canvas_shape, dtype=torch.complex64, device=self.log_gain.device
            )
            coverage = canvas.real
            memory = torch.zeros(0)
            covers: list[Tensor] = []
            earlier = []
            scale = source.scale[:, None, None]
            for stage in range(len(self.stages)):
                before = canvas
                for turn in range(source.num_subsets):
                    subset = (turn + 4 * stage) % source.num_subsets
                    canvas = canvas + self._physics_step(stage, canvas, source, subset, covers)
                if stage == 0:
                    coverage = torch.stack(covers).sum(dim=0)
                if use_cnn:
                    canvas, memory = self._correct(
                        stage, canvas, canvas - before, coverage, memory, is_mixed
                    )
                if stage + 1 < len(self.stages) and self.training:
                    earlier.append(canvas * scale)
        return Canvas(canvas * scale, coverage / scale.square(), tuple(earlier))

    def _physics_step(
        self,
        stage: int,
        canvas: Tensor,
        source: PatternSource,
        subset: int,
        covers: list[Tensor],
    ) -> Complex[Tensor, 'group y x']:
        numerator = torch.zeros_like(canvas)
        covered = None if stage else torch.zeros_like(canvas.real)
        for piece in source.pieces(subset):
            difference = amplitude_difference(canvas, piece)
            update = piece.probe.conj().resolve_conj() * difference
            update = update[:, 0] if update.shape[1] == 1 else update.sum(dim=1)
            numerator = add_patches(numerator, update, piece.rows, piece.corners)
            if covered is not None:
                power = intensity(piece.probe)
                covered = add_patches(covered, power, piece.rows, piece.corners)
        if covered is not None:
            covers.append(covered)
        covered = covers[subset]
        peak = covered.amax(dim=(-2, -1), keepdim=True)
        floor = torch.exp(self.log_beta[stage]) * peak + 1e-12
        return (torch.exp(self.log_gain[stage]) / (covered + floor)) * numerator

    def _correct(
        self,
        stage: int,
        canvas: Tensor,
        change: Tensor,
        coverage: Tensor,
        memory: Tensor,
        is_mixed: bool,
    ) -> tuple[Tensor, Tensor]:
        peak = coverage.amax(dim=(-2, -1), keepdim=True)
        channels = [
            canvas.real - 1.0,
            canvas.imag,
            3.0 * change.real,
            3.0 * change.imag,
            torch.sqrt(coverage / peak),
            torch.log10(coverage + 1.0) / 3.0 - 1.0,
        ]
        x = torch.stack(channels, dim=1)
        if self.num_memory:
            if stage == 0:
                memory = x.new_zeros(x.shape[0], self.num_memory, *x.shape[2:])
            x = torch.cat([x, memory], dim=1)
        network = self.stages[stage]
        assert isinstance(network, CanvasUNet)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            y = (network(x) if self.training else network.forward_tiled(x)).to(torch.float32)
        trust = coverage / (coverage + 0.003 * peak)
        correction = torch.complex(y[:, 0] * trust, y[:, 1] * trust)
        return canvas + correction, y[:, 2:]


def amplitude_difference(
    canvas: Complex[Tensor, 'group y x'], piece: Piece
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns by how much the measured amplitudes would change the exit waves."""
    window = (piece.probe.shape[-2], piece.probe.shape[-1])
    patches = take_patches(canvas, piece.rows, piece.corners, window)
    far_field = to_detector(piece.probe * patches[:, None])
    ratio = piece.roots * torch.rsqrt(intensity(far_field) + COUNT_FLOOR) - 1.0
    if piece.good_pixels is not None:
        ratio = ratio * piece.good_pixels
    return to_sample(far_field * ratio[:, None])
