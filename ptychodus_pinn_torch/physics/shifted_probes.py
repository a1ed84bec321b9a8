"""The probe at the sub-pixel position of each pattern, kept for whoever needs it again."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from .probe import probe_spectrum, shift_spectrum

__all__ = ['ShiftedProbes']


class _Store:
    """What `shift_probe` makes of a probe (P, H, W) and of shifts (N, 2), each at its first use."""

    def __init__(self, probe: Tensor, shifts: Tensor) -> None:
        self._spectrum, self._shifts = probe_spectrum(probe), shifts
        self._kept = torch.empty((len(shifts), *probe.shape), dtype=probe.dtype)
        self._is_known, self._num_left = torch.zeros(len(shifts), dtype=torch.bool), len(shifts)

    def __getitem__(self, indices: Tensor) -> Tensor:
        new = indices[~self._is_known[indices]] if self._num_left else indices[:0]
        if len(new):
            self._kept[new] = shift_spectrum(self._spectrum, self._shifts[new])
            self._is_known[new] = True
            self._num_left = int((~self._is_known).sum())
        return self._kept.index_select(0, indices)


@dataclass(frozen=True)
class ShiftedProbes:
    """Spares a third of the transforms of every pass over the patterns but the first.

    Attributes:
        probe: (P, H, W) of a measurement, on the host.
        shifts: (N, 2) of its patterns, pixels.
        store: Where they are kept; shared by measurements that differ in units only.
        level: What those of the store are multiplied with, or None.
    """

    probe: Complex[Tensor, 'mode height width']
    shifts: Float[Tensor, 'pattern 2']
    store: _Store
    level: Float[Tensor, ''] | None = None

    @classmethod
    def within(cls, num_bytes: int, probe: Tensor, shifts: Tensor) -> ShiftedProbes | None:
        """Returns the probes of all patterns, or None where they would take more memory."""
        is_small = len(shifts) * probe.numel() * probe.element_size() <= num_bytes
        is_suited = probe.ndim == 3 and probe.device.type == 'cpu'
        return cls(probe, shifts, _Store(probe, shifts)) if is_small and is_suited else None

    def are_of(self, probe: Tensor, shifts: Tensor) -> bool:
        """Returns whether these are the very probe and shifts; equal ones may change."""
        return probe is self.probe and shifts is self.shifts

    def equal(self, probe: Tensor, shifts: Tensor) -> bool:
        """Returns whether these have the values of the probe and the shifts."""
        return torch.equal(probe, self.probe) and torch.equal(shifts, self.shifts)

    def in_units_of(self, level: Float[Tensor, ''], probe: Tensor) -> ShiftedProbes:
        """Returns those of `probe`, which is the probe times `level`."""
        return replace(self, probe=probe, level=level if self.level is None else level * self.level)

    def __getitem__(
        self, indices: Int[Tensor, ' chosen']
    ) -> Complex[Tensor, 'chosen mode height width']:
        found = self.store[indices]
        return found if self.level is None else found * self.level
