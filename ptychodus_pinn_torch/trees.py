"""Trees of plain values from files of unknown origin, within limits, and how they are shown."""

from __future__ import annotations

import json
import reprlib
from pathlib import Path
from typing import Any

__all__ = ['parse_json', 'read_tree', 'show']

MAX_BYTES = 2**20
MAX_VALUES = 100_000
MAX_DEPTH = 32
"""A configuration has three levels, and a hundred values."""


def show(value: Any) -> str:
    """Returns a value as messages show it: short, whatever it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 120
    short.maxlevel, short.maxlist, short.maxtuple = 2, 4, 4
    return short.repr(value)


def read_tree(path: Path) -> Any:
    """Returns what a JSON or YAML file holds, told apart by the file's name.

    Raises:
        OSError: it cannot be opened.
        ValueError: neither of the two, or too large; says why.
    """
    if path.exists() and not path.is_file():
        raise ValueError('is no file')
    with path.open('rb') as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f'is larger than {MAX_BYTES} bytes')
    try:
        return (_parse_yaml if path.suffix.lower() in {'.yaml', '.yml'} else parse_json)(data)
    except ValueError as error:
        raise ValueError(f'is neither JSON nor YAML: {error}') from error


def parse_json(data: bytes | str) -> Any:
    """Returns what JSON text holds.

    Raises:
        ValueError: it is no JSON, or nested too deep.
    """
    try:
        return _refuse_depth(json.loads(data))
    except RecursionError as error:
        raise ValueError('it is nested too deep') from error


def _refuse_depth(tree: Any) -> Any:
    """Returns the tree unless it is nested so deep that whoever looks at it would fail."""
    level = [tree]
    for _ in range(MAX_DEPTH):
        held = [item for item in level if isinstance(item, (dict, list))]
        level = [
            child for item in held for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return tree
    raise ValueError('it is nested too deep')


def _parse_yaml(data: bytes) -> Any:
    """Returns what YAML text holds; what an alias stands for is counted each time."""
    import yaml

    sizes: dict[int, int] = {}

    class Loader(yaml.SafeLoader):
        """Counts values while they are put together, before anything is made of them."""

        num_values = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            """Returns the next value."""
            is_alias = self.check_event(yaml.AliasEvent)
            before, self.num_values = self.num_values, 1
            node = super().compose_node(parent, index)
            if is_alias:  # what stands for a part of itself has no size yet
                self.num_values = sizes.get(id(node), MAX_VALUES)
            sizes[id(node)] = self.num_values
            self.num_values += before
            if self.num_values > MAX_VALUES:
                raise ValueError(f'it has more than {MAX_VALUES} values')
            return node

    try:
        return _refuse_depth(yaml.load(data, Loader))
    except RecursionError as error:
        raise ValueError('it is nested too deep') from error
    except Exception as error:
        raise ValueError(' '.join(str(error).split())) from error
