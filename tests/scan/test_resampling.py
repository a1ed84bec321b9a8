"""Cropping and binning the detector: the physics must still explain the counts."""

from __future__ import annotations

from dataclasses import replace

import numpy
import pytest

from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask, data_error
from ptychodus_pinn_torch.scan.probe_variation import ProbeVariation
from ptychodus_pinn_torch.scan.resampling import bin_scan, crop_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.reference_model import predict_counts
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


@pytest.fixture(scope='module')
def fine_scan() -> Scan:
    """A scan of a smooth object with a probe that fills a quarter of its window."""
    scan = simulate_scan(
        SimulationSpec(
            pattern_size=64, num_positions=16, object_kind='noise', has_noise=False, photons=1e7
        )
    )
    axis = numpy.arange(64) - 31.5
    gauss = numpy.exp(-(axis[:, None] ** 2 + (axis[None, :] - 1.0) ** 2) / (2 * 4.0**2))
    probe = (gauss * numpy.sqrt(1e7 / numpy.sum(gauss**2))).astype(numpy.complex64)[None]
    counts = predict_counts(scan.truth, probe, scan.positions_px)
    return replace(scan, probe=probe, patterns=numpy.rint(counts).astype(numpy.uint32))


def test_binned_counts_are_conserved_and_explained(fine_scan: Scan):
    binned = bin_scan(fine_scan, 2)
    assert binned.pattern_shape == (32, 32)
    numpy.testing.assert_array_equal(
        binned.patterns.sum(axis=(1, 2)), fine_scan.patterns.sum(axis=(1, 2))
    )
    numpy.testing.assert_array_equal(binned.positions_px, fine_scan.positions_px)
    before = data_error(fine_scan, fine_scan.truth, fine_scan.probe)
    assert before < 1e-4
    # A bin is an integral over the window and the model a value at its centre: not exact.
    assert data_error(binned, binned.truth, binned.probe) < 0.002
    unshifted = fine_scan.probe[:, 16:48, 16:48]
    assert data_error(binned, binned.truth, unshifted) > 10 * data_error(
        binned, binned.truth, binned.probe
    )


def test_a_bin_is_good_where_all_its_pixels_are(fine_scan: Scan):
    good = numpy.ones((64, 64), dtype=bool)
    good[10, 21] = False
    binned = bin_scan(replace(fine_scan, good_pixels=good), 2)
    assert not binned.good_pixels[5, 10] and binned.good_pixels.sum() == 32 * 32 - 1
    numpy.testing.assert_array_equal(binned.patterns[:, 0, 0], fine_scan.patterns[:, :2, :2].sum((1, 2)))  # fmt: skip


@pytest.mark.parametrize(
    'change', [lambda scan: crop_scan(scan, 32), lambda scan: bin_scan(scan, 2)]
)
def test_a_varying_probe_changes_as_a_probe_does(fine_scan: Scan, change):
    variation = ProbeVariation(0.5j * fine_scan.probe, numpy.ones((16, 2)))
    changed = change(replace(fine_scan, probe_variation=variation))
    numpy.testing.assert_allclose(
        changed.probe_variation.modes, 0.5j * changed.probe, atol=1e-4 * abs(changed.probe).max()
    )
    assert changed.probe_variation.weights.shape == (16, 2)


@pytest.mark.parametrize('dtype', [numpy.uint8, numpy.uint16, numpy.int16, numpy.float32])
def test_sums_do_not_overflow(fine_scan: Scan, dtype):
    largest = 100 if dtype == numpy.uint8 else 30000
    patterns = numpy.full((16, 64, 64), largest, dtype=dtype)
    binned = bin_scan(replace(fine_scan, patterns=patterns), 8)
    assert numpy.all(binned.patterns == 64 * largest)


@pytest.mark.parametrize('size', [48, 32])
def test_cropped_counts_are_explained_on_the_coarser_grid(fine_scan: Scan, size):
    cropped = crop_scan(fine_scan, size)
    assert cropped.patterns.base is not None, 'cropping is a view'
    assert cropped.pixel_size_m[0] == pytest.approx(fine_scan.pixel_size_m[0] * 64 / size)
    error = data_error(cropped, cropped.truth, cropped.probe)
    flat = data_error(cropped, numpy.ones_like(cropped.truth), cropped.probe)
    assert error < 0.01 * flat
    for move in ((0.25, 0.0), (-0.25, 0.0), (0.0, 0.25), (0.0, -0.25)):
        moved = cropped.positions_px + numpy.asarray(move)
        assert data_error(cropped, cropped.truth, cropped.probe, positions_px=moved) > 1.3 * error


def test_cropping_keeps_the_middle_pixel_in_the_middle(fine_scan: Scan):
    cropped = crop_scan(fine_scan, 32)
    numpy.testing.assert_array_equal(cropped.patterns[:, 16, 16], fine_scan.patterns[:, 32, 32])


def test_cropping_keeps_positions_in_metres(fine_scan: Scan):
    def in_metres(scan: Scan) -> numpy.ndarray:
        middle = (numpy.asarray(scan.object_.shape) - 1) / 2
        return (scan.positions_px - middle) * numpy.asarray(scan.pixel_size_m)

    numpy.testing.assert_allclose(in_metres(crop_scan(fine_scan, 40)), in_metres(fine_scan))


def test_measured_scan_survives_cropping(small_real_scan: Scan):
    cropped = crop_scan(small_real_scan, 96)
    error = data_error(cropped, cropped.object_, cropped.probe)
    flat = data_error(cropped, numpy.ones_like(cropped.object_), cropped.probe)
    assert error < 0.0095 < 0.2 * flat
    resampled = compare_objects(cropped.object_, cropped.object_, weights=coverage_mask(cropped))
    assert resampled.nrmse < 1e-6


@pytest.mark.parametrize('size', [0, -2, 33, 66])
def test_impossible_crops_are_refused(fine_scan: Scan, size):
    with pytest.raises(ValueError, match='cannot crop patterns of 64 x 64 pixels'):
        crop_scan(fine_scan, size)


@pytest.mark.parametrize('factor', [0, -1, 3, 64])
def test_impossible_bins_are_refused(fine_scan: Scan, factor):
    with pytest.raises(ValueError, match='cannot bin patterns of 64 pixels'):
        bin_scan(fine_scan, factor)
