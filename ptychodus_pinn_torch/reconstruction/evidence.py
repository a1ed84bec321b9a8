"""Which of two explanations of a scan is the better one, by counts that neither of them has seen."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..physics.forward_model import predict
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..solver.state import SolverState

__all__ = ['Evidence', 'weigh']

VARIANCE_OF_NONE = 0.375
"""Added to the mean of counts for the variance that they are weighed with (Anscombe, Biometrika 35, 246,
1948). The likelihood itself is ruled by the few pixels where next to nothing was expected, whose logarithm has
no bound (docs/benchmarks.md)."""

SURE = 3.0
"""Standard errors from which on a difference is not by chance."""


@dataclass(frozen=True)
class Evidence:
    """How much better the second of two explanations is than the first.

    Attributes:
        gains: (J,) what each of some frames gains, in units of log-likelihood.
    """

    gains: Float[Tensor, ' pattern']

    @property
    def mean(self) -> float:
        """The mean gain of a frame."""
        return float(self.gains.mean())

    @property
    def standard_error(self) -> float:
        """That of the mean: the scatter between frames holds noise and what the model lacks."""
        return float(self.gains.std(correction=1)) / max(1, len(self.gains)) ** 0.5

    @property
    def is_sure(self) -> bool:
        """Whether the second explanation is the better one, and not by chance.

        What is compared with its scatter is the signed root of each gain, a number of standard deviations
        (Barndorff-Nielsen, Biometrika 73, 307, 1986): a few frames that gain much more than others
        make their mean uncertain, but not its sign.
        """
        if len(self.gains) < 2 or not self.mean > 0.0:
            return False
        roots = torch.sign(self.gains) * torch.sqrt(2.0 * self.gains.abs())
        return float(roots.mean()) > SURE * float(roots.std(correction=1)) / len(roots) ** 0.5


@torch.no_grad()
def weigh(
    first: SolverState,
    second: SolverState,
    measurement: Measurement,
    unseen: Tensor,
    *,
    num_fitted: int = 0,
) -> Evidence:
    """Returns how much better the second explanation is than the first.

    `sum ((D - a)**2 - (D - b)**2) / 2v` over the good pixels of each frame, `v = (a + b) / 2 + 3/8`. Since
    both are weighed alike, the one that is nearer to the true mean wins, whatever the noise is (Gneiting &
    Raftery, J. Am. Stat. Assoc. 102, 359, 2007).

    Args:
        first: An explanation.
        second: The other one.
        measurement: The patterns.
        unseen: (J,) of those that neither has seen, on the host.
        num_fitted: Unknowns that the second has fitted to each of these frames, and the first has not: each
            takes half a unit from noise alone (Wilks, Ann. Math. Stat. 9, 60, 1938).
    """
    gains = torch.zeros(len(unseen), dtype=torch.float64, device=measurement.device)
    places = measurement.team.share(torch.arange(len(unseen)))

    def gains_of(part: Measurement) -> Float[Tensor, ' pattern']:
        seen = [state.seen(part).chunks(unseen[places]) for state in (first, second)]
        found = [gains[:0]]
        for one, other in zip(*seen):
            a, b = predict(first.canvas, one), predict(second.canvas, other)
            middle = (a + b) / 2
            gain = (b - a) * (one.counts - middle) / (middle + VARIANCE_OF_NONE)
            if one.good_pixels is not None:
                gain = gain * one.good_pixels
            found.append(gain.sum(dim=(-2, -1), dtype=torch.float64))
        return torch.cat(found)

    if len(places):
        gains[places] = with_chunks_that_fit(replace(measurement, after_chunk=None), gains_of)
    return Evidence(measurement.team.add_up(gains) - num_fitted / 2)
