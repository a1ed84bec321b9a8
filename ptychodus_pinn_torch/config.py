"""The one immutable configuration tree: every option is declared here, and only here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = [
    'Config',
    'ConfigError',
    'Option',
    'iter_options',
    'load_config',
    'override_config',
    'preset',
]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the option and what to do."""


def option(
    default: Any, description: str, *, unit: str = '', basic: bool = False, **bounds: Any
) -> Any:
    """Returns a pydantic field that carries unit and visibility next to bounds and description."""
    return Field(
        default=default,
        description=description,
        json_schema_extra={'unit': unit, 'basic': basic},
        **bounds,
    )


class Section(BaseModel):
    """A frozen group of options that refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra='forbid', validate_default=True)


class GroupingConfig(Section):
    """How overlapping patterns are put together into groups."""

    group_size: int = option(
        0,
        'Patterns per group, C. 0 chooses: 36 for patterns below 96 px, 16 from there on; the '
        'cnn network takes 1 or 4.',
        ge=0,
        le=1024,
    )
    neighbor_pool: float = option(
        1.25,
        'A group is drawn from this many times C nearest neighbours of its seed.',
        ge=1.0,
        le=8.0,
    )
    max_distance_px: float = option(
        0.0,
        'No pattern of a group is farther than this from the seed. 0 sets no limit.',
        unit='px',
        ge=0.0,
    )


class NetworkConfig(Section):
    """Which network, and its size. These travel in the model archive."""

    architecture: str = option(
        'unrolled',
        'unrolled: overlap and probe inside the network (recommended); cnn: the PtychoPINN '
        'convolutional network. Others may register by entry point.',
    )
    num_stages: int = option(8, 'unrolled: physics-and-CNN stages.', ge=1, le=32)
    width: int = option(12, 'unrolled: channels at full resolution.', ge=2, le=256)
    num_subsets: int = option(9, 'unrolled: ordered subsets of patterns per stage, K.', ge=1, le=64)
    num_memory: int = option(
        4, 'unrolled: channels of memory handed from stage to stage.', ge=0, le=64
    )
    cnn_pattern_size: int = option(
        0, 'cnn: pattern size the network is built for. 0 takes that of the scan.', ge=0, le=1024
    )
    cnn_channels: int = option(
        1,
        'cnn: patterns that go through the network together, ordered by place: 1, or 4 with '
        'groups of 4.',
        ge=1,
        le=16,
    )
    cnn_width: int = option(16, 'cnn: channels of the first encoder level.', ge=2, le=512)
    cnn_skips: bool = option(True, 'cnn: skip connections from encoder to decoder.')
    cnn_attention: Literal['none', 'cbam', 'eca', 'spatial'] = option(
        'none', 'cnn: attention after each encoder level and decoder level.'
    )
    cnn_head: Literal['amplitude_phase', 'real_imaginary'] = option(
        'amplitude_phase', 'cnn: what the last layers stand for.'
    )
    cnn_outer_branch: bool = option(
        False, "cnn: PtychoPINN's probe_big, a second branch for the outer part of the patch."
    )
    cnn_stem: int = option(
        0,
        'cnn: pixels folded into channels at the entrance (1, 2 or 4). 0 chooses 2 from 128 px on.',
        ge=0,
        le=4,
    )
    ptychopinn_layout: str = option(
        '', 'ptychopinn: layout of a network of PtychoPINN, as its conversion writes it.'
    )


class PhysicsConfig(Section):
    """What of the measurement is known, and what is learnt."""

    num_probe_modes: int = option(
        0, 'Probe modes used, brightest first. 0 uses all that the scan has.', ge=0, le=64
    )
    train_probe: bool = option(False, 'Training adjusts the probe of each scan.')
    train_scale: bool = option(
        False, 'Training adjusts one factor on the expected counts of each scan.'
    )


class LossConfig(Section):
    """What training minimises."""

    kind: Literal['amplitude', 'poisson'] = option(
        'amplitude',
        'amplitude: squared difference of the roots of counts; poisson: negative log-likelihood.',
        basic=True,
    )
    deep_supervision: float = option(
        0.3, 'Weight of the earlier stages of the unrolled network.', ge=0.0, le=10.0
    )
    tv_amplitude: float = option(0.0, 'Weight of the total variation of the amplitude.', ge=0.0)
    tv_phase: float = option(0.0, 'Weight of the total variation of the phase.', ge=0.0)
    probe_reference: float = option(
        0.0, 'Weight that keeps a trained probe near the given one.', ge=0.0
    )


class TrainingConfig(Section):
    """The course of a training run."""

    max_steps: int = option(
        900, 'Optimiser steps of the run.', unit='steps', basic=True, ge=1, le=10_000_000
    )
    batch_size: int = option(
        0, 'Groups per step. 0 chooses: 1 for unrolled, 8 for cnn.', ge=0, le=65536
    )
    learning_rate: float = option(2e-3, 'Peak learning rate.', basic=True, gt=0.0, le=1.0)
    schedule: Literal['cosine', 'constant', 'exponential', 'plateau'] = option(
        'cosine', 'Course of the learning rate after the warm-up.'
    )
    warmup_fraction: float = option(
        0.08, 'Part of the steps in which the rate rises from a tenth to its peak.', ge=0.0, le=0.9
    )
    optimizer: Literal['adam', 'adamw'] = option('adam', 'The optimiser of the weights.')
    weight_decay: float = option(0.0, 'Decay of the weights (adamw).', ge=0.0, le=1.0)
    clip_norm: float = option(1.0, 'Gradients are clipped to this norm. 0 does not clip.', ge=0.0)
    accumulate: int = option(1, 'Batches per optimiser step.', ge=1, le=1024)
    holdout_fraction: float = option(
        0.05,
        'Part of the patterns kept out of training, scattered over the scan, to judge the model.',
        ge=0.0,
        le=0.5,
    )
    early_stopping: int = option(
        0,
        'Stop after this many epochs without a better held-out error. 0 never stops early.',
        unit='epochs',
        ge=0,
    )
    ema_decay: float = option(
        0.0, 'Decay of the exponential moving average of the weights. 0 is off.', ge=0.0, lt=1.0
    )
    synthetic_fraction: float = option(
        0.0,
        "Part of the steps on random objects under the scan's own probe and positions.",
        basic=True,
        ge=0.0,
        le=1.0,
    )
    start: str = option(
        'shipped',
        'Weights to start from: shipped, none (from scratch), or the path of a model archive.',
        basic=True,
    )
    finetune: Literal['all', 'decoder', 'staged'] = option(
        'all',
        'What is trained when starting from a model: all; decoder: the last half; staged: the '
        'last half first, then all at a tenth of the rate.',
    )
    seed: int = option(0, 'Seed of every random choice.', basic=True, ge=0)


class ReconstructionConfig(Section):
    """How a scan becomes an image."""

    refine_epochs: int = option(
        -1,
        'Epochs of physics refinement after the network. -1 goes on until held-out patterns stop '
        'getting better (at least 1, at most 8).',
        unit='epochs',
        basic=True,
        ge=-1,
        le=10_000,
    )
    refine_method: Literal['rpie', 'adam'] = option('rpie', 'Update rule of the refinement.')
    alpha: float = option(0.0, 'rPIE regularisation. 0 chooses by dose.', ge=0.0, le=1.0)
    refine_batch: int = option(
        0, 'Patterns per refinement update. 0 chooses by dose.', unit='patterns', ge=0
    )
    update_probe: bool = option(False, 'The refinement adjusts the probe as well.', basic=True)
    update_positions: bool = option(
        False, 'The refinement adjusts the positions as well.', basic=True
    )
    memory_MB: int = option(  # noqa: N815
        1024, 'Memory that one chunk of patterns may take.', unit='MB', ge=16
    )
    start: Literal['network', 'flat', 'object'] = option(
        'network',
        'Where the refinement starts: the network, a flat object, or the object of the scan.',
    )
    guard: bool = option(
        True, 'Take the flat start instead when the network explains the counts worse.'
    )


class ExecutionConfig(Section):
    """Where and how the work runs; has no influence on what is computed."""

    accelerator: Literal['auto', 'cpu', 'cuda', 'mps'] = option(
        'auto', 'The device that does the work; auto takes a GPU where there is one.', basic=True
    )
    devices: int = option(1, 'Devices per machine.', ge=1, le=1024)
    num_threads: int = option(
        0, 'CPU threads. 0 chooses one per idle core.', unit='threads', ge=0, le=1024
    )
    precision: Literal['32-true', 'bf16-mixed'] = option(
        '32-true', 'Precision of the network; the physics stays in single precision.'
    )
    logger: Literal['csv', 'tensorboard', 'mlflow', 'none'] = option(
        'csv', 'Where training writes its history, besides the archive.'
    )


class Config(Section):
    """The whole configuration of a run."""

    mode: Literal['unsupervised', 'supervised'] = option(
        'unsupervised',
        'unsupervised: counts are the only teacher; supervised: the object of the scan is.',
    )
    grouping: GroupingConfig = GroupingConfig()
    network: NetworkConfig = NetworkConfig()
    physics: PhysicsConfig = PhysicsConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    execution: ExecutionConfig = ExecutionConfig()


@dataclass(frozen=True)
class Option:
    """One declared option, as the command line, the GUI, the INI and the docs show it."""

    section: str
    name: str
    kind: type
    default: Any
    choices: tuple[str, ...]
    minimum: float | None
    maximum: float | None
    unit: str
    description: str
    is_basic: bool

    @property
    def path(self) -> str:
        """The dotted name, `section.name`, or the bare name at the top of the tree."""
        return f'{self.section}.{self.name}' if self.section else self.name

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return '--' + self.path.replace('_', '-').lower()


def _bound(metadata: list[Any], *names: str) -> float | None:
    for item in metadata:
        for name in names:
            if getattr(item, name, None) is not None:
                return float(getattr(item, name))
    return None


def iter_options() -> Iterator[Option]:
    """Yields every option of the tree in the order of declaration."""
    yield from _iter_section('', Config)


def _iter_section(section: str, model: type[BaseModel]) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _iter_section(name, annotation)
            continue
        is_choice = get_origin(annotation) is Literal
        extra = field.json_schema_extra
        assert isinstance(extra, dict)
        yield Option(
            section=section,
            name=name,
            kind=str if is_choice else annotation,  # type: ignore[arg-type]
            default=field.default,
            choices=tuple(get_args(annotation)) if is_choice else (),
            minimum=_bound(field.metadata, 'ge', 'gt'),
            maximum=_bound(field.metadata, 'le', 'lt'),
            unit=str(extra['unit']),
            description=field.description or '',
            is_basic=bool(extra['basic']),
        )


def _explain(error: ValidationError, source: str) -> ConfigError:
    known = [item.path for item in iter_options()]
    parts = []
    for item in error.errors():
        path = '.'.join(str(part) for part in item['loc'])
        if item['type'] == 'extra_forbidden':
            section = path.rpartition('.')[0]
            near = [name for name in known if name.rpartition('.')[0] == section]
            parts.append(f'{path} is no option (there are: {", ".join(near)})')
        else:
            parts.append(f'{path} = {item["input"]!r}: {item["msg"][0].lower()}{item["msg"][1:]}')
    return ConfigError(f'{source}: {"; ".join(parts)}.')


def make_config(tree: Mapping[str, Any], *, source: str = 'configuration') -> Config:
    """Returns the configuration that a nested mapping describes.

    Raises:
        ConfigError: an unknown option or a value out of bounds; names every one of them.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, source) from error


def override_config(
    config: Config, values: Mapping[str, Any], *, source: str = 'configuration'
) -> Config:
    """Returns `config` with options replaced, given as `{'section.name': value}`.

    Raises:
        ConfigError: an unknown option or a value out of bounds.
    """
    tree = config.model_dump()
    for path, value in values.items():
        *sections, name = path.split('.')
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
            if not isinstance(branch, dict):
                raise ConfigError(f'{source}: {path} is no option.')
        branch[name] = value
    return make_config(tree, source=source)


def load_config(path: Path) -> Config:
    """Returns the configuration of a JSON or YAML file; what it leaves out keeps its default.

    Raises:
        ConfigError: not readable, not JSON or YAML, unknown options, values out of bounds.
    """
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{path}: cannot be read as a configuration: {error}.') from error
    try:
        if path.suffix.lower() in {'.yaml', '.yml'}:
            import yaml

            tree = yaml.safe_load(text) or {}
        else:
            tree = json.loads(text)
    except Exception as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f'{path}: is neither JSON nor YAML: {first}.') from error
    if not isinstance(tree, dict):
        raise ConfigError(f'{path}: holds a {type(tree).__name__}, not a tree of options.')
    return make_config(tree, source=str(path))


_PRESETS: dict[str, dict[str, Any]] = {
    'quick': {'training.max_steps': 300, 'reconstruction.refine_epochs': 1},
    'default': {},
    'best': {'training.max_steps': 3000, 'training.ema_decay': 0.998},
}


def preset(name: str) -> Config:
    """Returns one of the named configurations `quick`, `default` and `best`.

    Raises:
        ConfigError: no such preset.
    """
    if name not in _PRESETS:
        raise ConfigError(f'preset {name!r} is unknown: choose one of {", ".join(_PRESETS)}.')
    return override_config(Config(), _PRESETS[name])
