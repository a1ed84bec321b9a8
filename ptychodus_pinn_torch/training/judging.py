"""How well a network predicts patterns that it has not seen; the same for every engine."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..physics import losses
from ..physics.canvas import Canvas
from ..physics.forward_model import predict
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement

__all__ = ['judge']


@torch.no_grad()
def judge(
    reconstruct: Callable[[Measurement], Canvas], batch: GroupBatch, target: GroupBatch
) -> dict[str, Tensor]:
    """Returns the figures by which a model is judged on one batch.

    `held_out` is the relative amplitude error of the held-out patterns, `held_out_flat` that of a
    flat object, `floor` the loss that photon noise alone implies, `held_out_loss` the amplitude
    loss. Without held-out patterns `held_out` is the error of the object, of
    a correction relative to what it corrects.

    Args:
        reconstruct: The network.
        batch: What it is given; it looks at `batch.seen()` only.
        target: The same batch under the present probe and scale.
    """
    canvas = reconstruct(batch.seen())
    if target.held_out is None:
        assert target.object_ is not None
        error = losses.object_loss(canvas.object_, target.object_, canvas.coverage)
        if canvas.uncorrected:
            given = losses.object_loss(canvas.uncorrected[-1], target.object_, canvas.coverage)
            error = error / given.clamp(min=1e-6)
        return {'held_out': error.clamp(min=0.0).sqrt()}
    measurement = target.measurement
    chunk = measurement.chunk(torch.nonzero(target.held_out)[:, 0])
    expected = predict(canvas.object_, chunk)
    flat = predict(measurement.flat(), chunk)
    seen = (chunk.counts, chunk.good_pixels)
    return {
        'held_out': losses.relative_amplitude_error(expected, *seen),
        'held_out_flat': losses.relative_amplitude_error(flat, *seen),
        'floor': losses.amplitude_loss_floor(expected, chunk.good_pixels),
        'held_out_loss': losses.amplitude_loss(expected, *seen),
    }
