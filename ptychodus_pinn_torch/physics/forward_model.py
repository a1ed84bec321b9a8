"""The forward model: from a canvas to the counts that the detector expects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn

from .canvas import take_patches
from .probe import probe_spectrum, shift_probe, shift_spectrum
from .propagation import corner_frequencies, intensity, to_detector

__all__ = ['ForwardModel', 'GroupBatch', 'coverage_of_windows', 'expected_counts']


@dataclass(frozen=True)
class GroupBatch:
    """Groups of patterns with what is needed to place them: B groups, J patterns in all.

    Attributes:
        counts: Measured counts (J, H, W), corner order of frequencies, float32.
        rows: (J,) the group, and so the canvas, of each pattern.
        corners: (J, 2) window corners on the canvas, integers.
        shifts: (J, 2) sub-pixel rest of the positions.
        probe: Modes (P, H, W) or, one probe per group, (B, P, H, W), calibrated to counts.
        good_pixels: (H, W), corner order, or None when all are good.
        canvas_shape: (B, Y, X).
        object_: The object on the canvases (B, Y, X), where it is the teacher.
        held_out: (J,) True for patterns that the network must not see, or None.
        scans: (B,) number of the scan of each group.
    """

    counts: Float[Tensor, 'pattern height width']
    rows: Int[Tensor, ' pattern']
    corners: Int[Tensor, 'pattern 2']
    shifts: Float[Tensor, 'pattern 2']
    probe: Complex[Tensor, '*group mode height width']
    canvas_shape: tuple[int, int, int]
    good_pixels: Bool[Tensor, 'height width'] | None = None
    object_: Complex[Tensor, 'group y x'] | None = None
    held_out: Bool[Tensor, ' pattern'] | None = None
    scans: Int[Tensor, ' group'] | None = None

    @property
    def window(self) -> tuple[int, int]:
        """(H, W) of a pattern."""
        return int(self.counts.shape[-2]), int(self.counts.shape[-1])

    @property
    def num_patterns(self) -> int:
        """J, the number of patterns of all groups."""
        return int(self.counts.shape[0])

    def shifted_probe(self) -> Complex[Tensor, 'pattern mode height width']:
        """Returns every pattern's probe modes at its sub-pixel position."""
        if self.probe.ndim == 3:
            return shift_probe(self.probe, self.shifts)
        return shift_spectrum(probe_spectrum(self.probe)[self.rows], self.shifts)

    def select(self, keep: Tensor) -> GroupBatch:
        """Returns the batch with some of the patterns: a mask or indices."""
        return replace(
            self,
            counts=self.counts[keep],
            rows=self.rows[keep],
            corners=self.corners[keep],
            shifts=self.shifts[keep],
            held_out=None if self.held_out is None else self.held_out[keep],
        )

    def to(self, device: torch.device) -> GroupBatch:
        """Returns the batch on a device."""

        def move(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, non_blocking=True)

        return replace(
            self,
            counts=self.counts.to(device, non_blocking=True),
            rows=self.rows.to(device),
            corners=self.corners.to(device),
            shifts=self.shifts.to(device),
            probe=self.probe.to(device),
            good_pixels=move(self.good_pixels),
            object_=move(self.object_),
            held_out=move(self.held_out),
            scans=move(self.scans),
        )


def expected_counts(
    canvas: Complex[Tensor, 'group y x'],
    rows: Int[Tensor, ' pattern'],
    corners: Int[Tensor, 'pattern 2'],
    probe: Complex[Tensor, 'pattern mode height width'],
) -> Float[Tensor, 'pattern height width']:
    """Returns `I = sum_p |F(P_p * O_patch)|**2` in counts, corner order.

    `probe` is shifted to each pattern already. Assumes a thin object and the far field
    (Rodenburg & Maiden, Springer Handbook of Microscopy, 2019, eq. 17.2).
    """
    patches = take_patches(canvas, rows, corners, (probe.shape[-2], probe.shape[-1]))
    return intensity(to_detector(probe * patches[:, None]))


def coverage_of_windows(
    probe: Complex[Tensor, 'mode height width'],
    corners: Int[Tensor, 'pattern 2'],
    canvas_shape: tuple[int, int, int],
) -> Float[Tensor, '1 y x']:
    """Returns the photons per pixel that the unshifted probe sends through a canvas."""
    power = intensity(probe)
    height, width = power.shape
    coverage = torch.zeros(canvas_shape, device=power.device)
    for y, x in corners.tolist():
        coverage[0, y : y + height, x : x + width] += power
    return coverage


class ForwardModel(nn.Module):
    """Expected counts with, where asked, a probe and a scale per scan that learn.

    Args:
        probes: The given probe of each scan, (P, H, W).
        train_probe: Whether the probes are parameters.
        train_scale: Whether one factor on the counts of each scan is a parameter.
    """

    def __init__(
        self, probes: list[Tensor], *, train_probe: bool = False, train_scale: bool = False
    ) -> None:
        super().__init__()
        self.num_scans = len(probes)
        self.train_probe = train_probe
        for index, probe in enumerate(probes):
            given = torch.view_as_real(probe.to(torch.complex64).contiguous()).clone()
            self.register_buffer(f'given_{index}', given)
            if train_probe:
                # in units of the probe's own rms, so that one learning rate fits every probe
                unit = given.square().mean().sqrt()
                self.register_buffer(f'unit_{index}', unit)
                self.register_parameter(f'change_{index}', nn.Parameter(torch.zeros_like(given)))
        self.log_scale = nn.Parameter(torch.zeros(len(probes)), requires_grad=train_scale)

    def probe(self, scan: int) -> Complex[Tensor, 'mode height width']:
        """Returns the present probe of a scan; the scale is not in it."""
        parts = getattr(self, f'given_{scan}')
        if self.train_probe:
            parts = parts + getattr(self, f'unit_{scan}') * getattr(self, f'change_{scan}')
        return torch.view_as_complex(parts)

    def probe_departure(self) -> Tensor:
        """Returns the mean squared relative change of the trained probes."""
        if not self.train_probe:
            return self.log_scale.new_zeros(())
        terms = [getattr(self, f'change_{i}').square().mean() for i in range(self.num_scans)]
        return torch.stack(terms).mean()

    def with_probe(self, batch: GroupBatch, *, has_scale: bool = True) -> GroupBatch:
        """Returns the batch seen through the present probes and scales.

        The network is not told the scale: it measures its own, and would undo it.
        """
        if batch.scans is None:
            return batch
        scans = batch.scans.tolist()
        scale = torch.exp(0.5 * self.log_scale * float(has_scale))
        if len(set(scans)) == 1:
            return replace(batch, probe=self.probe(scans[0]) * scale[scans[0]])
        return replace(batch, probe=torch.stack([self.probe(s) * scale[s] for s in scans]))

    def forward(
        self, canvas: Complex[Tensor, 'group y x'], batch: GroupBatch, probe: Tensor
    ) -> Float[Tensor, 'pattern height width']:
        """Returns the expected counts of the batch's patterns, corner order."""
        return expected_counts(canvas, batch.rows, batch.corners, probe)


def counts_to_batch(counts: Tensor) -> Float[Tensor, 'pattern height width']:
    """Returns centred counts of any dtype as the batch wants them: float32, corner order."""
    return corner_frequencies(counts.to(torch.float32))
