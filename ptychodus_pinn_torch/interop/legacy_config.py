"""PtychoPINN's configurations and ours, both ways; and its flat dictionary of parameters."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, ConfigError, override_config
from .legacy_fields import EXECUTION_FIELDS, INFERENCE_FIELDS, MODEL_FIELDS, TRAINING_FIELDS, Row

__all__ = [
    'KEY_MAPPINGS',
    'LegacyConfig',
    'config_from_legacy',
    'dataclass_to_legacy_dict',
    'legacy_from_config',
    'load_legacy_config',
    'update_legacy_dict',
]

logger = logging.getLogger(__name__)

KEY_MAPPINGS = {
    'object_big': 'object.big',
    'probe_big': 'probe.big',
    'probe_mask': 'probe.mask',
    'probe_trainable': 'probe.trainable',
    'intensity_scale_trainable': 'intensity_scale.trainable',
    'positions_provided': 'positions.provided',
    'output_dir': 'output_prefix',
    'train_data_file': 'train_data_file_path',
    'test_data_file': 'test_data_file_path',
}
"""The nine fields whose key in the flat dictionary is another one."""

GROUPS_PER_EPOCH = 512
"""PtychoPINN's groups per epoch where none were asked for."""

_LOSSES = {'poisson': 'poisson', 'mae': 'amplitude'}
_SCHEDULES = {
    'Default': 'constant',
    'Exponential': 'exponential',
    'WarmupCosine': 'cosine',
    'ReduceLROnPlateau': 'plateau',
}
_ACCELERATORS = {'auto': 'auto', 'cpu': 'cpu', 'gpu': 'cuda', 'cuda': 'cuda', 'mps': 'mps'}
_PRECISIONS = {'32-true': '32-true', '16-mixed': 'bf16-mixed', 'bf16-mixed': 'bf16-mixed'}
_TABLE: dict[str, Row] = {
    row[0]: row for row in (*INFERENCE_FIELDS, *MODEL_FIELDS, *EXECUTION_FIELDS, *TRAINING_FIELDS)
}
_FIELD_OF_KEY = {key: name for name, key in KEY_MAPPINGS.items()}


@dataclass(frozen=True)
class LegacyConfig:
    """A configuration of ours made from one of PtychoPINN's.

    Attributes:
        config: Ours.
        warnings: A sentence for every field that could not be taken over.
    """

    config: Config
    warnings: tuple[str, ...]


def dataclass_to_legacy_dict(source: Any) -> dict[str, Any]:
    """Returns the flat dictionary of a configuration: the model's fields beside the others.

    Args:
        source: A configuration dataclass of PtychoPINN, or a mapping of its fields.
    """
    if dataclasses.is_dataclass(source) and not isinstance(source, type):
        fields = dataclasses.asdict(source)
    else:
        fields = dict(source)
    model = fields.pop('model', None)
    if dataclasses.is_dataclass(model) and not isinstance(model, type):
        model = dataclasses.asdict(model)
    flat = {**dict(model or {}), **fields}
    return {
        KEY_MAPPINGS.get(name, name): str(value) if isinstance(value, Path) else value
        for name, value in flat.items()
    }


def update_legacy_dict(parameters: MutableMapping[str, Any], source: Any) -> None:
    """Writes a configuration into a flat dictionary; None leaves what is there.

    Call it before anything else acts on the configuration.
    """
    for key, value in dataclass_to_legacy_dict(source).items():
        if value is not None:
            parameters[key] = value


def load_legacy_config(path: Path) -> LegacyConfig:
    """Returns the configuration of a JSON file in PtychoPINN's names, flat or nested.

    Raises:
        ConfigError: not JSON, or values that make no sense.
    """
    try:
        tree = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise ConfigError(f'{path}: cannot be read as JSON: {error}.') from error
    if not isinstance(tree, dict):
        raise ConfigError(f'{path}: holds a {type(tree).__name__}, not fields with values.')
    return config_from_legacy(tree)


def config_from_legacy(source: Any, execution: Any = None) -> LegacyConfig:
    """Returns our configuration for PtychoPINN's: its dataclasses, mappings, or flat dictionary.

    Fields that are not given keep our default. What has no counterpart is named in a warning,
    unless it has PtychoPINN's default, which every configuration of theirs carries.

    Args:
        source: Training, inference or model configuration.
        execution: `PyTorchExecutionConfig`, if there is one.

    Raises:
        ConfigError: a value that makes no sense for the option that it maps to.
    """
    fields = {
        _FIELD_OF_KEY.get(key, key): value
        for key, value in dataclass_to_legacy_dict(source).items()
    }
    if execution is not None:
        fields.update(dataclass_to_legacy_dict(execution))
    given = {name: value for name, value in fields.items() if value is not None}
    warnings = [text for name, value in given.items() if (text := _remark(name, value))]
    try:
        options = _translate(given, warnings)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ConfigError(f'configuration of PtychoPINN: {error}.') from error
    config = override_config(Config(), options, source='configuration of PtychoPINN')
    for text in warnings:
        logger.warning('%s', text)
    return LegacyConfig(config, tuple(warnings))


def _remark(name: str, value: Any) -> str | None:
    """Returns what to say of a field that has no counterpart, if anything."""
    if name not in _TABLE:
        return f'{name} is no field of PtychoPINN that is known here: it is left out.'
    _, default, option, remark = _TABLE[name]
    if option is not None or value == default:
        return None
    return f'{name} = {value!r} is left out: {remark}.'


def _translate(given: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Returns our options for the fields that were given."""
    options: dict[str, Any] = {'network.kind': 'cnn'}

    def take(name: str, option: str, convert: Callable[[Any], Any] = lambda value: value) -> None:
        if name in given:
            options[option] = convert(given[name])

    def choose(name: str, option: str, choices: Mapping[str, str]) -> None:
        if name in given:
            value = str(given[name])
            if value in choices:
                options[option] = choices[value]
            else:
                known = ', '.join(choices)
                warnings.append(f'{name} = {value!r} is left out: known here are {known}.')

    take('N', 'network.pattern_size', int)
    if 'gridsize' in given:
        channels = int(given['gridsize']) ** 2
        options['network.num_channels'] = options['grouping.group_size'] = channels
        if 'neighbor_count' in given and channels > 1:
            pool = (int(given['neighbor_count']) + 1) / channels
            options['grouping.neighbor_pool'] = min(8.0, max(1.0, pool))
    take('n_filters_scale', 'network.first_width', lambda value: 8 * int(value))
    take('probe_big', 'network.has_outer_branch', bool)
    choose('model_type', 'mode', {'pinn': 'unsupervised', 'supervised': 'supervised'})
    choose('architecture', 'network.kind', {'cnn': 'cnn'})
    if given.get('mae_weight', 0.0) > given.get('nll_weight', 1.0):
        options['loss.kind'] = 'amplitude'
    elif 'torch_loss_mode' in given:
        choose('torch_loss_mode', 'loss.kind', _LOSSES)
    elif 'nll_weight' in given:
        options['loss.kind'] = 'poisson'
    _translate_course(given, options)
    take('batch_size', 'training.batch_size', int)
    take('subsample_seed', 'training.seed', int)
    take('probe_trainable', 'physics.train_probe', bool)
    take('intensity_scale_trainable', 'physics.train_scale', bool)
    take('gradient_clip_val', 'training.clip_norm', float)
    choose('optimizer', 'training.optimizer', {'adam': 'adam', 'adamw': 'adamw'})
    take('weight_decay', 'training.weight_decay', float)
    choose('scheduler', 'training.schedule', _SCHEDULES)
    take('learning_rate', 'training.learning_rate', float)
    take('accum_steps', 'training.accumulate', int)
    take('early_stop_patience', 'training.early_stopping', int)
    choose('accelerator', 'execution.accelerator', _ACCELERATORS)
    take('devices', 'execution.devices', lambda value: 1 if value == 'auto' else int(value))
    choose('precision', 'execution.precision', _PRECISIONS)
    choose(
        'logger_backend',
        'execution.logger',
        {'csv': 'csv', 'tensorboard': 'tensorboard', 'mlflow': 'mlflow'},
    )
    return options


def _translate_course(given: Mapping[str, Any], options: dict[str, Any]) -> None:
    """Sets the steps of the run, which PtychoPINN counts in epochs of groups."""
    if 'nepochs' not in given and 'n_groups' not in given:
        return
    epochs = int(given.get('nepochs', 50))
    groups = int(given.get('n_groups') or given.get('n_images') or GROUPS_PER_EPOCH)
    batch = int(given.get('batch_size', 16))
    options['training.max_steps'] = epochs * math.ceil(groups / batch)
    if given.get('lr_warmup_epochs'):
        options['training.warmup_fraction'] = min(0.9, int(given['lr_warmup_epochs']) / epochs)


def legacy_from_config(config: Config) -> dict[str, Any]:
    """Returns the fields of PtychoPINN's `TrainingConfig`, `model` nested, for ours.

    What PtychoPINN has no field for is left out, and said.
    """
    network = config.network
    channels = network.stack_size or 1
    model = {row[0]: row[1] for row in MODEL_FIELDS} | {
        'N': network.size_px or 64,
        'gridsize': max(1, math.isqrt(channels)),
        'n_filters_scale': max(1, getattr(network, 'first_width', 16) // 8),
        'model_type': 'pinn' if config.mode == 'unsupervised' else 'supervised',
        'probe_big': getattr(network, 'has_outer_branch', False),
    }
    batch = config.training.batch_size or 16
    epochs = max(1, round(config.training.max_steps * batch / GROUPS_PER_EPOCH))
    schedules = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    if config.network.kind != 'cnn':
        logger.warning(
            'network.kind = %r has no counterpart in PtychoPINN: cnn is written.',
            config.network.kind,
        )
    return {row[0]: row[1] for row in TRAINING_FIELDS} | {
        'model': model,
        'batch_size': batch,
        'nepochs': epochs,
        'n_groups': GROUPS_PER_EPOCH,
        'mae_weight': 1.0 if config.loss.kind == 'amplitude' else 0.0,
        'nll_weight': 1.0 if config.loss.kind == 'poisson' else 0.0,
        'torch_loss_mode': 'poisson' if config.loss.kind == 'poisson' else 'mae',
        'subsample_seed': config.training.seed,
        'neighbor_count': max(4, round(config.grouping.neighbor_pool * channels) - 1),
        'probe_trainable': config.physics.train_probe,
        'intensity_scale_trainable': config.physics.train_scale,
        'gradient_clip_val': config.training.clip_norm or None,
        'optimizer': config.training.optimizer,
        'weight_decay': config.training.weight_decay,
        'scheduler': schedules[config.training.schedule],
        'lr_warmup_epochs': round(config.training.warmup_fraction * epochs),
        'backend': 'pytorch',
    }
