"""The trained model on Keras: network, merged patches, forward model, loss, train step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import tensorflow as tf
from numpy.typing import NDArray
from torch import Tensor

from ..config import Config
from ..models.archive import NETWORK_PREFIX
from ..networks.patchwise import find_stacks, first_places
from ..physics.group_batch import GroupBatch
from . import tensorflow_physics as physics
from .keras_network import KerasCnn
from .loading import load_keras

__all__ = ['KerasPinn', 'make_signature', 'to_arrays']

keras = load_keras()


def make_signature(size: int, num_channels: int) -> dict[str, Any]:
    """Returns what a batch is to TensorFlow; an object of no size means that counts teach."""
    return {
        'counts': tf.TensorSpec([None, size, size], tf.float32),
        'good_pixels': tf.TensorSpec([size, size], tf.float32),
        'rows': tf.TensorSpec([None], tf.int32),
        'corners': tf.TensorSpec([None, 2], tf.int32),
        'shifts': tf.TensorSpec([None, 2], tf.float32),
        'stacks': tf.TensorSpec([None, num_channels], tf.int32),
        'firsts': tf.TensorSpec([None], tf.int32),
        'canvas_shape': tf.TensorSpec([3], tf.int32),
        'object': tf.TensorSpec([None, None, None], tf.complex64),
        'scan': tf.TensorSpec([], tf.int32),
    }


def to_arrays(batch: GroupBatch, num_channels: int) -> dict[str, Any]:
    """Returns a batch of a training scan as arrays (see `make_signature`); nothing is copied."""
    measurement = batch.measurement
    assert isinstance(measurement.counts, Tensor)
    stacks = find_stacks(measurement.rows, measurement.corners, num_channels)
    good, object_ = measurement.good_pixels, batch.object_
    ones = numpy.ones(measurement.window, dtype=numpy.float32)
    return {
        'counts': measurement.counts.numpy(),
        'good_pixels': ones if good is None else good.numpy().astype(numpy.float32),
        'rows': measurement.rows.numpy().astype(numpy.int32),
        'corners': measurement.corners.numpy().astype(numpy.int32),
        'shifts': measurement.shifts.numpy(),
        'stacks': stacks.numpy().astype(numpy.int32),
        'firsts': first_places(stacks).numpy().astype(numpy.int32),
        'canvas_shape': numpy.asarray(measurement.canvas_shape, dtype=numpy.int32),
        'object': numpy.zeros((0, 0, 0), numpy.complex64) if object_ is None else object_.numpy(),
        'scan': numpy.int32(batch.scan or 0),
    }


class KerasPinn(keras.Model):  # type: ignore[misc, name-defined]
    """Network, canvas, forward model and loss in one train step; probe and scale where asked.

    Args:
        config: The configuration of the run.
        probes: Calibrated probe (P, H, W) of each scan; all of one pattern size.

    Attributes:
        values: All trained variables by name: `network.*`, `change`, `log_scale`.
        averages: Their exponential moving averages by name, where asked for.
    """

    def __init__(self, config: Config, probes: Sequence[Tensor]) -> None:
        super().__init__()
        self.config = config
        self.cnn = KerasCnn(config.network, seed=config.training.seed)
        self.num_modes = [len(probe) for probe in probes]
        size = tuple(probes[0].shape[1:])
        given = numpy.zeros((len(probes), max(self.num_modes), *size), numpy.complex64)
        for index, probe in enumerate(probes):
            given[index, : len(probe)] = probe.numpy()  # modes that a scan lacks stay dark
        self.given = tf.constant(given)
        # in units of the probe's own rms, so that one learning rate fits every probe
        power = (numpy.abs(given) ** 2).sum(axis=(1, 2, 3))
        pixels = numpy.asarray(self.num_modes) * size[0] * size[1]
        self.units = tf.constant(numpy.sqrt(0.5 * power / pixels), tf.float32)
        self.pixels = tf.constant(pixels, tf.float32)
        values = {NETWORK_PREFIX + name: value for name, value in self.cnn.variables.items()}
        if config.physics.train_probe:
            values['change'] = tf.Variable(numpy.zeros((*given.shape, 2), numpy.float32))
        if config.physics.train_scale:
            values['log_scale'] = tf.Variable(numpy.zeros(len(probes), numpy.float32))
        self.values = values
        self.built = True  # there is nothing that Keras would have to build
        self.averages = (
            {name: tf.Variable(value, trainable=False) for name, value in values.items()}
            if config.training.ema_decay
            else {}
        )

    def probe(self, scan: Any) -> Any:
        """Returns the present probe (P, H, W) of a scan, without its scale."""
        given = tf.gather(self.given, scan)
        if 'change' not in self.values:
            return given
        change = tf.gather(self.values['change'], scan) * tf.gather(self.units, scan)
        return given + tf.complex(change[..., 0], change[..., 1])

    def present_probe(self, scan: int) -> NDArray[numpy.complex64]:
        """Returns the probe of a scan as training has left it, its own modes only."""
        found: NDArray[numpy.complex64] = self.probe(scan).numpy()[: self.num_modes[scan]]
        return found

    def scale(self, scan: Any) -> Any:
        """Returns the factor on the expected counts of a scan.

        It is no part of the probe that the network sees: the network's level is relative to the
        power of its probe, so that a factor on both would cancel.
        """
        if 'log_scale' not in self.values:
            return tf.constant(1.0)
        return tf.exp(tf.gather(self.values['log_scale'], scan))

    def train_step(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the data loss of a batch after all variables took a step."""
        loss, gradients = self.differentiate(data)
        self.optimizer.apply_gradients(list(zip(gradients, self.values.values())))
        decay = self.config.training.ema_decay
        for name, average in self.averages.items():
            average.assign(decay * average + (1.0 - decay) * self.values[name])
        return {'loss': loss}

    def differentiate(self, data: Mapping[str, Any]) -> tuple[Any, list[Any]]:
        """Returns the data loss, and the gradient of the whole loss for every variable."""
        training = self.config.training
        with tf.GradientTape() as tape:
            probe = self.probe(data['scan'])
            canvas, coverage = physics.merge_patches(self.cnn.map_stacks, data, probe)
            loss = self._data_loss(data, canvas, coverage, probe)
            total = loss + self._regularisation(canvas, coverage)
        values = list(self.values.values())
        zero = tf.UnconnectedGradients.ZERO
        found = tape.gradient(total, values, unconnected_gradients=zero)
        gradients = [tf.convert_to_tensor(gradient) for gradient in found]
        if training.weight_decay and training.optimizer != 'adamw':
            gradients = [g + training.weight_decay * v for g, v in zip(gradients, values)]
        return loss, gradients

    def _data_loss(self, data: Mapping[str, Any], canvas: Any, coverage: Any, probe: Any) -> Any:
        def of_object() -> Any:
            return physics.object_loss(canvas, data['object'], coverage)

        def of_counts() -> Any:
            shifted = physics.shift_probe(probe, data['shifts'])
            expected = physics.expected_counts(canvas, data['rows'], data['corners'], shifted)
            expected = expected * self.scale(data['scan'])
            compare = physics.LOSSES[self.config.loss.kind]
            return compare(expected, data['counts'], data['good_pixels'])

        return tf.cond(tf.size(data['object']) > 0, of_object, of_counts)

    def _regularisation(self, canvas: Any, coverage: Any) -> Any:
        settings = self.config.loss
        total, weight = tf.constant(0.0), physics.coverage_weight(coverage)
        if settings.tv_amplitude:
            amplitude = tf.sqrt(physics.squared_modulus(canvas) + 1e-8)
            total += settings.tv_amplitude * physics.total_variation(amplitude, weight)
        if settings.tv_phase:
            phase = tf.atan2(tf.math.imag(canvas), tf.math.real(canvas))
            total += settings.tv_phase * physics.total_variation(phase, weight)
        if settings.probe_reference and 'change' in self.values:
            squares = tf.reduce_sum(tf.square(self.values['change']), axis=(1, 2, 3, 4))
            total += settings.probe_reference * tf.reduce_mean(squares / (2.0 * self.pixels))
        return total

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Returns a copy of all trained values by name."""
        return {name: value.numpy() for name, value in self.values.items()}

    def assign(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Takes up what `arrays` returned."""
        for name, value in self.values.items():
            value.assign(arrays[name])

    def archive_weights(self) -> dict[str, NDArray[Any]]:
        """Returns all trained values by name, as archives hold them."""
        found: dict[str, NDArray[Any]] = {
            NETWORK_PREFIX + name: array for name, array in self.cnn.weights().items()
        }
        if 'change' in self.values:
            for index in range(len(self.num_modes)):
                probe = self.present_probe(index)
                found[f'probe.{index}'] = numpy.stack([probe.real, probe.imag], axis=-1)
        if 'log_scale' in self.values:
            found['log_scale'] = self.values['log_scale'].numpy()
        return found
