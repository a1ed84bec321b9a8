"""A beam beside the middle of the detector: the image has a ramp, and is as good as any other."""

from dataclasses import replace

import numpy
import pytest

from ptychodus_pinn_torch.backend import Reconstruction, ReconstructRequest
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask, data_error
from ptychodus_pinn_torch.reconstruction import centring
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

SPEC = SimulationSpec(
    object_kind='independent', seed=89, num_positions=196, step_px=4.0, photons=612192.0
)


def image_of(scan: Scan, **options: object) -> Reconstruction:
    settings = {f'reconstruction.{name}': value for name, value in options.items()}
    config = override_config(Config(), settings)
    return reconstruct(ReconstructRequest(scan, config), lambda _: None)


def error_of(scan: Scan, image: Reconstruction) -> float:
    return compare_objects(image.object_, scan.truth, weights=coverage_mask(scan)).nrmse


@pytest.fixture(scope='module')
def scan() -> Scan:
    return simulate_scan(SPEC)


def moved(scan: Scan, shift: tuple[int, int]) -> Scan:
    return replace(scan, patterns=numpy.roll(scan.patterns, shift, axis=(1, 2)))


def test_an_image_of_patterns_beside_the_middle_is_as_good_as_of_those_in_it(
    scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    off = moved(scan, (1, 1))
    image, centred = image_of(off), image_of(scan)
    assert error_of(scan, image) < 1.1 * error_of(scan, centred)
    assert any('beside the middle' in message for message in image.messages)
    assert not any('beside the middle' in message for message in centred.messages)
    monkeypatch.setattr(centring, 'LEAST_OFFSET_PX', 99.0)
    assert error_of(scan, image_of(off)) > 1.5 * error_of(scan, image)


def test_object_and_given_probe_explain_the_patterns_together(scan: Scan) -> None:
    off = moved(scan, (2, -1))
    image = image_of(off)
    numpy.testing.assert_array_equal(image.probe, scan.probe)
    assert data_error(off, image.object_, image.probe) < 1.1 * data_error(
        scan, image_of(scan).object_, scan.probe
    )


def test_a_freed_probe_comes_back_without_the_tilt(scan: Scan) -> None:
    off = moved(scan, (1, 1))
    image = image_of(off, update_probe=True)
    overlap = abs(numpy.vdot(image.probe[0], scan.probe[0])) / (
        numpy.linalg.norm(image.probe[0]) * numpy.linalg.norm(scan.probe[0])
    )
    assert overlap > 0.99
    assert data_error(off, image.object_, image.probe) < 1.1 * data_error(
        scan, image_of(scan).object_, scan.probe
    )
