"""The engines that run a network: what they promise, which one is chosen, which are installed."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from .config import Config
    from .models.archive import Archive
    from .networks.contract import Network
    from .scan.scan import Scan
    from .training.fitting import Fitted, TrainingRun

__all__ = [
    'BACKEND_VARIABLE',
    'Backend',
    'EpochReport',
    'Moved',
    'Reconstruction',
    'ReconstructRequest',
    'TrainRequest',
    'Trust',
    'available_backends',
    'get_backend',
    'ignore_report',
    'is_backend_available',
    'resolve_backend',
]

BACKEND_VARIABLE = 'PTYCHOPINN_BACKEND'
BACKEND_GROUP = 'ptychodus_pinn_torch.backends'
DEFAULT_BACKEND = 'pytorch'

_TITLES = {'pytorch': 'PyTorch', 'tensorflow': 'TensorFlow'}
_MODULES = {'pytorch': ('torch', 'lightning'), 'tensorflow': ('tensorflow',)}
_INSTALL = {
    'pytorch': 'pip install ptychodus-pinn-torch',
    'tensorflow': "pip install 'ptychodus-pinn-torch[tensorflow]'",
}


@dataclass(frozen=True)
class EpochReport:
    """What an engine tells while it works.

    Attributes:
        phase: 'train', 'network', 'refine' or another word for the progress line.
        step: Steps done. `total` are all of them.
        loss: Training loss, if known. `floor` is the loss that photon noise alone implies.
        held_out: Relative amplitude error on patterns that did not take part, if known.
        remaining_s: Estimated seconds to go, if known.
        is_epoch_end: Whether `loss` and `held_out` belong into the loss history.
    """

    phase: str
    step: int
    total: int
    epoch: int = 0
    loss: float | None = None
    held_out: float | None = None
    floor: float | None = None
    remaining_s: float | None = None
    is_epoch_end: bool = False
    message: str = ''


Report = Callable[[EpochReport], None]
"""Receives reports; raising `KeyboardInterrupt` from it stops the work and keeps the best."""


def ignore_report(report: EpochReport) -> None:
    """Takes a report and does nothing."""


@dataclass(frozen=True)
class TrainRequest:
    """Train a model on scans.

    Attributes:
        scans: At least one scan. `validation` scans are only ever judged on.
        output: The model archive to write (`*.h5.zip`).
        is_resumed: Continue an interrupted run with the same output.
        backend: Name of the engine; see `resolve_backend`.
    """

    scans: tuple[Scan, ...]
    config: Config
    output: Path
    validation: tuple[Scan, ...] = ()
    is_resumed: bool = False
    backend: str = DEFAULT_BACKEND


@dataclass(frozen=True)
class ReconstructRequest:
    """Reconstruct one scan with a model archive; None is the shipped model."""

    scan: Scan
    config: Config
    model: Path | None = None
    backend: str = DEFAULT_BACKEND


@dataclass(frozen=True)
class Moved:
    """What was freed beside the object, and how far it moved; None for what was not freed.

    Attributes:
        positions_rms_px: Distance of the positions from those given, without the shift that all
            have in common: the object moves with that one.
        positions_max_px: The largest of these distances.
        probe_overlap: `|<a, b>| / (|a| |b|)` of the strongest modes, given and refined, at most 1.
        probe_power_ratio: Photons of the refined probe, all modes, over those of the given one.
        factors_rms: Relative deviation of the frames' brightness from its mean.
        background_counts: Counts that every pixel of every frame has beside those of the object.
    """

    positions_rms_px: float | None = None
    positions_max_px: float | None = None
    probe_overlap: float | None = None
    probe_power_ratio: float | None = None
    factors_rms: float | None = None
    background_counts: float | None = None

    def figures(self) -> dict[str, float]:
        """Returns by name what was freed."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def sentence(self) -> str:
        """Returns the same in words, or nothing where only the object was free."""
        known, parts = self.figures(), []
        if 'positions_rms_px' in known:
            parts.append(
                'positions were moved by {positions_rms_px:.2g} px rms, {positions_max_px:.2g} px '
                'at most'
            )
        if 'probe_overlap' in known:
            parts.append(
                'the probe overlaps with the given one by {probe_overlap:.3f} and has '
                '{probe_power_ratio:.3g} times its photons'
            )
        if 'factors_rms' in known:
            parts.append('the brightness of the frames varies by {factors_rms:.2g} rms')
        if 'background_counts' in known:
            parts.append('the background is {background_counts:.2g} counts per pixel')
        text = '; '.join(parts).format(**known)
        return text and f'{text[0].upper()}{text[1:]}.'


@dataclass(frozen=True)
class Trust:
    """What is to be thought of an image.

    Attributes:
        verdict: 'right', 'doubtful' or 'wrong'.
        sentence: The verdict with its reason, and what to do.
        to_noise: Error of the amplitudes over that of photon noise; 1 where all is explained.
        frames: (N,) the same for each frame; NaN for those that were left out.
        map: (Y, X) float32 on the grid of the object: the mean of `frames` over those that saw a
            pixel, each with the intensity of its probe there. NaN where less than 2 % of the light
            of the best covered pixel fell: there the data do not support the image.
        moved: What was freed beside the object, and how far it moved.
    """

    verdict: str
    sentence: str
    to_noise: float
    frames: Any
    map: Any
    moved: Moved = Moved()

    def summary(self, without: str = '') -> str:
        """Returns the sentence and what was moved, in one line.

        Args:
            without: Name of the scan, which is left out where everybody knows it.
        """
        sentence = self.sentence.removeprefix(f'{without}: ')
        return ' '.join(f'{sentence} {self.moved.sentence()}'.split())


@dataclass(frozen=True)
class Reconstruction:
    """An image on the input object's grid, and how it came about.

    Attributes:
        object_: (Y, X) complex64 on the grid of `scan.object_`.
        positions_px: (N, 2) and `probe` (P, H, W): as given, or refined (see `freed`).
        losses: (epoch, value) of the refinement: relative amplitude error.
        coverage: (Y, X) float32, probe power that each pixel saw, at most 1.
        seconds: Time by phase.
        start: 'network', 'flat' or 'object': where the refinement started.
        held_out: Relative amplitude error on patterns that did not take part, if any were kept out.
        messages: Sentences for the user.
        backend: The engine that ran the network.
        freed: What was adjusted: of 'probe', 'positions', 'factors' and 'background'.
        trust: Whether the image is to be believed.
        probe_variation: How the first mode of `probe` varies from pattern to pattern, as
            `Scan.probe_variation`; None where it does not.
    """

    object_: Any
    positions_px: Any
    probe: Any
    losses: tuple[tuple[int, float], ...]
    coverage: Any
    seconds: dict[str, float] = field(default_factory=dict)
    start: str = 'network'
    held_out: float | None = None
    messages: tuple[str, ...] = ()
    backend: str = DEFAULT_BACKEND
    freed: tuple[str, ...] = ()
    trust: Trust | None = None
    probe_variation: Any = None


@runtime_checkable
class Backend(Protocol):
    """An engine: it builds, fits and runs networks. Its module is imported only when asked for.

    The procedures of training and of reconstruction around it exist once, for all engines.
    """

    name: str

    def settle(self, config: Config) -> tuple[Config, str]:
        """Returns the configuration of a training run here, and a sentence on what was changed.

        Raises:
            ConfigError: an option that the engine does not have; names it.
        """

    def load_network(self, archive: Archive, config: Config) -> Network:
        """Returns the network of an archive, ready to reconstruct.

        Raises:
            ArchiveError: made by another engine for a network that is not there here.
            ValueError: weights that do not fit the network.
        """

    def fit(self, run: TrainingRun) -> Fitted:
        """Returns what is best after a training run, or after the wish to stop it."""


def available_backends() -> tuple[str, ...]:
    """Returns the names of all registered engines, installed or not, the default first."""
    names = {item.name for item in entry_points(group=BACKEND_GROUP)} | set(_TITLES)
    return (DEFAULT_BACKEND, *sorted(names - {DEFAULT_BACKEND}))


def is_backend_available(name: str) -> bool:
    """Returns whether what the engine needs is installed, without importing it."""
    return all(importlib.util.find_spec(module) is not None for module in _MODULES.get(name, ()))


def resolve_backend(argument: str | None = None, setting: str | None = None) -> str:
    """Returns the engine to use: argument, then environment, then setting, then the default.

    Raises:
        ValueError: unknown name; says where it came from and what there is.
        RuntimeError: the engine is not installed; gives the command that installs it.
    """
    candidates = (
        ('the argument', argument),
        (f'the variable {BACKEND_VARIABLE}', os.environ.get(BACKEND_VARIABLE)),
        ('the settings', setting),
    )
    choices = available_backends()
    given = ((value.strip().lower(), where) for where, value in candidates if value)
    name, source = next((item for item in given if item[0]), (DEFAULT_BACKEND, 'the default'))
    if name not in choices:
        raise ValueError(
            f'backend {name!r}, from {source}, is unknown: choose one of {", ".join(choices)}.'
        )
    if not is_backend_available(name):
        missing = [m for m in _MODULES[name] if importlib.util.find_spec(m) is None]
        raise RuntimeError(
            f'{_TITLES.get(name, name)} backend selected by {source}, but {" and ".join(missing)} '
            f'is not installed: {_INSTALL[name]}'
        )
    return name


def get_backend(name: str) -> Backend:
    """Returns the engine of that name, importing what it needs.

    Raises:
        ValueError: no engine of that name is registered.
    """
    for item in entry_points(group=BACKEND_GROUP):
        if item.name == name:
            return item.load()()  # type: ignore[no-any-return]
    raise ValueError(f'backend {name!r} is unknown: choose one of {available_backends()}.')
