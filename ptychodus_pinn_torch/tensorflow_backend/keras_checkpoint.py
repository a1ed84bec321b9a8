"""The state of an interrupted run: arrays and plain values in one file, nothing that executes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..config import ConfigError

__all__ = ['State', 'read_checkpoint', 'write_checkpoint']

NAME = 'last.safetensors'
KEY = 'state'


@dataclass(frozen=True)
class State:
    """Everything that a run needs to go on exactly where it was: arrays, and JSON values."""

    arrays: dict[str, NDArray[Any]]
    values: dict[str, Any]


def write_checkpoint(folder: Path, state: State | None) -> None:
    """Writes the state beside its place and renames it; None removes what is there."""
    from safetensors.numpy import save_file

    path = folder / NAME
    if state is None:
        path.unlink(missing_ok=True)
        return
    temporary = path.with_suffix('.part')
    arrays = {name: numpy.ascontiguousarray(array) for name, array in state.arrays.items()}
    save_file(arrays, temporary, metadata={KEY: json.dumps(state.values)})
    os.replace(temporary, path)


def read_checkpoint(folder: Path) -> State | None:
    """Returns the state of an interrupted run, or None when there is none.

    Raises:
        ConfigError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / NAME
    if not path.is_file():
        return None
    try:
        with safe_open(path, 'numpy') as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            values = json.loads((file.metadata() or {})[KEY])
    except (SafetensorError, KeyError, ValueError) as error:
        raise ConfigError(f'{path}: is damaged: start without --resume.') from error
    return State(arrays, values)
