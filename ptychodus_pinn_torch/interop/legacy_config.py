"""PtychoPINN's configurations and ours, both ways; and its flat dictionary of parameters."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import Config, ConfigError, iter_options, load_tree, override_config
from ..trees import show
from .legacy_fields import ALL_FIELDS, MODEL_FIELDS, TRAINING_FIELDS, Field

__all__ = [
    'KEY_MAPPINGS',
    'LegacyConfig',
    'config_from_legacy',
    'dataclass_to_legacy_dict',
    'legacy_from_config',
    'update_legacy_dict',
    'whole_number',
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

NAME = 'configuration of PtychoPINN'
"""What messages call one that is in no file."""

GROUPS_PER_EPOCH = 512
"""PtychoPINN's groups per epoch where none were asked for."""

_LOSSES = {'poisson': 'poisson', 'mae': 'mae'}
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


def _as_mapping(source: Any, what: str) -> dict[str, Any]:
    if dataclasses.is_dataclass(source) and not isinstance(source, type):
        return dataclasses.asdict(source)
    if source is not None and not isinstance(source, Mapping):
        raise ConfigError(f'{what} is {show(source)}, not fields with values.')
    return {str(name): value for name, value in (source or {}).items()}


def dataclass_to_legacy_dict(source: Any, name: str = NAME) -> dict[str, Any]:
    """Returns the flat dictionary of a configuration class of PtychoPINN, or of its fields.

    Args:
        source: The configuration, or the path of a JSON or YAML file of one.
        name: What messages call it, if it is no file.

    Raises:
        ConfigError: neither, nor the path of a JSON or YAML file of fields.
    """
    if isinstance(source, (str, Path)):
        source, name = load_tree(Path(source)), str(source)
    fields = _as_mapping(source, name)
    flat = {**_as_mapping(fields.pop('model', None), f'{name}: model'), **fields}
    return {
        KEY_MAPPINGS.get(key, key): str(value) if isinstance(value, Path) else value
        for key, value in flat.items()
    }


def update_legacy_dict(parameters: MutableMapping[str, Any], source: Any) -> None:
    """Writes a configuration into a flat dictionary; None leaves what is there.

    Call it before anything else acts on the configuration.
    """
    for key, value in dataclass_to_legacy_dict(source).items():
        if value is not None:
            parameters[key] = value


def config_from_legacy(
    source: Any, execution: Any = None, *, start: Config | None = None, name: str = NAME
) -> LegacyConfig:
    """Returns our configuration for PtychoPINN's: dataclasses, mappings, a flat dictionary, a file.

    Fields that are not given keep our default. A warning names what means something else here,
    and what has no counterpart, unless it has PtychoPINN's default, which all of theirs carry.

    Args:
        source: Training, inference or model configuration, or the path of a JSON or YAML file of one.
        execution: `PyTorchExecutionConfig`, if there is one.
        start: What fields that are not given keep.
        name: What messages call the configuration, such as the file that it was read from.

    Raises:
        ConfigError: a file that cannot be read, or a value that makes no sense for its option.
    """
    name = str(source) if isinstance(source, (str, Path)) else name or NAME
    fields = {
        _FIELD_OF_KEY.get(key, key): value
        for key, value in dataclass_to_legacy_dict(source, name).items()
    }
    fields |= dataclass_to_legacy_dict(execution, name)
    given = {key: value for key, value in fields.items() if value is not None}
    warnings: list[str] = []
    try:
        options = _translate(given, warnings)
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError(f'{name}: {error}.') from error
    config = override_config(start or Config(), options, source=name)
    for text in warnings:
        logger.warning('%s', text)
    return LegacyConfig(config, tuple(warnings))


def _translate(given: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Returns our options for the fields that were given."""
    options: dict[str, Any] = {'network.kind': 'cnn'}
    for name, value in given.items():
        if name in ALL_FIELDS:
            try:
                options |= ALL_FIELDS[name].to_ours(value, warnings)
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f'{name} = {show(value)}: {error}') from error
        else:
            warnings.append(f'{name} is no field of PtychoPINN that is known here: it is left out.')
    for part in (_groups, _steps, _attention, _mask):
        options |= part(given)
    for rule in (_loss, _clipping):
        options |= rule(given, warnings)
    if options['network.kind'] == 'cnn':
        options.pop('network.head', None)  # theirs is that of Fourier operators
    elif options.get('network.head') == 'real_imaginary':
        options.pop('network.amplitude', None)
    # sizes of the other network, which have no effect there either
    own = {item.path for item in iter_options(options['network.kind'])}
    return {path: x for path, x in options.items() if path in own}


def whole_number(given: Mapping[str, Any], name: str, default: int) -> int:
    """Returns a whole number of at least 1 among the fields, or the default where it is not set."""
    value = given.get(name) or default
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f'{name} = {show(value)} must be a whole number') from error
    if not 1 <= number < 2**63 or given.get(name) == 0:
        raise ValueError(f'{name} = {show(given[name])} must be at least 1, and less than 2**63')
    return number


def _number(given: Mapping[str, Any], name: str, default: float) -> float:
    """Returns a number among the fields, or the default where it is not set."""
    value = given.get(name, default)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f'{name} = {show(value)} must be a number') from error


def _groups(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of groups: theirs have gridsize**2, or C, patterns."""
    if given.get('object_big') is False:  # every pattern explains its own patch
        return dict.fromkeys(('network.num_channels', 'grouping.group_size'), 1)
    if 'C' in given:
        channels = whole_number(given, 'C', 1)
    elif 'grid_size' in given:
        sides = given['grid_size']
        if not isinstance(sides, (list, tuple)) or len(sides) != 2:
            raise ValueError(f'grid_size = {show(sides)} must be two numbers')
        channels = math.prod(
            whole_number({'grid_size': side or 0}, 'grid_size', 1) for side in sides
        )
    elif 'gridsize' in given:
        channels = whole_number(given, 'gridsize', 1) ** 2
    else:
        return {}
    options: dict[str, Any] = dict.fromkeys(
        ('network.num_channels', 'grouping.group_size'), channels
    )
    if 'neighbor_count' in given and channels > 1:
        pool = (_number(given, 'neighbor_count', 4) + 1) / channels
        options['grouping.neighbor_pool'] = min(8.0, max(1.0, pool))
    return options


def _loss(given: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Returns the loss of counts that has the greater weight, and that of objects beside it."""
    mode = str(given.get('torch_loss_mode', 'poisson'))
    weights = {kind: _number(given, f'{kind}_weight', kind == 'nll') for kind in ('mae', 'nll')}
    options: dict[str, Any] = {}
    if mode not in _LOSSES:
        known = ', '.join(_LOSSES)
        warnings.append(f'torch_loss_mode = {show(mode)} is left out: known here are {known}.')
    elif {'torch_loss_mode', 'mae_weight', 'nll_weight'} & set(given):
        options['loss.kind'] = 'mae' if weights['mae'] > weights['nll'] else _LOSSES[mode]
    if weights['mae'] and weights['nll']:
        warnings.append('mae_weight and nll_weight are not mixed here: the greater one is taken.')
    if given.get('torch_mae_pred_l2_match_target'):
        options['loss.match_power'] = True
    squared, absolute = (_number(given, f'realspace_{x}weight', 0.0) for x in ('', 'mae_'))
    if squared or absolute:
        options['mode'] = 'supervised'
        options['loss.object_kind'] = 'absolute' if absolute > squared else 'squared'
        options['loss.counts_weight'] = max(weights.values()) / max(squared, absolute)
    return options


def _clipping(given: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """Returns how gradients are clipped, and the momentum of an optimiser that has one."""
    options: dict[str, Any] = {}
    if given.get('optimizer') == 'sgd' and 'momentum' in given:
        options['training.momentum'] = _number(given, 'momentum', 0.9)
    if 'gradient_clip_val' not in given:
        return options
    kind = str(given.get('gradient_clip_algorithm', 'norm'))
    if kind not in {'norm', 'value'}:
        warnings.append(
            f'gradient_clip_algorithm = {show(kind)} is left out: known here are norm, value.'
        )
    name = 'clip_value' if kind == 'value' else 'clip_norm'
    return options | {f'training.{name}': _number(given, 'gradient_clip_val', 0.0)}


def _mask(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the diameter of the mask of the probe, by default half the pattern."""
    if not given.get('probe_mask'):
        return {}
    half = _number(given, 'N', 64) / 2
    return {'physics.probe_mask_px': _number(given, 'probe_mask_diameter', 0.0) or half}


def _steps(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the steps of the run, which PtychoPINN counts in epochs of groups."""
    if not {'nepochs', 'epochs', 'n_groups'} & set(given):
        return {}
    epochs = whole_number(given, 'nepochs' if 'nepochs' in given else 'epochs', 50)
    groups = whole_number(
        given, 'n_groups' if 'n_groups' in given else 'n_images', GROUPS_PER_EPOCH
    )
    batch = whole_number(given, 'batch_size', 16)
    options: dict[str, Any] = {'training.max_steps': epochs * -(-groups // batch)}
    warmup = _number(given, 'lr_warmup_epochs', 0) or _number(given, 'warmup_epochs', 0)
    if warmup:
        options['training.warmup_fraction'] = min(0.9, warmup / epochs)
    return options


def _attention(given: Mapping[str, Any]) -> dict[str, Any]:
    for kind in ('cbam', 'eca', 'spatial'):
        if given.get(f'{kind}_encoder') or given.get(f'{kind}_decoder'):
            return {'network.attention': kind}
    return {}


def _fields_of(config: Config, fields: Iterable[Field]) -> dict[str, Any]:
    """Returns the fields whose option stands alone, for our configuration; others by default."""
    ours = {option.path: option for option in iter_options(config.network.kind)}
    return {
        field.name: field.to_theirs(ours[field.option].value_in(config))
        if field.convert is not None and field.option in ours
        else field.default
        for field in fields
    }


def legacy_from_config(config: Config) -> dict[str, Any]:
    """Returns the fields of PtychoPINN's `TrainingConfig`, `model` nested, for ours.

    What PtychoPINN has no field for is left out, and said.
    """
    network, training = config.network, config.training
    if network.kind not in {'cnn', 'fno'}:
        logger.warning(
            'network.kind = %r has no counterpart in PtychoPINN: cnn is written.', network.kind
        )
    channels = network.stack_size or 1
    loss = config.loss
    is_poisson = loss.kind == 'poisson'
    batch = training.batch_size or 16
    epochs = max(1, round(training.max_steps * batch / GROUPS_PER_EPOCH))
    model = _fields_of(config, MODEL_FIELDS) | {
        'N': network.size_px or 64,
        'gridsize': max(1, math.isqrt(channels)),
        'n_filters_scale': max(1, getattr(network, 'first_width', 16) // 8),
        'architecture': 'fno' if network.kind == 'fno' else 'cnn',
        'probe_big': getattr(network, 'has_outer_branch', False),
        'object_big': config.grouping.group_size != 1 or channels > 1,
        'probe_mask': bool(config.physics.probe_mask_px),
        'probe_mask_diameter': config.physics.probe_mask_px or None,
    }
    is_supervised = config.mode == 'supervised' and loss.counts_weight > 0.0
    realspace = 1.0 / loss.counts_weight if is_supervised else 0.0
    return _fields_of(config, TRAINING_FIELDS) | {
        'model': model,
        'batch_size': batch,
        'nepochs': epochs,
        'n_groups': GROUPS_PER_EPOCH,
        'mae_weight': float(not is_poisson),
        'nll_weight': float(is_poisson),
        'torch_loss_mode': 'poisson' if is_poisson else 'mae',
        'neighbor_count': max(4, round(config.grouping.neighbor_pool * channels) - 1),
        'gradient_clip_val': training.clip_value or training.clip_norm or None,
        'gradient_clip_algorithm': 'value' if training.clip_value else 'norm',
        'momentum': training.momentum,
        'torch_mae_pred_l2_match_target': loss.match_power,
        'realspace_weight': realspace if loss.object_kind == 'squared' else 0.0,
        'realspace_mae_weight': realspace if loss.object_kind == 'absolute' else 0.0,
        'lr_warmup_epochs': round(training.warmup_fraction * epochs),
        'backend': 'pytorch',
    }
