"""Networks that see single patterns, or stacks of a few: how their patches become a canvas."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy
import torch
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray
from scipy.spatial import KDTree
from torch import Tensor, nn

from ..physics.canvas import Canvas, add_patches
from ..physics.chunk import Chunk
from ..physics.group_batch import GroupBatch
from ..physics.measurement import Measurement
from ..physics.probe import support_box
from ..physics.propagation import center_frequencies, intensity, squared_modulus
from .stitching import PatchStack, blend, put_weighted

__all__ = [
    'Level',
    'PatchwiseNetwork',
    'encoder_parameters',
    'find_stacks',
    'first_places',
    'merge',
    'patchwise_canvas',
    'stitch',
]

CHUNK = {'cpu': 16}
DEVICE_CHUNK = 128


@dataclass(frozen=True)
class Level:
    """How bright a whole measurement is: means over patterns of `sum I` and of `sum I**2`."""

    counts: float
    squared_counts: float


@runtime_checkable
class PatchwiseNetwork(Protocol):
    """What a network must offer to have its patches put onto a canvas."""

    training: bool
    """Whether gradients are wanted."""

    num_channels: int
    """C, the patterns that go through the network together."""

    pattern_size: int
    """N, the pattern size it is made for."""

    needs_level: bool
    """Whether it normalises by the `Level` of the measurement; patches then come in any unit."""

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
            level: Of the measurement, where the network needs it.
        """


def patchwise_canvas(network: PatchwiseNetwork, batch: GroupBatch) -> Canvas:
    """Returns the canvases of the groups of a batch; held-out patterns are not looked at.

    Training merges the patches of a group as they are, so that gradients flow; otherwise their
    phases are synchronised first.
    """
    return (merge if network.training else stitch)(network, batch.seen())


def merge(network: PatchwiseNetwork, measurement: Measurement) -> Canvas:
    """Returns the canvases of a measurement in memory, differentiable, phases as they come."""
    check_window(network, measurement)
    mean = measurement.level()
    measurement = measurement.in_units_of(mean)
    chunk = measurement.chunk(torch.arange(measurement.num_patterns))
    level = find_level(measurement) if network.needs_level else None
    stacks = find_stacks(measurement.rows, measurement.corners, network.num_channels)
    counts, photons = _inputs(chunk, measurement.visible_part)
    there, first = _hand_over(stacks, counts.device)
    patches = network.map_stacks(counts[there], photons[there], level)
    patches = patches.flatten(0, 1)[first]
    weights = intensity(chunk.probe)
    canvas, coverage = put_weighted(
        patches, weights, chunk.rows, chunk.corners, measurement.canvas_shape
    )
    if network.needs_level:
        canvas = _match_counts(canvas, coverage, measurement)
    scale = mean[:, None, None]
    return Canvas(canvas * scale, coverage / scale.square())


@torch.no_grad()
def stitch(network: PatchwiseNetwork, measurement: Measurement) -> Canvas:
    """Returns the canvases of a measurement read by chunks, phases of patches synchronised.

    Only patches are kept. Where the network stacks patterns, the stacks reach across chunks and
    the patterns are kept as well.
    """
    check_window(network, measurement)
    mean = measurement.level()
    measurement = measurement.in_units_of(mean)
    coverage = torch.zeros(measurement.canvas_shape, device=measurement.device)
    seen = torch.zeros_like(coverage)
    stacks: dict[int, PatchStack] = {}
    box, unit = (slice(0), slice(0)), 0.0
    for chunk, patches in _patches_of(network, measurement):
        weights = intensity(chunk.probe)
        if not unit:  # the first pattern decides, whatever the size of the chunks
            box, unit = support_box(weights[0].cpu().numpy()), _power_of_two(weights[0])
        inside = torch.zeros_like(weights)
        inside[:, *box] = weights[:, *box]
        coverage = add_patches(coverage, weights, chunk.rows, chunk.corners)
        seen = add_patches(seen, inside, chunk.rows, chunk.corners)
        rows = measurement.rows[chunk.indices]
        for row in rows.unique().tolist():
            keep = torch.nonzero(rows == row)[:, 0].to(patches.device)
            stack = stacks.setdefault(row, PatchStack(box, unit))
            stack.add(patches[keep], weights[keep], chunk.corners[keep])
    numerator = torch.zeros(measurement.canvas_shape, dtype=torch.complex64)
    for row, stack in stacks.items():
        numerator[row] = stack.put((1, *measurement.canvas_shape[1:]))[0]
    canvas = blend(numerator.to(seen.device), seen)
    if network.needs_level:
        canvas = _match_counts(canvas, coverage, measurement)
    scale = mean[:, None, None]
    return Canvas(canvas * scale, coverage / scale.square())


def _power_of_two(weights: Tensor) -> float:
    """Returns the power of two next to the highest weight."""
    return float(2.0 ** torch.log2(weights.max().clamp(min=1e-30)).round())


def _patches_of(
    network: PatchwiseNetwork, measurement: Measurement
) -> Iterator[tuple[Chunk, Tensor]]:
    """Yields every chunk with the patches of its patterns."""
    level = find_level(measurement) if network.needs_level else None
    visible = measurement.visible_part
    if network.num_channels == 1:
        for chunk in measurement.chunks():
            counts, photons = _inputs(chunk, visible)
            stacks = torch.arange(len(counts))[:, None]
            yield chunk, _map_chunks(network, counts, photons, stacks, level)
        return
    counts, photons = (
        torch.cat(parts)
        for parts in zip(*(_inputs(chunk, visible) for chunk in measurement.chunks()))
    )
    stacks = find_stacks(measurement.rows, measurement.corners, network.num_channels)
    patches = _map_chunks(network, counts, photons, stacks, level)
    for chunk in replace(measurement, after_chunk=None).chunks():
        yield chunk, patches[chunk.indices.to(patches.device)]


def _map_chunks(
    network: PatchwiseNetwork,
    counts: Tensor,
    photons: Tensor,
    stacks: Int[Tensor, 'stack channel'],
    level: Level | None,
) -> Complex[Tensor, 'pattern height width']:
    step = max(1, CHUNK.get(counts.device.type, DEVICE_CHUNK) // network.num_channels)
    there, first = _hand_over(stacks, counts.device)
    found = [
        network.map_stacks(counts[part], photons[part], level).flatten(0, 1)
        for part in there.split(step)
    ]
    return torch.cat(found)[first]


def _hand_over(
    stacks: Int[Tensor, 'stack channel'], device: torch.device
) -> tuple[Int[Tensor, 'stack channel'], Int[Tensor, ' pattern']]:
    """Returns stacks, and where each pattern comes first, on a device that is not waited for."""
    first = first_places(stacks)
    return stacks.to(device, non_blocking=True), first.to(device, non_blocking=True)


def _inputs(chunk: Chunk, visible_part: Float[Tensor, '*group']) -> tuple[Tensor, Tensor]:
    """Returns counts in centred order, bad pixels zero, and the photons that good pixels see."""
    part = visible_part if visible_part.ndim == 0 else visible_part[chunk.rows]
    photons = intensity(chunk.probe).sum(dim=(-2, -1)) * part
    return center_frequencies(chunk.good_counts()), photons


def _match_counts(
    canvas: Complex[Tensor, 'group y x'],
    coverage: Float[Tensor, 'group y x'],
    measurement: Measurement,
) -> Complex[Tensor, 'group y x']:
    """Returns the canvases, each times the factor that lets the measured counts through.

    The propagation is unitary, so the sum over all detectors is that of `coverage * |O|**2`, of
    which good pixels see about the part that they see of the probe.
    """
    expected = (coverage * squared_modulus(canvas)).sum(dim=(-2, -1)) * measurement.visible_part
    gain = torch.sqrt(measurement.totals.clamp(min=1e-12) / expected.clamp(min=1e-12))
    return canvas * gain[:, None, None]


def find_level(measurement: Measurement) -> Level:
    """Returns how bright the patterns of a measurement are."""
    total = torch.zeros(2, dtype=torch.float64)
    for chunk in replace(measurement, after_chunk=None).chunks():
        counts = chunk.good_counts()
        sums = torch.stack([counts.sum(dim=(-2, -1)), counts.square().sum(dim=(-2, -1))])
        total += sums.cpu().to(torch.float64).sum(dim=1)
    mean = total / max(1, measurement.num_patterns)
    return Level(float(mean[0]), float(mean[1]))


def encoder_parameters(network: nn.Module) -> Iterator[nn.Parameter]:
    """Returns the parameters of the encoder, which fine-tuning of the decoder leaves alone."""
    return (value for name, value in network.named_parameters() if 'encoder' in name)


def check_window(network: PatchwiseNetwork, measurement: Measurement) -> None:
    """Refuses patterns of another size than the network is made for.

    Raises:
        ValueError: names both sizes.
    """
    height, width = measurement.window
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


def first_places(stacks: Int[Tensor, 'stack channel']) -> Int[Tensor, ' pattern']:
    """Returns for each pattern where it comes first among the flattened stacks."""
    flat = stacks.reshape(-1).cpu().numpy()
    return torch.from_numpy(numpy.unique(flat, return_index=True)[1]).to(stacks.device)
