"""The forward model: from a canvas to the counts that the detector expects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from .canvas import take_patches
from .chunk import Chunk
from .group_batch import GroupBatch
from .propagation import intensity, to_detector

__all__ = ['Exposure', 'ForwardModel', 'expected_counts', 'expose', 'predict']


@dataclass(frozen=True)
class Exposure:
    """Patterns as a canvas explains them.

    Attributes:
        patches: (J, H, W) of the object.
        far_field: (J, P, H, W), corner order.
        expected: (J, H, W) counts, corner order.
    """

    patches: Complex[Tensor, 'pattern height width']
    far_field: Complex[Tensor, 'pattern mode height width']
    expected: Float[Tensor, 'pattern height width']


def expose(canvas: Complex[Tensor, 'group y x'], chunk: Chunk) -> Exposure:
    """Returns what a canvas makes of the patterns of a chunk (see `expected_counts`)."""
    exposure = _expose(canvas, chunk.rows, chunk.corners, chunk.probe)
    if chunk.background is None:
        return exposure
    return replace(exposure, expected=exposure.expected + chunk.background)


def predict(
    canvas: Complex[Tensor, 'group y x'], chunk: Chunk
) -> Float[Tensor, 'pattern height width']:
    """Returns the counts that a canvas lets expect on the patterns of a chunk, corner order."""
    return expose(canvas, chunk).expected


def expected_counts(
    canvas: Complex[Tensor, 'group y x'],
    rows: Int[Tensor, ' pattern'],
    corners: Int[Tensor, 'pattern 2'],
    probe: Complex[Tensor, 'pattern mode height width'],
) -> Float[Tensor, 'pattern height width']:
    """Returns `I = sum_p |F(P_p * O_patch)|**2` in counts, corner order, F unitary.

    `probe` is shifted to each pattern already. Assumes a thin object and the far field
    (Rodenburg & Maiden, Springer Handbook of Microscopy, 2019, eq. 17.2).
    """
    return _expose(canvas, rows, corners, probe).expected


def _expose(canvas: Tensor, rows: Tensor, corners: Tensor, probe: Tensor) -> Exposure:
    patches = take_patches(canvas, rows, corners, (probe.shape[-2], probe.shape[-1]))
    far_field = to_detector(probe * patches[:, None])
    return Exposure(patches, far_field, intensity(far_field))


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

    def given(self, scan: int) -> Complex[Tensor, 'mode height width']:
        """Returns the probe that came with a scan."""
        return torch.view_as_complex(getattr(self, f'given_{scan}'))

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

    def seen_through(self, batch: GroupBatch, *, has_scale: bool = True) -> GroupBatch:
        """Returns the batch under the present probe and scale of its scan.

        A batch of another scan, or of none, keeps the probe that it brought. A network is not
        told the scale: it measures its own, and would undo it.
        """
        if batch.scan is None:
            return batch
        scale = torch.exp(0.5 * self.log_scale[batch.scan] * float(has_scale))
        seen = batch.with_probe(self.probe(batch.scan) * scale)
        variation = batch.measurement.variation
        if variation is None:
            return seen
        scaled = variation.scaled(scale.expand(batch.measurement.num_patterns))
        return replace(seen, measurement=replace(seen.measurement, variation=scaled))
