"""Which parameters learn, and how fast, over the course of a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from ..config import Config, TrainingConfig

if TYPE_CHECKING:
    from .module import PtychoPINN

__all__ = ['rate_factor', 'split_parameters']

DECAY_PER_RUN = 0.05
"""Where the exponential course ends, relative to the peak."""

COSINE_END = 0.01
"""Where the cosine course ends, relative to the peak."""

PROBE_RATE = 0.5
"""Learning rate of probe and scale, relative to that of the network."""


def split_parameters(
    module: PtychoPINN, config: Config, *, is_finetuned: bool
) -> list[dict[str, Any]]:
    """Returns parameter groups, each with a `role` that `rate_factor` knows.

    Fine-tuning splits the network in its encoder (of the unrolled network: the first half of the
    stages) and its decoder (the rest).
    """
    network: nn.Module = module.network
    first, last = _halves(network)
    kind = config.training.finetune if is_finetuned else 'all'
    if kind == 'all':
        groups: list[dict[str, Any]] = [{'params': first + last, 'role': 'all'}]
    elif kind == 'decoder':
        for parameter in first:
            parameter.requires_grad_(False)
        groups = [{'params': last, 'role': 'all'}]
    else:
        groups = [{'params': last, 'role': 'first'}, {'params': first, 'role': 'second'}]
    physics = [p for p in module.forward_model.parameters() if p.requires_grad]
    if physics:
        rate = PROBE_RATE * config.training.learning_rate
        groups.append({'params': physics, 'role': 'all', 'lr': rate})
    return groups


def _halves(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    stages = getattr(network, 'stages', None)
    if isinstance(stages, nn.ModuleList) and len(stages) > 1:
        last = [p for stage in stages[len(stages) // 2 :] for p in stage.parameters()]
    else:
        last = [p for name, p in network.named_parameters() if 'encoder' not in name]
    ids = {id(parameter) for parameter in last}
    first = [parameter for parameter in network.parameters() if id(parameter) not in ids]
    return first, last


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
            value = _course(training.schedule, (step - warmup) / max(1.0, total_steps - warmup))
        is_late = step >= 0.5 * total_steps
        if role == 'second':
            return 0.1 * value if is_late else 0.0
        return 0.1 * value if role == 'first' and is_late else value

    return factor


def _course(schedule: str, progress: float) -> float:
    progress = min(1.0, progress)
    if schedule == 'cosine':
        return COSINE_END + (1.0 - COSINE_END) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if schedule == 'exponential':
        return DECAY_PER_RUN**progress
    return 1.0
