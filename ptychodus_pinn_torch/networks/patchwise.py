"""Networks that see single patterns, or stacks of a few: how their patches become a canvas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy
import torch
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor

from ..physics.canvas import Canvas, put_patches
from ..physics.forward_model import GroupBatch
from ..physics.propagation import center_frequencies, intensity, squared_modulus
from .stitching import PatchStack, blend, put_weighted, support_box
from .unrolled import COUNT_FLOOR, BatchSource, PatternSource, Piece

__all__ = ['Level', 'PatchwiseNetwork', 'find_stacks', 'merge', 'patchwise_canvas', 'stitch']

CHUNK = {'cpu': 16}
DEVICE_CHUNK = 128


@dataclass(frozen=True)
class Level:
    """How bright a whole source is: means over patterns of `sum I` and of `sum I**2`."""

    counts: float
    squared_counts: float


class PatchwiseNetwork(Protocol):
    """What a network must offer to have its patches put onto a canvas."""

    training: bool

    num_channels: int
    """C, the patterns that go through the network together."""

    pattern_size: int
    """N, the pattern size it is made for."""

    needs_level: bool
    """Whether it normalises by the `Level` of the source; patches then come in any unit."""

    def map_stacks(
        self,
        counts: Float[Tensor, 'stack channel height width'],
        photons: Float[Tensor, 'stack channel'],
        level: Level | None,
    ) -> Complex[Tensor, 'stack channel height width']:
        """Returns one patch per pattern.

        Args:
            counts: Centred order, bad pixels zero.
            photons: Power of each pattern's probe, in the units in which patches are wanted.
            level: Of the source, where the network needs it.
        """


def patchwise_canvas(network: PatchwiseNetwork, batch: GroupBatch) -> Canvas:
    """Returns the canvases of the groups of a batch; held-out patterns are not looked at.

    Training merges the patches of a group as they are, so that gradients flow; otherwise their
    phases are brought in step first.
    """
    source = BatchSource(batch, 1)
    return merge(network, source) if network.training else stitch(network, source)


def merge(network: PatchwiseNetwork, source: PatternSource) -> Canvas:
    """Returns the canvases of a source in memory, differentiable, phases as they come."""
    (piece,) = source.pieces(0)
    check_window(network, piece)
    level = find_level(source) if network.needs_level else None
    stacks = find_stacks(piece.rows, piece.corners, network.num_channels)
    counts, photons = _inputs(piece)
    patches = network.map_stacks(counts[stacks], photons[stacks], level)
    patches = patches.flatten(0, 1)[_first_places(stacks)]
    weights = intensity(piece.probe)
    canvas, coverage = put_weighted(
        patches, weights, piece.rows, piece.corners, source.canvas_shape
    )
    if network.needs_level:
        canvas = _match_counts(canvas, coverage, _total_counts(piece, source))
    scale = source.scale[:, None, None]
    return Canvas(canvas * scale, coverage / scale.square())


@torch.no_grad()
def stitch(network: PatchwiseNetwork, source: PatternSource) -> Canvas:
    """Returns the canvases of a source read piece by piece, phases of patches brought in step.

    Only patches are kept. Where the network stacks patterns, the stacks reach across pieces and
    the patterns are kept as well.
    """
    level = find_level(source) if network.needs_level else None
    coverage = torch.zeros(source.canvas_shape, device=source.scale.device)
    seen = torch.zeros_like(coverage)
    counts = torch.zeros_like(source.scale)
    stacks: dict[int, PatchStack] = {}
    box, unit = (slice(0), slice(0)), 0.0
    for piece, patches in _patches_of(network, source, level):
        weights = intensity(piece.probe)
        if not unit:  # the first pattern decides, whatever the size of the pieces
            box, unit = support_box(weights[0].cpu().numpy()), _power_of_two(weights[0])
        inside = torch.zeros_like(weights)
        inside[:, *box] = weights[:, *box]
        coverage = coverage + put_patches(weights, piece.rows, piece.corners, source.canvas_shape)
        seen = seen + put_patches(inside, piece.rows, piece.corners, source.canvas_shape)
        counts = counts + _total_counts(piece, source)
        for row in torch.unique(piece.rows).tolist():
            keep = piece.rows == row
            stack = stacks.setdefault(row, PatchStack(box, unit))
            stack.add(patches[keep], weights[keep], piece.corners[keep])
    numerator = torch.zeros(source.canvas_shape, dtype=torch.complex64)
    for row, stack in stacks.items():
        numerator[row] = stack.put((1, *source.canvas_shape[1:]))[0]
    scale = source.scale[:, None, None]
    canvas = blend(numerator.to(seen.device), seen)
    if network.needs_level:
        canvas = _match_counts(canvas, coverage, counts)
    return Canvas(canvas * scale, coverage / scale.square())


def _power_of_two(weights: Tensor) -> float:
    """Returns the power of two next to the highest weight."""
    return float(2.0 ** torch.log2(weights.max().clamp(min=1e-30)).round())


def _patches_of(
    network: PatchwiseNetwork, source: PatternSource, level: Level | None
) -> Iterator[tuple[Piece, Tensor]]:
    """Yields every piece with the patches of its patterns."""
    if network.num_channels == 1:
        for piece in source.pieces(0):
            check_window(network, piece)
            counts, photons = _inputs(piece)
            stacks = torch.arange(len(counts), device=counts.device)[:, None]
            yield piece, _map_chunks(network, counts, photons, stacks, level)
        return
    patches = _stacked_patches(network, source, level)
    first = 0
    for piece in source.pieces(0):
        last = first + len(piece.rows)
        yield piece, patches[first:last].to(piece.roots.device)
        first = last


def _stacked_patches(
    network: PatchwiseNetwork, source: PatternSource, level: Level | None
) -> Complex[Tensor, 'pattern height width']:
    kept: list[tuple[Tensor, ...]] = []
    for piece in source.pieces(0):
        check_window(network, piece)
        kept.append((piece.rows, piece.corners, *_inputs(piece)))
    rows, corners, counts, photons = (torch.cat(parts) for parts in zip(*kept))
    stacks = find_stacks(rows, corners, network.num_channels)
    return _map_chunks(network, counts, photons, stacks, level)


def _map_chunks(
    network: PatchwiseNetwork,
    counts: Tensor,
    photons: Tensor,
    stacks: Int[Tensor, 'stack channel'],
    level: Level | None,
) -> Complex[Tensor, 'pattern height width']:
    step = max(1, CHUNK.get(counts.device.type, DEVICE_CHUNK) // network.num_channels)
    found = [
        network.map_stacks(counts[part], photons[part], level).flatten(0, 1)
        for part in stacks.split(step)
    ]
    return torch.cat(found)[_first_places(stacks)]


def _inputs(piece: Piece) -> tuple[Tensor, Tensor]:
    """Returns counts in centred order, bad pixels zero, and the photons of each probe."""
    counts = (piece.roots.square() - COUNT_FLOOR).clamp(min=0.0)
    if piece.good_pixels is not None:
        counts = counts * piece.good_pixels
    return center_frequencies(counts), intensity(piece.probe).sum(dim=(-2, -1))


def _total_counts(piece: Piece, source: PatternSource) -> Float[Tensor, ' group']:
    """Returns the counts that were measured in each group."""
    total = torch.zeros_like(source.scale)
    return total.index_add(0, piece.rows, _inputs(piece)[0].sum(dim=(-2, -1)))


def _match_counts(
    canvas: Complex[Tensor, 'group y x'],
    coverage: Float[Tensor, 'group y x'],
    counts: Float[Tensor, ' group'],
) -> Complex[Tensor, 'group y x']:
    """Returns the canvases, each times the factor that lets the measured counts through.

    The propagation is unitary, so the sum over all detectors is that of `coverage * |O|**2`.
    """
    expected = (coverage * squared_modulus(canvas)).sum(dim=(-2, -1))
    gain = torch.sqrt(counts.clamp(min=1e-12) / expected.clamp(min=1e-12))
    return canvas * gain[:, None, None]


def find_level(source: PatternSource) -> Level:
    """Returns how bright the patterns of a source are."""
    number, total, squares = 0, 0.0, 0.0
    for piece in source.pieces(0):
        counts, _ = _inputs(piece)
        number += len(counts)
        total += float(counts.sum(dtype=torch.float64))
        squares += float(counts.square().sum(dtype=torch.float64))
    return Level(total / max(1, number), squares / max(1, number))


def check_window(network: PatchwiseNetwork, piece: Piece) -> None:
    """Refuses patterns of another size than the network is made for.

    Raises:
        ValueError: names both sizes.
    """
    height, width = piece.roots.shape[-2:]
    if (height, width) != (network.pattern_size, network.pattern_size):
        raise ValueError(
            f'the model is made for patterns of {network.pattern_size} px, the scan has '
            f'{height} x {width} px: crop or bin the scan, or choose another model.'
        )


def find_stacks(
    rows: Int[Tensor, ' pattern'], corners: Int[Tensor, 'pattern 2'], num_channels: int
) -> Int[Tensor, 'stack channel']:
    """Returns stacks of near patterns of one group, such that every pattern is in one.

    Each stack is ordered by place, top to bottom and left to right in each half, so that a
    channel means a direction. Does not depend on the order of the patterns' arrival beyond ties.
    """
    if num_channels == 1:
        return torch.arange(len(rows), device=rows.device)[:, None]
    found = []
    groups, places = rows.cpu().numpy(), corners.cpu().numpy()
    for row in numpy.unique(groups):
        members = numpy.flatnonzero(groups == row)
        found.append(members[_cover(places[members], num_channels)])
    return torch.from_numpy(numpy.concatenate(found)).to(rows.device)


def _cover(corners: NDArray[numpy.int64], size: int) -> NDArray[numpy.int64]:
    number = len(corners)
    near = KDTree(corners).query(corners, k=min(size, number))[1].reshape(number, -1)
    is_open = numpy.ones(number, dtype=bool)
    rows = []
    for seed in numpy.lexsort((corners[:, 1], corners[:, 0])):
        if is_open[seed]:
            row = numpy.resize(near[seed] if seed in near[seed] else [seed, *near[seed][1:]], size)
            is_open[row] = False
            rows.append(_order(row, corners))
    return numpy.stack(rows)


def _order(row: NDArray[numpy.int64], corners: NDArray[numpy.int64]) -> NDArray[numpy.int64]:
    """Returns the row's upper half from left to right, then its lower half."""
    by_y = row[numpy.argsort(corners[row, 0], kind='stable')]
    side = max(1, round(len(row) ** 0.5))
    parts = [by_y[first : first + side] for first in range(0, len(row), side)]
    return numpy.concatenate([p[numpy.argsort(corners[p, 1], kind='stable')] for p in parts])


def _first_places(stacks: Int[Tensor, 'stack channel']) -> Int[Tensor, ' pattern']:
    """Returns for each pattern where it comes first among the flattened stacks."""
    flat = stacks.reshape(-1).cpu().numpy()
    return torch.from_numpy(numpy.unique(flat, return_index=True)[1]).to(stacks.device)
