"""What one pass over the patterns says about a canvas: where it is covered, and what is amiss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float
from torch import Tensor

from ..physics.canvas import add_patches
from ..physics.chunk import Chunk
from ..physics.forward_model import Exposure, expose
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..physics.noise import root_noise
from ..physics.propagation import intensity
from ..physics.roots import square_root
from ..physics.tilts import TiltMap, local_tilts
from ..physics.update_rule import likelihood_difference, object_update

__all__ = ['Residues', 'gather_residues']

NUM_RINGS = 3
"""Parts of the detector by the angle of scattering, each with as many expected photons."""


@dataclass(frozen=True)
class Residues:
    """What the patterns say about canvases.

    Attributes:
        coverage: (B, Y, X) photons that all patterns sent through each pixel.
        wanted: (B, Y, X) by how much the counts would change the object, per unit of coverage.
        tilts: (2, B, Y, X) local phase ramps that the counts ask for, rad per pixel.
        rings: (R, B, Y, X) error over that of photon noise, by angle of scattering.
    """

    coverage: Float[Tensor, 'group y x']
    wanted: Complex[Tensor, 'group y x']
    tilts: Float[Tensor, 'axis group y x']
    rings: Float[Tensor, 'ring group y x']


@torch.no_grad()
def gather_residues(canvas: Complex[Tensor, 'group y x'], measurement: Measurement) -> Residues:
    """Returns what all patterns of a measurement say about its canvases."""
    sums = with_chunks_that_fit(measurement, lambda part: _add_up(canvas, part))
    coverage, wanted, tilts, rings = map(measurement.team.add_up, sums)
    floor = 1e-3 * coverage.amax(dim=(-2, -1), keepdim=True) + 1e-20
    mean = TiltMap(tilts, coverage).mean()
    return Residues(coverage, wanted / (coverage + floor), mean, rings / (coverage + floor))


def _add_up(canvas: Tensor, measurement: Measurement) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns the sums over the share of this process, each pattern weighted by its probe."""
    wanted, coverage = torch.zeros_like(canvas), torch.zeros_like(canvas.real)
    tilts = canvas.real.new_zeros((2, *canvas.shape))
    rings = canvas.real.new_zeros((NUM_RINGS, *canvas.shape))
    for chunk in measurement.chunks(measurement.team.share(torch.arange(measurement.num_patterns))):
        exposure, power = expose(canvas, chunk), intensity(chunk.probe)
        places = chunk.rows, chunk.corners
        update = object_update(chunk.probe, likelihood_difference(exposure, chunk))
        wanted = add_patches(wanted, update, *places)
        coverage = add_patches(coverage, power, *places)
        for target, values in (
            (tilts, local_tilts(exposure, chunk).T),
            (rings, _rings(exposure, chunk)),
        ):
            for index, value in enumerate(values):
                target[index] = add_patches(target[index], power * value[:, None, None], *places)
    return coverage, wanted, tilts, rings


def _rings(exposure: Exposure, chunk: Chunk) -> Float[Tensor, 'ring pattern']:
    """Returns the error over that of photon noise in each ring of each pattern."""
    expected = exposure.expected
    error = (square_root(expected) - chunk.roots(0.0)).square()
    noise = root_noise(expected)
    if chunk.good_pixels is not None:
        error, noise = error * chunk.good_pixels, noise * chunk.good_pixels
    masks = _ring_masks(expected.mean(dim=0))
    sums = [torch.einsum('jyx,ryx->rj', value, masks) for value in (error, noise)]
    return sums[0] / sums[1].clamp(min=1e-3)


def _ring_masks(mean: Float[Tensor, 'height width']) -> Float[Tensor, 'ring height width']:
    """Returns the rings (R, H, W), corner order, between fixed parts of half the detector."""
    y, x = (torch.fft.fftfreq(length, device=mean.device) for length in mean.shape)
    radius = torch.sqrt(y[:, None].square() + x.square())
    edges = (0.0, 0.08, 0.2, 1.0)
    inside = [(radius >= low) & (radius < high) for low, high in zip(edges, edges[1:])]
    return torch.stack(inside).to(mean.dtype)
