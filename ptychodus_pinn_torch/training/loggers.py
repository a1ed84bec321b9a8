"""Where a run writes its history beside the archive; the same for every engine."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from ..config import ConfigError

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

__all__ = ['make_logger']


def make_logger(kind: str, folder: Path) -> Logger | None:
    """Returns the logger that `execution.logger` names, writing into the folder of the run.

    Raises:
        ConfigError: what it needs is not installed; gives the command.
    """
    from lightning.pytorch import loggers

    if kind in {'tensorboard', 'mlflow'} and find_spec(kind) is None:
        raise ConfigError(
            f'execution.logger = {kind}, which is not installed: pip install '
            f"'ptychodus-pinn-torch[{kind}]', or choose csv."
        )
    if kind == 'csv':
        return loggers.CSVLogger(folder, name='csv', version='')
    if kind == 'tensorboard':
        return loggers.TensorBoardLogger(folder, name='tensorboard', version='')
    if kind == 'mlflow':
        # mlflow-skinny has no database, and MLflow 3 takes files only when it is told so
        os.environ.setdefault('MLFLOW_ALLOW_FILE_STORE', 'true')
        where = (folder / 'mlflow').resolve().as_uri()
        return loggers.MLFlowLogger('ptychodus-pinn', tracking_uri=where)
    return None
