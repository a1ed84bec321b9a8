"""Fields, beams, and the random scans that are made of them."""

from __future__ import annotations

import numpy
import pytest

from ptychodus_pinn_torch.simulation.random_scans import random_object, random_probe, random_scan
from ptychodus_pinn_torch.simulation.sample_objects import (
    paint_blobs,
    paint_gaussian_field,
    paint_leaves,
    paint_lines,
    paint_star,
    radius_about,
)
from ptychodus_pinn_torch.simulation.sample_probes import focus_beam, paint_disk, rms_radius_px

SHAPE = (60, 84)
PAINTERS = {
    'leaves': lambda rng: paint_leaves(rng, SHAPE, 80, (2.0, 12.0), 1.2),
    'boxes': lambda rng: paint_leaves(rng, SHAPE, 80, (2.0, 12.0), 1.2, box_odds=1.0),
    'star': lambda rng: paint_star(SHAPE, 12, outer_px=25.0, angle_rad=rng.random()),
    'gaussian': lambda rng: paint_gaussian_field(rng, SHAPE, lambda f: 1.0 / f),
    'lines': lambda rng: paint_lines(rng, SHAPE, 9),
    'blobs': lambda rng: paint_blobs(rng, SHAPE, 20),
}


@pytest.mark.parametrize('name', PAINTERS)
def test_fields_lie_between_zero_and_one_and_follow_the_seed(name):
    first, again, other = (PAINTERS[name](numpy.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.shape == SHAPE and first.min() >= 0.0 and first.max() <= 1.0
    assert numpy.ptp(first) > 0.5
    numpy.testing.assert_array_equal(first, again)
    assert not numpy.array_equal(first, other)


def test_a_star_is_half_covered_by_spokes_and_empty_outside():
    star = paint_star((101, 101), 18, outer_px=40.0)
    radius = radius_about(numpy.full(2, 50.0), (101, 101))
    assert numpy.all(star[radius > 41.0] == 0.0)
    assert star[radius < 38.0].mean() == pytest.approx(0.5, abs=0.01)


def test_a_gaussian_disc_has_the_radius_that_is_known():
    axis = numpy.arange(64) - 30.0
    spot = numpy.exp(-(axis[:, None] ** 2 + (axis + 3.0) ** 2) / (4.0 * 5.0**2))
    assert rms_radius_px(spot) == pytest.approx(5.0 * numpy.sqrt(2.0), rel=1e-6)


def test_defocus_moves_the_rays_of_the_rim_by_what_was_asked():
    beam = focus_beam(128, aperture=0.15, edge=0.001, spread_px=30.0)
    # A geometric disc of that radius has this root-mean-square radius; diffraction adds a little.
    assert rms_radius_px(beam) == pytest.approx(30.0 / numpy.sqrt(2.0), rel=0.1)


def test_a_disc_has_its_edge_where_it_was_asked():
    disk = numpy.abs(paint_disk(65, radius_px=12.0, edge_px=1.0))
    assert disk[32, 44] == pytest.approx(0.5) and disk[32, 32] > 0.99 and disk[0, 0] < 1e-6


@pytest.mark.parametrize('num_modes', [1, 2, 3])
def test_random_modes_are_orthogonal_and_share_unit_power(num_modes):
    for seed in range(8):
        probe = random_probe(numpy.random.default_rng(seed), 48, num_modes).astype(complex)
        gram = numpy.einsum('pyx,qyx->pq', probe, probe.conj())
        powers = numpy.diag(gram).real
        assert powers.sum() == pytest.approx(1.0, rel=1e-5)
        assert numpy.all(numpy.diff(powers) < 0.0)
        assert numpy.abs(gram - numpy.diag(numpy.diag(gram))).max() < 1e-5


def test_random_objects_are_of_every_kind_and_never_amplify():
    for seed in range(12):
        object_ = random_object(numpy.random.default_rng(seed), 72)
        assert object_.shape == (72, 72) and numpy.isfinite(object_).all()
        assert numpy.abs(object_).max() <= 1.0 + 1e-5


def test_a_random_scan_stays_on_its_canvas():
    for seed in range(8):
        scan = random_scan(
            numpy.random.default_rng(seed),
            pattern_size=32, canvas_size=64, num_patterns=16, num_modes=2,
        )  # fmt: skip
        corners = scan.positions_px - 15.5
        assert scan.positions_px.shape == (16, 2)
        assert corners.min() > -0.5 and corners.max() < 32.5
        assert 10**2.6 < numpy.sum(numpy.abs(scan.probe) ** 2) < 10**7.1
