"""Checkpoints of this package's own training runs: `best.ckpt` and `last.ckpt`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from ..config import Config
from .archive import Archive, ArchiveError, config_from_text

__all__ = ['archive_from_run', 'is_of_a_run']

PREFIX = 'network.'
CONFIG_NAME = 'config.json'


def is_of_a_run(tree: Any) -> bool:
    """Returns whether a checkpoint has the weights of a network of ours."""
    state = tree.get('state_dict') if isinstance(tree, Mapping) else None
    return isinstance(state, Mapping) and any(str(name).startswith(PREFIX) for name in state)


def archive_from_run(tree: Mapping[str, Any], path: Path) -> Archive:
    """Returns the model of a checkpoint as an archive.

    The configuration is that of the checkpoint, or the one that lies beside it in the folder of
    the run. Probes that were trained along stay behind: they belong to the scans of the run.

    Raises:
        ArchiveError: no configuration, or weights that are not finite.
    """
    weights = {
        str(name): numpy.asarray(value.detach().numpy())
        for name, value in tree['state_dict'].items()
        if str(name).startswith(PREFIX) and hasattr(value, 'detach')
    }
    details = {
        'made_from': f'a training run, {path.parent.name}/{path.name}',
        'epoch': tree.get('epoch'),
        'steps': tree.get('global_step'),
    }
    archive = Archive(_config_of(tree, path), weights, details=details, created='by a training run')
    return archive.check_weights(str(path))


def _config_of(tree: Mapping[str, Any], path: Path) -> Config:
    parameters = tree.get('hyper_parameters')
    text = parameters.get('config') if isinstance(parameters, Mapping) else None
    if isinstance(text, str):
        return config_from_text(text.encode(), f'{path}: hyper_parameters')
    beside = path.with_name(CONFIG_NAME)
    if not beside.is_file():
        raise ArchiveError(
            f'{path}: holds no configuration, and there is no {CONFIG_NAME} beside it: leave the '
            'checkpoint in the folder of its run, or use the *.h5.zip that the run has written.'
        )
    return config_from_text(beside.read_bytes(), str(beside))
