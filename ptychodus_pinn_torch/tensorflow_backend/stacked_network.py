"""The Keras network behind the contract of networks: stitching and phases are the common code."""

from __future__ import annotations

import tensorflow as tf
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ..networks.patchwise import Level, stitch
from ..physics.canvas import Canvas
from ..physics.measurement import Measurement
from .keras_network import KerasCnn

__all__ = ['StackedNetwork']


class StackedNetwork:
    """Patches by TensorFlow, everything else by the code that all engines share."""

    training = False
    needs_level = False
    num_passes = 1
    is_precise = False

    def __init__(self, cnn: KerasCnn, device: str = '/CPU:0') -> None:
        self.cnn, self.device = cnn, device
        self.num_channels, self.pattern_size = cnn.num_channels, cnn.pattern_size

    def reconstruct(self, measurement: Measurement) -> Canvas:
        """Returns the canvases of a measurement, read by chunks."""
        return stitch(self, measurement)

    def map_stacks(
        self,
        counts: Float[Tensor, 'stack channel height width'],
        photons: Float[Tensor, 'stack channel'],
        level: Level | None,
    ) -> Complex[Tensor, 'stack channel height width']:
        """Returns one patch per pattern (see `networks.patchwise.PatchwiseNetwork`)."""
        with tf.device(self.device):
            patches = self.cnn.run(
                tf.constant(counts.cpu().numpy()), tf.constant(photons.cpu().numpy())
            )
        return torch.from_numpy(patches.numpy()).to(counts.device)
