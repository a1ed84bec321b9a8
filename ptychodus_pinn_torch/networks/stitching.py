"""From patches to one canvas: their phases synchronised, then a mean weighted by the probe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import torch
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from scipy.spatial import KDTree
from torch import Tensor

from ..physics.canvas import put_patches

__all__ = ['PatchStack', 'blend', 'phase_factors']

FILL = 1e-6
"""Where the probe is weaker than this part of its peak, the canvas tends to the flat object."""

NUM_NEIGHBORS = 10
POWER_ITERATIONS = 500
HALF_PRECISION_BYTES = 2**28
"""Patches beyond this size are kept in half precision."""


def blend(
    numerator: Complex[Tensor, 'group y x'], coverage: Float[Tensor, 'group y x']
) -> Complex[Tensor, 'group y x']:
    """Returns the weighted mean of patches; one where no probe has been."""
    floor = FILL * coverage.amax(dim=(-2, -1), keepdim=True) + 1e-20
    return (numerator + floor) / (coverage + floor)


@dataclass
class PatchStack:
    """Patches of one canvas, times their weights, as they come from the network.

    Kept on the CPU, cropped to the box that holds the probe; in half precision once they are
    many. Adding patches in parts of any size gives the same stack.

    Attributes:
        box: Part of the window that is kept.
        unit: About the highest weight; half precision is relative to it.
        max_bytes: Beyond this size, half precision is kept.
    """

    box: tuple[slice, slice]
    unit: float = 1.0
    max_bytes: int = HALF_PRECISION_BYTES
    _parts: list[Tensor] = field(default_factory=list)
    _corners: list[Tensor] = field(default_factory=list)
    _bytes: int = 0

    def add(
        self,
        patches: Complex[Tensor, 'pattern height width'],
        weights: Float[Tensor, 'pattern height width'],
        corners: Int[Tensor, 'pattern 2'],
    ) -> None:
        """Adds patches with their weights."""
        weighted = (patches * weights)[:, *self.box].detach().cpu().contiguous()
        was_half = self._bytes > self.max_bytes
        self._bytes += weighted.nbytes
        self._parts.append(weighted)
        self._corners.append(corners.cpu())
        if self._bytes > self.max_bytes:
            first = len(self._parts) - 1 if was_half else 0
            for index in range(first, len(self._parts)):
                parts = torch.view_as_real(self._parts[index]) / self.unit
                self._parts[index] = parts.to(torch.float16)

    def patches(self) -> tuple[list[NDArray[Any]], NDArray[numpy.int64]]:
        """Returns weighted patches, without a copy, and the corners (J, 2) of their boxes.

        The patches are complex64 (H, W), or float16 (H, W, 2) of real and imaginary part.
        """
        start = numpy.array([self.box[0].start, self.box[1].start])
        found = [patch for part in self._parts for patch in part.numpy()]
        return found, torch.cat(self._corners).numpy() + start

    def put(self, shape: tuple[int, int, int]) -> Complex[Tensor, '1 y x']:
        """Returns the sum of the weighted patches, phases synchronised, on a canvas of `shape`."""
        patches, corners = self.patches()
        factors = phase_factors(patches, corners)
        unit = numpy.float32(self.unit if self._bytes > self.max_bytes else 1.0)
        canvas = numpy.zeros(shape, dtype=numpy.complex64)
        height, width = patches[0].shape[:2]
        for patch, factor, (y, x) in zip(patches, factors, corners.tolist()):
            canvas[0, y : y + height, x : x + width] += (unit * factor) * _as_complex(patch)
        return torch.from_numpy(canvas)


def _as_complex(patch: NDArray[Any]) -> NDArray[numpy.complexfloating]:
    if patch.dtype == numpy.float16:
        return patch.astype(numpy.float32).view(numpy.complex64)[..., 0]
    return patch


def phase_factors(
    patches: Sequence[NDArray[Any]] | NDArray[Any], corners: NDArray[numpy.int64]
) -> NDArray[numpy.complex64]:
    """Returns the unit phasor for each patch that makes overlapping patches agree.

    A diffraction pattern does not tell the phase of its patch as a whole. With
    `A_jk = sum conj(o_j) o_k` over the overlap of weighted patches, the phasors are those of the
    leading eigenvector of the degree-normalised matrix (angular synchronisation: Singer, Appl.
    Comput. Harmon. Anal. 30, 2011).

    Args:
        patches: J of (H, W), patches times their weights (or half precision, see `PatchStack`).
        corners: (J, 2) first pixels (y, x).
    """
    number = len(patches)
    factors = numpy.ones(number, dtype=numpy.complex64)
    matrix = _overlap_matrix(patches, corners)
    num_parts, labels = connected_components(abs(matrix), directed=False)
    for label in range(num_parts):
        members = numpy.flatnonzero(labels == label)
        if len(members) > 1:
            factors[members] = _leading_phases(matrix[members][:, members])
    return factors


def _overlap_matrix(
    patches: Sequence[NDArray[Any]] | NDArray[Any], corners: NDArray[numpy.int64]
) -> csr_matrix:
    number = len(patches)
    height, width = patches[0].shape[:2]
    near = KDTree(corners).query(corners, k=min(number, NUM_NEIGHBORS + 1))[1]
    near = near.reshape(number, -1)
    pairs = {
        (min(j, int(k)), max(j, int(k))) for j in range(number) for k in near[j] if int(k) != j
    }
    first, second, values = [], [], []
    for j, k in sorted(pairs):
        dy, dx = (int(value) for value in corners[k] - corners[j])
        if abs(dy) >= height or abs(dx) >= width:
            continue
        own = patches[j][max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
        other = patches[k][max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)]
        a, b = _as_complex(own), _as_complex(other)
        value = complex(numpy.vdot(a, b))
        if value != 0.0:
            first.append(j)
            second.append(k)
            values.append(value)
    half = coo_matrix((values, (first, second)), shape=(number, number), dtype=numpy.complex128)
    return (half + half.conj().T).tocsr()


def _leading_phases(matrix: csr_matrix) -> NDArray[numpy.complex64]:
    """Returns the phasors of the leading eigenvector, its mean phase zero."""
    degree = numpy.asarray(abs(matrix).sum(axis=1)).ravel()
    root = 1.0 / numpy.sqrt(numpy.maximum(degree, 1e-300))
    scaled = matrix.multiply(root[:, None]).multiply(root[None, :]).tocsr()
    if len(degree) <= 32:
        vector = numpy.linalg.eigh(scaled.toarray())[1][:, -1]
    else:
        start = numpy.sqrt(degree).astype(numpy.complex128)
        try:
            vector = eigsh(scaled, k=1, which='LA', v0=start)[1][:, 0]
        except ArpackNoConvergence:
            vector = _iterate_power(scaled, start)
    size = numpy.abs(vector)
    # conj(o_j) o_k = exp(i (phase_k - phase_j)): the eigenvector carries minus the phases
    phasors = numpy.where(size > 0.0, vector / numpy.maximum(size, 1e-300), 1.0)
    mean = phasors.sum()
    if abs(mean) > 1e-9:
        phasors = phasors * (abs(mean) / mean)
    return phasors.astype(numpy.complex64)


def _iterate_power(matrix: csr_matrix, start: NDArray[Any]) -> NDArray[Any]:
    """Returns nearly the leading eigenvector where Lanczos' method does not converge.

    The eigenvalues of a degree-normalised matrix lie within [-1, 1]; one is added to all, so that
    the largest leads in size as well.
    """
    vector = start / numpy.linalg.norm(start)
    for _ in range(POWER_ITERATIONS):
        vector = vector + matrix @ vector
        vector /= numpy.linalg.norm(vector)
    return vector


def put_weighted(
    patches: Complex[Tensor, 'pattern height width'],
    weights: Float[Tensor, 'pattern height width'],
    rows: Int[Tensor, ' pattern'],
    corners: Int[Tensor, 'pattern 2'],
    shape: tuple[int, int, int],
) -> tuple[Complex[Tensor, 'group y x'], Float[Tensor, 'group y x']]:
    """Returns canvases of patches and their coverage, differentiable, without synchronisation."""
    numerator = put_patches(patches * weights, rows, corners, shape)
    coverage = put_patches(weights, rows, corners, shape)
    return blend(numerator, coverage), coverage
