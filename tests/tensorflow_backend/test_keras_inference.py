"""Reconstruction on TensorFlow: refinement, guard, grid, and what it refuses."""

from dataclasses import replace

import numpy
import pytest
from tensorflow_guard import require_tensorflow

from ptychodus_pinn_torch.backend import ReconstructRequest
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.models.archive import Archive, ArchiveError, write_archive

tf = require_tensorflow()

from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import fingerprint
from ptychodus_pinn_torch.tensorflow_backend.keras_network import KerasCnn

NETWORK = {'network.kind': 'cnn', 'network.first_width': 4, 'network.pattern_size': 32}


def write_model(path, *, seed=0, noise=0.0, probe=None, scan=None, **options):
    """Writes a model that answers with the flat object, disturbed by noise in its head."""
    config = override_config(Config(), NETWORK | options)
    network = KerasCnn(config.network, seed=seed)
    rng = numpy.random.default_rng(1)
    for name, value in network.variables.items():
        if name.startswith('head'):
            value.assign_add(noise * rng.normal(size=value.shape))
    weights = {f'network.{name}': array for name, array in network.weights().items()}
    details = {'fingerprints': [] if scan is None else [fingerprint(scan)]}
    if probe is not None:
        weights['probe.0'] = numpy.stack([probe.real, probe.imag], axis=-1)
    archive = Archive(config, weights, backend='tensorflow', details=details)
    return write_archive(path, archive)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / 'model.h5.zip')


def run(scan, model=None, report=lambda item: None, *, backend='tensorflow', **options):
    options = {f'reconstruction.{name}': value for name, value in options.items()}
    options |= {'execution.accelerator': 'cpu', 'execution.num_threads': 1}
    config = override_config(Config(), options)
    return reconstruct(ReconstructRequest(scan, config, model, backend), report)


@pytest.mark.parametrize('options', [{}, {'network.num_channels': 4, 'network.attention': 'cbam'}])
def test_both_engines_stitch_the_same_image(tiny_scan, tmp_path, options):
    model = write_model(tmp_path / 'm.h5.zip', noise=0.05, **options)
    images = [
        run(tiny_scan, model, backend=name, refine_epochs=0, guard=False)
        for name in ('pytorch', 'tensorflow')
    ]
    seen = images[0].coverage > 0.02
    first, second = (image.object_[seen] for image in images)
    assert numpy.abs(first - numpy.median(numpy.abs(first))).max() > 1e-2
    assert numpy.abs(first - second).max() <= 1e-5 * numpy.abs(first).max()


def test_the_image_is_on_the_grid_of_the_object_and_leaves_what_was_not_seen(tiny_scan, model):
    margin = ((30, 5), (7, 40))
    object_ = numpy.pad(tiny_scan.object_, margin, constant_values=0.25 + 0.5j)
    scan = replace(tiny_scan, object_=object_, positions_px=tiny_scan.positions_px + (30, 7))
    result = run(scan, model, refine_epochs=3)
    assert result.object_.shape == object_.shape and result.object_.dtype == numpy.complex64
    assert (result.object_[:28] == 0.25 + 0.5j).all() and result.coverage[:28].max() == 0.0
    inside = run(tiny_scan, model, refine_epochs=3).object_
    moved = result.object_[30:-5, 7:-40]
    seen = result.coverage[30:-5, 7:-40] > 0.01
    numpy.testing.assert_allclose(moved[seen], inside[seen], atol=1e-4)
    assert result.backend == 'tensorflow' and len(result.losses) == 3


def test_the_probe_that_training_found_is_used_for_its_own_counts(tiny_scan, tmp_path):
    path = tmp_path / 'm.h5.zip'
    model = write_model(path, probe=tiny_scan.probe * 1.05, scan=tiny_scan)
    known = run(replace(tiny_scan, name='renamed'), model, refine_epochs=0)
    assert 'training has adjusted' in known.messages[0]
    numpy.testing.assert_allclose(known.probe, tiny_scan.probe * 1.05, rtol=1e-5)
    other = replace(tiny_scan, patterns=tiny_scan.patterns[::-1])
    unknown = run(other, model, refine_epochs=0)
    assert not any('training has adjusted' in message for message in unknown.messages)
    numpy.testing.assert_allclose(unknown.probe, tiny_scan.probe, rtol=1e-5)


def test_the_shipped_model_is_refused_in_a_sentence_and_other_starts_do_without(tiny_scan):
    with pytest.raises(ArchiveError, match='pytorch backend.*tensorflow'):
        run(tiny_scan)
    assert run(tiny_scan, start='flat', refine_epochs=1).start == 'flat'
    assert run(tiny_scan, start='object', refine_epochs=1, guard=False).start == 'object'


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('execution.precision', 'bf16-mixed'),
    ],
)
def test_an_option_that_is_not_there_is_refused_by_name(tiny_scan, model, path, value):
    config = override_config(Config(), {path: value})
    with pytest.raises(ConfigError, match=path):
        reconstruct(ReconstructRequest(tiny_scan, config, model, 'tensorflow'), lambda item: None)


def test_what_does_not_fit_is_refused(tiny_scan, simulated_scan, model, tmp_path):
    with pytest.raises(ValueError, match='made for patterns of 32 px, the scan has 64 x 64'):
        run(simulated_scan, model)
    with pytest.raises(ValueError, match='has no patterns'):
        run(tiny_scan.select(numpy.arange(0)), model)
    config = override_config(Config(), {'network.kind': 'unrolled'})
    other = write_archive(tmp_path / 'u.h5.zip', Archive(config, {}, backend='pytorch'))
    with pytest.raises(ArchiveError, match='unrolled network of the pytorch .*tensorflow'):
        run(tiny_scan, other)
