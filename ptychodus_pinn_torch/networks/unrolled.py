"""The unrolled network: physics steps by ordered subsets, each stage corrected by a small CNN."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from jaxtyping import Complex, Float, Inexact, Int
from torch import Tensor, nn

from ..config import NetworkConfig, UnrolledConfig
from ..physics.canvas import Canvas, add_patches, blank_sum
from ..physics.forward_model import expose
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement
from ..physics.propagation import intensity
from ..physics.team import Team
from ..physics.update_rule import object_update, wave_difference
from ..solver.sketching import morton_codes
from ..solver.tiles import is_wide
from .blocks import CanvasUNet

__all__ = ['UnrolledNetwork', 'subset_numbers']

COUNT_FLOOR = 0.1
"""Added to counts before roots are taken: keeps the step finite in the dark."""

BAND_PX = 256
"""Rows of a canvas that are changed at a time."""

KEPT_BYTES = 2**26
"""Memory that the coverages by the subsets may take; where canvases are larger, each stage adds them up."""


def subset_numbers(
    rows: Int[Tensor, ' pattern'], corners: Int[Tensor, 'pattern 2'], num_subsets: int
) -> Int[Tensor, ' pattern']:
    """Returns the subset of each pattern: neighbours on a Morton curve get different ones.

    So each subset is spread over the whole group, and the choice depends on where a pattern is,
    not on when it arrived.
    """
    code = morton_codes(corners)
    code = code + (rows.to(torch.int64) << 34)
    order = torch.argsort(code, stable=True)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    first = torch.zeros(int(rows.max()) + 2, dtype=torch.int64, device=rows.device)
    first[1:] = torch.cumsum(torch.bincount(rows), dim=0)
    return (rank - first[rows]) % num_subsets


class UnrolledNetwork(nn.Module):
    """A few stages, each K ordered-subset physics steps and a CNN on the canvas.

    A physics step is the batched ePIE update (Maiden & Rodenburg, Ultramicroscopy 109, 2009):
    `O += gain * sum conj(P) d / (c + beta max c)` with `d` the difference that the measured
    amplitudes make in the exit waves and `c` the coverage. The CNN then adds a correction, and
    hands some channels of memory to the next stage. Any number of patterns, any scan geometry,
    any probe and any pattern size; the network sees the object in units of its mean amplitude.
    """

    config_type: ClassVar[type[NetworkConfig]] = UnrolledConfig
    is_precise = True

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

    def early_parameters(self) -> Iterator[nn.Parameter]:
        """Returns gains, floors and the first half of the stages."""
        yield from (self.log_gain, self.log_beta)
        if len(self.stages) > 1:
            yield from self.stages[: len(self.stages) // 2].parameters()

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of the groups; held-out patterns are not looked at."""
        return self.reconstruct(batch.seen())

    def reconstruct(self, measurement: Measurement, *, use_cnn: bool = True) -> Canvas:
        """Returns the canvases of a measurement. Without the CNN: the bare physics."""
        device = self.log_gain.device
        is_mixed = torch.is_autocast_enabled(device.type)
        with torch.autocast(device_type=device.type, enabled=False):
            level = measurement.level()
            subsets = _Subsets(measurement.in_units_of(level), self.num_subsets)
            scale = level[:, None, None]
            canvas = torch.ones(measurement.canvas_shape, dtype=torch.complex64, device=device)
            number, height, width = measurement.canvas_shape
            memory = canvas.real.new_zeros((number, self.num_memory, height, width))
            earlier = []
            for stage in range(len(self.stages)):
                # without gradients the canvas changes in place
                before = canvas.clone() if use_cnn else canvas
                for turn in range(len(subsets)):
                    canvas = self._physics_step(stage, canvas, subsets, turn)
                if use_cnn:
                    change = torch.sub(
                        canvas, before, out=None if torch.is_grad_enabled() else before
                    )
                    known = _Known(canvas, change, subsets.coverage, memory)
                    canvas, memory = self._correct(stage, known, is_mixed, measurement.team)
                if stage + 1 < len(self.stages) and self.training:
                    earlier.append(canvas * scale)
            coverage = subsets.coverage / scale.square()
            canvas = canvas * scale if torch.is_grad_enabled() else canvas.mul_(scale)
        return Canvas(canvas, coverage, tuple(earlier))

    def _physics_step(
        self, stage: int, canvas: Tensor, subsets: _Subsets, turn: int
    ) -> Complex[Tensor, 'group y x']:
        """Returns the canvas after the update by one of the subsets."""
        which = (turn + 4 * stage) % len(subsets)
        numerator, covered = subsets.blank(canvas.dtype), subsets.kept.get(which)
        is_known = covered is not None
        covered = subsets.blank(torch.float32) if covered is None else covered
        for chunk in subsets.chunks[which]:
            difference = wave_difference(expose(canvas, chunk), chunk, floor=COUNT_FLOOR)
            update = object_update(chunk.probe, difference)
            numerator = add_patches(numerator, update, chunk.rows, chunk.corners)
            if not is_known:
                power = intensity(chunk.probe)
                covered = add_patches(covered, power, chunk.rows, chunk.corners)
        numerator = subsets.team.add_up(numerator)
        if not is_known:
            covered = subsets.team.add_up(covered).to(torch.float32)
            subsets.note(which, covered, is_first=stage == 0)
        peak = covered.amax(dim=(-2, -1), keepdim=True)
        floor = torch.exp(self.log_beta[stage]) * peak + 1e-12
        gain = torch.exp(self.log_gain[stage])
        if torch.is_grad_enabled():
            return canvas + gain / (covered + floor) * numerator
        for first in range(0, canvas.shape[1], BAND_PX):  # of what it takes beside, there is little
            rows = slice(first, first + BAND_PX)
            step = numerator[:, rows].to(canvas.dtype)
            canvas[:, rows] += gain / (covered[:, rows] + floor) * step
        return canvas

    def _correct(
        self, stage: int, known: _Known, is_mixed: bool, team: Team
    ) -> tuple[Complex[Tensor, 'group y x'], Float[Tensor, 'group channel y x']]:
        """Returns canvas and memory after the CNN of a stage."""
        network, canvas = self.stages[stage], known.canvas
        assert isinstance(network, CanvasUNet)
        with torch.autocast(canvas.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            if torch.is_grad_enabled():
                y = network(known.features(slice(None), slice(None))).to(torch.float32)
                return canvas + known.trusted(y, slice(None), slice(None)), y[:, 2:]
            shape = canvas.shape[0], canvas.shape[1], canvas.shape[2]
            network.forward_tiled(known.features, shape, known.change_by, team=team)
        return canvas, known.memory


class _Subsets:
    """The patterns in subsets, and the photons that they send through the pixels of the canvases.

    Args:
        measurement: In units of the mean amplitude of the object.
        most: Subsets, where there are enough patterns.

    Attributes:
        chunks: Of each subset, to be gone through as often as wanted.
        kept: (B, Y, X) photons of the subsets that are kept.
        coverage: (B, Y, X) photons of all of them.
    """

    def __init__(self, measurement: Measurement, most: int) -> None:
        per_group = measurement.num_patterns // measurement.canvas_shape[0]
        number = max(1, min(most, per_group))
        numbers = subset_numbers(measurement.rows, measurement.corners, number)
        self.chunks, self.team = measurement.subsets(numbers, number), measurement.team
        self._are_kept = 4 * number * math.prod(measurement.canvas_shape) <= KEPT_BYTES
        self._shape, self._is_wide = measurement.canvas_shape, is_wide(measurement)
        self.kept: dict[int, Tensor] = {}
        self.coverage = torch.zeros((), device=measurement.device)

    def __len__(self) -> int:
        return len(self.chunks)

    def blank(self, dtype: torch.dtype) -> Inexact[Tensor, 'group y x']:
        """Returns zeros for sums over patterns: exact ones for a canvas that processes may share."""
        device = self.coverage.device
        if self._is_wide:
            return blank_sum(self._shape, dtype, device)
        return torch.zeros(self._shape, dtype=dtype, device=device)

    def note(self, which: int, covered: Tensor, *, is_first: bool) -> None:
        """Takes notice of the photons of a subset; adds those that come for the first time."""
        if is_first:
            self.coverage = self.coverage + covered
        if self._are_kept:
            self.kept[which] = covered


@dataclass(frozen=True)
class _Known:
    """What the CNN of a stage is told, and what it changes.

    Attributes:
        canvas: (B, Y, X) after the physics of the stage.
        change: (B, Y, X) that these have made.
        coverage: (B, Y, X) photons of all patterns.
        memory: (B, M, Y, X) what the stage before hands over.
    """

    canvas: Complex[Tensor, 'group y x']
    change: Complex[Tensor, 'group y x']
    coverage: Float[Tensor, 'group y x']
    memory: Float[Tensor, 'group channel y x']

    @cached_property
    def peak(self) -> Float[Tensor, 'group 1 1']:
        """The highest coverage of each canvas."""
        return self.coverage.amax(dim=(-2, -1), keepdim=True)

    def features(self, rows: slice, columns: slice) -> Float[Tensor, 'group channel y x']:
        """Returns the input of the CNN on some rows and columns."""
        here, moved = self.canvas[..., rows, columns], self.change[..., rows, columns]
        covered = self.coverage[..., rows, columns]
        channels = [
            here.real - 1.0,
            here.imag,
            3.0 * moved.real,
            3.0 * moved.imag,
            torch.sqrt(covered / self.peak),
            torch.log10(covered + 1.0) / 3.0 - 1.0,
        ]
        return torch.cat([torch.stack(channels, dim=1), self.memory[..., rows, columns]], dim=1)

    def trusted(self, y: Tensor, rows: slice, columns: slice) -> Complex[Tensor, 'group y x']:
        """Returns the correction in an output of the CNN, as far as there are patterns."""
        covered = self.coverage[..., rows, columns]
        trust = covered / (covered + 0.003 * self.peak)
        return torch.complex(y[:, 0] * trust, y[:, 1] * trust)

    def change_by(self, rows: slice, columns: slice, output: Tensor) -> None:
        """Corrects canvas and memory in place, by an output of the CNN on some rows and columns."""
        y = output.to(torch.float32)
        self.canvas[..., rows, columns] += self.trusted(y, rows, columns)
        self.memory[..., rows, columns] = y[:, 2:]
