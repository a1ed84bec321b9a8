"""The prior: a network that corrects what the solver leaves of the image of few or noisy counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Complex
from torch import Tensor, nn

from ..config import NetworkConfig, PriorConfig
from ..physics.canvas import Canvas
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement
from ..physics.team import Team
from ..solver.sketching import SKETCH_EPOCHS, one_group, search_epochs_of, sketch
from .blocks import CanvasUNet
from .residues import NUM_RINGS, gather_residues

__all__ = ['PriorNetwork']

NUM_FEATURES = 9 + NUM_RINGS
MIN_TRAINED_SEARCH = 2
"""Epochs of the shortest search whose image is met in training."""


class PriorNetwork(nn.Module):
    """A U-Net on the canvas, told where it is covered and what the counts would change.

    The physics are the solver's own: a sketch of a few epochs. What it leaves, noise, artefacts
    of low overlap and large scales, the network takes away, as far as it knows better; the
    solver's later steps put back what the counts say. It learns from nothing but its correction:
    no gradient goes through the sketch.
    """

    config_type: ClassVar[type[NetworkConfig]] = PriorConfig
    is_precise = True
    num_passes = SKETCH_EPOCHS

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.unet = CanvasUNet(NUM_FEATURES, 2, config.canvas_width)

    def early_parameters(self) -> Iterator[nn.Parameter]:
        """Returns those of the way down."""
        yield from (*self.unet.down0.parameters(), *self.unet.down1.parameters())

    def forward(self, batch: GroupBatch) -> Canvas:
        """Returns the canvases of the groups; held-out patterns are not looked at."""
        return self.reconstruct(batch.seen())

    def reconstruct(self, measurement: Measurement) -> Canvas:
        """Returns the corrected sketches of a measurement; in training, of all their phases."""
        with torch.no_grad():
            stages = self._sketches(measurement)
        found = [self.correct(canvas, measurement) for canvas in stages]
        coverage = measurement.coverage()
        return Canvas(found[-1], coverage, tuple(found[:-1]), tuple(stages))

    def _sketches(self, measurement: Measurement) -> list[Tensor]:
        """Returns the canvases (B, Y, X) after the last phase, or after each in training."""
        groups: list[list[Tensor]] = []
        for row in range(measurement.canvas_shape[0]):
            is_one = measurement.canvas_shape[0] == 1 and measurement.probe.ndim == 3
            group = measurement if is_one else one_group(measurement, row)
            number = search_epochs_of(group.num_patterns)
            if self.training:  # any quality may be met
                drawn = int(group.corners.sum()) % (number - MIN_TRAINED_SEARCH + 1)
                number = MIN_TRAINED_SEARCH + drawn
            phases = [state.canvas.clone() for state in sketch(group, number)]
            groups.append(phases if self.training else phases[-1:])
        return [torch.cat(parts) for parts in zip(*groups)]

    def correct(
        self, canvas: Complex[Tensor, 'group y x'], measurement: Measurement
    ) -> Complex[Tensor, 'group y x']:
        """Returns the canvases as the network believes that they are."""
        is_mixed = torch.is_autocast_enabled(canvas.device.type)
        with torch.autocast(device_type=canvas.device.type, enabled=False):
            level = measurement.level()[:, None, None]
            seen = replace(measurement.in_units_of(level[:, 0, 0]), after_chunk=None)
            present = canvas / level
            residues = gather_residues(present, seen)
            coverage = residues.coverage
            peak = coverage.amax(dim=(-2, -1), keepdim=True)
            size = _rms(residues.wanted, coverage)
            features = [
                present.real - 1.0,
                present.imag,
                residues.wanted.real / size,
                residues.wanted.imag / size,
                torch.log10(size).expand_as(coverage) + 2.0,
                torch.sqrt(coverage / peak),
                torch.log10(coverage + 1.0) / 3.0 - 1.0,
                *(20.0 * residues.tilts),
                *torch.log1p(residues.rings),
            ]
            x = torch.stack(features, dim=1)
        with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=is_mixed):
            y = self.unet(x) if self.training else self._by_tiles(x, measurement.team)
            y = y.to(torch.float32)
        trust = coverage / (coverage + 0.003 * peak)
        return canvas + level * size * torch.complex(y[:, 0] * trust, y[:, 1] * trust)

    def _by_tiles(self, x: Tensor, team: Team) -> Tensor:
        shape = (x.shape[0], x.shape[2], x.shape[3])
        found = x.new_empty((shape[0], 2, *shape[1:]))

        def use(rows: slice, columns: slice, output: Tensor) -> None:
            found[..., rows, columns] = output

        self.unet.forward_tiled(lambda rows, columns: x[..., rows, columns], shape, use, team=team)
        return found


def _rms(wanted: Tensor, coverage: Tensor) -> Tensor:
    """Returns the root of the mean square (B, 1, 1) of what the counts would change."""
    power = coverage * (wanted.real.square() + wanted.imag.square())
    mean = power.sum(dim=(-2, -1), keepdim=True) / coverage.sum(dim=(-2, -1), keepdim=True)
    return torch.sqrt(mean) + 1e-4
