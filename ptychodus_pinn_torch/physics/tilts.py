"""Local tilts: the large scales of the phase, which steps pattern by pattern are slow to find.

What ordered subsets leave of the error on scales beyond the probe looks, to each pattern, like a
phase ramp on its patch, which moves the pattern on the detector. So the ramps are fitted to the
patterns (Gauss-Newton on the amplitudes), and put together to one phase: least squares on their
gradients, as a Shack-Hartmann sensor does (Southwell, J. Opt. Soc. Am. 70, 998, 1980).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from scipy.sparse import diags
from scipy.sparse.linalg import cg
from torch import Tensor

from .canvas import add_patches, blank_sum
from .chunk import Chunk
from .forward_model import Exposure, expose
from .measurement import Measurement
from .memory import with_chunks_that_fit
from .noise import lost_part
from .propagation import intensity, to_detector
from .roots import square_root

__all__ = ['TiltMap', 'integrate_tilts', 'local_tilts', 'measure_tilts']

ROOT_VARIANCE = 0.25
"""Of the root of a Poisson count."""

SPREAD = 0.05
"""Standard deviation that tilts are expected to have, rad per pixel: a pattern with few photons
says little, and is not believed beyond it."""

MAX_TILT = 0.2
"""Bound on a tilt that is believed, rad per pixel; ramps beyond it are no small errors."""

CELL_PX = 4
"""Tilts vary as slowly as the probe is wide: they are put together on coarser cells."""

RTOL, MAX_ITERATIONS = 1e-3, 500
GROUND = 1e-4
"""Part of the highest weight with which the phase is held where nothing has been measured."""


@dataclass(frozen=True)
class TiltMap:
    """Tilts on canvases, weighted by the probes that have seen them.

    Attributes:
        sums: (2, B, Y, X) `sum_j |P_j|**2 t_j` along y and x, photons rad per pixel.
        weights: (B, Y, X) `sum_j |P_j|**2`, photons.
    """

    sums: Float[Tensor, 'axis group y x']
    weights: Float[Tensor, 'group y x']

    def mean(self) -> Float[Tensor, 'axis group y x']:
        """Returns the weighted mean of the tilts, rad per pixel; zero where no probe has been."""
        floor = 1e-6 * self.weights.amax(dim=(-2, -1), keepdim=True) + 1e-20
        return self.sums / (self.weights + floor)

    def around_mean(self) -> TiltMap:
        """Returns the tilts less their mean over each canvas."""
        total = self.weights.sum(dim=(-2, -1), keepdim=True) + 1e-20
        mean = self.sums.sum(dim=(-2, -1), keepdim=True) / total
        return replace(self, sums=self.sums - mean * self.weights)


def local_tilts(exposure: Exposure, chunk: Chunk) -> Float[Tensor, 'pattern 2']:
    """Returns the phase ramp (y, x) on each patch that would explain its pattern better, rad/px."""
    root = square_root(exposure.expected)
    residual = chunk.roots(0.0) - root
    residual = residual + root * lost_part(exposure.expected, chunk.background)
    wave = chunk.probe * exposure.patches[:, None]
    slopes, far_field = [], exposure.far_field
    for axis, length in enumerate(chunk.window):
        arm = torch.arange(length, device=wave.device) - (length - 1) / 2.0
        change = to_detector(wave * (arm[:, None] if axis == 0 else arm))
        # d|F| = Re(conj(F) i change) / |F|
        slope = (far_field.imag * change.real - far_field.real * change.imag).sum(dim=1)
        slope = slope / (root + 1e-3)
        slopes.append(slope if chunk.good_pixels is None else slope * chunk.good_pixels)

    def dot(first: Tensor, second: Tensor) -> Tensor:
        return (first * second).sum(dim=(-2, -1))

    hold = ROOT_VARIANCE / SPREAD**2
    a, c = dot(slopes[0], slopes[0]) + hold, dot(slopes[1], slopes[1]) + hold
    b = dot(slopes[0], slopes[1])
    p, q = dot(slopes[0], residual), dot(slopes[1], residual)
    tilts = torch.stack([c * p - b * q, a * q - b * p], dim=1) / (a * c - b * b)[:, None]
    return tilts.clamp(-MAX_TILT, MAX_TILT)


def measure_tilts(
    canvas: Complex[Tensor, 'group y x'], measurement: Measurement, indices: Tensor | None = None
) -> TiltMap:
    """Returns the tilts that patterns (J,), or all, see on the canvases."""
    chosen = torch.arange(measurement.num_patterns) if indices is None else indices
    mine = measurement.team.share(chosen)
    found = with_chunks_that_fit(measurement, lambda part: _measure_tilts(canvas, part, mine))
    sums = map(measurement.team.add_up, (found.sums, found.weights))
    return TiltMap(*(each.to(torch.float32) for each in sums))


def _measure_tilts(canvas: Tensor, measurement: Measurement, indices: Tensor) -> TiltMap:
    with torch.no_grad():
        sums = blank_sum((2, *canvas.shape), torch.float32, canvas.device)
        weights = blank_sum(tuple(canvas.shape), torch.float32, canvas.device)
        for chunk in measurement.chunks(indices):
            tilts, power = local_tilts(expose(canvas, chunk), chunk), intensity(chunk.probe)
            weights = add_patches(weights, power, chunk.rows, chunk.corners)
            for axis in range(2):
                weighted = power * tilts[:, axis, None, None]
                sums[axis] = add_patches(sums[axis], weighted, chunk.rows, chunk.corners)
    return TiltMap(sums, weights)


def integrate_tilts(tilts: TiltMap) -> Float[Tensor, 'group y x']:
    """Returns the phases (B, Y, X) whose gradients are the tilts, as nearly as they can be, rad."""
    shape = tuple(tilts.weights.shape[-2:])
    parts = [_cell_means(part.detach()) for part in (*tilts.sums, tilts.weights)]
    cells = torch.stack(parts).cpu()
    phases = [_least_squares(cell.numpy()) for cell in cells.movedim(1, 0)]
    coarse = torch.from_numpy(numpy.stack(phases)).to(tilts.weights.device, torch.float32)
    fine = torch.nn.functional.interpolate(
        coarse[:, None], scale_factor=float(CELL_PX), mode='bilinear', align_corners=False
    )
    return fine[:, 0, : shape[0], : shape[1]]


def _cell_means(values: Float[Tensor, 'group y x']) -> Float[Tensor, 'group row column']:
    """Returns the means over cells; what reaches over the border counts as zeros."""
    return torch.nn.functional.avg_pool2d(
        values, CELL_PX, ceil_mode=True, divisor_override=CELL_PX**2
    )


def _least_squares(cell: NDArray[numpy.float32]) -> NDArray[numpy.float64]:
    """Returns the phase (y, x) on cells; `cell` (3, y, x) holds weighted tilts and weights."""
    weights = cell[2].astype(numpy.float64)
    weights /= max(float(weights.max()), 1e-20)
    slopes = CELL_PX * cell[:2] / numpy.maximum(cell[2], 1e-6 * cell[2].max() + 1e-20)
    target, diagonal = numpy.zeros_like(weights), numpy.full_like(weights, GROUND)
    beside = []
    for first, second, slope in (
        (numpy.s_[:-1], numpy.s_[1:], slopes[0]),
        (numpy.s_[:, :-1], numpy.s_[:, 1:], slopes[1]),
    ):
        trust, coupling = numpy.minimum(weights[first], weights[second]), numpy.zeros_like(weights)
        wanted = trust * 0.5 * (slope[first] + slope[second])
        target[first] -= wanted
        target[second] += wanted
        diagonal[first] += trust
        diagonal[second] += trust
        coupling[first] = -trust
        beside.append(coupling.ravel())
    bands, offsets, (height, width) = [diagonal.ravel()], [0], weights.shape
    for coupling, offset, number in ((beside[0], width, height), (beside[1], 1, width)):
        if number > 1:
            bands += 2 * [coupling[: weights.size - offset]]
            offsets += [offset, -offset]
    matrix = diags(bands, offsets).tocsr()
    found, _ = cg(
        matrix, target.ravel(), rtol=RTOL, maxiter=MAX_ITERATIONS, M=diags(1.0 / bands[0])
    )
    return found.reshape(weights.shape)
