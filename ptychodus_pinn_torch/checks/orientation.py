"""Finds out whether flipped or transposed positions explain a scan better than those given."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
import torch
from numpy.typing import NDArray

from ..physics.measured_scan import measure_scan
from ..reconstruction.splitting import take_middle
from ..scan.resampling import crop_scan
from ..scan.scan import Scan
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import SolverState

__all__ = ['ORIENTATIONS', 'OrientationErrors', 'compare_orientations', 'orient_positions']

ORIENTATIONS: dict[str, tuple[bool, bool, bool]] = {
    'as given': (False, False, False),
    'y flipped': (False, True, False),
    'x flipped': (False, False, True),
    'y and x flipped': (False, True, True),
    'y and x exchanged': (True, False, False),
    'y and x exchanged, then y flipped': (True, True, False),
    'y and x exchanged, then x flipped': (True, False, True),
    'y and x exchanged, then both flipped': (True, True, True),
}
"""Exchange of the axes, flip of y, flip of x, by name."""

_NUM_FRAMES = 48
_NUM_MODES = 2
_NUM_EPOCHS = 12
_BATCH = 8
_ALPHA = 0.05
_MAX_SIZE = 128


@dataclass(frozen=True)
class OrientationErrors:
    """Relative amplitude errors after a few physics steps, by orientation."""

    errors: dict[str, float]

    @property
    def best(self) -> str:
        """The orientation with the least error."""
        return min(self.errors, key=lambda name: self.errors[name])

    @property
    def gain(self) -> float:
        """How many times smaller the least error is than that of the positions as given."""
        return self.errors['as given'] / max(self.errors[self.best], 1e-12)


def orient_positions(
    positions_px: NDArray[numpy.float64], orientation: str
) -> NDArray[numpy.float64]:
    """Returns the positions (N, 2), flipped or transposed about the middle of their box."""
    is_exchanged, flips_y, flips_x = ORIENTATIONS[orientation]
    middle = (positions_px.max(axis=0) + positions_px.min(axis=0)) / 2.0
    moved = positions_px - middle
    if is_exchanged:
        moved = moved[:, ::-1]
    return moved * numpy.where([flips_y, flips_x], -1.0, 1.0) + middle


def compare_orientations(scan: Scan) -> OrientationErrors:
    """Returns how well each of the eight orientations of the positions explains the counts.

    Neighbouring patterns in the middle of the scan are reconstructed from a flat object by a few
    epochs of the solver.
    """
    part = _take_middle(scan)
    return OrientationErrors({name: _reconstruct(part, name) for name in ORIENTATIONS})


def _take_middle(scan: Scan) -> Scan:
    part = scan.select(take_middle(scan.positions_px, _NUM_FRAMES).numpy())
    size = part.pattern_shape[0]
    return crop_scan(part, _MAX_SIZE) if size > _MAX_SIZE else part


@torch.no_grad()
def _reconstruct(part: Scan, orientation: str) -> float:
    """Returns the relative amplitude error of the last epoch, taken before each update."""
    turned = replace(part, positions_px=orient_positions(part.positions_px, orientation))
    measurement = measure_scan(turned, num_probe_modes=_NUM_MODES).measurement
    state = SolverState.start(measurement.flat(), measurement)
    num_subsets = -(-part.num_patterns // _BATCH)
    batches = [torch.arange(k, part.num_patterns, num_subsets) for k in range(num_subsets)]
    settings, error = RpieSettings(alpha=_ALPHA), 0.0
    for _ in range(_NUM_EPOCHS):
        error = rpie_epoch(state, measurement, batches, settings)
    return error
