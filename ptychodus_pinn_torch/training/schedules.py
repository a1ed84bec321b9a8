"""The learning rate over a run, for each part of what learns."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..config import TrainingConfig

__all__ = ['PHYSICS_RATE', 'PlateauRule', 'rate_factor', 'rate_growth']

DECAY_PER_RUN = 0.05
"""Where the exponential schedule ends, relative to the peak."""

COSINE_END = 0.01
"""Where the cosine schedule ends, relative to the peak."""

PHYSICS_RATE = 0.5
"""Learning rate of probe and scale, relative to that of the network."""


def rate_growth(training: TrainingConfig, num_devices: int) -> float:
    """Returns by what the learning rate is multiplied, as more devices do larger steps together.

    With the number of devices (Goyal et al., 2017), or with its root, which suits Adam.
    """
    if training.rate_scaling == 'linear':
        return float(num_devices)
    return math.sqrt(num_devices) if training.rate_scaling == 'root' else 1.0


def rate_factor(training: TrainingConfig, total_steps: int, *, role: str) -> Callable[[int], float]:
    """Returns the learning rate, relative to its peak, as a function of the step.

    `role` is 'all', or for staged fine-tuning 'first' (the decoder: the whole run, at a tenth in
    the second half) and 'second' (the encoder: at a tenth, in the second half only).
    """
    warmup = training.warmup_fraction * total_steps

    def factor(step: int) -> float:
        if step < warmup:
            value = 0.1 + 0.9 * step / warmup
        else:
            value = _scheduled(training.schedule, (step - warmup) / max(1.0, total_steps - warmup))
        is_late = step >= 0.5 * total_steps
        if role == 'second':
            return 0.1 * value if is_late else 0.0
        return 0.1 * value if role == 'first' and is_late else value

    return factor


def _scheduled(schedule: str, progress: float) -> float:
    progress = min(1.0, progress)
    if schedule == 'cosine':
        return COSINE_END + (1.0 - COSINE_END) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == 'exponential':
        return DECAY_PER_RUN**progress
    return 1.0


class PlateauRule:
    """Halves a factor after `patience` values without a new best one."""

    def __init__(self, *, patience: int = 2, smallest: float = 0.01) -> None:
        self.patience, self.smallest = patience, smallest
        self.factor, self.best, self.waited = 1.0, math.inf, 0

    def step(self, value: float) -> None:
        """Takes notice of a new value."""
        if value < self.best * 0.999:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited > self.patience:
            self.factor, self.waited = max(self.smallest, 0.5 * self.factor), 0

    def state(self) -> dict[str, float]:
        """Returns what a checkpoint must hold."""
        return {'factor': self.factor, 'best': self.best, 'waited': float(self.waited)}

    def load(self, state: dict[str, float]) -> None:
        """Takes up a state."""
        self.factor, self.best = state['factor'], state['best']
        self.waited = int(state['waited'])
