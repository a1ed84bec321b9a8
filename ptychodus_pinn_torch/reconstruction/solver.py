"""Physics refinement of an object, and where asked of probe and positions.

rPIE in batches (Maiden, Johnson & Li, Optica 4, 736, 2017) and Adam on the amplitude loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from ..physics.canvas import put_patches, take_patches
from ..physics.probe import probe_spectrum, shift_spectrum, unshift_probe
from ..physics.propagation import intensity, squared_modulus, to_detector, to_sample

__all__ = [
    'AdamRefiner',
    'RefinementState',
    'RpieSettings',
    'adam_epoch',
    'relative_error',
    'rpie_epoch',
]

COUNT_FLOOR = 0.01
"""Counts added before the root of measured over expected is taken."""


class Patterns(Protocol):
    """What the refinement reads: counts and places of patterns by index."""

    @property
    def good_pixels(self) -> Bool[Tensor, 'height width'] | None:
        """(H, W) in corner order, or None when all are good."""

    @property
    def corners(self) -> Int[Tensor, 'pattern 2']:
        """Window corners of all patterns on the canvas."""

    def counts_of(self, indices: Tensor) -> Float[Tensor, 'pattern height width']:
        """Counts in corner order."""


@dataclass
class RefinementState:
    """What the refinement changes in place.

    Attributes:
        canvas: (1, Y, X) object.
        probe: (P, H, W) modes, calibrated to counts.
        shifts: (N, 2) sub-pixel positions.
    """

    canvas: Complex[Tensor, '1 y x']
    probe: Complex[Tensor, 'mode height width']
    shifts: Float[Tensor, 'pattern 2']

    def clone(self) -> RefinementState:
        """Returns an independent copy."""
        return RefinementState(self.canvas.clone(), self.probe.clone(), self.shifts.clone())


@dataclass(frozen=True)
class RpieSettings:
    """How an rPIE epoch goes.

    Attributes:
        alpha: Regularisation: 1 divides by the peak of the coverage (ePIE), 0 by the coverage.
        step: Factor on the object update.
        update_probe: Adjust the probe as well; `probe_step` is its factor.
        update_positions: Adjust the positions as well.
    """

    alpha: float = 0.3
    step: float = 1.0
    update_probe: bool = False
    probe_step: float = 0.5
    update_positions: bool = False
    position_step: float = 1.0
    max_position_change_px: float = 0.5


def _divide(numerator: Tensor, weight: Tensor, alpha: float) -> Tensor:
    peak = weight.amax(dim=(-2, -1), keepdim=True)
    return numerator / (alpha * peak + (1.0 - alpha) * weight + 1e-9 * peak + 1e-20)


def rpie_epoch(
    state: RefinementState,
    patterns: Patterns,
    batches: Sequence[Tensor],
    settings: RpieSettings,
    after_batch: Callable[[int], None] | None = None,
) -> float:
    """Updates `state` by one pass over the batches and returns the relative amplitude error met.

    Args:
        state: Changed in place.
        patterns: The measurement.
        batches: Indices of the patterns of each update, in order.
        settings: Step sizes, and what is updated.
        after_batch: Called with the number of patterns done; may raise to stop.
    """
    total_error, total_counts, done = 0.0, 0.0, 0
    spectrum = probe_spectrum(state.probe)
    for indices in batches:
        shifts = state.shifts[indices].to(state.probe.device)
        probe = shift_spectrum(spectrum, shifts)
        counts = patterns.counts_of(indices)
        corners = patterns.corners[indices].to(state.probe.device)
        rows = torch.zeros(len(indices), dtype=torch.int64, device=state.probe.device)
        window = (probe.shape[-2], probe.shape[-1])
        patches = take_patches(state.canvas, rows, corners, window)
        far_field = to_detector(probe * patches[:, None])
        expected = intensity(far_field)
        root, seen = torch.sqrt(expected), torch.sqrt(counts)
        ratio = torch.sqrt((counts + COUNT_FLOOR) / (expected + COUNT_FLOOR)) - 1.0
        misfit = (root - seen).square()
        if patterns.good_pixels is not None:
            ratio = ratio * patterns.good_pixels
            misfit = misfit * patterns.good_pixels
        total_error += float(misfit.sum())
        total_counts += float(counts.sum())
        difference = to_sample(far_field * ratio[:, None])
        if settings.update_positions:
            blame = seen - root
            if patterns.good_pixels is not None:
                blame = blame * patterns.good_pixels
            _move(state, indices, patches, probe, far_field, blame, settings)
        _update_object(state, probe, difference, rows, corners, settings)
        if settings.update_probe:
            _update_probe(state, patches, difference, shifts, settings)
            spectrum = probe_spectrum(state.probe)
        done += len(indices)
        if after_batch is not None:
            after_batch(done)
    return total_error / max(total_counts, 1e-9)


def _update_object(
    state: RefinementState,
    probe: Tensor,
    difference: Tensor,
    rows: Tensor,
    corners: Tensor,
    settings: RpieSettings,
) -> None:
    update = (probe.conj().resolve_conj() * difference).sum(dim=1)
    power = intensity(probe)
    low = corners.min(dim=0).values
    high = corners.max(dim=0).values
    size = (1, *(high - low + torch.tensor(probe.shape[-2:], device=high.device)).tolist())
    local = corners - low
    numerator = put_patches(update, rows, local, size)
    weight = put_patches(power, rows, local, size)
    y, x = low.tolist()
    window = state.canvas[:, y : y + size[1], x : x + size[2]]
    window += settings.step * _divide(numerator, weight, settings.alpha)


def _update_probe(
    state: RefinementState,
    patches: Tensor,
    difference: Tensor,
    shifts: Tensor,
    settings: RpieSettings,
) -> None:
    update = unshift_probe(patches.conj().resolve_conj()[:, None] * difference, shifts).sum(dim=0)
    weight = squared_modulus(patches).sum(dim=0)
    state.probe += settings.probe_step * _divide(update, weight[None], max(settings.alpha, 0.5))


def _move(
    state: RefinementState,
    indices: Tensor,
    patches: Tensor,
    probe: Tensor,
    far_field: Tensor,
    blame: Tensor,
    settings: RpieSettings,
) -> None:
    """Moves positions by one Gauss-Newton step on the detector amplitudes, pattern by pattern.

    The amplitude A changes with the position by `sum_p Re(conj(F_p) F[dP_p O]) / A`; the two
    slopes are fitted to `blame = sqrt(D) - A`. In the sample plane the same fit would be
    dominated by the phase ramp that a shift puts on the far field, and that no detector sees.
    """
    height, width = probe.shape[-2:]
    spectrum = torch.fft.fft2(probe)
    fy = torch.fft.fftfreq(height, device=probe.device)[:, None]
    fx = torch.fft.fftfreq(width, device=probe.device)[None, :]
    amplitude = torch.sqrt(intensity(far_field)) + 1e-6
    slopes = []
    for frequency in (fy, fx):
        derivative = torch.fft.ifft2(spectrum * (-2j * torch.pi * frequency))
        change = to_detector(derivative * patches[:, None])
        real = (far_field.real * change.real + far_field.imag * change.imag).sum(dim=1)
        slopes.append(real / amplitude)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(-2, -1))

    a, b, c = dot(slopes[0], slopes[0]), dot(slopes[0], slopes[1]), dot(slopes[1], slopes[1])
    p, q = dot(slopes[0], blame), dot(slopes[1], blame)
    # over a flat object the slopes are rounding noise and must not move anything
    damping = 1e-3 * (a + c) + 1e-6 * amplitude.square().sum(dim=(-2, -1))
    a, c = a + damping, c + damping
    determinant = a * c - b * b
    change = torch.stack([(c * p - b * q) / determinant, (a * q - b * p) / determinant], dim=1)
    limit = settings.max_position_change_px
    state.shifts[indices] += (settings.position_step * change).clamp(-limit, limit).to(state.shifts)


def relative_error(state: RefinementState, patterns: Patterns, batches: Sequence[Tensor]) -> float:
    """Returns `sum (sqrt I - sqrt D)**2 / sum D` over the patterns of the batches."""
    total_error, total_counts = 0.0, 0.0
    spectrum = probe_spectrum(state.probe)
    device = state.probe.device
    for indices in batches:
        probe = shift_spectrum(spectrum, state.shifts[indices].to(device))
        rows = torch.zeros(len(indices), dtype=torch.int64, device=device)
        corners = patterns.corners[indices].to(device)
        patches = take_patches(state.canvas, rows, corners, (probe.shape[-2], probe.shape[-1]))
        expected = intensity(to_detector(probe * patches[:, None]))
        counts = patterns.counts_of(indices)
        misfit = (torch.sqrt(expected) - torch.sqrt(counts)).square()
        if patterns.good_pixels is not None:
            misfit = misfit * patterns.good_pixels
        total_error += float(misfit.sum())
        total_counts += float(counts.sum())
    return total_error / max(total_counts, 1e-9)


class AdamRefiner:
    """Adam on object, and where asked probe, for the amplitude loss; state kept over epochs."""

    def __init__(
        self,
        state: RefinementState,
        *,
        learning_rate: float = 0.01,
        update_probe: bool = False,
        update_positions: bool = False,
    ) -> None:
        self.state = state
        self.unit = float(squared_modulus(state.probe).mean().sqrt())
        state.canvas.requires_grad_(True)
        groups: list[dict[str, object]] = [{'params': [state.canvas], 'lr': learning_rate}]
        self.change = torch.zeros_like(state.probe, requires_grad=update_probe)
        self.moves = torch.zeros_like(state.shifts, requires_grad=update_positions)
        if update_probe:
            groups.append({'params': [self.change], 'lr': 0.2 * learning_rate})
        if update_positions:
            groups.append({'params': [self.moves], 'lr': learning_rate})
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))

    def finish(self) -> None:
        """Writes probe and positions back, and ends the tracking of gradients."""
        with torch.no_grad():
            self.state.canvas = self.state.canvas.detach()
            self.state.probe = self.state.probe + self.unit * self.change.detach()
            self.state.shifts = self.state.shifts + self.moves.detach()


def adam_epoch(
    refiner: AdamRefiner,
    patterns: Patterns,
    batches: Sequence[Tensor],
    after_batch: Callable[[int], None] | None = None,
) -> float:
    """Takes one Adam step per batch and returns the relative amplitude error met."""
    from ..physics.forward_model import expected_counts
    from ..physics.losses import amplitude_loss, relative_amplitude_error

    state, done, errors = refiner.state, 0, []
    for indices in batches:
        probe = state.probe + refiner.unit * refiner.change
        shifts = (state.shifts[indices] + refiner.moves[indices]).to(probe.device)
        rows = torch.zeros(len(indices), dtype=torch.int64, device=probe.device)
        corners = patterns.corners[indices].to(probe.device)
        shifted = shift_spectrum(probe_spectrum(probe), shifts)
        expected = expected_counts(state.canvas, rows, corners, shifted)
        counts = patterns.counts_of(indices)
        loss = amplitude_loss(expected, counts, patterns.good_pixels)
        refiner.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        refiner.optimizer.step()
        with torch.no_grad():
            error = relative_amplitude_error(expected, counts, patterns.good_pixels)
        errors.append(float(error))
        done += len(indices)
        if after_batch is not None:
            after_batch(done)
    return sum(errors) / max(1, len(errors))
