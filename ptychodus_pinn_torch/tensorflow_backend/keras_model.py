"""What training changes: the network, and where asked probe and scale of each scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy
import tensorflow as tf
from jaxtyping import Complex, Float
from numpy.typing import NDArray

from ..config import Config
from . import tensorflow_losses as losses
from .keras_batches import GroupBatch, Task
from .keras_network import CnnNetwork
from .keras_patches import Placement, merge, place, stitch
from .keras_reader import ScanReader
from .tensorflow_physics import expected_counts, shift_probe, squared_modulus

__all__ = ['PtychoPINN']

NETWORK_PREFIX = 'network.'


class Measured(NamedTuple):
    """A batch as tensors; `object_` where it is the teacher, `given` the probe of the scan."""

    counts: Any
    placement: Placement
    object_: Any
    given: Any
    good_pixels: Any
    scan: Any


class PtychoPINN:
    """Network, canvas, forward model, loss; judged on counts, or on known objects.

    Attributes:
        variables: All trained values by name: `network.*`, `change.<scan>`, `log_scale`.
    """

    def __init__(self, config: Config, readers: Sequence[ScanReader]) -> None:
        self.config = config
        self.readers = readers
        self.network = CnnNetwork(config.network, seed=config.training.seed)
        self.given = [tf.constant(reader.probe) for reader in readers]
        self.good_pixels = [tf.constant(reader.good_pixels) for reader in readers]
        named = self.network.variables
        self.variables = {NETWORK_PREFIX + name: value for name, value in named.items()}
        if config.physics.train_probe:
            for index, reader in enumerate(readers):
                start = numpy.zeros((*reader.probe.shape, 2), numpy.float32)
                self.variables[f'change.{index}'] = tf.Variable(start)
        if config.physics.train_scale:
            self.variables['log_scale'] = tf.Variable(numpy.zeros(len(readers), numpy.float32))
        self._traced = tf.function(self._differentiate, reduce_retracing=True)

    def _probe(
        self, given: Complex[tf.Tensor, 'mode height width'], scan: int | None
    ) -> Complex[tf.Tensor, 'mode height width']:
        """Returns the present probe of a scan, without its scale."""
        if not self.config.physics.train_probe:
            return given
        # in units of the probe's own rms, so that one learning rate fits every probe
        unit = tf.sqrt(0.5 * tf.reduce_mean(squared_modulus(given)))
        change = self.variables[f'change.{scan}'] * unit
        return given + tf.complex(change[..., 0], change[..., 1])

    def present_probe(self, scan: int) -> NDArray[numpy.complex64]:
        """Returns the probe of a scan as training has left it."""
        probe: NDArray[numpy.complex64] = self._probe(self.given[scan], scan).numpy()
        return probe

    def scale(self, scan: Any) -> Any:
        """Returns the factor on the expected counts of a scan.

        It is no part of the probe that the network sees: the network's level is relative to the
        power of its probe, so that a factor on both would cancel.
        """
        if 'log_scale' not in self.variables:
            return tf.constant(1.0)
        return tf.exp(tf.gather(self.variables['log_scale'], scan))

    def gradients(self, batch: GroupBatch) -> tuple[float, list[Any]]:
        """Returns the loss of a batch and its gradient for every variable, in their order."""
        measured = Measured(
            counts=tf.constant(batch.counts),
            placement=place(batch, self.network.num_channels),
            object_=None if batch.object_ is None else tf.constant(batch.object_),
            given=self.given[batch.scan],
            good_pixels=self.good_pixels[batch.scan],
            scan=tf.constant(batch.scan),
        )
        # traced again for each scan only where each has a probe of its own
        own_probe = batch.scan if self.config.physics.train_probe else None
        loss, gradients = self._traced(measured, own_probe)
        return float(loss), gradients

    def _differentiate(self, measured: Measured, own_probe: int | None) -> tuple[Any, list[Any]]:
        counts, placement = measured.counts, measured.placement
        with tf.GradientTape() as tape:
            probe = self._probe(measured.given, own_probe)
            canvas, coverage = merge(self.network, counts, probe, placement)
            if measured.object_ is not None:
                data_loss = losses.object_loss(canvas, measured.object_, coverage)
            else:
                shifted = shift_probe(probe, placement.shifts)
                expected = expected_counts(canvas, placement.rows, placement.corners, shifted)
                expected = expected * self.scale(measured.scan)
                is_poisson = self.config.loss.kind == 'poisson'
                compare = losses.poisson_loss if is_poisson else losses.amplitude_loss
                data_loss = compare(expected, counts, measured.good_pixels)
            total = data_loss + self._regularisation(canvas, coverage)
        zero = tf.UnconnectedGradients.ZERO
        values = list(self.variables.values())
        found = tape.gradient(total, values, unconnected_gradients=zero)
        return data_loss, [tf.convert_to_tensor(gradient) for gradient in found]

    def _regularisation(
        self, canvas: Complex[tf.Tensor, 'group y x'], coverage: Float[tf.Tensor, 'group y x']
    ) -> Float[tf.Tensor, '']:
        settings = self.config.loss
        total, weight = tf.constant(0.0), losses.coverage_weight(coverage)
        if settings.tv_amplitude:
            amplitude = tf.sqrt(squared_modulus(canvas) + 1e-8)
            total += settings.tv_amplitude * losses.total_variation(amplitude, weight)
        if settings.tv_phase:
            phase = tf.atan2(tf.math.imag(canvas), tf.math.real(canvas))
            total += settings.tv_phase * losses.total_variation(phase, weight)
        if settings.probe_reference and self.config.physics.train_probe:
            changes = [v for name, v in self.variables.items() if name.startswith('change.')]
            departure = tf.add_n([tf.reduce_mean(tf.square(change)) for change in changes])
            total += settings.probe_reference * departure / len(changes)
        return total

    def judge(self, task: Task, reader: ScanReader, scale: Any = 1.0) -> dict[str, float]:
        """Returns how well the first pattern of a task is predicted from the others.

        `held_out` is the relative amplitude error, `held_out_flat` that of a flat object, and
        `floor` the loss that photon noise alone implies. `scale` is the factor on the expected
        counts that was learnt for the scan.
        """
        indices = task.indices[0]
        reader = reader.around(indices)
        target = indices[:1]
        probe = shift_probe(tf.constant(reader.probe), tf.constant(reader.shifts[target]))
        counts, good = tf.constant(reader.counts(target)), tf.constant(reader.good_pixels)

        def expect(canvas: NDArray[numpy.complex64]) -> Any:
            corners = tf.constant(reader.corners[target], tf.int32)
            rows = tf.constant([0], tf.int32)
            return expected_counts(tf.constant(canvas)[None], rows, corners, probe)

        expected = expect(stitch(self.network, reader, indices[1:])) * scale
        flat = numpy.full(reader.canvas_shape, reader.mean_level(indices), numpy.complex64)
        error = losses.relative_amplitude_error
        return {
            'held_out': float(error(expected, counts, good)),
            'held_out_flat': float(error(expect(flat), counts, good)),
            'floor': float(losses.amplitude_loss_floor(expected, good)),
        }

    def archive_weights(self) -> dict[str, NDArray[Any]]:
        """Returns all weights by name, as archives hold them."""
        found: dict[str, NDArray[Any]] = {
            NETWORK_PREFIX + name: array for name, array in self.network.weights().items()
        }
        if self.config.physics.train_probe:
            for index, given in enumerate(self.given):
                probe = self._probe(given, index).numpy()
                found[f'probe.{index}'] = numpy.stack([probe.real, probe.imag], axis=-1)
        if 'log_scale' in self.variables:
            found['log_scale'] = self.variables['log_scale'].numpy()
        return found

    def values(self) -> dict[str, NDArray[Any]]:
        """Returns a copy of all variables by name."""
        return {name: value.numpy() for name, value in self.variables.items()}

    def assign(self, values: Mapping[str, NDArray[Any]]) -> None:
        """Takes up what `values` returned."""
        for name, value in self.variables.items():
            value.assign(values[name])
