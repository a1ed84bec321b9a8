"""Losses as pure functions, in units that do not depend on batch, pattern or photon number."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Complex, Float
from torch import Tensor

from .roots import square_root

__all__ = [
    'absolute_loss',
    'amplitude_loss',
    'amplitude_loss_floor',
    'amplitude_misfit',
    'coverage_weight',
    'object_loss',
    'object_loss_absolute',
    'poisson_loss',
    'relative_amplitude_error',
    'total_variation',
]

FLOOR = 0.3
"""Counts added before the root, so that the gradient stays finite in the dark."""


def _mean(values: Tensor, good_pixels: Tensor | None) -> Tensor:
    if good_pixels is None:
        return values.mean()
    number = good_pixels.sum() * (values.numel() // good_pixels.numel())
    return (values * good_pixels).sum() / number


def amplitude_loss(
    expected: Float[Tensor, 'pattern height width'],
    counts: Float[Tensor, 'pattern height width'],
    good_pixels: Bool[Tensor, '*frame height width'] | None = None,
) -> Float[Tensor, '']:
    """Returns the mean of `(sqrt(I + 0.3) - sqrt(D + 0.3))**2` over good pixels.

    The root makes Poisson noise nearly uniform: 1/4 per bright pixel (Anscombe, 1948).
    """
    return _mean((torch.sqrt(expected + FLOOR) - torch.sqrt(counts + FLOOR)).square(), good_pixels)


def absolute_loss(
    expected: Float[Tensor, 'pattern height width'],
    counts: Float[Tensor, 'pattern height width'],
    good_pixels: Bool[Tensor, '*frame height width'] | None = None,
    *,
    has_matched_power: bool = False,
) -> Float[Tensor, '']:
    """Returns the mean of `|sqrt(I + 0.3) - sqrt(D + 0.3)|` over good pixels.

    With matched power, `I` has the sum of `D` over the good pixels of each pattern.
    """
    if has_matched_power:
        good = 1.0 if good_pixels is None else good_pixels
        sums = [(values * good).sum(dim=(-2, -1), keepdim=True) for values in (counts, expected)]
        expected = expected * sums[0] / sums[1].clamp(min=1e-9)
    return _mean((torch.sqrt(expected + FLOOR) - torch.sqrt(counts + FLOOR)).abs(), good_pixels)


def amplitude_loss_floor(
    expected: Float[Tensor, 'pattern height width'],
    good_pixels: Bool[Tensor, '*frame height width'] | None = None,
) -> Float[Tensor, '']:
    """Returns the amplitude loss that photon noise alone implies.

    The variance of `sqrt(D + 0.3)` is 1/4 for many counts and about `I` for few.
    """
    variance = expected * (1.0 + expected) / (1.0 + 2.0 * expected) ** 2
    return _mean(variance.clamp(max=0.25), good_pixels)


def poisson_loss(
    expected: Float[Tensor, 'pattern height width'],
    counts: Float[Tensor, 'pattern height width'],
    good_pixels: Bool[Tensor, '*frame height width'] | None = None,
) -> Float[Tensor, '']:
    """Returns the Poisson deviance per good pixel, halved: zero where prediction meets counts.

    The negative log-likelihood less that of a perfect prediction, so that the value has the same
    scale at any dose; gradients are those of the likelihood. Counts need not be integers.
    """
    rate = expected + FLOOR
    seen = counts + FLOOR
    return _mean(rate - seen + seen * torch.log(seen / rate), good_pixels)


def amplitude_misfit(
    expected: Float[Tensor, 'pattern height width'],
    counts: Float[Tensor, 'pattern height width'],
    good_pixels: Bool[Tensor, '*frame height width'] | None = None,
) -> tuple[Float[Tensor, ''], Float[Tensor, '']]:
    """Returns `sum (sqrt I - sqrt D)**2` and `sum D` over good pixels, to be added up."""
    misfit = (square_root(expected.clamp(min=0.0)) - square_root(counts)).square()
    if good_pixels is not None:
        misfit, counts = misfit * good_pixels, counts * good_pixels
    return misfit.sum(), counts.sum()


def relative_amplitude_error(
    expected: Float[Tensor, 'pattern height width'],
    counts: Float[Tensor, 'pattern height width'],
    good_pixels: Bool[Tensor, '*frame height width'] | None = None,
) -> Float[Tensor, '']:
    """Returns `sum (sqrt I - sqrt D)**2 / sum D` over good pixels."""
    misfit, total = amplitude_misfit(expected, counts, good_pixels)
    return misfit / total.clamp(min=1e-9)


def coverage_weight(coverage: Float[Tensor, 'group y x']) -> Float[Tensor, 'group y x']:
    """Returns a weight that is near one where the probe has been, zero where it has not."""
    return coverage / (coverage + 0.05 * coverage.amax(dim=(-2, -1), keepdim=True))


def object_loss(
    object_: Complex[Tensor, 'group y x'],
    truth: Complex[Tensor, 'group y x'],
    coverage: Float[Tensor, 'group y x'],
) -> Float[Tensor, '']:
    """Returns the squared error of the object where it is covered, its global phase removed.

    `(sum w (|O|**2 + |T|**2) - 2 |sum w conj(O) T|) / sum w`, averaged over groups.
    """
    weight = coverage_weight(coverage)
    power = torch.view_as_real(object_).square().sum(-1) + torch.view_as_real(truth).square().sum(
        -1
    )
    overlap = (weight * object_.conj() * truth).sum(dim=(-2, -1))
    size = torch.sqrt(overlap.real.square() + overlap.imag.square() + 1e-12)
    error = (weight * power).sum(dim=(-2, -1)) - 2.0 * size
    return (error / weight.sum(dim=(-2, -1))).mean()


def object_loss_absolute(
    object_: Complex[Tensor, 'group y x'],
    truth: Complex[Tensor, 'group y x'],
    coverage: Float[Tensor, 'group y x'],
) -> Float[Tensor, '']:
    """Returns `sum w |O exp(-i a) - T| / sum w`, averaged over groups; see `object_loss`.

    `a` is the global phase, which no count tells.
    """
    weight = coverage_weight(coverage)
    overlap = (weight * truth.conj() * object_).sum(dim=(-2, -1), keepdim=True)
    phase = overlap.detach() / overlap.detach().abs().clamp(min=1e-12)
    parts = torch.view_as_real(object_ * phase.conj() - truth)
    error = torch.sqrt(parts.square().sum(dim=-1) + 1e-12)
    return ((weight * error).sum(dim=(-2, -1)) / weight.sum(dim=(-2, -1))).mean()


def total_variation(
    field: Float[Tensor, 'group y x'], weight: Float[Tensor, 'group y x']
) -> Float[Tensor, '']:
    """Returns the mean absolute difference of neighbours (anisotropic), weighted."""
    down = (field[..., 1:, :] - field[..., :-1, :]).abs() * weight[..., 1:, :]
    right = (field[..., :, 1:] - field[..., :, :-1]).abs() * weight[..., :, 1:]
    return (down.sum() + right.sum()) / weight.sum().clamp(min=1e-12)
