"""Snapshots of PtychoPINN's global dictionary of parameters, `params.cfg`, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy

from ..config import ConfigError
from ..models.plain_pickle import MAX_BYTES
from ..models.restricted_pickle import read_pickle
from ..scan.io.output import write_atomically

__all__ = ['cfg', 'decode_params', 'encode_params', 'read_params_cfg', 'write_params_cfg']

cfg: dict[str, Any] = {}
"""PtychoPINN's global parameters: workflows fill it first, bundles restore it. Nothing here reads it."""


def write_params_cfg(path: Path, parameters: Mapping[str, Any]) -> Path:
    """Returns the path of the JSON file that now holds the parameters, arrays included.

    Raises:
        ConfigError: a value that is no number, text, list, array or mapping.
    """
    text = encode_params(parameters)
    return write_atomically(path, lambda temporary: temporary.write_text(text, encoding='utf-8'))


def encode_params(parameters: Mapping[str, Any]) -> str:
    """Returns parameters as JSON, arrays included.

    Raises:
        ConfigError: a value that is no number, text, list, array or mapping.
    """
    tree = {}
    for key, value in parameters.items():
        try:
            tree[str(key)] = json.loads(json.dumps(value, default=_encode))
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f'parameter {key} {error}: only numbers, text, lists, arrays and mappings of them '
                'can be written.'
            ) from error
    return json.dumps(tree, indent=2, sort_keys=True)


def decode_params(data: bytes | str, source: str) -> dict[str, Any]:
    """Returns the parameters of what `encode_params` made.

    Raises:
        ConfigError: it did not.
    """
    try:
        tree = json.loads(data, object_hook=_decode)
    except (ValueError, TypeError, LookupError, OverflowError, RecursionError) as error:
        raise ConfigError(f'{source}: is no snapshot of params.cfg: {error}.') from error
    if not isinstance(tree, dict):
        raise ConfigError(f'{source}: holds a {type(tree).__name__}, not parameters by name.')
    return {str(key): value for key, value in tree.items()}


def read_params_cfg(path: Path) -> dict[str, Any]:
    """Returns the parameters of a snapshot: our JSON, or PtychoPINN's `params.dill`.

    Raises:
        ConfigError: neither, or damaged.
        ArchiveError: a pickle that holds more than plain values.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ConfigError(f'{path}: is larger than {MAX_BYTES} bytes, no snapshot of params.cfg.')
    data = path.read_bytes()
    if not data.startswith(b'\x80'):
        return decode_params(data, str(path))
    tree = read_pickle(data, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f'{path}: holds a {type(tree).__name__}, not parameters by name.')
    return {str(key): value for key, value in tree.items()}


def _encode(value: Any) -> Any:
    """Returns JSON for what JSON does not know."""
    if isinstance(value, numpy.ndarray):
        parts = numpy.stack([value.real, value.imag], axis=-1) if value.dtype.kind == 'c' else value
        return {'dtype': str(value.dtype), 'values': parts.tolist()}
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'is a {type(value).__name__}')


def _decode(tree: dict[str, Any]) -> Any:
    """Returns an array for the JSON of one, everything else as it is."""
    if set(tree) != {'dtype', 'values'}:
        return tree
    dtype = numpy.dtype(tree['dtype'])
    if dtype.kind != 'c':
        return numpy.asarray(tree['values'], dtype=dtype)
    parts = numpy.asarray(tree['values'], dtype=float)
    return (parts[..., 0] + 1j * parts[..., 1]).astype(dtype)
