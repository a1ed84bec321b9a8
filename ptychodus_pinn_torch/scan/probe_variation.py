"""How a probe varies from pattern to pattern: the modes of orthogonal probe relaxation (OPR)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy
from numpy.typing import NDArray

__all__ = ['ProbeVariation']


@dataclass(frozen=True)
class ProbeVariation:
    """How the first mode of a probe varies over a scan; the other modes are the same everywhere.

    The first mode of pattern i is `w_i0 P_0 + sum_k w_ik V_k` (Odstrcil et al., Opt. Express 24,
    8360, 2016), with real weights, as in Ptychodus' `ProbeSequence`.

    Attributes:
        modes: Variations V_k (V, H, W), complex, in the calibration of the probe.
        weights: (N, 1 + V) of the first mode and of its variations, one row per pattern.
    """

    modes: NDArray[Any]
    weights: NDArray[Any]

    @property
    def num_variations(self) -> int:
        """V, the number of variations."""
        return len(self.modes)

    def describe(self, probe: NDArray[Any]) -> str:
        """Returns in words how many variations there are, and how much of the `probe` (P, H, W)."""
        number = self.num_variations
        return (
            f'{number} variation{"" if number == 1 else "s"} of the first mode over the scan (OPR), '
            f'{100.0 * self.relative_power(probe):.2g} % of its power'
        )

    def select(self, indices: NDArray[Any]) -> ProbeVariation:
        """Returns that of some patterns, in the order of `indices`."""
        return replace(self, weights=self.weights[indices])

    def scaled(self, factor: float) -> ProbeVariation:
        """Returns that of the probe times a factor."""
        return replace(self, modes=(self.modes * factor).astype(self.modes.dtype))

    def probes(self, probe: NDArray[Any], indices: NDArray[Any]) -> NDArray[Any]:
        """Returns the probe (J, P, H, W) of each of some patterns; `probe` is (P, H, W)."""
        basis = numpy.concatenate([probe[:1], self.modes])
        found = numpy.repeat(probe[numpy.newaxis], len(indices), axis=0)
        found[:, 0] = numpy.tensordot(self.weights[indices], basis, axes=1)
        return found

    def mean_probe(self, probe: NDArray[Any]) -> NDArray[Any]:
        """Returns the mean probe (P, H, W) of all patterns."""
        basis, found = numpy.concatenate([probe[:1], self.modes]), probe.copy()
        found[0] = numpy.tensordot(self.weights.mean(axis=0), basis, axes=1)
        return found

    def relative_power(self, probe: NDArray[Any]) -> float:
        """Returns the power of what varies, as a part of that of the first mode of `probe`."""
        about_mean = replace(self, weights=self.weights - self.weights.mean(axis=0))
        varying, whole = (each.powers(probe).mean() for each in (about_mean, self))
        return float(varying / max(whole, 1e-300))

    def powers(self, probe: NDArray[Any]) -> NDArray[numpy.float64]:
        """Returns the power (N,) that the first mode of `probe` (P, H, W) has in each pattern."""
        basis = numpy.concatenate([probe[:1], self.modes]).reshape(1 + self.num_variations, -1)
        basis = basis.astype(numpy.complex128)
        gram = (basis @ basis.conj().T).real
        return numpy.einsum('ik,kl,il->i', self.weights, gram, self.weights)
