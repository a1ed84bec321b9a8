"""The unrolled network: physics steps by ordered subsets, each stage corrected by a small CNN."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import torch
from jaxtyping import Complex, Int
from torch import Tensor, nn

from ..config import NetworkConfig, UnrolledConfig
from ..physics.canvas import Canvas, add_patches
from ..physics.chunk import Chunk
from ..physics.forward_model import expose
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement
from ..physics.propagation import intensity
from ..physics.team import Team
from ..physics.update_rule import object_update, wave_difference
from ..solver.sketching import morton_codes
from .blocks import CanvasUNet

__all__ = ['UnrolledNetwork', 'subset_numbers']

COUNT_FLOOR = 0.1
"""Added to counts before roots are taken: keeps the step finite in the dark."""


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
        device, team = self.log_gain.device, measurement.team
        is_mixed = torch.is_autocast_enabled(device.type)
        with torch.autocast(device_type=device.type, enabled=False):
            level = measurement.level()
            subsets = self._subsets(measurement.in_units_of(level))
            scale = level[:, None, None]
            shape = measurement.canvas_shape
            canvas = torch.ones(shape, dtype=torch.complex64, device=device)
            coverage, memory = canvas.real, canvas.real.new_zeros(0)
            covers: list[Tensor] = []
            earlier = []
            for stage in range(len(self.stages)):
                before = canvas
                for turn in range(len(subsets)):
                    which = (turn + 4 * stage) % len(subsets)
                    step = self._physics_step(stage, canvas, subsets, which, covers, team)
                    canvas = canvas + step
                if stage == 0:
                    coverage = sum(covers[1:], start=covers[0])
                if use_cnn:
                    canvas, memory = self._correct(
                        stage, canvas, canvas - before, coverage, memory, is_mixed, team
                    )
                if stage + 1 < len(self.stages) and self.training:
                    earlier.append(canvas * scale)
        return Canvas(canvas * scale, coverage / scale.square(), tuple(earlier))

    def _subsets(self, measurement: Measurement) -> list[Iterable[Chunk]]:
        per_group = measurement.num_patterns // measurement.canvas_shape[0]
        number = max(1, min(self.num_subsets, per_group))
        numbers = subset_numbers(measurement.rows, measurement.corners, number)
        return measurement.subsets(numbers, number)

    def _physics_step(
        self,
        stage: int,
        canvas: Tensor,
        subsets: Sequence[Iterable[Chunk]],
        which: int,
        covers: list[Tensor],
        team: Team,
    ) -> Complex[Tensor, 'group y x']:
        numerator = torch.zeros_like(canvas)
        covered = None if stage else torch.zeros_like(canvas.real)
        for chunk in subsets[which]:
            difference = wave_difference(expose(canvas, chunk), chunk, floor=COUNT_FLOOR)
            update = object_update(chunk.probe, difference)
            numerator = add_patches(numerator, update, chunk.rows, chunk.corners)
            if covered is not None:
                power = intensity(chunk.probe)
                covered = add_patches(covered, power, chunk.rows, chunk.corners)
        numerator = team.add_up(numerator)
        if covered is not None:
            covers.append(team.add_up(covered))
        covered = covers[which]
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
        team: Team,
    ) -> tuple[Tensor, Tensor]:
        peak = coverage.amax(dim=(-2, -1), keepdim=True)

        def features(rows: slice, columns: slice) -> Tensor:
            here, moved = canvas[..., rows, columns], change[..., rows, columns]
            covered = coverage[..., rows, columns]
            channels = [
                here.real - 1.0,
                here.imag,
                3.0 * moved.real,
                3.0 * moved.imag,
                torch.sqrt(covered / peak),
                torch.log10(covered + 1.0) / 3.0 - 1.0,
            ]
            x = torch.stack(channels, dim=1)
            if not self.num_memory:
                return x
            if stage == 0:
                blank = x.new_zeros(x.shape[0], self.num_memory, *x.shape[2:])
                return torch.cat([x, blank], dim=1)
            return torch.cat([x, memory[..., rows, columns]], dim=1)

        network, shape = self.stages[stage], (canvas.shape[0], canvas.shape[1], canvas.shape[2])
        assert isinstance(network, CanvasUNet)
        with torch.autocast(canvas.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            if self.training:
                y = network(features(slice(None), slice(None)))
            else:
                y = network.forward_tiled(features, shape, team=team)
        y = y.to(torch.float32)
        trust = coverage / (coverage + 0.003 * peak)
        correction = torch.complex(y[:, 0] * trust, y[:, 1] * trust)
        return canvas + correction, y[:, 2:]
