"""What a refinement comes to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..solver.state import NOTHING, Freed, SolverState

__all__ = ['Refined']


@dataclass
class Refined:
    """The outcome of a refinement.

    Attributes:
        state: Object, probe and positions.
        start: Name of the start.
        losses: (epoch, relative amplitude error met).
        held_out: The error on patterns that were held out, before they joined the others.
        freed: What was moved beside the object.
        to_noise: How badly the refinement explained patterns that it had seen, over photon noise.
    """

    state: SolverState
    start: str
    freed: Freed = NOTHING
    losses: list[tuple[int, float]] = field(default_factory=list)
    held_out: float | None = None
    to_noise: float = math.inf
