"""Reconstruction on TensorFlow: refinement, guard, grid, and what it refuses."""

from dataclasses import replace

import numpy
import pytest
import torch
from tensorflow_guard import require_tensorflow

from ptychodus_pinn_torch.backend import ReconstructRequest
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.models.archive import Archive, ArchiveError, write_archive

tf = require_tensorflow()

from ptychodus_pinn_torch.tensorflow_backend.keras_inference import reconstruct
from ptychodus_pinn_torch.tensorflow_backend.keras_network import CnnNetwork
from ptychodus_pinn_torch.tensorflow_backend.keras_reader import ScanReader
from ptychodus_pinn_torch.tensorflow_backend.keras_rpie import (
    RefinementState,
    RpieSettings,
    relative_error,
    rpie_epoch,
)

NETWORK = {'network.kind': 'cnn', 'network.first_width': 4, 'network.pattern_size': 32}


def write_model(path, *, seed=0, noise=0.0, probe=None, **options):
    """Writes a model that answers with the flat object, disturbed by noise in its head."""
    config = override_config(Config(), NETWORK | options)
    network = CnnNetwork(config.network, seed=seed)
    rng = numpy.random.default_rng(1)
    for name, value in network.variables.items():
        if name.startswith('head'):
            value.assign_add(noise * rng.normal(size=value.shape))
    weights = {f'network.{name}': array for name, array in network.weights().items()}
    details = {'scans': ['known']}
    if probe is not None:
        weights['probe.0'] = numpy.stack([probe.real, probe.imag], axis=-1)
    archive = Archive(config, weights, backend='tensorflow', details=details)
    return write_archive(path, archive)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / 'model.h5.zip')


def run(scan, model=None, report=lambda item: None, **options):
    options = {f'reconstruction.{name}': value for name, value in options.items()}
    options |= {'execution.accelerator': 'cpu', 'execution.num_threads': 1}
    return reconstruct(ReconstructRequest(scan, override_config(Config(), options), model), report)


@pytest.mark.parametrize('update', ['object', 'probe', 'positions'])
def test_refinement_takes_the_steps_of_the_pytorch_engine(tiny_scan, update):
    from ptychodus_pinn_torch.physics.measurement import ScanReader as TorchReader
    from ptychodus_pinn_torch.reconstruction import solver as refinement

    flags = {'update_probe': update == 'probe', 'update_positions': update == 'positions'}
    ours, theirs = ScanReader(tiny_scan), TorchReader(tiny_scan)
    (height, width), (y, x) = ours.canvas_shape, ours.origin
    start = 0.8 + 0.5 * (tiny_scan.truth[y : y + height, x : x + width] - 0.8)
    start = start.astype(numpy.complex64)
    state = RefinementState(start.copy(), ours.probe.copy(), ours.shifts.copy())
    their_state = refinement.RefinementState(
        torch.from_numpy(start.copy())[None], theirs.probe.clone(), theirs.shifts.clone()
    )
    batches = numpy.array_split(numpy.random.default_rng(0).permutation(35), 6)
    error = rpie_epoch(state, ours, batches, RpieSettings(**flags))
    their_batches = [torch.from_numpy(batch) for batch in batches]
    their_error = refinement.rpie_epoch(
        their_state, theirs, their_batches, refinement.RpieSettings(**flags)
    )
    assert error == pytest.approx(their_error, rel=1e-4)
    for found, wanted in (
        (state.canvas, their_state.canvas[0]),
        (state.probe, their_state.probe),
        (state.shifts, their_state.shifts),
    ):
        assert numpy.abs(found - wanted.numpy()).max() <= 1e-3 * float(wanted.abs().max())
    assert relative_error(state, ours, batches) == pytest.approx(
        refinement.relative_error(their_state, theirs, their_batches), rel=1e-3
    )


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


def test_memory_does_not_change_the_image(tiny_scan, model):
    images = [run(tiny_scan, model, refine_epochs=0, memory_MB=size).object_ for size in (16, 4096)]
    numpy.testing.assert_allclose(*images, rtol=1e-6, atol=1e-6)


def test_refinement_lowers_the_error_far_below_that_of_a_flat_object(tiny_scan, model):
    result = run(tiny_scan, model, refine_epochs=8)
    errors = [error for _, error in result.losses]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.25 * errors[0]


def test_refinement_stops_by_itself_and_tells_the_held_out_error(simulated_scan, tmp_path):
    model = write_model(tmp_path / 'm.h5.zip', **{'network.pattern_size': 64})
    result = run(simulated_scan, model)
    assert 1 <= len(result.losses) <= 8 and 0.0 < result.held_out < 0.02


def test_a_model_that_is_worse_than_nothing_is_not_used(tiny_scan, tmp_path):
    bad = write_model(tmp_path / 'bad.h5.zip', noise=3.0)
    result = run(tiny_scan, bad, refine_epochs=1)
    assert result.start == 'flat'
    assert 'worse than a flat object' in result.messages[0]
    assert run(tiny_scan, bad, refine_epochs=1, guard=False).start == 'network'


def test_a_spoilt_probe_and_wrong_positions_are_mended(simulated_scan):
    rng = numpy.random.default_rng(0)
    spoilt = simulated_scan.probe * numpy.exp(0.3j * rng.normal(size=simulated_scan.probe.shape))
    scan = replace(simulated_scan, probe=spoilt.astype(numpy.complex64))
    errors = [
        run(scan, start='flat', refine_epochs=6, update_probe=is_updated).losses[-1][1]
        for is_updated in (False, True)
    ]
    assert errors[1] < 0.7 * errors[0]
    moved = simulated_scan.positions_px + rng.normal(size=simulated_scan.positions_px.shape)
    result = run(
        replace(simulated_scan, positions_px=moved),
        start='flat', refine_epochs=8, update_positions=True,
    )  # fmt: skip
    before = numpy.std(moved - simulated_scan.positions_px)
    assert numpy.std(result.positions_px - simulated_scan.positions_px) < 0.8 * before


def test_the_probe_that_training_found_is_used_for_its_own_scan(tiny_scan, tmp_path):
    model = write_model(tmp_path / 'm.h5.zip', probe=tiny_scan.probe * 1.05)
    known = run(replace(tiny_scan, name='known'), model, refine_epochs=0)
    assert 'training has adjusted' in known.messages[0]
    numpy.testing.assert_allclose(known.probe, tiny_scan.probe * 1.05, rtol=1e-5)
    assert not run(tiny_scan, model, refine_epochs=0).messages


def test_without_a_model_the_way_out_is_told(tiny_scan):
    with pytest.raises(ConfigError, match='train a model with --backend tensorflow.*pytorch'):
        run(tiny_scan)
    assert run(tiny_scan, start='flat', refine_epochs=1).start == 'flat'
    assert run(tiny_scan, start='object', refine_epochs=1, guard=False).start == 'object'


def test_a_flat_object_moves_no_position(tiny_scan):
    reader = ScanReader(tiny_scan)
    flat = numpy.full(reader.canvas_shape, 0.8, numpy.complex64)
    state = RefinementState(flat, reader.probe, reader.shifts.copy())
    rpie_epoch(state, reader, [numpy.arange(35)], RpieSettings(update_positions=True))
    assert numpy.abs(state.shifts - reader.shifts).max() < 1e-2


@pytest.mark.parametrize(
    ('path', 'value'),
    [
        ('reconstruction.refine_method', 'adam'),
        ('execution.precision', 'bf16-mixed'),
        ('execution.devices', 3),
        ('execution.accelerator', 'mps'),
    ],
)
def test_an_option_that_is_not_there_is_refused_by_name(tiny_scan, model, path, value):
    config = override_config(Config(), {path: value})
    with pytest.raises(ConfigError, match=path):
        reconstruct(ReconstructRequest(tiny_scan, config, model), lambda item: None)


def test_what_does_not_fit_is_refused(tiny_scan, simulated_scan, model, tmp_path):
    with pytest.raises(ValueError, match='made for patterns of 32 px, the scan has 64 x 64'):
        run(simulated_scan, model)
    with pytest.raises(ValueError, match='has no patterns'):
        run(tiny_scan.select(numpy.arange(0)), model)
    config = override_config(Config(), {'network.kind': 'unrolled'})
    other = write_archive(tmp_path / 'u.h5.zip', Archive(config, {}, backend='pytorch'))
    with pytest.raises(ArchiveError, match='unrolled network of the pytorch .*tensorflow'):
        run(tiny_scan, other)


def test_a_receiver_of_reports_can_stop_the_work(tiny_scan, model):
    def stop(report):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tiny_scan, model, stop)
