"""The course of the learning rate, and Adam, step for step as in the PyTorch engine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ..config import Config, TrainingConfig

__all__ = ['Adam', 'PlateauRule', 'assign_roles', 'rate_factor']

DECAY_PER_RUN = 0.05
COSINE_END = 0.01
PHYSICS_RATE = 0.5
"""Learning rate of probe and scale, relative to that of the network."""

BETA_1, BETA_2, EPSILON = 0.9, 0.99, 1e-8


def rate_factor(training: TrainingConfig, step: int, role: str) -> float:
    """Returns the learning rate at a step, relative to its peak.

    `role` is 'all' or 'physics', or for staged fine-tuning 'first' (the decoder: the whole run,
    at a tenth in the second half), 'second' (the encoder: at a tenth, in the second half only),
    or 'fixed'.
    """
    total = training.max_steps
    warmup = training.warmup_fraction * total
    if step < warmup:
        value = 0.1 + 0.9 * step / warmup
    else:
        value = _course(training.schedule, (step - warmup) / max(1.0, total - warmup))
    is_late = step >= 0.5 * total
    late = {'second': (0.0, 0.1), 'first': (1.0, 0.1), 'fixed': (0.0, 0.0)}
    if role in late:
        return late[role][is_late] * value
    return PHYSICS_RATE * value if role == 'physics' else value


def _course(schedule: str, progress: float) -> float:
    progress = min(1.0, progress)
    if schedule == 'cosine':
        return COSINE_END + (1.0 - COSINE_END) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == 'exponential':
        return DECAY_PER_RUN**progress
    return 1.0


def assign_roles(names: Sequence[str], config: Config, *, is_finetuned: bool) -> list[str]:
    """Returns the role of each variable, which `rate_factor` knows, by its name."""
    kind = config.training.finetune if is_finetuned else 'all'
    encoder, decoder = {
        'all': ('all', 'all'),
        'decoder': ('fixed', 'all'),
        'staged': ('second', 'first'),
    }[kind]
    return [
        'physics' if not name.startswith('network.') else encoder if 'encoder' in name else decoder
        for name in names
    ]


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


class Adam:
    """Adam (Kingma and Ba, 2015), or AdamW, with a rate for each variable and clipping.

    Written out rather than Keras' own because each variable needs its rate, and so that both
    engines take the same steps: epsilon is added after the bias correction.
    """

    def __init__(self, variables: Sequence[Any], training: TrainingConfig) -> None:
        self.variables = list(variables)
        self.training = training
        self.first = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
        self.second = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self.variables]
        self._apply = tf.function(self._update)

    def apply(self, gradients: Sequence[Any], rates: Sequence[float], step: int) -> None:
        """Changes the variables by their gradients; `step` counts from one."""
        corrections = [1.0 - BETA_1**step, 1.0 - BETA_2**step]
        self._apply(list(gradients), tf.constant(rates), tf.constant(corrections))

    def _update(self, gradients: list[Any], rates: Any, corrections: Any) -> None:
        training = self.training
        if training.clip_norm:
            norm = tf.linalg.global_norm(gradients)
            scale = tf.minimum(1.0, training.clip_norm / (norm + 1e-6))
            gradients = [gradient * scale for gradient in gradients]
        for index, (variable, gradient) in enumerate(zip(self.variables, gradients)):
            rate = rates[index]
            if training.weight_decay and training.optimizer == 'adamw':
                variable.assign_sub(rate * training.weight_decay * variable)
            elif training.weight_decay:
                gradient = gradient + training.weight_decay * variable
            first, second = self.first[index], self.second[index]
            first.assign(BETA_1 * first + (1.0 - BETA_1) * gradient)
            second.assign(BETA_2 * second + (1.0 - BETA_2) * tf.square(gradient))
            size = tf.sqrt(second / corrections[1]) + EPSILON
            variable.assign_sub(rate * (first / corrections[0]) / size)
