"""Patches become the canvas that the reference and the PyTorch engine say, at any batch size."""

from dataclasses import replace

import numpy
import pytest
import torch
from tensorflow_guard import require_tensorflow

from ptychodus_pinn_torch.config import Config, override_config

tf = require_tensorflow()

from ptychodus_pinn_torch.tensorflow_backend.keras_batches import Task, make_batch, plan_epoch
from ptychodus_pinn_torch.tensorflow_backend.keras_model import PtychoPINN
from ptychodus_pinn_torch.tensorflow_backend.keras_network import CnnNetwork
from ptychodus_pinn_torch.tensorflow_backend.keras_patches import merge, place, stitch
from ptychodus_pinn_torch.tensorflow_backend.keras_reader import ScanReader
from ptychodus_pinn_torch.tensorflow_backend.keras_stitching import (
    PatchSum,
    phase_factors,
    support_box,
)


def make_config(**options):
    base = {'network.kind': 'cnn', 'network.first_width': 8, 'network.pattern_size': 32}
    return override_config(Config(), base | options)


def disturb(network, scale=0.05):
    rng = numpy.random.default_rng(2)
    for value in network.variables.values():
        value.assign_add(scale * rng.normal(size=value.shape))
    return network


def to_torch(network, config):
    from ptychodus_pinn_torch.networks.cnn import CnnNetwork as TorchNetwork
    from ptychodus_pinn_torch.networks.registry import load_weights

    theirs = TorchNetwork(config.network)
    load_weights(theirs, network.weights(), 'here')
    return theirs


def with_bad_pixels(scan):
    good = numpy.ones(scan.pattern_shape, dtype=bool)
    good[3:6, 20] = False
    return replace(scan, good_pixels=good)


@pytest.mark.parametrize('channels', [1, 4])
def test_a_whole_scan_is_stitched_as_by_the_pytorch_engine(tiny_scan, channels):
    from ptychodus_pinn_torch.physics.measurement import ScanReader as TorchReader
    from ptychodus_pinn_torch.physics.measurement import ScanSource

    scan = with_bad_pixels(tiny_scan)
    config = make_config(**{'network.num_channels': channels})
    network = disturb(CnnNetwork(config.network, seed=1))
    everyone = numpy.arange(scan.num_patterns)
    ours = stitch(network, ScanReader(scan), everyone)
    with torch.no_grad():
        source = ScanSource(TorchReader(scan), 1, everyone)
        canvas = to_torch(network, config).eval().run(source)
    theirs, coverage = canvas.object_[0].numpy(), canvas.coverage[0].numpy()
    is_seen = coverage > 0.02 * coverage.max()  # beyond, rounding decides
    # putting the phases of patches in step amplifies rounding; merging alone agrees to 1e-5
    assert numpy.abs(ours - theirs)[is_seen].max() <= 2e-3 * numpy.abs(theirs).max()


@pytest.mark.parametrize('channels', [1, 4])
def test_groups_are_merged_as_by_the_pytorch_engine(tiny_scan, channels):
    from ptychodus_pinn_torch.physics.measurement import ScanReader as TorchReader
    from ptychodus_pinn_torch.training import batches as dataset

    scan = with_bad_pixels(tiny_scan)
    options = {'network.num_channels': channels, 'grouping.group_size': 4}
    config = make_config(**options, **{'training.batch_size': 3})
    network, reader = disturb(CnnNetwork(config.network, seed=1)), ScanReader(scan)
    task = plan_epoch([reader], config, 0)[0]
    batch = make_batch(reader, task)
    placement = place(batch, channels)
    canvas, coverage = merge(network, tf.constant(batch.counts), reader.probe, placement)
    their_reader = TorchReader(scan)
    their_task = dataset.plan_epoch([their_reader], config, 0)[0]
    numpy.testing.assert_array_equal(task.indices, their_task.indices)
    theirs = dataset.make_batch(their_reader, their_task, needs_object=False)
    with torch.no_grad():
        wanted = to_torch(network, config).train()(theirs)
    is_seen = wanted.coverage.numpy() > 0.02 * float(wanted.coverage.max())
    difference = numpy.abs(canvas - wanted.object_.numpy())
    assert difference[is_seen].max() <= 1e-5 * abs(wanted.object_).max()
    numpy.testing.assert_allclose(coverage, wanted.coverage.numpy(), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('size', [1, 8, 16, 64])
def test_the_batch_size_never_changes_the_image(simulated_scan, size, channels):
    options = {'network.pattern_size': 64, 'network.first_width': 4}
    config = make_config(**options, **{'network.num_channels': channels})
    network, reader = disturb(CnnNetwork(config.network, seed=1)), ScanReader(simulated_scan)
    everyone = numpy.arange(reader.num_patterns)
    image = stitch(network, reader, everyone, batch_size=size)
    wanted = stitch(network, reader, everyone, batch_size=37)
    assert image.shape == reader.canvas_shape
    assert numpy.abs(image - wanted).max() <= 1e-6 * numpy.abs(wanted).max()


@pytest.mark.parametrize('size', [8, 16, 64])
def test_a_batch_has_the_mean_loss_and_gradient_of_its_groups(tiny_scan, size):
    reader = ScanReader(tiny_scan)
    model = PtychoPINN(make_config(**{'training.batch_size': size}), [reader])
    disturb(model.network)
    task = plan_epoch([reader], model.config, 0)[0]
    assert task.indices.shape == (size, 1)
    loss, gradients = model.gradients(make_batch(reader, task))
    singles = [model.gradients(make_batch(reader, Task(0, row[None]))) for row in task.indices]
    assert loss == pytest.approx(numpy.mean([single[0] for single in singles]), rel=1e-6)
    for index, gradient in enumerate(gradients):
        mean = numpy.mean([single[1][index].numpy() for single in singles], axis=0)
        assert numpy.abs(gradient - mean).max() <= 1e-4 * max(numpy.abs(mean).max(), 1e-6)


def true_patches(scan):
    reader = ScanReader(scan)
    first = reader.origin
    truth = scan.truth[first[0] :, first[1] :]
    windows = numpy.lib.stride_tricks.sliding_window_view(truth, reader.window)
    return reader, truth, windows[tuple(reader.corners.T)].astype(numpy.complex64)


@pytest.mark.parametrize('part', [1, 7, 35])
def test_true_patches_of_any_phase_give_the_true_object_on_the_covered_area(tiny_scan, part):
    reader, truth, patches = true_patches(tiny_scan)
    rng = numpy.random.default_rng(4)
    phases = numpy.exp(1j * rng.uniform(-3.0, 3.0, (len(patches), 1, 1))).astype(numpy.complex64)
    weight = (numpy.abs(reader.probe) ** 2).sum(axis=0).astype(numpy.float32)
    weights = numpy.broadcast_to(weight, patches.shape)
    total = PatchSum(reader.canvas_shape, support_box(weight))
    numbers = rng.permutation(len(patches))
    for i in range(0, len(patches), part):
        rows = numbers[i : i + part]
        total.add(rows, reader.corners[rows], (patches * phases)[rows], weights[rows])
    image, coverage = total.merge()
    covered = coverage > 0.2 * coverage.max()
    truth = truth[: image.shape[0], : image.shape[1]]
    image = image * numpy.exp(-1j * numpy.angle(numpy.vdot(truth[covered], image[covered])))
    assert numpy.abs(image - truth)[covered].max() < 0.02


def test_one_patch_keeps_its_phase():
    patch = numpy.full((1, 8, 8), 1j, numpy.complex64)
    numpy.testing.assert_array_equal(phase_factors(patch, numpy.array([[0, 0]])), [1.0])


def test_patterns_of_another_size_are_refused(tiny_scan):
    network = CnnNetwork(make_config(**{'network.pattern_size': 64}).network)
    with pytest.raises(ValueError, match='made for patterns of 64 px, the scan has 32 x 32 px'):
        stitch(network, ScanReader(tiny_scan), numpy.arange(3))
