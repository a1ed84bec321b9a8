"""Canvas, merging, forward model and losses on TensorFlow: the same formulas as in `physics`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf
from jaxtyping import Complex, Float, Int

from ..networks.stitching import FILL
from ..physics.losses import FLOOR

__all__ = [
    'LOSSES',
    'amplitude_loss',
    'coverage_weight',
    'expected_counts',
    'intensity',
    'merge_patches',
    'object_loss',
    'poisson_loss',
    'put_patches',
    'shift_probe',
    'squared_modulus',
    'take_patches',
    'to_detector',
    'total_variation',
]

Patterns = Float[tf.Tensor, 'pattern height width']
Pixels = Float[tf.Tensor, 'height width']
Scalar = Float[tf.Tensor, '']


def _flat_indices(
    canvas_shape: Int[tf.Tensor, ' 3'],
    rows: Int[tf.Tensor, ' patch'],
    corners: Int[tf.Tensor, 'patch 2'],
    shape: tuple[int, int],
) -> Int[tf.Tensor, 'patch window_height window_width']:
    height, width = canvas_shape[1], canvas_shape[2]
    first = (rows * height + corners[:, 0]) * width + corners[:, 1]
    inside = tf.range(shape[0])[:, None] * width + tf.range(shape[1])[None, :]
    return first[:, None, None] + inside


def take_patches(
    canvas: Complex[tf.Tensor, 'group y x'],
    rows: Int[tf.Tensor, ' patch'],
    corners: Int[tf.Tensor, 'patch 2'],
    shape: tuple[int, int],
) -> Complex[tf.Tensor, 'patch window_height window_width']:
    """Returns the windows (H, W) of the canvases, one per patch.

    The exact adjoint of `put_patches`. Indices are int32; `rows` names the canvas of a patch.

    Raises:
        InvalidArgumentError: a window leaves all canvases.
    """
    indices = _flat_indices(tf.shape(canvas), rows, corners, shape)
    return tf.gather(tf.reshape(canvas, [-1]), indices)


def put_patches(
    patches: Complex[tf.Tensor, 'patch window_height window_width'],
    rows: Int[tf.Tensor, ' patch'],
    corners: Int[tf.Tensor, 'patch 2'],
    canvas_shape: Int[tf.Tensor, ' 3'],
) -> Complex[tf.Tensor, 'group y x']:
    """Returns canvases of a shape onto which the patches were added; adjoint of `take_patches`."""
    shape = (patches.shape[-2], patches.shape[-1])
    indices = _flat_indices(canvas_shape, rows, corners, shape)
    flat = tf.math.unsorted_segment_sum(
        tf.reshape(patches, [-1]), tf.reshape(indices, [-1]), tf.reduce_prod(canvas_shape)
    )
    return tf.reshape(flat, canvas_shape)


def _ramp(size: int, shifts: Float[tf.Tensor, ' pattern']) -> Complex[tf.Tensor, 'pattern size']:
    frequencies = (tf.range(size) + size // 2) % size - size // 2
    angle = tf.cast(shifts, tf.float32)[:, None] * tf.cast(frequencies, tf.float32)
    angle = -2.0 * math.pi / size * angle
    return tf.complex(tf.cos(angle), tf.sin(angle))


def shift_probe(
    probe: Complex[tf.Tensor, 'mode height width'], shifts: Float[tf.Tensor, 'pattern 2']
) -> Complex[tf.Tensor, 'pattern mode height width']:
    """Returns the probe modes moved by `shifts` (y, x) pixels, once per pattern.

    Exact for band-limited periodic modes (Fourier shift theorem); power is conserved.
    """
    ramp_y = _ramp(int(probe.shape[-2]), shifts[:, 0])[:, None, :, None]
    ramp_x = _ramp(int(probe.shape[-1]), shifts[:, 1])[:, None, None, :]
    return tf.signal.ifft2d(tf.signal.fft2d(probe)[None] * (ramp_y * ramp_x))


def to_detector(
    wave: Complex[tf.Tensor, '*batch height width'],
) -> Complex[tf.Tensor, '*batch height width']:
    """Returns the far field of exit waves, unitary, zero frequency at [0, 0]."""
    pixels = float(wave.shape[-2]) * float(wave.shape[-1])
    return tf.signal.fft2d(wave) / tf.cast(math.sqrt(pixels), wave.dtype)


def squared_modulus(field: Complex[tf.Tensor, '*shape']) -> Float[tf.Tensor, '*shape']:
    """Returns `re**2 + im**2`; its gradient is finite everywhere, zero included."""
    return tf.square(tf.math.real(field)) + tf.square(tf.math.imag(field))


def intensity(
    far_field: Complex[tf.Tensor, 'pattern mode height width'],
) -> Float[tf.Tensor, 'pattern height width']:
    """Returns the counts that a detector expects: modes add incoherently."""
    return tf.reduce_sum(squared_modulus(far_field), axis=-3)


def expected_counts(
    canvas: Complex[tf.Tensor, 'group y x'],
    rows: Int[tf.Tensor, ' pattern'],
    corners: Int[tf.Tensor, 'pattern 2'],
    probe: Complex[tf.Tensor, 'pattern mode height width'],
) -> Float[tf.Tensor, 'pattern height width']:
    """Returns `I = sum_p |F(P_p O_patch)|**2` in counts, corner order.

    `probe` is shifted to each pattern already. Assumes a thin object and the far field
    (Thibault and Menzel, Nature 494, 68, 2013).
    """
    patches = take_patches(canvas, rows, corners, (probe.shape[-2], probe.shape[-1]))
    return intensity(to_detector(probe * patches[:, None]))


def mean_level(
    data: Mapping[str, Any], visible: Float[tf.Tensor, '']
) -> Float[tf.Tensor, ' group']:
    """Returns the root of measured over sent counts of each group (see `Measurement.level`)."""
    groups = data['canvas_shape'][0]
    sums = tf.reduce_sum(data['counts'] * data['good_pixels'], axis=(-2, -1))
    total = tf.math.unsorted_segment_sum(sums, data['rows'], groups)
    number = tf.math.unsorted_segment_sum(tf.ones_like(sums), data['rows'], groups)
    return tf.sqrt(tf.maximum(total, 1.0) / tf.maximum(number * visible, 1e-20))


def merge_patches(
    map_stacks: Callable[[Any, Any], Any],
    data: Mapping[str, Any],
    probe: Complex[tf.Tensor, 'mode height width'],
) -> tuple[Complex[tf.Tensor, 'group y x'], Float[tf.Tensor, 'group y x']]:
    """Returns canvases and their coverage, differentiable, phases as they come.

    The same as `networks.patchwise.merge`.

    Args:
        map_stacks: The network.
        data: A batch (see `keras_model.make_signature`).
        probe: Of the scan.
    """
    visible = tf.reduce_sum(intensity(to_detector(probe)) * data['good_pixels'])
    scale = mean_level(data, visible)
    own_scale = tf.gather(scale, data['rows'])[:, None, None]
    weights = intensity(shift_probe(probe, data['shifts'])) * tf.square(own_scale)
    photons = tf.reduce_sum(weights, axis=(-2, -1))
    photons *= visible / tf.reduce_sum(squared_modulus(probe))
    centred = tf.signal.fftshift(data['counts'] * data['good_pixels'], axes=(-2, -1))
    patches = map_stacks(tf.gather(centred, data['stacks']), tf.gather(photons, data['stacks']))
    size = (int(probe.shape[-2]), int(probe.shape[-1]))
    patches = tf.gather(tf.reshape(patches, [-1, *size]), data['firsts'])
    where = (data['rows'], data['corners'], data['canvas_shape'])
    numerator = put_patches(patches * tf.cast(weights, tf.complex64), *where)
    coverage = put_patches(weights, *where)
    floor = FILL * tf.reduce_max(coverage, axis=(-2, -1), keepdims=True) + 1e-20
    mean = (numerator + tf.cast(floor, tf.complex64)) / tf.cast(coverage + floor, tf.complex64)
    scale = scale[:, None, None]
    return mean * tf.cast(scale, tf.complex64), coverage / tf.square(scale)


def _mean(values: Patterns, good_pixels: Pixels) -> Scalar:
    number = tf.reduce_sum(good_pixels) * tf.cast(tf.shape(values)[0], tf.float32)
    return tf.reduce_sum(values * good_pixels) / number


def amplitude_loss(expected: Patterns, counts: Patterns, good_pixels: Pixels) -> Scalar:
    """Returns the mean of `(sqrt(I + 0.3) - sqrt(D + 0.3))**2` over good pixels (1, others 0)."""
    return _mean(tf.square(tf.sqrt(expected + FLOOR) - tf.sqrt(counts + FLOOR)), good_pixels)


def poisson_loss(expected: Patterns, counts: Patterns, good_pixels: Pixels) -> Scalar:
    """Returns the Poisson deviance per good pixel, halved; counts need not be integers."""
    rate, seen = expected + FLOOR, counts + FLOOR
    return _mean(rate - seen + seen * tf.math.log(seen / rate), good_pixels)


def absolute_loss(expected: Patterns, counts: Patterns, good_pixels: Pixels) -> Scalar:
    """Returns the mean of `|sqrt(I + 0.3) - sqrt(D + 0.3)|` over good pixels."""
    return _mean(tf.abs(tf.sqrt(expected + FLOOR) - tf.sqrt(counts + FLOOR)), good_pixels)


LOSSES = {'amplitude': amplitude_loss, 'poisson': poisson_loss, 'mae': absolute_loss}
"""Of counts, by the name in `loss.kind`."""


def coverage_weight(coverage: Float[tf.Tensor, 'group y x']) -> Float[tf.Tensor, 'group y x']:
    """Returns a weight that is near one where the probe has been, zero where it has not."""
    return coverage / (coverage + 0.05 * tf.reduce_max(coverage, axis=(-2, -1), keepdims=True))


def object_loss(
    object_: Complex[tf.Tensor, 'group y x'],
    truth: Complex[tf.Tensor, 'group y x'],
    coverage: Float[tf.Tensor, 'group y x'],
) -> Scalar:
    """Returns the squared error of the object where it is covered, its global phase removed."""
    weight = coverage_weight(coverage)
    power = squared_modulus(object_) + squared_modulus(truth)
    overlap = tf.reduce_sum(
        tf.cast(weight, tf.complex64) * tf.math.conj(object_) * truth, axis=(-2, -1)
    )
    size = tf.sqrt(squared_modulus(overlap) + 1e-12)
    error = tf.reduce_sum(weight * power, axis=(-2, -1)) - 2.0 * size
    return tf.reduce_mean(error / tf.reduce_sum(weight, axis=(-2, -1)))


def total_variation(
    field: Float[tf.Tensor, 'group y x'], weight: Float[tf.Tensor, 'group y x']
) -> Scalar:
    """Returns the mean absolute difference of neighbours (anisotropic), weighted."""
    down = tf.abs(field[:, 1:] - field[:, :-1]) * weight[:, 1:]
    right = tf.abs(field[:, :, 1:] - field[:, :, :-1]) * weight[:, :, 1:]
    total = tf.reduce_sum(down) + tf.reduce_sum(right)
    return total / tf.maximum(tf.reduce_sum(weight), 1e-12)
