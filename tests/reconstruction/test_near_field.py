"""Patterns of the near field are named; shadows of a bent beam, which move as well, are not."""

from __future__ import annotations

import numpy
import pytest
from scipy import ndimage

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.checks.preflight import examine_scan
from ptychodus_pinn_torch.reconstruction.near_field import describe_near_field
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import examine_frames

NUMBER, SIZE, SCALE = 100, 64, 0.1


def test_images_of_a_sample_that_moves_are_no_patterns(tmp_path) -> None:
    rng = numpy.random.default_rng(3)
    y, x = numpy.divmod(numpy.arange(NUMBER), 10) * numpy.array([[40.0]]) + rng.uniform(
        0, 8, (2, 1)
    )
    sample = ndimage.gaussian_filter(rng.normal(size=(160, 160)), 2.0)
    sample = 1.0 + 0.3 * sample / sample.std()
    places = numpy.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    beam = 900.0 * numpy.exp(-(places**2).sum(axis=0) / (2 * 16.0**2))
    images = [
        beam
        * ndimage.shift(sample, (SCALE * a, SCALE * b), order=1)[40 : 40 + SIZE, 40 : 40 + SIZE]
        for a, b in zip(y, x)
    ]
    counts = rng.poisson(numpy.clip(images, 0, None)).astype(numpy.uint32)
    numpy.savez(tmp_path / 'near.npz', diff3d=counts, xcoords=x, ycoords=y)
    scan = pinn.read_scan(tmp_path / 'near.npz')
    found = [each for each in examine_scan(scan) if each.topic == 'far field']
    assert [each.level for each in found] == ['error']
    assert 'near field' in found[0].message and '0.1 detector pixels' in found[0].message


@pytest.mark.parametrize('probe_kind', ['fzp', 'disk', 'kb'])
@pytest.mark.parametrize('step_px', [3.0, 8.0])
def test_patterns_of_the_far_field_are_not_named(probe_kind: str, step_px: float) -> None:
    scan = pinn.simulate(num_positions=144, step_px=step_px, probe_kind=probe_kind, seed=1)
    assert describe_near_field(scan, examine_frames(scan)) == ''


@pytest.mark.parametrize('part', [slice(None), slice(0, 5)])
def test_a_measured_scan_of_the_far_field_is_not_named(small_real_scan: Scan, part: slice) -> None:
    scan = small_real_scan.select(numpy.arange(small_real_scan.num_patterns)[part])
    assert describe_near_field(scan, examine_frames(scan)) == ''
