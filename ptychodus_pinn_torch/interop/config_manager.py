"""The configurations of PtychoPINN's object API, held together."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Protocol

from ..config import Config, ConfigError, load_tree, override_config
from ..scan.io.output import write_atomically
from ..trees import show
from .legacy_config import NAME, config_from_legacy, whole_number
from .object_fields import (
    SECTIONS,
    DataConfig,
    DatagenConfig,
    InferenceConfig,
    ModelConfig,
    ObjectConfig,
    TrainingConfig,
)

__all__ = ['ConfigManager']


class HasConfig(Protocol):
    """A model, as far as its configuration goes."""

    config: Config


class ConfigManager:
    """Holds the configurations and makes one of ours of them.

    Each may be given as an object or as a dictionary of its fields.

    Raises:
        TypeError: a field that there is not; names it.
    """

    def __init__(
        self,
        data_config: Any = None,
        model_config: Any = None,
        training_config: Any = None,
        inference_config: Any = None,
        datagen_config: Any = None,
    ) -> None:
        given = {
            'data_config': data_config,
            'model_config': model_config,
            'training_config': training_config,
            'inference_config': inference_config,
            'datagen_config': datagen_config,
        }
        self.data_config: DataConfig
        self.model_config: ModelConfig
        self.training_config: TrainingConfig
        self.inference_config: InferenceConfig
        self.datagen_config: DatagenConfig
        for name, kind in SECTIONS.items():
            value = given[name]
            is_ready = isinstance(value, ObjectConfig)
            if not is_ready and not isinstance(value, (Mapping, NoneType)):
                raise TypeError(f'{name} is a {show(value)}, not fields with values.')
            setattr(self, name, value if is_ready else kind(**dict(value or {})))
        self._name = NAME  # in messages; the file that it was read from

    @classmethod
    def _from_json(cls, path: Path | str) -> ConfigManager:
        """Returns the configurations of a JSON or YAML file: sections by name, or fields alone.

        Raises:
            ConfigError: neither, or fields that there are not.
        """
        path = Path(path)
        tree = load_tree(path)
        try:
            manager = cls._flexible_load(tree)
        except TypeError as error:
            raise ConfigError(f'{path}: {error}') from error
        manager._name = str(path)
        return manager

    @classmethod
    def _flexible_load(cls, source: Any = None, **sections: Any) -> ConfigManager:
        """Returns the configurations of a manager, a file, a mapping of sections, or of fields.

        A field that several configurations have goes to each of them, save `batch_size`, which is
        that of the training.

        Raises:
            TypeError: a field that there is not; names it.
        """
        if isinstance(source, ConfigManager):
            return source
        if isinstance(source, (str, Path)):
            return cls._from_json(source)
        tree = {**dict(source or {}), **sections}
        manager = cls(**{name: tree.pop(name) for name in SECTIONS if name in tree})
        manager.update(**tree)
        return manager

    def update(self, **given: Any) -> None:
        """Sets configurations, or fields of whichever has them.

        Raises:
            TypeError: a field that there is not; names it.
        """
        for name, value in given.items():
            if name in SECTIONS:
                if not isinstance(value, (ObjectConfig, Mapping)):
                    raise TypeError(f'{name} is {show(value)}, not fields with values.')
                fields = value.given() if isinstance(value, ObjectConfig) else dict(value)
                getattr(self, name).update(**fields)
                continue
            owners = [key for key, kind in SECTIONS.items() if name in kind.DEFAULTS]
            if not owners:
                raise TypeError(f'no configuration has a field {name}: see docs/migrating.md.')
            for key in ['training_config'] if name == 'batch_size' else owners:
                getattr(self, key).update(**{name: value})

    def to_json(self, path: Path | str) -> Path:
        """Returns the path of the JSON file that now holds all fields that were set."""
        tree = {name: getattr(self, name).given() for name in SECTIONS}
        text = json.dumps(tree, indent=2, default=str)
        return write_atomically(Path(path), lambda part: part.write_text(text, encoding='utf-8'))

    @classmethod
    def from_loaded_model(cls, model: HasConfig) -> ConfigManager:
        """Returns the configurations that a model was made with."""
        network = model.config.network
        mode = model.config.mode.capitalize()
        return cls(DataConfig(N=network.size_px, C=network.stack_size), ModelConfig(mode=mode))

    def validate_arch_compatibility(self, model: HasConfig) -> None:
        """Refuses a model of another pattern size.

        Raises:
            ValueError: names both sizes.
        """
        size = self.data_config.given().get('N', 0)
        own = model.config.network.size_px
        if size and own and size != own:
            raise ValueError(f'the model takes patterns of {own} px, the data have {size} px.')

    def to_config(self, *, steps_per_epoch: int = 32) -> Config:
        """Returns our configuration for the fields that were set.

        Raises:
            ConfigError: a value that makes no sense for its option; names file and field.
        """
        training = self.training_config.given()
        fields = {**self.data_config.given(), **self.model_config.given(), **training}
        options: dict[str, Any] = {'training.start': 'none'}
        try:
            if 'epochs' in fields:
                batch = whole_number(dict(self.training_config), 'batch_size', 1)
                fields['n_groups'] = steps_per_epoch * batch
            # groups that each pattern gets; in the workflows the name means patterns that are taken
            if 'n_subsample' in fields:
                draws = whole_number(fields, 'n_subsample', 1)
                options['grouping.groups_per_pattern'] = draws
                del fields['n_subsample']
        except ValueError as error:
            raise ConfigError(f'{self._name}: {error}.') from error
        start = override_config(Config(), options, source=self._name)
        return config_from_legacy(fields, start=start, name=self._name).config
