"""A network in thirty lines: steps of the ptychographic iteration, whose lengths are learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ptychodus_pinn_torch.config import NetworkConfig, option
from ptychodus_pinn_torch.physics.canvas import Canvas, add_patches
from ptychodus_pinn_torch.physics.forward_model import expose
from ptychodus_pinn_torch.physics.group_batch import GroupBatch
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.physics.update_rule import object_update, wave_difference

__all__ = ['LearntSteps', 'LearntStepsConfig']


class LearntStepsConfig(NetworkConfig):
    """Its options: flags, INI keys and form fields follow."""

    kind: Literal['learnt_steps'] = option('learnt_steps', 'Steps whose lengths are learnt.')
    num_steps: int = option(6, 'Steps over all patterns.', ge=1, le=64)


class LearntSteps(nn.Module):
    """Adds `gain * sum conj(P) d / (coverage + floor)` a few times, and some of the last change.

    `d` is the difference that the measured amplitudes make in the exit waves. Gain, floor and
    momentum of each step are learnt: three numbers per step.
    """

    config_type = LearntStepsConfig
    is_precise = False

    def __init__(self, config: LearntStepsConfig) -> None:
        super().__init__()
        self.num_passes = config.num_steps
        self.log_gain = nn.Parameter(torch.full((config.num_steps,), -1.0))
        self.log_floor = nn.Parameter(torch.full((config.num_steps,), -3.0))
        self.momentum = nn.Parameter(torch.zeros(config.num_steps))

    def early_parameters(self) -> tuple[nn.Parameter, ...]:
        """Returns what fine-tuning of the decoder leaves alone: the floors."""
        return (self.log_floor,)

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of the groups."""
        return self.reconstruct(batch.seen())

    def reconstruct(self, measurement: Measurement) -> Canvas:
        """Returns the canvases of a measurement, read by chunks."""
        canvas, coverage = measurement.flat(), measurement.coverage()
        peak = coverage.amax(dim=(-2, -1), keepdim=True)
        change = torch.zeros_like(canvas)
        for gain, floor, momentum in zip(
            self.log_gain.exp(), self.log_floor.exp(), self.momentum, strict=True
        ):
            update = torch.zeros_like(canvas)
            for chunk in measurement.chunks():
                difference = wave_difference(expose(canvas, chunk), chunk, floor=0.1)
                patches = object_update(chunk.probe, difference)
                update = add_patches(update, patches, chunk.rows, chunk.corners)
            change = gain * update / (coverage + floor * peak) + momentum * change
            canvas = canvas + change
        return Canvas(canvas, coverage)
