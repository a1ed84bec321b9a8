"""Positions that are changed as a scan is read: the order of steps, the room for them, the words."""

from __future__ import annotations

import itertools
import logging
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch import PositionTransform, read_scan
from ptychodus_pinn_torch.scan.io.output import write_product, write_scan_npz
from ptychodus_pinn_torch.scan.positions import make_room
from ptychodus_pinn_torch.scan.scan import Scan, split_positions

EVERY = [PositionTransform(*flags) for flags in itertools.product((False, True), repeat=3)]


@pytest.fixture
def positions_px() -> numpy.ndarray:
    """A scan that no flip and no exchange maps onto itself."""
    return numpy.random.default_rng(0).uniform(0.0, [30.0, 50.0], (20, 2))


def test_axes_are_exchanged_first_then_flipped_then_scaled_about_the_centre():
    corner_px = numpy.array([[10.0, 20.0], [14.0, 30.0]])  # centre (12, 25), ends at (-2, -5)
    transform = PositionTransform(exchange_axes=True, flip_y=True, scale=3.0)
    numpy.testing.assert_allclose(transform.apply(corner_px), [[27.0, 19.0], [-3.0, 31.0]])


def test_flips_keep_the_box_and_every_change_its_centre(positions_px):
    box = positions_px.min(axis=0), positions_px.max(axis=0)
    for transform in EVERY:
        moved = replace(transform, scale=2.0).apply(positions_px)
        numpy.testing.assert_allclose(moved.min(axis=0) + moved.max(axis=0), sum(box), atol=1e-9)
        if not transform.moves_the_border:
            numpy.testing.assert_allclose(transform.apply(positions_px).min(axis=0), box[0])


@pytest.mark.parametrize('first', EVERY)
def test_one_change_after_another_is_one_change(first, positions_px):
    for second in EVERY:
        both = replace(first, scale=0.5).then(replace(second, scale=3.0))
        one = replace(second, scale=3.0).apply(replace(first, scale=0.5).apply(positions_px))
        numpy.testing.assert_allclose(both.apply(positions_px), one, atol=1e-9)


def test_words_and_flags_of_a_change():
    transform = PositionTransform(True, True, False, 1.02)
    assert transform.describe() == 'axes exchanged, y flipped, scaled by 1.02'
    assert transform.flags() == '--exchange-axes --flip-y --scale-positions 1.02'
    assert PositionTransform().is_nothing and not PositionTransform().flags()


@pytest.mark.parametrize('scale', [0.0, -1.0, float('nan'), float('inf')])
def test_a_scale_that_is_not_positive_is_refused(scale):
    with pytest.raises(ValueError, match='must be positive'):
        PositionTransform(scale=scale)


@pytest.fixture
def pair(tmp_path: Path, tiny_scan: Scan) -> Path:
    """An NPZ with truth and a centre of its own."""
    return write_scan_npz(tmp_path / 'scan.npz', replace(tiny_scan, object_center_m=(1e-6, -2e-6)))


def test_flips_leave_object_and_truth_alone(pair: Path, caplog):
    given = read_scan(pair)
    with caplog.at_level(logging.INFO):
        scan = read_scan(pair, positions=PositionTransform(flip_y=True))
    assert 'Positions: y flipped.' in caplog.text
    assert scan.object_center_m == given.object_center_m
    numpy.testing.assert_array_equal(scan.truth, given.truth)
    numpy.testing.assert_allclose(scan.positions_px[:, 1], given.positions_px[:, 1])
    offset_px = scan.positions_px[:, 0] + given.positions_px[:, 0]
    numpy.testing.assert_allclose(offset_px, offset_px[0])


def test_an_object_that_does_not_hold_the_positions_is_enlarged_and_stays_in_place(
    pair: Path, caplog
):
    given, transform = read_scan(pair), PositionTransform(exchange_axes=True, scale=2.0)
    with caplog.at_level(logging.INFO):
        scan = read_scan(pair, positions=transform)
    assert 'the object is enlarged from 57 x 69' in caplog.text
    corners, _ = split_positions(scan.positions_px, scan.pattern_shape)
    room = numpy.asarray(scan.object_.shape) - scan.pattern_shape - corners
    assert corners.min() >= 0 and room.min() >= 0 and scan.truth.shape == scan.object_.shape

    def place_m(item: Scan, pixel: numpy.ndarray) -> numpy.ndarray:
        middle = (numpy.asarray(item.object_.shape) - 1.0) / 2.0
        return (pixel - middle) * item.pixel_size_m + item.object_center_m

    numpy.testing.assert_allclose(
        place_m(scan, scan.positions_px),
        place_m(given, transform.apply(given.positions_px)),
        atol=1e-15,
    )
    moved_px = scan.positions_px - transform.apply(given.positions_px)
    y, x = numpy.rint(moved_px[0]).astype(int)
    numpy.testing.assert_array_equal(scan.truth[y : y + 57, x : x + 69], given.truth)
    assert make_room(scan) is scan, 'there is room already'


def test_a_scan_without_object_gets_one_that_fits(tmp_path: Path, tiny_scan: Scan):
    y_px, x_px = tiny_scan.positions_px.T
    arrays = {'diff3d': tiny_scan.patterns, 'probeGuess': tiny_scan.probe}
    numpy.savez(tmp_path / 'scan.npz', xcoords=x_px, ycoords=y_px, **arrays)
    given = read_scan(tmp_path / 'scan.npz')
    scan = read_scan(tmp_path / 'scan.npz', positions=PositionTransform(exchange_axes=True))
    assert scan.object_.shape == given.object_.shape[::-1]


def test_a_product_is_read_with_its_positions_changed(tmp_path: Path, tiny_scan: Scan, pair: Path):
    from ptychodus.api.assemble import AssembledDiffractionData
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.io import save_diffraction_data

    data = AssembledDiffractionData(
        numpy.arange(tiny_scan.num_patterns),
        numpy.asarray(tiny_scan.patterns),
        PixelGeometry(75e-6, 75e-6),
        ~tiny_scan.good_pixels,
    )
    save_diffraction_data(tmp_path / 'diffraction.h5', data)
    probe, path = tiny_scan.probe, tmp_path / 'product.h5'
    write_product(path, tiny_scan, tiny_scan.truth, tiny_scan.positions_px, probe, [(1, 0.5)])
    change = PositionTransform(flip_x=True, scale=0.9)
    scan = read_scan(tmp_path, positions=change)
    expected = change.apply(read_scan(tmp_path).positions_px)
    numpy.testing.assert_allclose(scan.positions_px, expected, atol=1e-6)


def test_a_change_that_needs_a_huge_object_is_refused(pair: Path):
    with pytest.raises(ValueError, match=r'need an object of .* check --scale-positions'):
        read_scan(pair, positions=PositionTransform(scale=1e5))


def test_positions_in_a_wrong_unit_can_be_scaled_into_the_object(tmp_path: Path, tiny_scan: Scan):
    wrong = PositionTransform(scale=10.0).apply(tiny_scan.positions_px)
    path = write_scan_npz(tmp_path / 'scan.npz', replace(tiny_scan, positions_px=wrong))
    with pytest.raises(ValueError, match='--scale-positions'):
        read_scan(path)
    scan = read_scan(path, positions=PositionTransform(scale=0.1))
    numpy.testing.assert_allclose(scan.positions_px, tiny_scan.positions_px, atol=1e-6)
    assert scan.object_.shape == tiny_scan.object_.shape
