"""The options of the configuration tree as flags of a command."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..backend import resolve_backend
from ..config import (
    DECISION,
    RECONSTRUCT,
    Config,
    Option,
    iter_options,
    load_config,
    network_kinds,
    override_config,
    preset,
    refuse_without_effect,
)
from . import UsageError
from ._scan_options import RARE

__all__ = ['CONFIGURED', 'add_config_options', 'backend_from', 'config_from']

CONFIGURED = ('train', 'pretrain', 'reconstruct', 'live')
"""The commands that take a configuration."""

SCOPES = {'live': RECONSTRUCT}
"""Commands that take the options of another one, and show them to those who ask for all."""

_SHORT = {
    'training.max_steps': '--steps',
    'training.synthetic_fraction': '--synthetic',
    'training.start': '--start',
    'training.seed': '--seed',
    'reconstruction.refine_epochs': '--refine',
    'reconstruction.time_budget_s': '--seconds',
    'reconstruction.update_probe': '--update-probe',
    'reconstruction.update_positions': '--update-positions',
    'reconstruction.update_factors': '--update-factors',
    'reconstruction.update_background': '--update-background',
    'execution.num_threads': '--threads',
    'execution.accelerator': '--device',
    'network.kind': '--network',
}
"""Second, shorter names of the flags that people use."""

_PREFIX = 'option:'
_KIND = 'network.kind'
_OWN_KINDS = frozenset(kind for item in iter_options() for kind in item.scope.networks)


class _BriefHelp(argparse.HelpFormatter):
    """Shows a flag by its short names alone, where it has some."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        shown = copy.copy(action)
        short = [name for name in action.option_strings if '.' not in name]
        shown.option_strings = short or action.option_strings
        return super()._format_action_invocation(shown)


class _HelpAll(argparse.Action):
    """Prints the help with every option in it, and ends the program."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Prints and exits."""
        for action, text in self.const.items():
            action.help = text
        parser.formatter_class = argparse.HelpFormatter
        parser.print_help()
        parser.exit()


class _Decide(argparse.Action):
    """Means on, and off with `no-` in front; without the flag it is decided by evidence."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, flag: str | None = None
    ) -> None:
        """Keeps the word."""
        setattr(namespace, self.dest, 'off' if 'no-update' in str(flag) else 'on')


def add_config_options(
    parser: argparse.ArgumentParser, command: str, words: Sequence[str] = ()
) -> None:
    """Adds `--config`, `--preset`, `--help-all` and a flag for every option of a command.

    A network of others that the words of the command line name brings flags of its own.
    """
    parser.formatter_class = _BriefHelp
    hidden: dict[argparse.Action, str] = {}
    parser.add_argument(
        '--help-all', action=_HelpAll, nargs=0, const=hidden, default=argparse.SUPPRESS,
        help='show all options and exit',
    )  # fmt: skip
    parser.add_argument('--config', type=Path, metavar='FILE', help='JSON or YAML configuration')
    parser.add_argument(
        '--preset',
        choices=('quick', 'default', 'best'),
        metavar='NAME',
        help='to start from: quick, default, or best',
    )
    for action in parser._actions:
        if action.dest in RARE:
            hidden[action], action.help = str(action.help), argparse.SUPPRESS
    groups: dict[str, argparse._ArgumentGroup] = {}
    for item in iter_options(_find_foreign_network(words)):
        if not item.applies_to(SCOPES.get(command, command)):
            continue
        if item.section not in groups:
            groups[item.section] = parser.add_argument_group(f'{item.section or "general"} options')
        names = [_SHORT[item.path], item.flag] if item.path in _SHORT else [item.flag]
        if item.choices == DECISION:
            names += [name.replace('update', 'no-update') for name in names]
        action = groups[item.section].add_argument(
            *names, dest=_PREFIX + item.path, default=None, **_describe(item)
        )
        if command in SCOPES or not (item.is_basic or item.path in _SHORT):
            hidden[action], action.help = str(action.help), argparse.SUPPRESS


def _find_foreign_network(words: Sequence[str]) -> str | None:
    """Returns the kind of network of another distribution that the words name, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument('--network', f'--{_KIND}', dest='kind')
    try:
        kind = parser.parse_known_args(list(words))[0].kind
    except argparse.ArgumentError:
        return None
    return kind if kind in network_kinds() and kind not in _OWN_KINDS else None


def _describe(item: Option) -> dict[str, Any]:
    unit = f' [{item.unit}]' if item.unit else ''
    text = f'{item.description}{unit} (default: {item.default})'.replace('%', '%%')
    choices = network_kinds() if item.path == _KIND else item.choices
    if item.choices == DECISION:
        return {'action': _Decide, 'nargs': 0, 'help': text}
    if item.kind is bool:
        return {'action': argparse.BooleanOptionalAction, 'help': text}
    if choices:
        return {'choices': choices, 'help': text}
    return {'type': item.kind, 'metavar': item.kind.__name__.upper(), 'help': text}


def backend_from(arguments: argparse.Namespace) -> str:
    """Returns the engine to use: that of the flag, else of the environment, else the default.

    Raises:
        UsageError: there is no engine of that name.
        RuntimeError: it is not installed.
    """
    try:
        return resolve_backend(getattr(arguments, 'backend', None))
    except ValueError as error:
        raise UsageError(str(error)) from error


def config_from(arguments: argparse.Namespace, *, backend: str) -> Config:
    """Returns the configuration: preset or file, then flags on top.

    Raises:
        ConfigError: an unknown option, a value out of bounds, or an option that would do nothing
            in this run; wherever it came from.
    """
    if arguments.config is None:
        config = preset(arguments.preset or 'default')
    elif arguments.preset is None:
        config = load_config(arguments.config)
    else:
        raise UsageError('--preset beside --config: give one of the two.')
    given = {
        name.removeprefix(_PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(_PREFIX) and value is not None
    }
    config = override_config(config, given, source='command line')
    command = SCOPES.get(arguments.command, arguments.command)
    refuse_without_effect(config, command=command, backend=backend, given=given)
    if arguments.config is not None:
        refuse_without_effect(config, command=command, backend=backend)
    return config
