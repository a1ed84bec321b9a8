"""A probe that varies from pattern to pattern: as Ptychodus defines it, and consistently."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest
import torch
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.probe import ProbeSequence

from ptychodus_pinn_torch.physics.forward_model import predict
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.physics.measurement import Measurement
from ptychodus_pinn_torch.physics.probe import unshift_probe
from ptychodus_pinn_torch.physics.propagation import intensity, to_detector
from ptychodus_pinn_torch.physics.variation import Variation, orthogonalise
from ptychodus_pinn_torch.scan.probe_variation import ProbeVariation
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import examine_frames
from ptychodus_pinn_torch.simulation.reference_model import predict_counts
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


@pytest.fixture(scope='module')
def scan() -> Scan:
    """Two modes, of which the first varies; no noise; some pixels are bad."""
    spec = SimulationSpec(
        pattern_size=32, num_positions=36, step_px=3.0, num_modes=2, photons=1e6,
        beamstop_px=2.0, seed=5,
    )  # fmt: skip
    plain, rng = simulate_scan(spec), numpy.random.default_rng(6)
    ramp = numpy.linspace(-1.0, 1.0, 32)
    modes = plain.probe[0] * numpy.stack([ramp[:, None] + 0j * ramp, 1j * ramp[:, None] * ramp])
    weights = rng.normal(size=(36, 3)) * 0.3 + [1.0, 0.1, 0.0]
    variation = ProbeVariation(modes.astype(numpy.complex64), weights)
    counts = predict_counts(
        plain.truth, variation.probes(plain.probe, numpy.arange(36)), plain.positions_px
    )
    patterns = (counts * plain.good_pixels).astype(numpy.float32)
    return replace(plain, patterns=patterns, probe_variation=variation)


@pytest.fixture(scope='module')
def measurement(scan: Scan) -> Measurement:
    return measure_scan(scan).measurement


def probes_of(measurement: Measurement, indices: torch.Tensor) -> torch.Tensor:
    chunk = measurement.chunk(indices)
    return unshift_probe(chunk.probe, chunk.shifts)


def test_every_pattern_has_the_probe_that_ptychodus_gives_it(scan, measurement) -> None:
    variation = scan.probe_variation
    array = numpy.zeros((3, *scan.probe.shape), numpy.complex64)
    array[0], array[1:, 0] = scan.probe, variation.modes
    sequence = ProbeSequence(array, variation.weights, PixelGeometry(1e-8, 1e-8))
    wanted = numpy.stack([sequence[i].get_array() for i in range(36)])
    factor = measure_scan(scan).calibration
    found = probes_of(measurement, torch.arange(36)).numpy()
    numpy.testing.assert_allclose(found, factor * wanted, atol=1e-5 * numpy.abs(wanted).max())
    numpy.testing.assert_allclose(
        variation.probes(scan.probe, numpy.arange(36)), wanted, atol=1e-5 * numpy.abs(wanted).max()
    )


def test_the_counts_are_explained_by_the_truth(scan, measurement) -> None:
    measured = measure_scan(scan)
    canvas = torch.from_numpy(measured.cut(scan.truth, measurement.canvas_shape[1:]))[None]
    chunk = measurement.chunk(torch.arange(36))
    good = torch.from_numpy(numpy.fft.ifftshift(scan.good_pixels))
    expected = predict(canvas, chunk) * good / measured.calibration**2
    torch.testing.assert_close(expected, chunk.counts, rtol=1e-3, atol=1e-2)


def test_photons_are_those_of_the_probes_of_the_patterns(measurement: Measurement) -> None:
    probes = probes_of(measurement, torch.arange(36))
    power = intensity(probes).sum(dim=(-2, -1))
    visible = (intensity(to_detector(probes)) * measurement.good_pixels).sum(dim=(-2, -1))
    torch.testing.assert_close(measurement.power, power.mean())
    torch.testing.assert_close(measurement.visible_power, visible.mean())
    torch.testing.assert_close(measurement.sent(), visible.sum()[None])
    factors = torch.linspace(0.5, 1.5, 36)
    torch.testing.assert_close(
        replace(measurement, factors=factors).sent(), (visible * factors).sum()[None]
    )


def test_parts_keep_the_rows_tied(measurement: Measurement) -> None:
    chosen = torch.tensor([30, 4, 17])
    wanted = measurement.chunk(chosen).probe
    some, _ = measurement.part(chosen)
    torch.testing.assert_close(some.chunk(torch.arange(3)).probe, wanted)
    torch.testing.assert_close(
        some.select(torch.tensor([2, 0])).chunk(torch.arange(2)).probe, wanted[[2, 0]]
    )
    moved = some.select(torch.arange(3)).to(torch.device('cpu'))
    torch.testing.assert_close(moved.chunk(torch.arange(3)).probe, wanted)


def test_other_units_scale_all_of_the_probe(measurement: Measurement) -> None:
    indices = torch.arange(36)
    probe = measurement.chunk(indices).probe
    half = measurement.in_units_of(torch.tensor([0.5]))
    torch.testing.assert_close(half.chunk(indices).probe, 0.5 * probe)
    several = replace(
        measurement, rows=indices % 2, canvas_shape=(2, *measurement.canvas_shape[1:])
    )
    level = torch.tensor([0.5, 3.0])
    scaled = several.in_units_of(level)
    torch.testing.assert_close(
        scaled.chunk(indices).probe,
        level[several.rows][:, None, None, None] * probe,
        atol=1e-5 * float(probe.abs().max()),
        rtol=0.0,
    )
    each = intensity(probe).sum(dim=(-2, -1)) * level[several.rows].square()
    wanted = torch.stack([each[several.rows == row].mean() for row in (0, 1)])
    torch.testing.assert_close(scaled.power, wanted)


def test_frames_that_are_left_out_take_their_rows_with_them(scan: Scan) -> None:
    patterns = numpy.array(scan.patterns)
    patterns[[3, 20]] = 0.0
    spoilt = replace(scan, patterns=patterns)
    triage = examine_frames(spoilt)
    assert triage.left_out['empty'].tolist() == [3, 20]
    measured = measure_scan(spoilt, triage=triage)
    found = probes_of(measured.measurement, torch.arange(34)).numpy()
    wanted = scan.probe_variation.probes(scan.probe, measured.frames) * measured.calibration
    numpy.testing.assert_allclose(found, wanted, atol=1e-5 * numpy.abs(wanted).max())


def test_orthogonal_variations_make_the_same_intensities(measurement: Measurement) -> None:
    probe, variation = orthogonalise(measurement.probe, measurement.variation)
    basis = torch.cat([probe[:1], variation.modes]).flatten(1)
    gram = (basis.conj() @ basis.T).real
    torch.testing.assert_close(gram / gram[0, 0], torch.eye(3), atol=1e-4, rtol=0.0)
    torch.testing.assert_close(
        variation.weights.mean(dim=0), torch.tensor([1.0, 0.0, 0.0]), atol=1e-5, rtol=0.0
    )
    strength = variation.weights[:, 1:].square().sum(dim=0)
    assert strength[0] >= strength[1]
    same = replace(measurement, probe=probe, variation=variation)
    before, after = (probes_of(m, torch.arange(36))[:, 0].flatten(1) for m in (measurement, same))
    overlap = (before.conj() * after).sum(dim=1).abs()
    norms = torch.linalg.vector_norm(before, dim=1) * torch.linalg.vector_norm(after, dim=1)
    assert float((overlap / norms).min()) > 0.99


def test_weights_without_a_mean_stay_as_they_are(measurement: Measurement) -> None:
    weights = measurement.variation.weights.clone()
    weights[::2, 0], weights[1::2, 0] = 1.0, -1.0
    given = Variation(measurement.variation.modes, weights)
    probe, found = given.about_mean(measurement.probe)
    assert probe is measurement.probe and found is given
