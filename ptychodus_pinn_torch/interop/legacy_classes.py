"""PtychoPINN's configuration classes, made of the table of fields, and made of the object API's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Any

from .legacy_fields import (
    EXECUTION_FIELDS,
    INFERENCE_FIELDS,
    MODEL_FIELDS,
    TRAINING_FIELDS,
    Field,
)
from .object_fields import DataConfig, ObjectConfig
from .object_fields import InferenceConfig as ObjectInferenceConfig
from .object_fields import ModelConfig as ObjectModelConfig
from .object_fields import TrainingConfig as ObjectTrainingConfig

__all__ = [
    'InferenceConfig',
    'ModelConfig',
    'PyTorchExecutionConfig',
    'TrainingConfig',
    'to_inference_config',
    'to_model_config',
    'to_training_config',
]


def _make_class(name: str, rows: Iterable[Field], *, is_frozen: bool = False, **first: Any) -> type:
    """Returns a dataclass with a field for each row; those in `first` have no default."""
    required = [(key, kind) for key, kind in first.items()]
    others = [(row.name, Any, field(default=row.default)) for row in rows if row.name not in first]
    text = f'The fields of `{name}` of PtychoPINN, with their defaults there.'
    about = {'__module__': __name__, '__doc__': text}
    return make_dataclass(name, [*required, *others], frozen=is_frozen, namespace=about)


ModelConfig: Any = _make_class('ModelConfig', MODEL_FIELDS, is_frozen=True)
TrainingConfig: Any = _make_class('TrainingConfig', TRAINING_FIELDS, model=ModelConfig)
InferenceConfig: Any = _make_class(
    'InferenceConfig', INFERENCE_FIELDS, model=ModelConfig, model_path=Path, test_data_file=Path
)
PyTorchExecutionConfig: Any = _make_class('PyTorchExecutionConfig', EXECUTION_FIELDS)

_OTHER_NAMES = {'epochs': 'nepochs', 'K': 'neighbor_count', 'min_lr_ratio': 'lr_min_ratio'}
_OTHER_VALUES = {
    'amp_activation': {'silu': 'swish'},
    'scheduler': {'Cosine': 'WarmupCosine'},
}
_OTHER_MEANING = {'n_subsample', 'middle_trim'}
"""Fields that mean something else in the classes of the same names there."""


def _build(kind: Any, values: Mapping[str, Any], overrides: Mapping[str, Any] | None) -> Any:
    """Returns an instance of a class; what it has no field for is left, unless it was asked for."""
    known = {item.name for item in fields(kind)}
    asked = dict(overrides or {})
    if unknown := sorted(set(asked) - known):
        raise TypeError(
            f'{kind.__name__} has no field {", ".join(unknown)}: see docs/migrating.md.'
        )
    given = {name: value for name, value in values.items() if name in known} | asked
    needed = [name for name in ('model_path', 'test_data_file') if kind is InferenceConfig]
    if missing := [name for name in needed if given.get(name) is None]:
        raise ValueError(f'{kind.__name__} needs {", ".join(missing)}: give it in overrides.')
    return kind(**given)


def _values_of(*configs: ObjectConfig) -> dict[str, Any]:
    """Returns the fields of configurations of the object API under the names of the others."""
    found: dict[str, Any] = {}
    for config in configs:
        for name, value in config:
            if name not in _OTHER_MEANING and value is not None:
                table = _OTHER_VALUES.get(name, {})
                found[_OTHER_NAMES.get(name, name)] = table.get(value, value) if table else value
    return found


def to_model_config(
    data: DataConfig, model: ObjectModelConfig, overrides: Mapping[str, Any] | None = None
) -> Any:
    """Returns a `ModelConfig` for the configurations of data and model of the object API.

    Raises:
        TypeError: an override that is no field.
        ValueError: groups that are no square.
    """
    channels = int(data.C) if 'C' in data.given() else math.prod(data.grid_size)
    if math.isqrt(channels) ** 2 != channels:
        raise ValueError(f'groups of {channels} patterns are no square, which gridsize needs.')
    values = _values_of(data, model)
    values['gridsize'] = math.isqrt(channels)
    values['model_type'] = 'supervised' if model.mode == 'Supervised' else 'pinn'
    return _build(ModelConfig, values, overrides)


def to_training_config(
    model: Any,
    data: DataConfig,
    object_model: ObjectModelConfig,
    training: ObjectTrainingConfig,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """Returns a `TrainingConfig` for the configurations of the object API.

    Args:
        model: From `to_model_config`.
        data: As there; its `n_subsample`, groups per pattern, has no counterpart.
        object_model: As there.
        training: Epochs, rates, optimiser.
        overrides: Fields on top, such as `train_data_file`.

    Raises:
        TypeError: an override that is no field.
    """
    values = _values_of(data, object_model, training)
    values |= {'model': model, 'backend': training.backend or 'pytorch'}
    if warmup := training.lr_warmup_epochs or training.warmup_epochs:
        values['lr_warmup_epochs'] = warmup
    is_poisson = object_model.loss_function == 'Poisson' and training.torch_loss_mode != 'mae'
    values['torch_loss_mode'] = 'poisson' if is_poisson else 'mae'
    values['nll_weight'], values['mae_weight'] = float(is_poisson), float(not is_poisson)
    return _build(TrainingConfig, values, overrides)


def to_inference_config(
    model: Any,
    data: DataConfig,
    inference: ObjectInferenceConfig,
    overrides: Mapping[str, Any] | None = None,
) -> Any:
    """Returns an `InferenceConfig` for the configurations of the object API.

    Args:
        model: From `to_model_config`.
        data: As there.
        inference: As there.
        overrides: Fields on top; `model_path` and `test_data_file` are needed.

    Raises:
        TypeError: an override that is no field.
        ValueError: the model or the data are not named.
    """
    values = _values_of(data, inference) | {'model': model, 'backend': 'pytorch'}
    return _build(InferenceConfig, values, overrides)
