"""The network on Keras is that of the PyTorch engine, weight by weight."""

import sys

import numpy
import pytest
import torch
from tensorflow_guard import require_tensorflow

from ptychodus_pinn_torch.config import Config, override_config

tf = require_tensorflow()

from ptychodus_pinn_torch.tensorflow_backend.keras_network import KerasCnn
from ptychodus_pinn_torch.tensorflow_backend.loading import load_keras

VARIANTS = {
    'plain': {},
    'stacks with all gates': {
        'num_channels': 4, 'attention': 'cbam', 'has_outer_branch': True, 'stem': 2,
    },
    'without skips': {
        'has_skips': False, 'attention': 'eca', 'head': 'real_imaginary',
    },
    'places': {'attention': 'spatial', 'stem': 4},
}  # fmt: skip


def make_config(**options):
    base = {'kind': 'cnn', 'first_width': 8, 'pattern_size': 32}
    return override_config(
        Config(), {f'network.{name}': value for name, value in (base | options).items()}
    ).network


def weights_of(network):
    """Returns the weights of a torch network by name."""
    return {name: value.detach().numpy() for name, value in network.state_dict().items()}


def inputs(num_channels, number=3):
    rng = numpy.random.default_rng(1)
    counts = rng.poisson(20.0, (number, num_channels, 32, 32)).astype(numpy.float32)
    return counts, numpy.full((number, num_channels), 3e4, numpy.float32)


@pytest.mark.parametrize('options', VARIANTS.values(), ids=VARIANTS)
def test_patches_agree_with_the_pytorch_engine(options):
    from ptychodus_pinn_torch.networks.cnn import CnnNetwork as TorchNetwork
    from ptychodus_pinn_torch.networks.registry import load_weights

    config = make_config(**options)
    theirs, ours = TorchNetwork(config).eval(), KerasCnn(config)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    ours.load(weights_of(theirs), 'here')
    counts, photons = inputs(config.num_channels)
    with torch.no_grad():
        wanted = theirs.map_stacks(torch.from_numpy(counts), torch.from_numpy(photons), None)
    found = ours.map_stacks(tf.constant(counts), tf.constant(photons)).numpy()
    assert numpy.abs(found - wanted.numpy()).max() <= 1e-5 * numpy.abs(wanted.numpy()).max()

    back = TorchNetwork(config)
    load_weights(back, ours.weights(), 'there')
    for name, value in weights_of(theirs).items():
        numpy.testing.assert_array_equal(weights_of(back)[name], value)


@pytest.mark.parametrize('head', ['amplitude_phase', 'real_imaginary'])
def test_a_new_network_answers_with_the_flat_object_that_the_counts_imply(head):
    counts, photons = inputs(1)
    network = KerasCnn(make_config(head=head, has_outer_branch=True), seed=3)
    patches = network.map_stacks(tf.constant(counts), tf.constant(photons)).numpy()
    level = numpy.sqrt(counts.sum(axis=(1, 2, 3)) / photons[:, 0])
    wanted = numpy.broadcast_to(level[:, None, None, None], patches.shape)
    numpy.testing.assert_allclose(patches, wanted, rtol=1e-5)


def test_start_values_come_from_the_seed():
    first, same, other = (KerasCnn(make_config(), seed=seed).weights() for seed in (1, 1, 2))
    name = 'body.encoder.0.0.conv1.weight'
    numpy.testing.assert_array_equal(first[name], same[name])
    assert numpy.abs(first[name] - other[name]).max() > 0.1


@pytest.mark.parametrize('size', [1, 8, 16, 64])
def test_a_patch_does_not_depend_on_what_else_is_in_the_batch(size):
    network = KerasCnn(make_config(attention='cbam'), seed=3)
    for value in network.variables.values():
        value.assign_add(0.05 * numpy.random.default_rng(2).normal(size=value.shape))
    counts, photons = inputs(1, number=64)
    parts = [
        network.run(tf.constant(counts[i : i + size]), tf.constant(photons[i : i + size])).numpy()
        for i in range(0, 64, size)
    ]
    whole = network.run(tf.constant(counts), tf.constant(photons)).numpy()
    assert numpy.abs(numpy.concatenate(parts) - whole).max() <= 1e-6 * numpy.abs(whole).max()


def test_weights_that_do_not_fit_are_refused_by_name():
    network, weights = KerasCnn(make_config()), KerasCnn(make_config()).weights()
    with pytest.raises(ValueError, match=r'model\.h5\.zip: .* lacks head\.bias'):
        network.load({k: v for k, v in weights.items() if k != 'head.bias'}, 'model.h5.zip')
    with pytest.raises(ValueError, match='has extra'):
        network.load({**weights, 'extra': weights['head.bias']}, 'model.h5.zip')
    with pytest.raises(ValueError, match=r'head\.bias has shape \(5,\)'):
        network.load({**weights, 'head.bias': numpy.zeros(5)}, 'model.h5.zip')


def test_a_stem_that_does_not_divide_the_patterns_is_refused():
    with pytest.raises(ValueError, match='stem = 4 does not divide'):
        KerasCnn(make_config(stem=4, pattern_size=34))


def test_keras_on_another_framework_is_refused(monkeypatch):
    keras = load_keras()
    monkeypatch.setattr(keras.backend, 'backend', lambda: 'jax')
    with pytest.raises(RuntimeError, match='Keras runs on jax .* KERAS_BACKEND=tensorflow'):
        load_keras()


def test_the_environment_of_keras_is_left_as_it_was(monkeypatch):
    monkeypatch.setenv('KERAS_BACKEND', 'jax')
    assert load_keras() is sys.modules['keras']
    import os

    assert os.environ['KERAS_BACKEND'] == 'jax'
