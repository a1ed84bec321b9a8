"""Every option of the configuration tree as a flag."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..config import Config, Option, iter_options, load_config, override_config, preset

__all__ = ['add_config_options', 'config_from']

_SHORT = {
    'training.max_steps': '--steps',
    'training.synthetic_fraction': '--synthetic',
    'training.start': '--start',
    'training.seed': '--seed',
    'reconstruction.refine_epochs': '--refine',
    'reconstruction.update_probe': '--update-probe',
    'reconstruction.update_positions': '--update-positions',
    'execution.num_threads': '--threads',
    'execution.accelerator': '--device',
    'network.kind': '--network',
}
"""Second, shorter names of the flags that people use."""

_PREFIX = 'option:'


def add_config_options(parser: argparse.ArgumentParser, *sections: str) -> None:
    """Adds `--config`, `--preset` and a flag for every option of the sections."""
    parser.add_argument('--config', type=Path, metavar='FILE', help='JSON or YAML configuration')
    parser.add_argument(
        '--preset', choices=('quick', 'default', 'best'), help='configuration to start from'
    )
    groups: dict[str, argparse._ArgumentGroup] = {}
    for item in iter_options():
        if item.section and item.section not in sections:
            continue
        group = groups.setdefault(
            item.section, parser.add_argument_group(f'{item.section or "general"} options')
        )
        names = [item.flag]
        if item.path in _SHORT:
            names.insert(0, _SHORT[item.path])
        group.add_argument(*names, dest=_PREFIX + item.path, default=None, **_argument(item))


def _argument(item: Option) -> dict[str, Any]:
    unit = f' [{item.unit}]' if item.unit else ''
    text = f'{item.description}{unit} (default: {item.default})'.replace('%', '%%')
    if item.kind is bool:
        return {'action': argparse.BooleanOptionalAction, 'help': text}
    if item.choices:
        return {'choices': item.choices, 'help': text}
    return {'type': item.kind, 'metavar': item.kind.__name__.upper(), 'help': text}


def config_from(arguments: argparse.Namespace) -> Config:
    """Returns the configuration: preset or file, then flags on top.

    Raises:
        ConfigError: an unknown option or a value out of bounds, wherever it came from.
    """
    config = preset(arguments.preset or 'default')
    if arguments.config is not None:
        config = load_config(arguments.config)
    given = {
        name.removeprefix(_PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(_PREFIX) and value is not None
    }
    return override_config(config, given, source='command line')
