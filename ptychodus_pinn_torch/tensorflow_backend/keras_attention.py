"""Attention gates on Keras, named and shaped as those of `networks.attention`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .loading import load_keras

__all__ = ['make_gates']

keras = load_keras()

Layers = dict[str, Any]
Gate = Callable[[tf.Tensor], tf.Tensor]
REDUCTION = 16
SPATIAL_KERNEL = 7
CHANNEL_KERNEL = 3


def make_gates(kind: str, num_channels: int, prefix: str, layers: Layers) -> Gate:
    """Returns the attention of that kind, a function of features (B, H, W, channel).

    Args:
        kind: none, cbam, eca or spatial.
        num_channels: Channels of the features.
        prefix: Name of the module in the weights.
        layers: Takes up the layers by name.
    """
    if kind == 'cbam':
        channel = _channel_gate(num_channels, f'{prefix}.0', layers)
        spatial = _spatial_gate(f'{prefix}.1', layers)
        return lambda x: spatial(channel(x))
    if kind == 'eca':
        return _efficient_gate(num_channels, prefix, layers)
    if kind == 'spatial':
        return _spatial_gate(prefix, layers)
    return lambda x: x


def _channel_gate(num_channels: int, prefix: str, layers: Layers) -> Gate:
    hidden = max(1, num_channels // REDUCTION)
    squeeze = keras.layers.Dense(hidden, activation='relu')
    excite = keras.layers.Dense(num_channels)
    squeeze.build((None, num_channels))
    excite.build((None, hidden))
    layers[f'{prefix}.squeeze'], layers[f'{prefix}.excite'] = squeeze, excite

    def gate(x: tf.Tensor) -> tf.Tensor:
        means, peaks = tf.reduce_mean(x, axis=(1, 2)), tf.reduce_max(x, axis=(1, 2))
        weights = tf.sigmoid(excite(squeeze(means)) + excite(squeeze(peaks)))
        return x * weights[:, None, None, :]

    return gate


def _spatial_gate(prefix: str, layers: Layers) -> Gate:
    compress = keras.layers.Conv2D(1, SPATIAL_KERNEL, padding='same', use_bias=False)
    compress.build((None, None, None, 2))
    layers[f'{prefix}.compress'] = compress

    def gate(x: tf.Tensor) -> tf.Tensor:
        summary = tf.stack([tf.reduce_max(x, axis=-1), tf.reduce_mean(x, axis=-1)], axis=-1)
        return x * tf.sigmoid(compress(summary))

    return gate


def _efficient_gate(num_channels: int, prefix: str, layers: Layers) -> Gate:
    conv = keras.layers.Conv1D(1, CHANNEL_KERNEL, padding='same', use_bias=False)
    conv.build((None, num_channels, 1))
    layers[f'{prefix}.conv'] = conv

    def gate(x: tf.Tensor) -> tf.Tensor:
        weights = conv(tf.reduce_mean(x, axis=(1, 2))[..., None])
        return x * tf.sigmoid(tf.transpose(weights, [0, 2, 1]))[:, None]

    return gate
