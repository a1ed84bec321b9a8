"""The forward model on TensorFlow is that of the numpy reference and of the PyTorch engine."""

from dataclasses import replace

import numpy
import pytest
import torch
from tensorflow_guard import require_tensorflow

from ptychodus_pinn_torch.physics import losses as torch_losses
from ptychodus_pinn_torch.scan.scan import split_positions
from ptychodus_pinn_torch.simulation.reference_model import predict_counts

tf = require_tensorflow()

from ptychodus_pinn_torch.tensorflow_backend import tensorflow_physics as physics


def complex_noise(rng, *shape):
    return (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(numpy.complex64)


def indices(array):
    return tf.constant(numpy.asarray(array), tf.int32)


@pytest.fixture
def rng():
    return numpy.random.default_rng(0)


def test_expected_counts_agree_with_the_reference(tiny_scan):
    corners, shifts = split_positions(tiny_scan.positions_px, tiny_scan.pattern_shape)
    reference = predict_counts(tiny_scan.truth, tiny_scan.probe, tiny_scan.positions_px)
    probe = physics.shift_probe(tf.constant(tiny_scan.probe), tf.constant(shifts))
    canvas, rows = tf.constant(tiny_scan.truth)[None], indices(numpy.zeros(len(corners)))
    counts = physics.expected_counts(canvas, rows, indices(corners), probe).numpy()
    counts = numpy.fft.fftshift(counts, axes=(-2, -1))
    assert numpy.abs(counts - reference).max() <= 1e-5 * reference.max()


def test_taking_and_putting_patches_are_adjoint(rng):
    canvas, patches = complex_noise(rng, 2, 20, 24), complex_noise(rng, 7, 8, 8)
    rows = indices(rng.integers(0, 2, 7))
    corners = indices(numpy.stack([rng.integers(0, 13, 7), rng.integers(0, 17, 7)], axis=1))
    taken = physics.take_patches(tf.constant(canvas), rows, corners, (8, 8)).numpy()
    put = physics.put_patches(tf.constant(patches), rows, corners, tf.constant([2, 20, 24])).numpy()
    assert numpy.vdot(patches, taken) == pytest.approx(numpy.vdot(put, canvas), rel=1e-5)


def test_the_gradient_of_taking_is_putting(rng):
    canvas, weights = tf.Variable(rng.normal(size=(1, 12, 12))), rng.normal(size=(3, 8, 8))
    rows, corners = indices([0, 0, 0]), indices([[0, 0], [4, 4], [2, 1]])
    with tf.GradientTape() as tape:
        taken = physics.take_patches(canvas, rows, corners, (8, 8))
        total = tf.reduce_sum(taken * weights)
    put = physics.put_patches(tf.constant(weights), rows, corners, tf.constant([1, 12, 12]))
    found = tf.convert_to_tensor(tape.gradient(total, canvas))
    numpy.testing.assert_allclose(found.numpy(), put.numpy(), rtol=1e-12)


def test_a_window_that_leaves_the_canvas_is_refused(rng):
    canvas = tf.constant(complex_noise(rng, 1, 10, 10))
    with pytest.raises(tf.errors.InvalidArgumentError):
        physics.take_patches(canvas, indices([0]), indices([[5, 5]]), (8, 8))


def test_a_whole_shift_moves_the_probe_and_keeps_its_power(rng):
    probe = complex_noise(rng, 2, 16, 12)
    moved = physics.shift_probe(tf.constant(probe), tf.constant([[1.0, -2.0], [0.3, 0.4]])).numpy()
    numpy.testing.assert_allclose(moved[0], numpy.roll(probe, (1, -2), (1, 2)), atol=1e-5)
    power = (numpy.abs(moved) ** 2).sum(axis=(1, 2, 3))
    numpy.testing.assert_allclose(power, (numpy.abs(probe) ** 2).sum(), rtol=0.05)


@pytest.mark.parametrize('name', ['amplitude_loss', 'poisson_loss', 'absolute_loss'])
def test_losses_of_counts_agree_with_the_pytorch_engine(rng, name):
    expected = rng.uniform(0.0, 50.0, (5, 8, 8)).astype(numpy.float32)
    good = rng.random((8, 8)) > 0.2
    counts = (rng.poisson(expected) * good).astype(numpy.float32)
    given = (expected, counts)
    ours = getattr(physics, name)(*map(tf.constant, given), tf.constant(good, tf.float32))
    theirs = getattr(torch_losses, name)(*map(torch.from_numpy, given), torch.from_numpy(good))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


def test_losses_of_objects_agree_with_the_pytorch_engine(rng):
    image, truth = complex_noise(rng, 2, 9, 11), complex_noise(rng, 2, 9, 11)
    coverage = rng.random((2, 9, 11)).astype(numpy.float32)
    arrays = (image, truth, coverage)
    ours = physics.object_loss(*map(tf.constant, arrays))
    theirs = torch_losses.object_loss(*map(torch.from_numpy, arrays))
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
    ours = physics.total_variation(tf.constant(image.real), tf.constant(coverage))
    theirs = torch_losses.total_variation(
        torch.from_numpy(image.real.copy()), torch.from_numpy(coverage)
    )
    assert float(ours) == pytest.approx(float(theirs), rel=1e-5)


@pytest.mark.parametrize('channels', [1, 4])
def test_merged_patches_and_their_level_are_those_of_the_pytorch_engine(tiny_scan, channels):
    from ptychodus_pinn_torch.config import Config, override_config
    from ptychodus_pinn_torch.networks.cnn import CnnNetwork
    from ptychodus_pinn_torch.networks.patchwise import merge
    from ptychodus_pinn_torch.physics.measured_scan import measure_scan
    from ptychodus_pinn_torch.tensorflow_backend.keras_model import to_arrays
    from ptychodus_pinn_torch.tensorflow_backend.keras_network import KerasCnn
    from ptychodus_pinn_torch.training.batches import make_batch
    from ptychodus_pinn_torch.training.plans import plan_epoch

    options = {'network.kind': 'cnn', 'network.first_width': 4, 'network.pattern_size': 32}
    config = override_config(Config(), options | {'network.num_channels': channels})
    torch.manual_seed(0)
    theirs, ours = CnnNetwork(config.network), KerasCnn(config.network)
    for value in theirs.parameters():
        torch.nn.init.normal_(value, std=0.1)
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    ours.load(state, 'here')
    good = numpy.ones(tiny_scan.pattern_shape, dtype=bool)
    good[4:7, 20:24] = False
    measured = measure_scan(replace(tiny_scan, good_pixels=good))
    batch = make_batch(measured, plan_epoch([measured], config, 0)[0])
    arrays = {name: tf.constant(a) for name, a in to_arrays(batch, channels).items()}
    probe = tf.constant(measured.measurement.probe.numpy())
    canvas, coverage = physics.merge_patches(ours.map_stacks, arrays, probe)
    with torch.no_grad():
        wanted = merge(theirs, batch.measurement)
    seen = wanted.coverage.numpy() > 0.02 * float(wanted.coverage.max())
    difference = numpy.abs(canvas.numpy() - wanted.object_.numpy())[seen]
    assert difference.max() <= 1e-5 * float(wanted.object_.abs().max())
    difference = numpy.abs(coverage.numpy() - wanted.coverage.numpy())
    assert difference.max() <= 1e-5 * float(wanted.coverage.max())
