"""The mapping between Ptychodus' product and our arrays."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy
import pytest
from ptychodus.api.object import Object
from ptychodus.api.probe import ProbeSequence

from ptychodus_pinn_torch.scan.io.products import (
    ProductArrays,
    arrays_of_product,
    grid_of_product,
    product_of_arrays,
)


@pytest.fixture
def arrays() -> ProductArrays:
    """Rectangular pixels, an asymmetric object off the centre, numbered positions."""
    rng = numpy.random.default_rng(4)
    return ProductArrays(
        positions_px=rng.uniform(8.0, 30.0, (23, 2)),
        probe=rng.normal(size=(2, 16, 16)) + 1j * rng.normal(size=(2, 16, 16)),
        object_=rng.normal(size=(41, 58)) + 1j * rng.normal(size=(41, 58)),
        pixel_size_m=(1.3e-8, 7e-9),
        object_center_m=(4.2e-5, -1.7e-6),
        metadata={'name': 'asymmetric', 'photon_energy_eV': 8333.0, 'tilt_angle_deg': 3.0},
        indexes=rng.permutation(100)[:23],
    )


def test_arrays_survive_the_way_through_a_product(arrays):
    found = arrays_of_product(product_of_arrays(arrays, [(1, 0.5)]))
    assert numpy.abs(found.positions_px - arrays.positions_px).max() < 1e-9
    numpy.testing.assert_array_equal(found.object_, arrays.object_)
    numpy.testing.assert_array_equal(found.probe, arrays.probe)
    numpy.testing.assert_array_equal(found.indexes, arrays.indexes)
    assert found.pixel_size_m == pytest.approx(arrays.pixel_size_m)
    assert found.object_center_m == pytest.approx(arrays.object_center_m)
    assert dict(arrays.metadata).items() <= dict(found.metadata).items()


def test_a_product_survives_the_way_through_arrays(arrays):
    product = product_of_arrays(arrays, [(1, 0.5)])
    again = product_of_arrays(arrays_of_product(product))
    assert again.metadata == product.metadata
    for one, other in zip(again.probe_positions, product.probe_positions, strict=True):
        assert (one.index, one.probe_photon_count) == (other.index, other.probe_photon_count)
        assert one.x_m == pytest.approx(other.x_m, abs=1e-17)
        assert one.y_m == pytest.approx(other.y_m, abs=1e-17)


def test_positions_are_where_ptychodus_puts_them(arrays):
    product = product_of_arrays(arrays)
    geometry = product.object_.get_geometry()
    y_px = geometry.map_probe_positions_to_object_y_px(product.probe_positions)
    x_px = geometry.map_probe_positions_to_object_x_px(product.probe_positions)
    assert numpy.abs(numpy.stack([y_px, x_px], -1) - arrays.positions_px).max() < 1e-9
    assert grid_of_product(product).shape == (41, 58)


def test_what_is_left_out_is_logged(arrays, caplog):
    product = product_of_arrays(arrays)
    layers = Object(
        numpy.stack([arrays.object_, 1j * arrays.object_]),
        product.object_.get_pixel_geometry(),
        product.object_.get_center(),
        layer_spacing_m=[1e-6],
    )
    probes = ProbeSequence(
        numpy.stack([arrays.probe, arrays.probe]),
        numpy.ones((23, 2)),
        product.probes.get_pixel_geometry(),
    )
    with caplog.at_level(logging.INFO):
        found = arrays_of_product(replace(product, object_=layers, probes=probes))
    numpy.testing.assert_array_equal(found.object_, arrays.object_)
    assert found.probe.shape == (2, 16, 16)
    assert '2 layers' in caplog.text and '2 coherent modes' in caplog.text
