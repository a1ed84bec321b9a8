"""Updates of a probe that varies from pattern to pattern: its modes and their weights (OPR)."""

from __future__ import annotations

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ..physics.chunk import Chunk
from ..physics.forward_model import Exposure
from ..physics.probe import shift_probe
from ..physics.propagation import squared_modulus, to_detector
from ..physics.roots import square_root
from ..physics.update_rule import divide_by_coverage
from ..physics.variation import Variation
from .state import SolverState

__all__ = ['VaryingProbeUpdate', 'update_weights']

DAMPING = 0.1
"""Part of what a batch says of the weights on average by which its least squares are damped."""

LARGEST_CHANGE = 0.2
"""Bound on one change of a weight, as a part of the amplitude of the first mode."""


def update_weights(
    state: SolverState, exposure: Exposure, chunk: Chunk, step: float, *, has_scale: bool
) -> None:
    """Takes one Gauss-Newton step of the weights of some patterns on the detector amplitudes.

    The amplitude A changes with the weight of a mode by `Re(conj(F) F[V_k O]) / A`, F being the
    far field of the first mode; slopes are fitted to `sqrt(D) - A`, pattern by pattern.

    Args:
        state: Whose weights change in place.
        exposure: The patterns of the chunk as they are explained at present.
        chunk: The measured patterns.
        step: Part of the way.
        has_scale: Whether the weight of the first mode moves too; not where a brightness does.
    """
    variation = state.variation
    assert variation is not None
    there = chunk.indices.to(chunk.rows.device, non_blocking=True)
    modes = torch.cat([state.probe[:1], variation.modes])[0 if has_scale else 1 :]
    if not len(modes):
        return
    fields = to_detector(shift_probe(modes, chunk.shifts) * exposure.patches[:, None])
    amplitude = square_root(exposure.expected) + 1e-6
    far_field = exposure.far_field[:, :1]
    slopes = (far_field.real * fields.real + far_field.imag * fields.imag) / amplitude[:, None]
    if state.factors is not None:
        slopes = slopes * torch.sqrt(state.factors[there])[:, None, None, None]
    residual = chunk.roots(0.0) - amplitude
    if chunk.good_pixels is not None:
        residual = residual * chunk.good_pixels
        slopes = slopes * chunk.good_pixels.unsqueeze(-3)
    flat = slopes.flatten(2)
    matrix = flat @ flat.mT
    wanted = (flat @ residual.flatten(1)[:, :, None])[:, :, 0]
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    floor = 1e-3 * diagonal.amax(dim=1) + 1e-6 * exposure.expected.sum(dim=(-2, -1)) + 1e-12
    matrix = matrix + torch.diag_embed(1e-3 * diagonal + 1e-3 * floor[:, None])
    change = step * torch.linalg.solve(matrix, wanted)
    power = squared_modulus(modes).sum(dim=(-2, -1)).clamp(min=1e-20)
    limit = LARGEST_CHANGE * torch.sqrt(squared_modulus(state.probe[0]).sum() / power)
    first = variation.weights.shape[1] - len(modes)
    variation.weights[there, first:] += torch.maximum(torch.minimum(change, limit), -limit)


class VaryingProbeUpdate:
    """What a batch wants of the modes of a probe, and of the variations of the first.

    What the patterns want of their own first modes is fitted by the mode and its variations with
    their weights (least squares, damped), so that neither takes what belongs to the other.
    """

    def __init__(self) -> None:
        self._firsts: list[Tensor] = []
        self._others: Tensor | float = 0.0
        self._power: Tensor | float = 0.0

    def add(
        self,
        update: Complex[Tensor, 'pattern mode height width'],
        power: Float[Tensor, 'height width'],
    ) -> None:
        """Adds what some of the patterns, the next of the batch, want.

        Args:
            update: (J, P, H, W) what each pattern adds to its probe, unshifted.
            power: (H, W) of the patches, all together.
        """
        self._firsts.append(update[:, 0])
        self._others = self._others + update[:, 1:].sum(dim=0)
        self._power = self._power + power[None]

    def apply(
        self, state: SolverState, indices: Int[Tensor, ' pattern'], step: float, alpha: float
    ) -> None:
        """Moves the modes of a state by a part of the way.

        Args:
            state: Changed in place.
            indices: (J,) of the batch, on the host.
            step: Part of the way.
            alpha: See `divide_by_coverage`.
        """
        variation, power, others = state.variation, self._power, self._others
        assert variation is not None and isinstance(power, Tensor) and isinstance(others, Tensor)
        there = indices.to(variation.weights.device, non_blocking=True)
        firsts = torch.cat(self._firsts)
        shares = _shares(variation, there).to(firsts.dtype)
        first = torch.einsum('kj,jyx->kyx', shares, firsts)
        moved = divide_by_coverage(first, power / len(indices), alpha)
        others = divide_by_coverage(others, power, alpha)
        state.probe += step * torch.cat([moved[:1], others])
        state.variation = Variation(variation.modes + step * moved[1:], variation.weights)


def _shares(variation: Variation, there: Tensor) -> Tensor:
    """Returns (1 + V, J), how much of what each pattern wants goes to the modes; least squares."""
    weights = variation.weights[there].double()
    usual = variation.weights.double().square().mean(dim=0).clamp(min=1e-30)
    # in units of what is usual, so that faint variations are damped as strong ones are
    scaled = weights / usual.sqrt()
    matrix = scaled.T @ scaled
    matrix = matrix + DAMPING * len(there) * torch.eye(len(matrix), device=matrix.device)
    matrix[0, 0] -= DAMPING * len(there)
    return torch.linalg.solve(matrix, scaled.T) / usual.sqrt()[:, None]
