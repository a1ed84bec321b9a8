"""A probe that varies from pattern to pattern: orthogonal probe relaxation (OPR).

Odstrcil et al., Opt. Express 24, 8360 (2016).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from .probe import probe_spectrum
from .propagation import squared_modulus, to_detector

__all__ = ['Variation', 'orthogonalise']

LEAST_MEAN = 0.1
"""Part of its rms that the mean weight of the first mode must be to stand for the probe."""


@dataclass(frozen=True)
class Variation:
    """How the first mode of a probe varies; the other modes are the same for all patterns.

    The first mode of pattern i is `w_i0 P_0 + sum_k w_ik V_k`. What the probe is multiplied with,
    the columns 1 to V of the weights are multiplied with as well; see `scaled`.

    Attributes:
        modes: V_k (V, H, W), calibrated to counts; never changed in place. None of them (V = 0) where
            only the brightness of the first mode varies.
        weights: (N, 1 + V), float32, on the device.
    """

    modes: Complex[Tensor, 'variation height width']
    weights: Float[Tensor, 'pattern weight']

    @cached_property
    def spectra(self) -> Complex[Tensor, 'variation height width']:
        """The spectra (V, H, W) of the variations."""
        return probe_spectrum(self.modes) if len(self.modes) else self.modes

    def vary(
        self, spectrum: Complex[Tensor, '*pattern mode height width'], there: Int[Tensor, ' chosen']
    ) -> Complex[Tensor, 'chosen mode height width']:
        """Returns the spectrum of the probe of each of some patterns.

        Args:
            spectrum: That of the probe, (P, H, W), or (J, P, H, W) for each of these patterns.
            there: (J,) their numbers, on the device.
        """
        weights = self.weights[there]
        added = torch.einsum('jv,vyx->jyx', weights[:, 1:].to(self.spectra.dtype), self.spectra)
        first = weights[:, :1, None] * spectrum[..., 0, :, :] + added
        others = spectrum[..., 1:, :, :].expand(len(there), -1, -1, -1)
        return torch.cat([first[:, None], others], dim=1)

    def photons(
        self,
        probe: Complex[Tensor, '*group mode height width'],
        rows: Int[Tensor, ' pattern'],
        good_pixels: Bool[Tensor, 'height width'] | None = None,
    ) -> Float[Tensor, ' pattern']:
        """Returns the photons of the probe of each pattern, all modes together.

        Args:
            probe: (P, H, W), or (B, P, H, W) for each canvas.
            rows: (N,) canvas of each pattern, on the device.
            good_pixels: Of the detector, corner order, where only those that meet them count.
        """
        modes = self.modes
        if good_pixels is not None:
            probe = to_detector(probe) * good_pixels
            modes = to_detector(modes) * good_pixels if len(modes) else modes
        groups = probe[None] if probe.ndim == 3 else probe
        first, flat = groups[:, 0].flatten(1), modes.flatten(1)
        others = squared_modulus(groups[:, 1:]).sum(dim=(-3, -2, -1))
        own, mixed = squared_modulus(first).sum(dim=1), (first.conj() @ flat.T).real
        index = rows if probe.ndim == 4 else torch.zeros_like(rows)
        weight, varying = self.weights[:, 0], self.weights[:, 1:]
        gram = (flat.conj() @ flat.T).real
        cross = 2.0 * weight * (varying * mixed[index]).sum(dim=1)
        return (
            weight.square() * own[index]
            + cross
            + (varying * (varying @ gram)).sum(dim=1)
            + others[index]
        )

    def select(self, there: Int[Tensor, ' chosen']) -> Variation:
        """Returns that of some patterns, whose numbers are on the device."""
        return replace(self, weights=self.weights[there])

    def scaled(self, factors: Float[Tensor, ' pattern'] | float) -> Variation:
        """Returns that of a probe times a factor, or times one for each pattern (N,)."""
        if isinstance(factors, Tensor):
            factors = factors.reshape(-1, 1)
        weights = torch.cat([self.weights[:, :1], self.weights[:, 1:] * factors], dim=1)
        return replace(self, weights=weights)

    def to(self, device: torch.device) -> Variation:
        """Returns it on a device."""
        return Variation(
            self.modes.to(device, non_blocking=True), self.weights.to(device, non_blocking=True)
        )

    def clone(self) -> Variation:
        """Returns a copy whose weights may be changed in place."""
        return Variation(self.modes, self.weights.clone())

    def is_finite(self) -> bool:
        """Returns whether all of it are numbers."""
        return bool(torch.isfinite(self.modes).all() and torch.isfinite(self.weights).all())

    def about_mean(
        self, probe: Complex[Tensor, 'mode height width']
    ) -> tuple[Complex[Tensor, 'mode height width'], Variation]:
        """Returns the mean probe (P, H, W), and how the same patterns' probes vary about it.

        The mean weights are then 1 for the first mode and 0 for its variations; as they are where
        the first mode has hardly a mean.
        """
        weights = self.weights.double()
        mean = weights.mean(dim=0)
        if not mean[0].abs() > LEAST_MEAN * weights[:, 0].square().mean().sqrt():
            return probe, self
        own, others = weights[:, :1] / mean[0], weights[:, 1:]
        first = mean[0] * probe[0].to(torch.complex128)
        first = first + torch.tensordot(mean[1:].to(first.dtype), self.modes.to(first.dtype), 1)
        found = torch.cat([own, others - own * mean[1:]], dim=1)
        probe = torch.cat([first[None].to(probe.dtype), probe[1:]])
        return probe, replace(self, weights=found.to(self.weights.dtype))


def orthogonalise(
    probe: Complex[Tensor, 'mode height width'], variation: Variation
) -> tuple[Complex[Tensor, 'mode height width'], Variation]:
    """Returns the mean probe, and variations orthogonal to its first mode and to each other.

    The strongest come first; each has the power of the first mode, so that weights are parts of
    its amplitude. A phase of a whole pattern's probe, which no detector sees, is left out.
    """
    probe, variation = variation.about_mean(probe)
    first = probe[0].flatten().to(torch.complex128)
    modes = variation.modes.flatten(1).to(torch.complex128)
    weights = variation.weights.double()
    power = squared_modulus(first).sum().clamp(min=1e-20)
    along = modes @ first.conj() / power
    modes = modes - along[:, None] * first
    own, varying = weights[:, :1] + weights[:, 1:] @ along.real[:, None], weights[:, 1:]
    # weights are real: modes are orthogonal when the real parts of their products vanish
    values, vectors = torch.linalg.eigh((modes.conj() @ modes.T).real)
    length = values.clamp(min=1e-12 * float(power)).sqrt()
    unit = (vectors / length).T.to(modes.dtype) @ modes
    varying = varying @ vectors * length
    _, turn = torch.linalg.eigh(varying.T @ varying)
    turn = turn.flip(1)
    modes = (turn.T.to(unit.dtype) @ unit) * power.sqrt()
    varying = varying @ turn / power.sqrt()
    shape, weights = variation.modes.shape, torch.cat([own, varying], dim=1)
    return probe, Variation(
        modes.reshape(shape).to(variation.modes.dtype), weights.to(variation.weights.dtype)
    )
