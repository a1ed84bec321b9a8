"""Snapshots of PtychoPINN's global dictionary of parameters, `params.cfg`, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from ..config import ConfigError
from ..models.restricted_pickle import read_pickle
from ..scan.output import write_atomically

__all__ = ['read_params_cfg', 'write_params_cfg']


def write_params_cfg(path: Path, parameters: Mapping[str, Any]) -> Path:
    """Returns the path of the JSON file that now holds the parameters, arrays included.

    Raises:
        ConfigError: a value that is no number, text, list, array or mapping.
    """
    tree = {str(key): _encode(str(key), value) for key, value in parameters.items()}
    text = json.dumps(tree, indent=2, sort_keys=True)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding='utf-8')

    return write_atomically(path, write)


def read_params_cfg(path: Path) -> dict[str, Any]:
    """Returns the parameters of a snapshot: our JSON, or PtychoPINN's `params.dill`.

    Raises:
        ConfigError: neither, or damaged.
        ArchiveError: a pickle that holds more than plain values.
    """
    data = path.read_bytes()
    if data.startswith(b'\x80'):
        tree = read_pickle(data, str(path))
    else:
        try:
            tree = json.loads(data)
        except ValueError as error:
            raise ConfigError(f'{path}: is no snapshot of params.cfg: {error}.') from error
    if not isinstance(tree, dict):
        raise ConfigError(f'{path}: holds a {type(tree).__name__}, not parameters by name.')
    return {str(key): _decode(value) for key, value in tree.items()}


def _encode(key: str, value: Any) -> Any:
    if isinstance(value, numpy.ndarray):
        parts = numpy.stack([value.real, value.imag], axis=-1) if value.dtype.kind == 'c' else value
        return {'dtype': str(value.dtype), 'values': parts.tolist()}
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _encode(f'{key}.{name}', item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(key, item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ConfigError(
        f'parameter {key} is a {type(value).__name__}: only numbers, text, lists and arrays can be '
        'written.'
    )


def _decode(value: Any) -> Any:
    if isinstance(value, dict) and set(value) == {'dtype', 'values'}:
        dtype = numpy.dtype(value['dtype'])
        if dtype.kind == 'c':
            parts = numpy.asarray(value['values'], dtype=float)
            return (parts[..., 0] + 1j * parts[..., 1]).astype(dtype)
        return numpy.asarray(value['values'], dtype=dtype)
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    return value
