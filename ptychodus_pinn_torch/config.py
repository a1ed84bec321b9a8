"""The one immutable configuration tree: every option is declared here, and only here.

A declaration says where its option applies: for which commands, backends, networks and modes, and
what else has to be set. Flags, forms, INI keys, the documentation and the refusal of options without
effect follow from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from .trees import parse_json, read_tree, show

__all__ = [
    'DECISION',
    'Config',
    'ConfigError',
    'NetworkConfig',
    'Option',
    'Scope',
    'Section',
    'find_without_effect',
    'iter_options',
    'load_config',
    'load_tree',
    'option',
    'override_config',
    'preset',
    'refuse_without_effect',
]

NETWORK_GROUP = 'ptychodus_pinn_torch.networks'
TRAIN, PRETRAIN, RECONSTRUCT = 'train', 'pretrain', 'reconstruct'


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names the option and what to do."""


@dataclass(frozen=True)
class Scope:
    """Where an option has an effect; an empty tuple sets no limit.

    Attributes:
        commands: Of `train`, `pretrain` and `reconstruct`.
        backends: Names of engines.
        networks: Kinds of networks.
        modes: Of `unsupervised` and `supervised`.
        needs: (path, values) of another option without one of whose values it does nothing.
        unless_set: Path of an option that, where it is set, lets it act in every mode.
    """

    commands: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    needs: tuple[str, tuple[Any, ...]] | None = None
    unless_set: str = ''

    def narrowed(self, other: Scope) -> Scope:
        """Returns this scope with the limits that the other one sets."""
        limits = {name: value for name, value in vars(other).items() if value}
        return replace(self, **limits)


def option(
    default: Any,
    description: str,
    *,
    unit: str = '',
    basic: bool = False,
    scope: Scope | None = None,
    **bounds: Any,
) -> Any:
    """Returns a pydantic field that carries unit, visibility and scope next to bounds and text.

    Args:
        description: A sentence for help, tool tips and documentation.
        basic: Whether it is shown to everybody, or to those who ask for all options.
        scope: Where it applies, as far as that differs from the rest of its section.
        **bounds: Of pydantic: `ge`, `gt`, `le`, `lt`.
    """
    extra: Any = {'unit': unit, 'basic': basic, 'scope': scope or Scope(), 'bounds': bounds}
    return Field(default=default, description=description, json_schema_extra=extra, **bounds)


class Section(BaseModel):
    """A frozen group of options that refuses names it does not know."""

    scope: ClassVar[Scope] = Scope()
    """Where the options of the section apply, unless one says otherwise."""

    model_config = ConfigDict(frozen=True, extra='forbid', validate_default=True)


class GroupingConfig(Section):
    """How overlapping patterns are put together into groups."""

    scope: ClassVar[Scope] = Scope(commands=(TRAIN,))

    group_size: int = option(
        0,
        'Patterns per group, C. 0 chooses: 36 for patterns below 96 px, 16 from there on; the '
        'cnn network takes 1 or 4.',
        scope=Scope(commands=(TRAIN, PRETRAIN)),
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

    groups_per_pattern: int = option(
        1,
        'How often an epoch draws groups of all patterns, each time others.',
        ge=1,
        le=1024,
    )
    max_patterns: int = option(
        0,
        'Patterns of each scan that are trained on, drawn at random. 0 takes all.',
        unit='patterns',
        ge=0,
    )


class NetworkConfig(Section):
    """Which network, and its size. These options travel in the model archive.

    Each kind has a section of its own, found by `kind`. A network of another distribution brings
    one as the attribute `config_type` of its class, which the entry point of that name names.

    Attributes:
        is_patchwise: Whether the network sees a pattern, or a stack of C, at a time.
    """

    scope: ClassVar[Scope] = Scope(commands=(TRAIN, PRETRAIN))
    is_patchwise: ClassVar[bool] = False

    kind: str = option(
        'unrolled',
        'unrolled: overlap and probe inside the network (recommended); cnn: the PtychoPINN '
        'network; fno: a Fourier operator; ptychopinn: a converted model. Others may register.',
    )

    @property
    def size_px(self) -> int:
        """The pattern size that the network is built for; 0 for any."""
        return int(self._layout().get('pattern_size', 0))

    @property
    def stack_size(self) -> int:
        """C, the patterns that go through the network together; 0 for any number."""
        return int(self._layout().get('num_channels', 0))

    def _layout(self) -> Mapping[str, Any]:
        return vars(self)


class UnrolledConfig(NetworkConfig):
    """Overlap and probe inside the network: physics steps, each corrected by a small CNN."""

    kind: Literal['unrolled'] = option('unrolled', 'Physics steps and a CNN, stage by stage.')
    num_stages: int = option(8, 'Physics-and-CNN stages.', ge=1, le=32)
    width: int = option(12, 'Channels at full resolution.', ge=2, le=256)
    num_subsets: int = option(9, 'Ordered subsets of patterns per stage, K.', ge=1, le=64)
    num_memory: int = option(4, 'Channels of memory handed from stage to stage.', ge=0, le=64)


class PriorConfig(NetworkConfig):
    """The physics are the solver's; a CNN corrects its image, told what the counts say of it."""

    kind: Literal['prior'] = option('prior', "A CNN that corrects the solver's image.")
    canvas_width: int = option(24, 'Channels at full resolution.', ge=2, le=256)


_TORCH = Scope(backends=('pytorch',))

Amplitude = Literal['softplus', 'sigmoid', 'silu', 'relu']


def _amplitude() -> Any:
    return option(
        'softplus',
        'What makes the amplitude of a feature; each is the mean level at first. sigmoid: up to twice '
        'the level.',
        scope=Scope(needs=('network.head', ('amplitude_phase',))),
    )


class FnoConfig(NetworkConfig):
    """A Fourier neural operator: a pattern, or a stack of four, in; patches of the object out."""

    is_patchwise: ClassVar[bool] = True

    kind: Literal['fno'] = option('fno', 'Spectral layers between patterns and patches.')
    pattern_size: int = option(
        0, 'Pattern size the network is built for. 0 takes that of the scan.', ge=0, le=1024
    )
    num_channels: int = option(
        1, 'Patterns that go through the network together, ordered by place.', ge=1, le=16
    )
    operator_width: int = option(24, 'Channels of the operator.', ge=2, le=256)
    num_modes: int = option(
        16, 'Spatial frequencies per axis that spectral layers weigh.', ge=1, le=256
    )
    num_blocks: int = option(4, 'Spectral layers.', ge=1, le=32)
    num_refiners: int = option(2, 'Convolutions after them.', ge=0, le=16)
    head: Literal['amplitude_phase', 'real_imaginary'] = option(
        'amplitude_phase', 'What the last layer stands for.'
    )
    amplitude: Amplitude = _amplitude()


class CnnConfig(NetworkConfig):
    """The PtychoPINN network: a pattern, or a stack of four, in; patches of the object out."""

    is_patchwise: ClassVar[bool] = True

    kind: Literal['cnn'] = option('cnn', 'Patterns in, patches of the object out.')
    pattern_size: int = option(
        0, 'Pattern size the network is built for. 0 takes that of the scan.', ge=0, le=1024
    )
    num_channels: int = option(
        1,
        'Patterns that go through the network together, ordered by place: 1, or 4 with groups of 4.',
        ge=1,
        le=16,
    )
    first_width: int = option(16, 'Channels of the first encoder level.', ge=2, le=512)
    has_skips: bool = option(True, 'Skip connections from encoder to decoder.')
    attention: Literal['none', 'cbam', 'eca', 'spatial'] = option(
        'none', 'Attention after each encoder level and decoder level.'
    )
    head: Literal['amplitude_phase', 'real_imaginary'] = option(
        'amplitude_phase', 'What the last layers stand for.'
    )
    amplitude: Amplitude = _amplitude()
    has_outer_branch: bool = option(
        False, "PtychoPINN's probe_big, a second branch for the outer part of the patch."
    )
    has_shared_decoder: bool = option(
        True, 'One decoder for both parts of the object; else one for each.', scope=_TORCH
    )
    has_norm: bool = option(False, 'Batch normalisation before each rectifier.', scope=_TORCH)
    bottleneck_attention: bool = option(False, 'CBAM between encoder and decoder.', scope=_TORCH)
    stem: int = option(
        0,
        'Pixels folded into channels at the entrance (1, 2 or 4). 0 chooses 2 from 128 px on.',
        ge=0,
        le=4,
    )


class PtychoPinnConfig(NetworkConfig):
    """A network of the published PtychoPINN codes, with weights that were trained there."""

    is_patchwise: ClassVar[bool] = True

    kind: Literal['ptychopinn'] = option('ptychopinn', 'A converted model of PtychoPINN.')
    layout: str = option('', 'Layout of a network of PtychoPINN, as its conversion writes it.')

    def _layout(self) -> Mapping[str, Any]:
        try:
            return {'num_channels': 1, **parse_json(self.layout or '{}')}
        except (ValueError, TypeError):
            return {'num_channels': 1}  # the network says what is wrong with it


_NETWORKS: dict[str, type[NetworkConfig]] = {
    'unrolled': UnrolledConfig,
    'prior': PriorConfig,
    'cnn': CnnConfig,
    'fno': FnoConfig,
    'ptychopinn': PtychoPinnConfig,
}


def network_kinds() -> tuple[str, ...]:
    """Returns the kinds of networks: ours, and those that others have registered."""
    others = {item.name for item in entry_points(group=NETWORK_GROUP)} - set(_NETWORKS)
    return (*_NETWORKS, *sorted(others))


def network_config_type(kind: str) -> type[NetworkConfig]:
    """Returns the section of options of a kind of network.

    Raises:
        ValueError: no network of that kind is registered.
    """
    if kind in _NETWORKS:
        return _NETWORKS[kind]
    for item in entry_points(group=NETWORK_GROUP):
        if item.name == kind:
            return item.load().config_type  # type: ignore[no-any-return]
    raise ValueError(
        f'network.kind = {kind!r} is unknown: choose one of {", ".join(network_kinds())}.'
    )


class PhysicsConfig(Section):
    """What of the measurement is known, and what is learnt."""

    scope: ClassVar[Scope] = Scope(commands=(TRAIN,), modes=('unsupervised',))

    num_probe_modes: int = option(
        0,
        'Probe modes used, brightest first. 0 uses all that the scan has.',
        scope=Scope(commands=(TRAIN, RECONSTRUCT), modes=('unsupervised', 'supervised')),
        ge=0,
        le=64,
    )
    probe_mask_px: float = option(
        0.0,
        'The given probe is dark outside of a disk of this diameter. 0 leaves it as it is.',
        unit='px',
        scope=Scope(commands=(TRAIN, RECONSTRUCT), modes=('unsupervised', 'supervised')),
        ge=0.0,
        le=4096.0,
    )
    train_probe: bool = option(False, 'Training adjusts the probe of each scan.')
    train_scale: bool = option(
        False, 'Training adjusts one factor on the expected counts of each scan.'
    )


class LossConfig(Section):
    """What training minimises."""

    scope: ClassVar[Scope] = Scope(commands=(TRAIN, PRETRAIN))

    kind: Literal['amplitude', 'poisson', 'mae'] = option(
        'amplitude',
        'Roots of counts: squared (amplitude), absolute (mae); or their likelihood.',
        basic=True,
        scope=Scope(commands=(TRAIN,), modes=('unsupervised',), unless_set='loss.counts_weight'),
    )
    match_power: bool = option(
        False,
        'Expected counts get the sum of the measured ones, pattern by pattern, before they are '
        'compared.',
        scope=Scope(
            commands=(TRAIN,),
            backends=('pytorch',),
            needs=('loss.kind', ('mae',)),
        ),
    )
    object_kind: Literal['squared', 'absolute'] = option(
        'squared',
        'How the object is compared with that of the scan.',
        scope=Scope(commands=(TRAIN,), modes=('supervised',), backends=('pytorch',)),
    )
    counts_weight: float = option(
        0.0,
        'Weight of the loss of counts beside that of objects.',
        scope=Scope(commands=(TRAIN,), modes=('supervised',), backends=('pytorch',)),
        ge=0.0,
    )
    deep_supervision: float = option(
        0.3,
        'Weight of the earlier stages of the network.',
        scope=Scope(networks=('unrolled', 'prior')),
        ge=0.0,
        le=10.0,
    )
    tv_amplitude: float = option(0.0, 'Weight of the total variation of the amplitude.', ge=0.0)
    tv_phase: float = option(0.0, 'Weight of the total variation of the phase.', ge=0.0)
    probe_reference: float = option(
        0.0,
        'Weight that keeps a trained probe near the given one.',
        scope=Scope(commands=(TRAIN,), needs=('physics.train_probe', (True,))),
        ge=0.0,
    )


class TrainingConfig(Section):
    """How a training run goes."""

    scope: ClassVar[Scope] = Scope(commands=(TRAIN, PRETRAIN))

    max_steps: int = option(
        900, 'Optimiser steps of the run.', unit='steps', basic=True, ge=1, le=10_000_000
    )
    batch_size: int = option(
        0, 'Groups per step. 0 chooses: 1 for unrolled, 8 for cnn.', ge=0, le=65536
    )
    learning_rate: float = option(2e-3, 'Peak learning rate.', basic=True, gt=0.0, le=1.0)
    schedule: Literal['cosine', 'constant', 'exponential', 'plateau'] = option(
        'cosine', 'The learning rate over the run, after the warm-up.'
    )
    warmup_fraction: float = option(
        0.08, 'Part of the steps in which the rate rises from a tenth to its peak.', ge=0.0, le=0.9
    )
    rate_scaling: Literal['none', 'linear', 'root'] = option(
        'none',
        'How the learning rate grows with the number of devices.',
        scope=Scope(backends=('pytorch',)),
    )
    optimizer: Literal['adam', 'adamw', 'sgd'] = option('adam', 'The optimiser of the weights.')
    momentum: float = option(
        0.9,
        'Momentum of the optimiser.',
        scope=Scope(needs=('training.optimizer', ('sgd',))),
        ge=0.0,
        lt=1.0,
    )
    weight_decay: float = option(0.0, 'Decay of the weights (adamw).', ge=0.0, le=1.0)
    clip_norm: float = option(
        1.0,
        'Gradients are clipped to this norm. 0 does not clip.',
        scope=Scope(needs=('training.clip_value', (0.0,))),
        ge=0.0,
    )
    clip_value: float = option(
        0.0, 'Each number of the gradients is clipped to this instead. 0 does not.', ge=0.0
    )
    accumulate: int = option(1, 'Batches per optimiser step.', ge=1, le=1024)
    holdout_fraction: float = option(
        0.05,
        'Part of the patterns kept out of training, scattered over the scan, to judge the model.',
        scope=Scope(commands=(TRAIN,)),
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
        scope=Scope(commands=(TRAIN,)),
        ge=0.0,
        le=1.0,
    )
    start: str = option(
        'shipped',
        'Weights to start from: shipped, none (from scratch), or the path of a model archive.',
        basic=True,
        scope=Scope(commands=(TRAIN,)),
    )
    finetune: Literal['all', 'decoder', 'staged'] = option(
        'all',
        'What is trained when starting from a model: all; decoder: the last half; staged: the '
        'last half first, then all at a tenth of the rate.',
        scope=Scope(commands=(TRAIN,)),
    )
    seed: int = option(
        0,
        'Seed of every random choice.',
        basic=True,
        scope=Scope(commands=(TRAIN, PRETRAIN, RECONSTRUCT)),
        ge=0,
    )


def _settle_decision(value: Any) -> Any:
    """Returns the word for what version 0.1.0 called True; its False was the default."""
    if isinstance(value, bool):
        return 'on' if value else 'off'
    return {'True': 'on', 'False': 'auto'}.get(value, value) if isinstance(value, str) else value


DECISION = ('auto', 'on', 'off')

Decision = Annotated[Literal['auto', 'on', 'off'], BeforeValidator(_settle_decision)]
"""Whether something is done: always, never, or where it proves to help."""


class ReconstructionConfig(Section):
    """How a scan becomes an image."""

    scope: ClassVar[Scope] = Scope(commands=(RECONSTRUCT,))

    refine_epochs: int = option(
        -1,
        'Epochs of physics refinement. -1 goes on while the image gets better.',
        unit='epochs',
        basic=True,
        ge=-1,
        le=10_000,
    )
    time_budget_s: float = option(
        0.0,
        'Time that a reconstruction may take, for which its steps are planned; 0 for no limit.',
        unit='s',
        basic=True,
        ge=0.0,
        le=1e7,
    )
    alpha: float = option(
        0.0,
        'rPIE regularisation: 1 divides by the peak of the coverage, less by the coverage itself. '
        '0 stands for 1.',
        ge=0.0,
        le=1.0,
    )
    refine_batch: int = option(
        0, 'Patterns per refinement update. 0 chooses by dose.', unit='patterns', ge=0
    )
    update_probe: Decision = option(
        'auto',
        'Whether the probe is adjusted. auto: if it explains held-out patterns better.',
        basic=True,
    )
    update_positions: Decision = option('auto', 'Whether the positions are adjusted.', basic=True)
    update_factors: Decision = option(
        'auto',
        'Whether the brightness of each frame is adjusted.',
    )
    update_background: Decision = option(
        'auto',
        'Whether a constant background is adjusted.',
    )
    final_steps: int = option(
        8,
        'Steps of all patterns at once at the end, at most: at low dose unseen counts end them, and two more '
        'follow in which patterns that were held out join.',
        scope=Scope(needs=('reconstruction.refine_epochs', (-1,))),
        ge=0,
        le=10_000,
    )
    memory_MB: int = option(  # noqa: N815
        1024, 'Memory that one chunk of patterns may take.', unit='MB', ge=16
    )
    start: Literal['network', 'flat', 'object'] = option(
        'network',
        'Where the refinement starts: the network, a flat object, or the object of the scan.',
    )
    guard: bool = option(
        True,
        'Take the flat start instead when the network explains the counts worse, or counts are few.',
        scope=Scope(needs=('reconstruction.start', ('network', 'object'))),
    )

    @model_validator(mode='after')
    def _refuse_idle_budget(self) -> Self:
        if self.time_budget_s and not self.refine_epochs:
            raise ValueError(
                'time_budget_s has no effect where refine_epochs is 0: leave one of them out'
            )
        return self


class ExecutionConfig(Section):
    """Where and how the work runs; has no influence on what is computed."""

    accelerator: Literal['auto', 'cpu', 'cuda', 'mps'] = option(
        'auto', 'The device that does the work; auto takes a GPU where there is one.', basic=True
    )
    devices: int = option(
        1,
        'Devices per machine.',
        scope=Scope(commands=(TRAIN, PRETRAIN), backends=('pytorch',)),
        ge=1,
        le=1024,
    )
    num_threads: int = option(
        0, 'CPU threads. 0 chooses one per idle core.', unit='threads', ge=0, le=1024
    )
    precision: Literal['32-true', 'bf16-mixed'] = option(
        '32-true',
        'Precision of the network; the physics stays in single precision.',
        scope=Scope(backends=('pytorch',)),
    )
    logger: Literal['csv', 'tensorboard', 'mlflow', 'none'] = option(
        'csv',
        'Where training writes its history, besides the archive; tensorboard and mlflow also show '
        'the image after each validation.',
        scope=Scope(commands=(TRAIN, PRETRAIN)),
    )


class Config(Section):
    """The whole configuration of a run: a frozen tree that refuses names it does not know.

    Examples:
        >>> config = Config(training={'max_steps': 300}, network={'kind': 'cnn'})
        >>> config.training.max_steps, config.network.first_width
        (300, 16)
        >>> override_config(config, {'training.max_steps': 500}).training.max_steps
        500
        >>> override_config(config, {'training.max_step': 500})
        Traceback (most recent call last):
        ...
        ptychodus_pinn_torch.config.ConfigError: configuration: training.max_step is no option ...
    """

    mode: Literal['unsupervised', 'supervised'] = option(
        'unsupervised',
        'unsupervised: counts are the only teacher; supervised: the object of the scan is.',
        scope=Scope(commands=(TRAIN,)),
    )
    grouping: GroupingConfig = GroupingConfig()
    network: SerializeAsAny[NetworkConfig] = UnrolledConfig()
    physics: PhysicsConfig = PhysicsConfig()
    loss: LossConfig = LossConfig()
    training: TrainingConfig = TrainingConfig()
    reconstruction: ReconstructionConfig = ReconstructionConfig()
    execution: ExecutionConfig = ExecutionConfig()

    @field_validator('network', mode='before')
    @classmethod
    def _choose_network(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return network_config_type(str(value.get('kind', 'unrolled'))).model_validate(value)
        return value


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
    scope: Scope

    @property
    def path(self) -> str:
        """The dotted name, `section.name`, or the bare name at the top of the tree."""
        return f'{self.section}.{self.name}' if self.section else self.name

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return '--' + self.path.replace('_', '-').lower()

    def applies_to(self, command: str) -> bool:
        """Returns whether the option means anything to a command."""
        return not self.scope.commands or command in self.scope.commands

    def value_in(self, config: Config) -> Any:
        """Returns the value that a configuration holds; the default where it has no such option."""
        section = getattr(config, self.section) if self.section else config
        return getattr(section, self.name, self.default)


def iter_options(network: str | None = None) -> Iterator[Option]:
    """Yields every option of the tree in the order of declaration.

    Of networks, those of all of ours, or those of one kind alone.
    """
    for name, item in Config.model_fields.items():
        kind = item.annotation
        if not (isinstance(kind, type) and issubclass(kind, Section)):
            yield _make_option('', name, Config)
            continue
        yield from (_make_option(name, key, kind) for key in kind.model_fields)
        if name == 'network':
            yield from _network_options(tuple(_NETWORKS) if network is None else (network,))


def _network_options(kinds: Iterable[str]) -> Iterable[Option]:
    """Returns the options of kinds of networks; one that several have is one option."""
    found: dict[str, Option] = {}
    for kind in kinds:
        own = network_config_type(kind)
        for key in own.model_fields:
            if key == 'kind':
                continue
            before = found[key].scope.networks if key in found else ()
            limits = Scope(networks=(*before, kind))
            made = _make_option('network', key, own, limits)
            found[key] = replace(found[key], scope=made.scope) if before else made
    return found.values()


def _make_option(section: str, name: str, model: type[Section], limits: Scope = Scope()) -> Option:
    declared = model.model_fields[name]
    annotation = declared.annotation
    extra: Any = declared.json_schema_extra
    bounds = extra['bounds']
    is_choice = get_origin(annotation) is Literal
    return Option(
        section=section,
        name=name,
        kind=str if is_choice else annotation,  # type: ignore[arg-type]
        default=declared.default,
        choices=tuple(get_args(annotation)) if is_choice else (),
        minimum=bounds.get('ge', bounds.get('gt')),
        maximum=bounds.get('le', bounds.get('lt')),
        unit=extra['unit'],
        description=declared.description or '',
        is_basic=extra['basic'],
        scope=model.scope.narrowed(limits).narrowed(extra['scope']),
    )


def find_without_effect(
    config: Config, *, command: str, backend: str, given: Iterable[str] | None = None
) -> dict[str, str]:
    """Returns which options were set and would do nothing in this run, by path, and why.

    `given` are the paths of those that were asked for; by default those of the command that differ
    from their defaults, so that one file can serve several commands.
    """
    known = {item.path: item for item in iter_options(config.network.kind)}
    if given is None:
        given = [
            path
            for path, item in known.items()
            if item.applies_to(command) and item.value_in(config) != item.default
        ]
    found: dict[str, str] = {}
    for path in given:
        scope = known[path].scope
        limits = [
            (scope.commands, command, f'on the command {command}'),
            (scope.backends, backend, f'with the {backend} backend'),
            (scope.networks, config.network.kind, f'on the {config.network.kind} network'),
        ]
        is_freed = scope.unless_set and known[scope.unless_set].value_in(config)
        if command == TRAIN and not is_freed:
            limits.append((scope.modes, config.mode, f'in {config.mode} mode'))
        if scope.needs is not None:
            other, values = scope.needs
            wanted = ' or '.join(str(value).lower() for value in values)
            limits.append((values, known[other].value_in(config), f'unless {other} is {wanted}'))
        reasons = (text for allowed, actual, text in limits if allowed and actual not in allowed)
        if reason := next(reasons, ''):
            found[path] = reason
    return found


def refuse_without_effect(
    config: Config, *, command: str, backend: str, given: Iterable[str] | None = None
) -> None:
    """Refuses what `find_without_effect` finds.

    Raises:
        ConfigError: names each of them, and why.
    """
    found = find_without_effect(config, command=command, backend=backend, given=given)
    if found:
        faults = '; '.join(f'{path} has no effect {reason}' for path, reason in found.items())
        raise ConfigError(f'{faults}: leave it out.')


def _explain(error: ValidationError, source: str, kind: str) -> ConfigError:
    known = [item.path for item in iter_options(kind if kind in network_kinds() else 'unrolled')]
    elsewhere = {item.path: item.scope.networks for item in iter_options()}
    parts = []
    for item in error.errors():
        path = '.'.join(str(part) for part in item['loc'])
        is_unknown = item['type'] == 'extra_forbidden'
        if item['type'] == 'value_error' and path in {'network', 'reconstruction'}:
            parts.append(str(item['ctx']['error']).rstrip('.'))
        elif is_unknown and elsewhere.get(path):
            owners = ' or '.join(elsewhere[path])
            parts.append(f'{path} is an option of network.kind = {owners}, not of {kind}')
        elif is_unknown:
            section = path.rpartition('.')[0]
            near = [name for name in known if name.rpartition('.')[0] == section]
            parts.append(f'{path} is no option (there are: {", ".join(near)})')
        else:
            parts.append(
                f'{path} = {show(item["input"])}: {item["msg"][0].lower()}{item["msg"][1:]}'
            )
    return ConfigError(f'{source}: {"; ".join(parts)}.')


def make_config(tree: Mapping[str, Any], *, source: str = 'configuration') -> Config:
    """Returns the configuration that a nested mapping describes.

    Raises:
        ConfigError: an unknown option or a value out of bounds; names every one of them.
    """
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        network = tree.get('network')
        kind = network.get('kind', 'unrolled') if isinstance(network, Mapping) else 'unrolled'
        raise _explain(error, source, str(kind)) from error


def override_config(
    config: Config, values: Mapping[str, Any], *, source: str = 'configuration'
) -> Config:
    """Returns `config` with options replaced, given as `{'section.name': value}`.

    Raises:
        ConfigError: an unknown option or a value out of bounds.
    """
    tree = config.model_dump()
    kind = values.get('network.kind', config.network.kind)
    if kind != config.network.kind:
        tree['network'] = {'kind': kind}
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
    return make_config(load_tree(path), source=str(path))


def load_tree(path: Path) -> dict[str, Any]:
    """Returns the mapping in a JSON or YAML file.

    Raises:
        ConfigError: not readable, not JSON or YAML, or no mapping.
    """
    try:
        tree = read_tree(path)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f'{path}: cannot be read as a configuration: {reason}.') from error
    except ValueError as error:
        raise ConfigError(f'{path}: {error}.') from error
    if tree is None and path.suffix.lower() != '.json':
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f'{path}: holds a {type(tree).__name__}, not a tree of options.')
    return tree


_PRESETS: dict[str, dict[str, Any]] = {
    'quick': {'training.max_steps': 300, 'reconstruction.refine_epochs': 1},
    'default': {},
    'best': {
        'training.max_steps': 3000,
        'training.ema_decay': 0.998,
        'reconstruction.final_steps': 64,
    },
}


def preset(name: str) -> Config:
    """Returns one of the named configurations `quick`, `default` and `best`.

    Raises:
        ConfigError: no such preset.
    """
    if name not in _PRESETS:
        raise ConfigError(f'preset {name!r} is unknown: choose one of {", ".join(_PRESETS)}.')
    return override_config(Config(), _PRESETS[name])
