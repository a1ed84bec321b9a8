"""The TensorFlow engine behind the `Backend` protocol."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from ..backend import Reconstruction, ReconstructRequest, Report, TrainRequest

__all__ = ['TensorFlowBackend']


class TensorFlowBackend:
    """Runs the convolutional network on Keras and TensorFlow, and trains it."""

    name = 'tensorflow'

    def train(self, request: TrainRequest, report: Report) -> Path:
        """Returns the path of the model archive that was written (see `training.train`)."""
        _prepare()
        from .keras_training import train

        return train(request, report)

    def reconstruct(self, request: ReconstructRequest, report: Report) -> Reconstruction:
        """Returns the image of a scan (see `inference.reconstruct`)."""
        _prepare()
        from .keras_inference import reconstruct

        return reconstruct(request, report)


def _prepare() -> None:
    """Imports Keras before anything else imports TensorFlow, so that it is on TensorFlow.

    Raises:
        RuntimeError: TensorFlow is not installed, or Keras runs on something else.
    """
    if importlib.util.find_spec('tensorflow') is None:
        raise RuntimeError(
            'TensorFlow backend selected, but tensorflow is not installed: '
            "pip install 'ptychodus-pinn-torch[tensorflow]'"
        )
    from .loading import load_keras

    load_keras()
