"""Where a run writes its history beside the archive; the same for every engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy
import torch
from numpy.typing import NDArray

from ..config import Config, ConfigError, iter_options
from ..physics.canvas import Canvas
from ..physics.measurement import Measurement
from .batches import Batches

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ['log_image', 'make_logger']

SEEN = 0.02
"""Pixels with less than this part of the highest coverage are left grey."""


def make_logger(config: Config, folder: Path) -> Logger | None:
    """Returns the logger that `execution.logger` names, writing into the folder of the run.

    It knows the options of the run already.

    Raises:
        ConfigError: what it needs is not installed; gives the command.
    """
    from lightning.pytorch import loggers

    kind = config.execution.logger
    if kind == 'none':
        return None
    if kind in {'tensorboard', 'mlflow'} and find_spec(kind) is None:
        raise ConfigError(
            f'execution.logger = {kind}, which is not installed: pip install '
            f"'ptychodus-pinn-torch[{kind}]', or choose csv."
        )
    logger: Logger
    if kind == 'tensorboard':
        logger = loggers.TensorBoardLogger(folder, name='tensorboard', version='')
    elif kind == 'mlflow':
        # mlflow-skinny has no database, and MLflow 3 takes files only when it is told so
        os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
        where = (folder / 'mlflow').resolve().as_uri()
        logger = loggers.MLFlowLogger('ptychodus-pinn', run_name=folder.stem, tracking_uri=where)
    else:
        logger = loggers.CSVLogger(folder, name='csv', version='')
    options = iter_options(config.network.kind)
    logger.log_hyperparams({option.path: option.value_in(config) for option in options})
    return logger


@torch.no_grad()
def log_image(
    logger: Logger | None,
    reconstruct: Callable[[Measurement], Canvas],
    batches: Batches,
    step: int,
    device: torch.device | None = None,
) -> None:
    """Shows a logger that takes pictures what a network makes of a part of the scan.

    Args:
        logger: From `make_logger`; one that takes no pictures is left alone.
        reconstruct: The network.
        batches: Of the run; say which part.
        step: Optimiser steps done.
        device: Where the network is; the CPU by default.
    """
    from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger

    if not isinstance(logger, (MLFlowLogger, TensorBoardLogger)):
        return
    measurement = batches.example()
    canvas = reconstruct(measurement if device is None else measurement.to(device))
    pixels = _draw(canvas.object_[0].cpu().numpy(), canvas.coverage[0].cpu().numpy())
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image('amplitude and phase', pixels, step, dataformats='HW')
    else:
        logger.experiment.log_image(logger.run_id, pixels, key='amplitude and phase', step=step)


def _draw(
    object_: NDArray[numpy.complex64], coverage: NDArray[numpy.float32]
) -> NDArray[numpy.uint8]:
    """Returns amplitude and phase beside each other, (Y, 2 X), each over its own range."""
    seen = coverage > SEEN * coverage.max()
    turned = object_ * numpy.exp(-1j * numpy.angle(object_[seen].sum()))
    panels = []
    for values in (numpy.abs(turned), numpy.angle(turned)):
        low, high = numpy.percentile(values[seen], (1.0, 99.0))
        grey = numpy.clip((values - low) / max(high - low, 1e-6), 0.0, 1.0)
        panels.append(numpy.where(seen, grey, 0.5))
    return (255.0 * numpy.concatenate(panels, axis=1)).astype(numpy.uint8)
