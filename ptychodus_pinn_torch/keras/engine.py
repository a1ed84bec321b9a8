"""The TensorFlow engine behind the `Backend` protocol."""

from __future__ import annotations

from pathlib import Path

from ..backend import Reconstruction, ReconstructRequest, Report, TrainRequest

__all__ = ['TensorFlowBackend']


class TensorFlowBackend:
    """Runs the convolutional network on Keras and TensorFlow, and trains it."""

    name = 'tensorflow'

    def train(self, request: TrainRequest, report: Report) -> Path:
        """Returns the path of the model archive that was written (see `training.train`)."""
        from .training import train

        return train(request, report)

    def reconstruct(self, request: ReconstructRequest, report: Report) -> Reconstruction:
        """Returns the image of a scan (see `inference.reconstruct`)."""
        from .inference import reconstruct

        return reconstruct(request, report)
