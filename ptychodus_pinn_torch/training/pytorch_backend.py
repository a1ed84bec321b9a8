"""The PyTorch engine behind the `Backend` protocol."""

from __future__ import annotations

from pathlib import Path

from ..backend import Reconstruction, ReconstructRequest, Report, TrainRequest

__all__ = ['PyTorchBackend']


class PyTorchBackend:
    """Runs networks on PyTorch, training on Lightning."""

    name = 'pytorch'

    def train(self, request: TrainRequest, report: Report) -> Path:
        """Returns the path of the model archive that was written (see `training.train`)."""
        from .run import train

        return train(request, report)

    def reconstruct(self, request: ReconstructRequest, report: Report) -> Reconstruction:
        """Returns the image of a scan (see `inference.reconstruct`)."""
        from ..reconstruction.procedure import reconstruct

        return reconstruct(request, report)
