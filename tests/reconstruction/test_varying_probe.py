"""A probe that varies over the scan: used, adjusted with its weights, and given back."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.backend import EpochReport, Reconstruction, ReconstructRequest
from ptychodus_pinn_torch.checks.preflight import examine_scan
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.commands._images import write_image
from ptychodus_pinn_torch.commands.inspect import describe_scan
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.physics.forward_model import ForwardModel
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.probe import shift_probe
from ptychodus_pinn_torch.physics.variation import Variation
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.probe_variation import ProbeVariation
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.reference_model import predict_counts
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan
from ptychodus_pinn_torch.solver.rpie import RpieSettings, rpie_epoch
from ptychodus_pinn_torch.solver.state import Freed, SolverState
from ptychodus_pinn_torch.training.batches import make_batch
from ptychodus_pinn_torch.training.plans import Task
from ptychodus_pinn_torch.training.pytorch_backend import PyTorchBackend
from ptychodus_pinn_torch.training.run import _say_what_varies

STRENGTH = 0.3


@pytest.fixture(scope='module')
def scan() -> Scan:
    """The beam wanders, and its phase bends, at random from pattern to pattern."""
    plain = simulate_scan(SimulationSpec(num_positions=144, pattern_size=64, seed=4))
    rng, power = numpy.random.default_rng(7), numpy.abs(plain.probe[0]) ** 2
    axes = numpy.indices(power.shape) - 31.5
    y, x = axes / numpy.sqrt((axes**2 * power).sum(axis=(1, 2)) / power.sum())[:, None, None]
    modes = (plain.probe[0] * numpy.stack([y + 0j, 1j * x])).astype(numpy.complex64)
    weights = rng.normal(size=(144, 3)) * STRENGTH
    weights[:, 0] = 1.0
    variation = ProbeVariation(modes, weights)
    probes = variation.probes(plain.probe, numpy.arange(144))
    counts = numpy.concatenate(
        [
            predict_counts(plain.truth, probes[i : i + 36], plain.positions_px[i : i + 36])
            for i in range(0, 144, 36)
        ]
    )
    return replace(
        plain, patterns=rng.poisson(counts).astype(numpy.uint32), probe_variation=variation
    )


@pytest.fixture(scope='module')
def wrong(scan: Scan) -> Scan:
    """The same with errors of the weights two thirds as large as what they describe."""
    assert scan.probe_variation is not None
    weights = scan.probe_variation.weights.copy()
    weights[:, 1:] += numpy.random.default_rng(1).normal(size=(144, 2)) * 0.2
    return replace(scan, probe_variation=replace(scan.probe_variation, weights=weights))


@pytest.fixture(scope='module')
def image(scan: Scan) -> Reconstruction:
    return pinn.reconstruct(scan)


@pytest.fixture(scope='module')
def mended(wrong: Scan) -> Reconstruction:
    return pinn.reconstruct(wrong)


def error_of(scan: Scan, image: Reconstruction) -> float:
    return compare_objects(image.object_, scan.truth, weights=coverage_mask(scan)).nrmse


def probe_errors(scan: Scan, found: Scan, image: Reconstruction) -> float:
    """Returns the part of the power of the patterns' first modes that is wrong.

    Phases, and a ramp common to all, which the object's undoes, are no errors.
    """
    everything = numpy.arange(scan.num_patterns)
    true = scan.probe_variation.probes(scan.probe, everything)[:, 0]
    own = found.probe_variation.probes(image.probe, everything)[:, 0]
    product, axis = true.conj() * own, numpy.arange(64)
    slopes = (
        numpy.angle(numpy.vdot(product[:, :-1], product[:, 1:])),
        numpy.angle(numpy.vdot(product[..., :-1], product[..., 1:])),
    )
    ramp = numpy.exp(-1j * (slopes[0] * axis[:, None] + slopes[1] * axis))
    overlap = numpy.abs((product * ramp).sum(axis=(1, 2)))
    norms = numpy.linalg.norm(true, axis=(1, 2)) * numpy.linalg.norm(own, axis=(1, 2))
    return float(1.0 - ((overlap / norms) ** 2).mean())


def test_the_image_is_far_better_with_the_variations_than_with_the_mean_probe(
    scan: Scan, image: Reconstruction
) -> None:
    assert image.trust is not None and image.trust.verdict == 'right'
    assert image.freed == ()
    mean = pinn.reconstruct(
        replace(scan, probe_variation=None),
        options={'reconstruction.update_probe': 'off', 'reconstruction.update_positions': 'off'},
    )
    assert error_of(scan, image) < 0.02
    assert error_of(scan, image) < 0.1 * error_of(scan, mean)


def test_what_was_not_adjusted_comes_back_as_it_was_given(
    scan: Scan, image: Reconstruction
) -> None:
    assert image.probe_variation is scan.probe_variation
    numpy.testing.assert_array_equal(image.probe, scan.probe)


def test_wrong_weights_are_mended_with_the_probe(
    scan: Scan, wrong: Scan, mended: Reconstruction
) -> None:
    assert mended.freed == ('probe',)
    held = pinn.reconstruct(wrong, options={'reconstruction.update_probe': 'off'})
    assert error_of(scan, mended) < 0.5 * error_of(scan, held)
    before = probe_errors(scan, wrong, held)
    after = probe_errors(scan, replace(wrong, probe_variation=mended.probe_variation), mended)
    assert after < 0.1 * before


def test_adjusted_variations_are_orthogonal_and_their_weights_have_no_mean(
    mended: Reconstruction,
) -> None:
    variation = mended.probe_variation
    basis = numpy.concatenate([mended.probe[:1], variation.modes]).reshape(3, -1)
    gram = (basis @ basis.conj().T).real
    numpy.testing.assert_allclose(gram / gram[0, 0], numpy.eye(3), atol=1e-3)
    numpy.testing.assert_allclose(variation.weights.mean(axis=0), [1.0, 0.0, 0.0], atol=1e-3)


def test_weights_of_another_scan_are_left_out_and_it_is_said(scan: Scan) -> None:
    steady = simulate_scan(SimulationSpec(num_positions=144, pattern_size=64, seed=4))
    image = pinn.reconstruct(replace(steady, probe_variation=scan.probe_variation))
    assert any('the variations are left out' in message for message in image.messages)
    assert error_of(steady, image) < 0.03


def test_frames_that_are_left_out_get_the_mean_probe_back(wrong: Scan) -> None:
    patterns = numpy.array(wrong.patterns)
    patterns[[5, 77]] = 0
    spoilt = replace(wrong, patterns=patterns)
    image = pinn.reconstruct(spoilt, options={'reconstruction.update_probe': 'on'})
    assert any('5, 77' in message for message in image.messages)
    weights = image.probe_variation.weights
    assert weights.shape == (144, 3)
    numpy.testing.assert_allclose(weights[[5, 77]], [[1.0, 0.0, 0.0]] * 2, atol=1e-2)
    assert error_of(spoilt, image) < 0.1


def test_an_adjusted_probe_goes_into_the_product_with_its_variations(
    tmp_path: Path, wrong: Scan, mended: Reconstruction
) -> None:
    from ptychodus.api.io import load_product

    write_image(tmp_path / 'image.h5', wrong, mended)
    probes = load_product(tmp_path / 'image.h5').probes
    wanted = mended.probe_variation.probes(mended.probe, numpy.arange(144))
    for index in (0, 17, 143):
        numpy.testing.assert_allclose(
            probes[index].get_array(), wanted[index], atol=1e-5 * numpy.abs(wanted).max()
        )
    write_image(tmp_path / 'image.npz', wrong, mended)
    with numpy.load(tmp_path / 'image.npz') as arrays:
        numpy.testing.assert_allclose(arrays['probe_weights'], mended.probe_variation.weights)


def test_inspect_and_check_say_that_the_probe_varies(scan: Scan) -> None:
    sentence = '2 variations of the first mode over the scan (OPR), 13 % of its power'
    assert sentence in describe_scan(scan)
    assert any(sentence in finding.message for finding in examine_scan(scan))


def test_networks_train_on_patterns_that_have_their_own_probes(scan: Scan, tmp_path: Path) -> None:
    options = {'training.max_steps': 2, 'grouping.group_size': 9, 'network.kind': 'cnn'}
    assert pinn.train(scan, tmp_path / 'model.h5.zip', options=options).is_file()
    measured = measure_scan(scan)
    task = Task(0, numpy.array([[3, 5], [60, 61]]))
    batch = make_batch(measured, task)
    torch.testing.assert_close(
        batch.measurement.chunk(torch.arange(4)).probe,
        measured.measurement.chunk(torch.tensor([3, 5, 60, 61])).probe,
    )
    model = ForwardModel([measured.measurement.probe], train_scale=True)
    model.log_scale.data += 0.5
    seen = model.seen_through(batch).measurement.chunk(torch.arange(4)).probe
    wanted = math.exp(0.25) * batch.measurement.chunk(torch.arange(4)).probe
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-4)


def test_an_engine_without_varying_probes_says_that_it_takes_the_mean(scan: Scan) -> None:
    class Plain(PyTorchBackend):
        has_varying_probes = False

    messages: list[str] = []

    def report(item: EpochReport) -> None:
        messages.append(item.message)

    _say_what_varies([measure_scan(scan)], Plain(), Config(), report)
    assert len(messages) == 1 and 'it takes the mean probe' in messages[0]


def test_a_probe_that_does_not_vary_is_adjusted_as_one_without_variations(scan: Scan) -> None:
    """Weights of one for a probe without variations take the other way to the same result."""
    plain = simulate_scan(SimulationSpec(num_positions=64, pattern_size=32, step_px=3.0, seed=3))
    nothing = ProbeVariation(
        numpy.zeros((0, 32, 32), numpy.complex64), numpy.ones((plain.num_patterns, 1))
    )
    settings, found = RpieSettings(), []
    for variation in (None, nothing):
        measurement = measure_scan(replace(plain, probe_variation=variation)).measurement
        state = SolverState.start(measurement.flat(), measurement)
        with torch.inference_mode():
            rpie_epoch(state, measurement, torch.arange(64).split(8), settings)
        found.append(state.canvas)
    torch.testing.assert_close(*found, atol=1e-5, rtol=0.0)


def test_anchoring_moves_probe_and_variations_alike(scan: Scan) -> None:
    measurement = measure_scan(scan).measurement
    state = SolverState.start(measurement.flat(), measurement)
    indices = torch.arange(9)
    before = state.seen(measurement).chunk(indices).probe
    shift, factor = torch.tensor([[1.0, -2.0]]), 1.5
    state.probe = factor * shift_probe(state.probe, shift)[0]
    moved = factor * shift_probe(state.variation.modes, shift)[0]
    state.variation = Variation(moved, state.variation.weights)
    state.anchor(measurement.probe)
    after = state.seen(measurement).chunk(indices).probe
    torch.testing.assert_close(after, before, atol=1e-2 * float(before.abs().max()), rtol=0.0)


def test_weights_alone_follow_where_the_modes_are_held(scan: Scan, wrong: Scan) -> None:
    measured = measure_scan(wrong)
    measurement = measured.measurement
    canvas = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    state = SolverState.start(canvas / measured.calibration, measurement)
    true = measure_scan(scan).measurement.variation.weights

    def distance() -> float:
        return float((state.variation.weights - true)[:, 1:].square().mean().sqrt())

    before, modes = distance(), state.variation.modes
    settings = RpieSettings(step=0.0, freed=Freed(weights=True))
    with torch.inference_mode():
        for _ in range(4):
            rpie_epoch(state, measurement, torch.arange(144).split(64), settings)
    assert distance() < 0.3 * before
    assert state.variation.modes is modes


def test_an_image_is_judged_by_counts_with_the_probe_of_each_pattern(
    tmp_path: Path, scan: Scan, image: Reconstruction, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_scan_npz(tmp_path / 'scan.npz', scan)
    for name in ('image.npz', 'image.h5'):
        write_image(tmp_path / name, scan, image)
        assert main(['evaluate', str(tmp_path / name), '--scan', str(path), '--json']) == 0
        error = json.loads(capsys.readouterr().out)['data_error']
        assert error == pytest.approx(image.losses[-1][1], rel=0.1)
    fewer = write_scan_npz(tmp_path / 'fewer.npz', scan.select(numpy.arange(100)))
    assert main(['evaluate', str(tmp_path / 'image.npz'), '--scan', str(fewer)]) == 1
    assert 'weights for 144 patterns' in capsys.readouterr().err


def test_the_trial_of_the_variations_can_be_stopped(scan: Scan) -> None:
    def stop(report: EpochReport) -> None:
        if report.phase == 'sketch':
            raise KeyboardInterrupt

    options = {'reconstruction.start': 'flat', 'reconstruction.refine_epochs': 1}
    with pytest.raises(KeyboardInterrupt):
        reconstruct(ReconstructRequest(scan, override_config(Config(), options)), stop)
