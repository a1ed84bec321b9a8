"""What an engine is given to fit a network, and what it gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..config import Config
from ..models.archive import Archive, write_archive
from .batches import Batches
from .run_folder import BEST_NAME
from .training_log import TrainingLog

__all__ = ['Fitted', 'TrainingRun']

STEPS_PER_VALIDATION = 100
"""About as many steps lie between two validations, which cost as much as five."""

VALIDATIONS_PER_RUN = 4


@dataclass(frozen=True)
class TrainingRun:
    """A network to be fitted.

    Attributes:
        config: The configuration of the run; the network's pattern size is settled.
        batches: Where the batches come from.
        log: To be told of steps and epochs; says when to stop.
        folder: For checkpoints and logs; what a run is resumed from.
        is_resumed: Go on with what lies in the folder.
        weights: Of the network, by name, to start from; None starts from scratch.
        start: What to call them.
    """

    config: Config
    batches: Batches
    log: TrainingLog
    folder: Path
    is_resumed: bool = False
    weights: Mapping[str, NDArray[Any]] | None = None
    start: str = 'none'

    @property
    def is_finetuned(self) -> bool:
        """Whether the weights come from a model, so that `training.finetune` applies."""
        return self.weights is not None

    def keep_best(self, weights: Mapping[str, NDArray[Any]], backend: str) -> None:
        """Writes the best weights so far as an archive; whoever ends the run, now or never, has it.

        Args:
            weights: Of the network, as archives hold them.
            backend: Name of the engine.
        """
        archive = Archive(self.config, weights, tuple(self.log.history), backend=backend)
        write_archive(self.folder / BEST_NAME, archive)

    def validation_interval(self, steps_per_epoch: int) -> int:
        """Returns the epochs between two validations; one where they decide about the end."""
        training = self.config.training
        if training.early_stopping:
            return 1
        num_epochs = -(-training.max_steps // steps_per_epoch)
        wanted = round(STEPS_PER_VALIDATION / steps_per_epoch)
        return max(1, min(wanted, num_epochs // VALIDATIONS_PER_RUN))


@dataclass(frozen=True)
class Fitted:
    """What a run has come to: the best weights, or the last where none were judged.

    Attributes:
        weights: Arrays as archives hold them: `network.*`, `probe.<scan>`, `log_scale`.
        steps: Optimiser steps done.
        metrics: Figures of the last judgement (see `judging.judge`).
        best_held_out: The error of the weights, where they were judged.
        is_main: Whether this process is the one that writes.
    """

    weights: Mapping[str, NDArray[Any]]
    steps: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    best_held_out: float | None = None
    is_main: bool = True
