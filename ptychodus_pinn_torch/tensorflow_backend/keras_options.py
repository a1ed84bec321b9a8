"""Which options the TensorFlow engine knows: none is taken and then left without effect."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from importlib.util import find_spec

from ..config import Config, ConfigError, iter_options, override_config

__all__ = ['check_reconstruction_options', 'settle_training_options']

logger = logging.getLogger(__name__)

DEFAULT_ARCHITECTURE = 'unrolled'

_UNROLLED_ONLY = (
    'network.num_stages',
    'network.width',
    'network.num_subsets',
    'network.num_memory',
    'loss.deep_supervision',
)
_PYTORCH_ONLY = ('execution.precision', 'execution.devices')


def _changed(config: Config, paths: Iterable[str]) -> list[str]:
    """Returns those of the options that differ from their defaults."""
    defaults = {option.path: option.default for option in iter_options()}
    found = []
    for path in paths:
        section, _, name = path.rpartition('.')
        value = getattr(getattr(config, section) if section else config, name, defaults.get(path))
        if path in defaults and value != defaults[path]:
            found.append(f'{path} = {value}')
    return found


def _refuse(changed: list[str], reason: str) -> None:
    if changed:
        raise ConfigError(
            f'{", ".join(changed)}: {reason}: leave it at its default, or choose --backend pytorch.'
        )


def settle_training_options(config: Config) -> tuple[Config, str]:
    """Returns the configuration of a training run on TensorFlow, and a sentence for the user.

    The default network, `unrolled`, becomes `cnn`, which the sentence says.

    Raises:
        ConfigError: an option that has no effect here; names it.
    """
    _refuse(
        _changed(config, _UNROLLED_ONLY),
        'belongs to the unrolled network, which the tensorflow backend does not have',
    )
    _refuse(_changed(config, _PYTORCH_ONLY), 'is not there with the tensorflow backend')
    if config.execution.logger == 'mlflow':
        _refuse(['execution.logger = mlflow'], 'is not there with the tensorflow backend')
    if config.execution.logger == 'tensorboard' and find_spec('tensorboard') is None:
        raise ConfigError(
            'execution.logger = tensorboard, which is not installed: pip install '
            "'ptychodus-pinn-torch[tensorboard]', or choose csv."
        )
    if config.loss.probe_reference and not config.physics.train_probe:
        raise ConfigError('loss.probe_reference keeps a trained probe: set physics.train_probe.')
    if config.network.kind == 'cnn':
        return config, ''
    if config.network.kind != DEFAULT_ARCHITECTURE:
        _refuse(
            [f'network.kind = {config.network.kind}'],
            'the tensorflow backend has the cnn network only',
        )
    message = (
        'The tensorflow backend has no unrolled network, which is the default: training the cnn '
        'network instead.'
    )
    logger.warning('%s', message)
    return override_config(config, {'network.kind': 'cnn'}), message


def check_reconstruction_options(config: Config) -> None:
    """Refuses options of a reconstruction that have no effect here.

    Raises:
        ConfigError: names the option.
    """
    _refuse(
        _changed(config, ('reconstruction.refine_method',)),
        'is not there with the tensorflow backend, which refines by rPIE',
    )
    _refuse(
        _changed(config, ('execution.precision', 'execution.devices')),
        'is not there with the tensorflow backend',
    )
