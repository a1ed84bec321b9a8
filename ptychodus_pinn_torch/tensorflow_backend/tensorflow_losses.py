"""Losses on TensorFlow: the same functions as in `physics.losses`."""

from __future__ import annotations

import tensorflow as tf
from jaxtyping import Complex, Float

from ..physics.losses import FLOOR

__all__ = [
    'amplitude_loss',
    'coverage_weight',
    'object_loss',
    'poisson_loss',
    'total_variation',
]

Patterns = Float[tf.Tensor, 'pattern height width']
Pixels = Float[tf.Tensor, 'height width']
Scalar = Float[tf.Tensor, '']


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
    power = tf.square(tf.math.real(object_)) + tf.square(tf.math.imag(object_))
    power += tf.square(tf.math.real(truth)) + tf.square(tf.math.imag(truth))
    overlap = tf.reduce_sum(
        tf.cast(weight, tf.complex64) * tf.math.conj(object_) * truth, axis=(-2, -1)
    )
    size = tf.sqrt(tf.square(tf.math.real(overlap)) + tf.square(tf.math.imag(overlap)) + 1e-12)
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
