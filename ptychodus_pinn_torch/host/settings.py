"""The options of the package as parameters of Ptychodus: INI groups, read once per action."""

from __future__ import annotations

import configparser
import itertools
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ptychodus.api.parameters import StringParameter
from ptychodus.api.settings import SettingsRegistry

from ..backend import DEFAULT_BACKEND, available_backends
from ..config import (
    Config,
    ConfigError,
    Option,
    find_without_effect,
    iter_options,
    network_kinds,
    override_config,
)

__all__ = [
    'PINNTorchSettings',
    'check_effects',
    'find_ini_faults',
    'group_name',
    'iter_host_options',
]

logger = logging.getLogger(__name__)

GROUP_PREFIX = 'PINNTorch'
BACKEND_KEY = 'backend'

_REMEDY = 'Correct it in the settings of PINN-Torch, or in the INI file in a group [PINNTorch...].'


def group_name(section: str) -> str:
    """Returns the name of the INI group that holds a section of the configuration."""
    return GROUP_PREFIX + section.title().replace('_', '')


def iter_host_options() -> Iterator[Option]:
    """Yields the options that Ptychodus shows: all but the mode, which the reconstructor is."""
    for option in iter_options():
        if option.path == 'network.kind':
            yield replace(option, choices=network_kinds())
        elif option.path != 'mode':
            yield option


class PINNTorchSettings:
    """Every option as a string parameter, so that no text in an INI can stop Ptychodus.

    The integer and real parameters of Ptychodus raise out of `open_settings` on bad text, and
    clamp what is out of bounds without a word. Strings keep what the user wrote until `read`
    says what is wrong with it.
    """

    def __init__(self, registry: SettingsRegistry) -> None:
        self.backend = registry.create_group(GROUP_PREFIX).create_string_parameter(
            BACKEND_KEY, DEFAULT_BACKEND
        )
        self._parameters: dict[str, StringParameter] = {}
        for section, options in itertools.groupby(iter_host_options(), lambda o: o.section):
            group = registry.create_group(group_name(section))
            for option in options:
                self._parameters[option.path] = group.create_string_parameter(
                    option.name, str(option.default)
                )

    def get_parameter(self, path: str) -> StringParameter:
        """Returns the parameter of the option `section.name`."""
        return self._parameters[path]

    def read(self, mode: str) -> Config:
        """Returns the configuration as it is now, for one of the two modes.

        Raises:
            ConfigError: a value that cannot be used; names every one of them.
        """
        values = {path: item.get_value().strip() for path, item in self._parameters.items()}
        kind = values['network.kind']
        if kind in network_kinds():  # options of other networks wait for their turn
            own = {option.path for option in iter_options(kind)}
            values = {path: value for path, value in values.items() if path in own}
        try:
            return override_config(Config(), {'mode': mode, **values}, source='PINN-Torch settings')
        except ConfigError as error:
            raise ConfigError(f'{error} {_REMEDY}') from error

    @staticmethod
    def find_fault(path: str, text: str) -> str:
        """Returns what is wrong with the text of an option; empty when nothing is."""
        try:
            networks = next(o for o in iter_options() if o.path == path).scope.networks
            chosen = {'network.kind': networks[0]} if networks else {}
            override_config(Config(), {**chosen, path: text.strip()}, source='PINN-Torch settings')
        except ConfigError as error:
            return str(error)
        return ''


def check_effects(config: Config, *, command: str, backend: str) -> None:
    """Refuses settings that would do nothing in an action under this engine and network.

    Both reconstructors share the settings: what only the other one uses is logged.

    Raises:
        ConfigError: names the first of them, and why.
    """
    other_mode = 'supervised' if config.mode == 'unsupervised' else 'unsupervised'
    other = config.model_copy(update={'mode': other_mode})
    elsewhere = find_without_effect(other, command=command, backend=backend)
    for path, reason in find_without_effect(config, command=command, backend=backend).items():
        if path in elsewhere:
            raise ConfigError(
                f'PINN-Torch settings: {path} has no effect {reason}: leave it out. {_REMEDY}'
            )
        logger.info('%s has no effect in %s mode.', path, config.mode)


def find_ini_faults(ini_file: Path, reconstructors: tuple[str, ...]) -> list[str]:
    """Returns a sentence for everything in an INI file that PINN-Torch could not use.

    `reconstructors` are the keys that Ptychodus lists.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        if not parser.read(ini_file, encoding='utf-8'):
            return [f'{ini_file} cannot be read: give the path of an INI file.']
    except (configparser.Error, UnicodeDecodeError) as error:
        return [f'{ini_file} is not an INI file: {str(error).splitlines()[0]}.']
    faults = []
    algorithm = parser.get('Processing', 'Algorithm', fallback='').strip().casefold()
    if algorithm and algorithm not in reconstructors:
        faults.append(
            f'[Processing] Algorithm = {algorithm} is not in Ptychodus, which would do nothing and '
            f'report success: choose one of {", ".join(reconstructors)}.'
        )
    groups: dict[str, dict[str, Option]] = {}
    for option in iter_host_options():
        groups.setdefault(group_name(option.section), {})[option.name.lower()] = option
    for group in parser.sections():
        if group == GROUP_PREFIX:
            faults += _find_backend_faults(parser[group])
        elif group in groups:
            faults += _find_option_faults(parser[group], groups[group])
        elif group.startswith(GROUP_PREFIX):
            known = ', '.join(sorted([*groups, GROUP_PREFIX]))
            faults.append(f'[{group}] is no group: there are {known}.')
    return faults


def _find_option_faults(
    group: configparser.SectionProxy, options: dict[str, Option]
) -> Iterator[str]:
    for key, text in group.items():
        if key not in options:
            known = ', '.join(option.name for option in options.values())
            yield f'[{group.name}] {key} is no option: there are {known}.'
        elif fault := PINNTorchSettings.find_fault(options[key].path, text):
            yield f'[{group.name}] {fault}'


def _find_backend_faults(group: configparser.SectionProxy) -> Iterator[str]:
    for key, text in group.items():
        if key != BACKEND_KEY:
            yield f'[{GROUP_PREFIX}] {key} is no option: there is {BACKEND_KEY}.'
        elif text.strip().lower() not in ('', *available_backends()):
            choices = ', '.join(available_backends())
            yield f'[{GROUP_PREFIX}] backend = {text} is unknown: choose one of {choices}.'
