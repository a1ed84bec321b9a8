"""How the patches of the network become canvases: in training, and for a whole scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import tensorflow as tf
from jaxtyping import Complex, Float, Int
from numpy.typing import NDArray

from .keras_network import CnnNetwork
from .keras_reader import ScanReader
from .keras_stitching import FILL, PatchSum, find_stacks, first_places, support_box
from .tensorflow_physics import intensity, put_patches, shift_probe

__all__ = ['Placement', 'merge', 'place', 'stitch']

CHUNK = 16


class Placement(NamedTuple):
    """Where the patterns of a batch belong.

    Attributes:
        rows: (J,) canvas of each pattern; `corners` (J, 2) its first pixel; `shifts` (J, 2).
        stacks: (S, C) patterns that go through the network together.
        firsts: (J,) where each pattern comes first among the flattened stacks.
        canvas_shape: (3,).
    """

    rows: Int[tf.Tensor, ' pattern']
    corners: Int[tf.Tensor, 'pattern 2']
    shifts: Float[tf.Tensor, 'pattern 2']
    stacks: Int[tf.Tensor, 'stack channel']
    firsts: Int[tf.Tensor, ' pattern']
    canvas_shape: Int[tf.Tensor, ' 3']


def place(batch: Any, num_channels: int) -> Placement:
    """Returns where the patterns of a `GroupBatch` belong, for a network of C channels."""
    stacks = find_stacks(batch.rows, batch.corners, num_channels)
    return Placement(
        rows=tf.constant(batch.rows, tf.int32),
        corners=tf.constant(batch.corners, tf.int32),
        shifts=tf.constant(batch.shifts, tf.float64),
        stacks=tf.constant(stacks, tf.int32),
        firsts=tf.constant(first_places(stacks), tf.int32),
        canvas_shape=tf.constant(batch.canvas_shape, tf.int32),
    )


def measured_scale(
    counts: Float[tf.Tensor, 'pattern height width'],
    probe: Complex[tf.Tensor, 'mode height width'],
    placement: Placement,
) -> Float[tf.Tensor, ' group']:
    """Returns the root of measured over probe counts of each group."""
    groups = placement.canvas_shape[0]
    sums = tf.reduce_sum(counts, axis=(-2, -1))
    total = tf.math.unsorted_segment_sum(sums, placement.rows, groups)
    number = tf.math.unsorted_segment_sum(tf.ones_like(sums), placement.rows, groups)
    power = tf.reduce_sum(intensity(probe))
    return tf.sqrt(tf.maximum(total, 1.0) / tf.maximum(number * power, 1e-20))


def merge(
    network: CnnNetwork,
    counts: Float[tf.Tensor, 'pattern height width'],
    probe: Complex[tf.Tensor, 'mode height width'],
    placement: Placement,
) -> tuple[Complex[tf.Tensor, 'group y x'], Float[tf.Tensor, 'group y x']]:
    """Returns canvases and their coverage, differentiable, phases as they come."""
    scale = measured_scale(counts, probe, placement)
    own_scale = tf.gather(scale, placement.rows)[:, None, None]
    weights = intensity(shift_probe(probe, placement.shifts)) * tf.square(own_scale)
    photons = tf.reduce_sum(weights, axis=(-2, -1))
    centred = tf.signal.fftshift(counts, axes=(-2, -1))
    patches = network.map_stacks(
        tf.gather(centred, placement.stacks), tf.gather(photons, placement.stacks)
    )
    size = (counts.shape[-2], counts.shape[-1])
    patches = tf.gather(tf.reshape(patches, [-1, *size]), placement.firsts)
    where = (placement.rows, placement.corners, placement.canvas_shape)
    numerator = put_patches(patches * tf.cast(weights, tf.complex64), *where)
    coverage = put_patches(weights, *where)
    floor = FILL * tf.reduce_max(coverage, axis=(-2, -1), keepdims=True) + 1e-20
    mean = (numerator + tf.cast(floor, tf.complex64)) / tf.cast(coverage + floor, tf.complex64)
    scale = scale[:, None, None]
    return mean * tf.cast(scale, tf.complex64), coverage / tf.square(scale)


def stitch(
    network: CnnNetwork,
    reader: ScanReader,
    indices: NDArray[numpy.int64],
    *,
    batch_size: int = CHUNK,
    after_batch: Callable[[int], None] | None = None,
) -> NDArray[numpy.complex64]:
    """Returns the canvas (Y, X) of some patterns of a scan, phases of patches brought in step.

    Patterns are read `batch_size` at a time; the result does not depend on it.

    Args:
        network: Takes patterns of the size of the scan.
        reader: The scan.
        indices: Which patterns.
        batch_size: Patterns that go through the network at once.
        after_batch: Called with the number of patterns done; may raise to stop.

    Raises:
        ValueError: the network is made for another pattern size.
    """
    check_window(network, reader)
    scale = reader.mean_level(indices)
    probe = tf.constant(reader.probe * numpy.float32(scale))
    box = support_box(intensity(probe[None])[0].numpy())
    patch_sum = PatchSum(reader.canvas_shape, box)
    corners = reader.corners[indices]
    stacks = find_stacks(numpy.zeros(len(indices), int), corners, network.num_channels)
    firsts = first_places(stacks)
    step = max(1, batch_size // network.num_channels)
    for first in range(0, len(stacks), step):
        part = stacks[first : first + step]
        low, high = first * stacks.shape[1], (first + len(part)) * stacks.shape[1]
        own = numpy.flatnonzero((firsts >= low) & (firsts < high))
        patches = _map(network, reader, indices[part], probe)[firsts[own] - low]
        shifts = tf.constant(reader.shifts[indices[own]], tf.float64)
        weights = intensity(shift_probe(probe, shifts)).numpy()
        patch_sum.add(own, corners[own], patches, weights)
        if after_batch is not None:
            after_batch(len(numpy.flatnonzero(firsts < high)))
    merged, _ = patch_sum.merge()
    return merged * numpy.complex64(scale)


def _map(
    network: CnnNetwork, reader: ScanReader, stacks: NDArray[numpy.int64], probe: Any
) -> NDArray[numpy.complex64]:
    counts = numpy.fft.fftshift(reader.counts(stacks.reshape(-1)), axes=(-2, -1))
    photons = tf.fill(stacks.shape, tf.reduce_sum(intensity(probe)))
    patches = network.run(tf.constant(counts.reshape(*stacks.shape, *reader.window)), photons)
    found: NDArray[numpy.complex64] = patches.numpy().reshape(-1, *reader.window)
    return found


def check_window(network: CnnNetwork, reader: ScanReader) -> None:
    """Refuses patterns of another size than the network is made for.

    Raises:
        ValueError: names both sizes.
    """
    height, width = reader.window
    if (height, width) != (network.pattern_size, network.pattern_size):
        raise ValueError(
            f'the model is made for patterns of {network.pattern_size} px, the scan has '
            f'{height} x {width} px: crop or bin the scan, or choose another model.'
        )
