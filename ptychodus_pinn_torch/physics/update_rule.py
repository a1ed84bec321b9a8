"""One step from counts to object: what solver, networks and orientation checks have in common.

The batched ePIE/rPIE update (Maiden & Rodenburg, Ultramicroscopy 109, 1256, 2009; Maiden, Johnson
& Li, Optica 4, 736, 2017): measured amplitudes replace those of the exit waves, and what that
changes is put back onto the object, weighted by the probe.
"""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from .chunk import Chunk
from .forward_model import Exposure
from .noise import lost_part
from .propagation import to_sample

__all__ = [
    'DARK',
    'amplitude_ratio',
    'divide_by_coverage',
    'exit_waves',
    'likelihood_difference',
    'likelihood_ratio',
    'object_update',
    'unbiased_ratio',
    'wave_difference',
]

DARK = 0.03
"""Counts added to the expected ones where those are divided by."""


def amplitude_ratio(
    exposure: Exposure, chunk: Chunk, floor: float
) -> Float[Tensor, 'pattern height width']:
    """Returns by which part the measured amplitudes differ from the expected ones.

    `sqrt(D + floor) / sqrt(I + floor) - 1`, which is of no account at bad pixels.
    """
    return chunk.roots(floor) * torch.rsqrt(exposure.expected + floor) - 1.0


def unbiased_ratio(
    ratio: Float[Tensor, 'pattern height width'], exposure: Exposure, chunk: Chunk, floor: float
) -> Float[Tensor, 'pattern height width']:
    """Returns an `amplitude_ratio` with what noise takes from the mean of the roots of counts."""
    return ratio + lost_part(exposure.expected + floor, chunk.background)


def likelihood_ratio(
    ratio: Float[Tensor, 'pattern height width'], exposure: Exposure, chunk: Chunk
) -> Float[Tensor, 'pattern height width']:
    """Returns by which part the Poisson likelihood of the counts would change the amplitudes.

    `(D - I) / (2 I)` (Thibault & Guizar-Sicairos, New J. Phys. 14, 063004, 2012), which is
    unbiased where roots of few counts are not; beyond what doubles the amplitude, as far as the
    roots would go, whose `amplitude_ratio` with the floor `DARK` is given.
    """
    likely = (chunk.counts - exposure.expected) / (2.0 * (exposure.expected + DARK))
    return torch.where(likely > 1.0, ratio.clamp(min=1.0), likely)


def exit_waves(
    ratio: Float[Tensor, 'pattern height width'], exposure: Exposure, chunk: Chunk
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns the change of the exit waves that changes the good amplitudes by a part of them."""
    if chunk.good_pixels is not None:
        ratio = ratio * chunk.good_pixels
    return to_sample(exposure.far_field * ratio[:, None])


def wave_difference(
    exposure: Exposure, chunk: Chunk, *, floor: float
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns by how much the measured amplitudes would change the exit waves.

    Args:
        exposure: The patterns of the chunk as the present object explains them.
        chunk: The measured patterns.
        floor: Counts added before roots are taken: keeps the step finite in the dark.
    """
    return exit_waves(amplitude_ratio(exposure, chunk, floor), exposure, chunk)


def likelihood_difference(
    exposure: Exposure, chunk: Chunk
) -> Complex[Tensor, 'pattern mode height width']:
    """Returns by how much the Poisson likelihood of the counts would change the exit waves."""
    ratio = amplitude_ratio(exposure, chunk, DARK)
    return exit_waves(likelihood_ratio(ratio, exposure, chunk), exposure, chunk)


def object_update(
    probe: Complex[Tensor, 'pattern mode height width'],
    difference: Complex[Tensor, 'pattern mode height width'],
) -> Complex[Tensor, 'pattern height width']:
    """Returns `sum_p conj(P_p) d_p`, what each pattern wants to add to its patch."""
    update = probe.conj().resolve_conj() * difference
    return update[:, 0] if update.shape[1] == 1 else update.sum(dim=1)


def divide_by_coverage(
    numerator: Complex[Tensor, '*group y x'], coverage: Float[Tensor, '*#group y x'], alpha: float
) -> Complex[Tensor, '*group y x']:
    """Returns the update per unit of coverage, regularised.

    Args:
        numerator: Sum of the updates of all patterns.
        coverage: Power of the probes, or of the patches when the probe is updated; the same for
            all groups where its first axis is one.
        alpha: 1 divides by the peak of the coverage (ePIE), 0 by the coverage itself.
    """
    peak = coverage.amax(dim=(-2, -1), keepdim=True)
    regularised = alpha * peak + (1.0 - alpha) * coverage + 1e-9 * peak + 1e-20
    return numerator * regularised.reciprocal()  # a complex division takes five times as long
