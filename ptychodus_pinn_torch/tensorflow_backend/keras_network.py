"""The convolutional network of PtychoPINN on Keras, its weights those of `networks.cnn`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy
import tensorflow as tf
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from ..networks.cnn import DEFAULT_PATTERN_SIZE, MAX_WIDENING, num_levels, stem_factor
from ..networks.patchwise import Level, stitch
from ..networks.registry import check_weights
from ..networks.stack_network import AMPLITUDES
from ..physics.canvas import Canvas
from ..physics.measurement import Measurement
from .keras_attention import make_gates
from .loading import load_keras

__all__ = ['KerasCnn', 'StackedNetwork']

keras = load_keras()

Layer = Callable[[tf.Tensor], tf.Tensor]


class KerasCnn:
    """Patterns in, patches of the object out: one at a time, or ordered stacks of C.

    It sees the roots of counts relative to their rms, and answers with patches relative to the
    mean level of the object that counts and probe imply. Layout, names and options are those of
    the PyTorch engine, so that a model of either runs on both.

    Args:
        config: Architecture `cnn`.
        seed: Of the start values.

    Attributes:
        run: `map_stacks`, compiled.
    """

    def __init__(self, config: Any, *, seed: int = 0) -> None:
        self.pattern_size = config.pattern_size or DEFAULT_PATTERN_SIZE
        self.num_channels = config.num_channels
        self.is_polar = config.head == 'amplitude_phase'
        self.amplitude = config.amplitude
        self.has_skips = config.has_skips
        self.stem = stem_factor(config, self.pattern_size)
        self.layers: dict[str, Any] = {}
        folded = self.num_channels * self.stem**2
        width = self._build_body(config, folded, self.pattern_size // self.stem)
        self.num_outer = width // 4 if config.has_outer_branch else 0
        self.head = self._conv('head', width - self.num_outer, 2 * folded, None)
        self.outer_head = (
            self._conv('outer_head', self.num_outer, 2 * folded, None) if self.num_outer else None
        )
        self._start(numpy.random.default_rng(seed))
        stack = [None, self.num_channels]
        signature = [
            tf.TensorSpec([*stack, self.pattern_size, self.pattern_size]),
            tf.TensorSpec(stack),
        ]
        self.run = tf.function(self.map_stacks, input_signature=signature)

    def _build_body(self, config: Any, num_inputs: int, size: int) -> int:
        levels = num_levels(size)
        widths = [config.first_width * min(2**level, MAX_WIDENING) for level in range(levels + 1)]
        self.encoder: list[Layer] = []
        for before, width in zip([num_inputs, *widths], widths):
            name = f'body.encoder.{len(self.encoder)}'
            self.encoder.append(self._level(name, before, width, config))
        self.decoder: list[Layer] = []
        for below, width in zip(widths[:0:-1], widths[-2::-1]):
            name = f'body.decoder.{len(self.decoder)}'
            merged = below + (width if config.has_skips else 0)
            self.decoder.append(self._level(name, merged, width, config))
        return widths[0]

    def _level(self, name: str, num_inputs: int, width: int, config: Any) -> Layer:
        first = self._conv(f'{name}.0.conv1', num_inputs, width, 'relu')
        second = self._conv(f'{name}.0.conv2', width, width, 'relu')
        gate = make_gates(config.attention, width, f'{name}.1', self.layers)
        return lambda x: gate(second(first(x)))

    def _conv(self, name: str, num_inputs: int, width: int, activation: str | None) -> Any:
        layer = keras.layers.Conv2D(width, 3, padding='same', activation=activation)
        layer.build((None, None, None, num_inputs))
        self.layers[name] = layer
        return layer

    def _start(self, rng: numpy.random.Generator) -> None:
        """Sets start values as PyTorch does: He's for convolutions, zero for biases and heads."""
        for name, layer in self.layers.items():
            kernel = layer.kernel.value
            num_inputs = int(numpy.prod(kernel.shape[:-1]))
            if isinstance(layer, keras.layers.Conv2D):
                scale = 0.0 if name.endswith('head') else math.sqrt(2.0 / num_inputs)
                kernel.assign(rng.normal(size=kernel.shape) * scale)
                continue
            for value in (kernel, layer.bias.value if layer.bias is not None else None):
                if value is not None:
                    value.assign(rng.uniform(-1.0, 1.0, value.shape) / math.sqrt(num_inputs))

    @property
    def variables(self) -> dict[str, Any]:
        """The trained values by name, in the layout of TensorFlow."""
        found = {}
        for name, layer in self.layers.items():
            found[f'{name}.weight'] = layer.kernel.value
            if layer.bias is not None:
                found[f'{name}.bias'] = layer.bias.value
        return found

    def weights(self) -> dict[str, NDArray[numpy.float32]]:
        """Returns the weights by name as archives hold them: outputs first, then inputs."""
        return {name: to_archive(value.numpy()) for name, value in self.variables.items()}

    def load(self, weights: Mapping[str, NDArray[Any]], source: str) -> None:
        """Takes over weights as `weights` gives them.

        Raises:
            ValueError: names or shapes differ; says which.
        """
        shapes = {name: to_archive(value.numpy()).shape for name, value in self.variables.items()}
        check_weights(shapes, weights, source)
        for name, value in self.variables.items():
            value.assign(from_archive(numpy.asarray(weights[name], dtype=numpy.float32)))

    def map_stacks(
        self,
        counts: Float[tf.Tensor, 'stack channel height width'],
        photons: Float[tf.Tensor, 'stack channel'],
    ) -> Complex[tf.Tensor, 'stack channel height width']:
        """Returns one patch per pattern.

        Args:
            counts: Zero frequency in the middle, bad pixels zero.
            photons: Power of each pattern's probe, in the units in which patches are wanted.
        """
        mean = tf.maximum(tf.reduce_mean(counts, axis=(1, 2, 3), keepdims=True), 1e-12)
        features = self._features(tf.sqrt(counts / mean))
        pixels = float(counts.shape[-2] * counts.shape[-1])
        power = tf.reduce_mean(photons, axis=1)[:, None, None, None]
        amplitude = tf.sqrt(mean * pixels / power)
        first, second = tf.split(features, 2, axis=1)
        if not self.is_polar:
            return tf.complex(amplitude * (1.0 + first), amplitude * second)
        shift, factor = AMPLITUDES[self.amplitude]
        size = amplitude * factor * getattr(tf.nn, self.amplitude)(first + shift)
        angle = math.pi * tf.tanh(second)
        return tf.complex(size * tf.cos(angle), size * tf.sin(angle))

    def _features(self, roots: tf.Tensor) -> Float[tf.Tensor, 'stack feature height width']:
        x = self._body(fold_pixels(roots, self.stem))
        if self.outer_head is None:
            return unfold_pixels(self.head(x), self.stem)
        split = int(x.shape[-1]) - self.num_outer
        inner, outer = self.head(x[..., :split]), self.outer_head(x[..., split:])
        return unfold_pixels(tf.where(_inner_mask(x), inner, outer), self.stem)

    def _body(self, x: tf.Tensor) -> tf.Tensor:
        skips = []
        for index, level in enumerate(self.encoder):
            x = level(tf.nn.max_pool2d(x, 2, 2, 'VALID') if index else x)
            skips.append(x)
        for level, skip in zip(self.decoder, skips[-2::-1]):
            x = tf.repeat(tf.repeat(x, 2, axis=1), 2, axis=2)
            x = level(tf.concat([x, skip], axis=-1) if self.has_skips else x)
        return x


class StackedNetwork:
    """Patches by TensorFlow, everything else by the code that all engines share."""

    training = False
    needs_level = False
    num_passes = 1
    is_precise = False

    def __init__(self, cnn: KerasCnn, device: str = '/CPU:0') -> None:
        self.cnn, self.device = cnn, device
        self.num_channels, self.pattern_size = cnn.num_channels, cnn.pattern_size

    def reconstruct(self, measurement: Measurement) -> Canvas:
        """Returns the canvases of a measurement, read by chunks."""
        return stitch(self, measurement)

    def map_stacks(
        self,
        counts: Float[Tensor, 'stack channel height width'],
        photons: Float[Tensor, 'stack channel'],
        level: Level | None,
    ) -> Complex[Tensor, 'stack channel height width']:
        """Returns one patch per pattern (see `networks.patchwise.PatchwiseNetwork`)."""
        with tf.device(self.device):
            patches = self.cnn.run(
                tf.constant(counts.cpu().numpy()), tf.constant(photons.cpu().numpy())
            )
        return torch.from_numpy(patches.numpy()).to(counts.device)


def to_archive(array: NDArray[Any]) -> NDArray[Any]:
    """Returns a weight with outputs and inputs first; a kernel of TensorFlow has them last."""
    places = range(array.ndim - 2)
    return array if array.ndim < 2 else array.transpose(array.ndim - 1, array.ndim - 2, *places)


def from_archive(array: NDArray[Any]) -> NDArray[Any]:
    """Returns the inverse of `to_archive`."""
    return array if array.ndim < 2 else array.transpose(*range(2, array.ndim), 1, 0)


def fold_pixels(
    x: Float[tf.Tensor, 'stack channel height width'], factor: int
) -> Float[tf.Tensor, 'stack low_height low_width folded']:
    """Returns squares of pixels as channels, channels last."""
    num_channels, height, width = (int(size) for size in x.shape[1:])
    height, width = height // factor, width // factor
    x = tf.reshape(x, [-1, num_channels, height, factor, width, factor])
    x = tf.transpose(x, [0, 2, 4, 1, 3, 5])
    return tf.reshape(x, [-1, height, width, num_channels * factor**2])


def unfold_pixels(
    x: Float[tf.Tensor, 'stack low_height low_width folded'], factor: int
) -> Float[tf.Tensor, 'stack channel height width']:
    """Returns the inverse of `fold_pixels`."""
    height, width, folded = (int(size) for size in x.shape[1:])
    num_channels = folded // factor**2
    x = tf.reshape(x, [-1, height, width, num_channels, factor, factor])
    x = tf.transpose(x, [0, 3, 1, 4, 2, 5])
    return tf.reshape(x, [-1, num_channels, height * factor, width * factor])


def _inner_mask(x: tf.Tensor) -> tf.Tensor:
    """Returns the mask (H, W, 1) of the central half."""
    height, width = int(x.shape[1]), int(x.shape[2])
    mask = numpy.zeros((height, width, 1), dtype=bool)
    mask[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    return tf.constant(mask)
