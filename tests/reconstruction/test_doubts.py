"""Images that explain their counts and are doubtful all the same."""

from dataclasses import replace

import numpy
import pytest

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan


def scan_of(seed: int, kind: str, step_px: float, photons: float) -> Scan:
    return simulate_scan(
        SimulationSpec(
            object_kind=kind, seed=seed, num_positions=196, step_px=step_px, photons=photons
        )
    )


def scaled(scan: Scan, scale: float) -> Scan:
    positions_px = pinn.PositionTransform(scale=scale).apply(scan.positions_px)
    low = (numpy.asarray(scan.pattern_shape) - 1.0) / 2.0
    high = numpy.asarray(scan.object_.shape) - 1.0 - low
    return replace(scan, positions_px=numpy.clip(positions_px, low, high))


@pytest.mark.parametrize(
    ('seed', 'kind', 'step_px', 'photons'),
    [(15, 'leaves', 6.0, 34666.4), (65, 'independent', 6.0, 113954.0)],
)
def test_positions_of_a_wrong_scale_make_an_image_doubtful(
    seed: int, kind: str, step_px: float, photons: float
) -> None:
    scan = scan_of(seed, kind, step_px, photons)
    assert pinn.reconstruct(scan).trust.verdict == 'right'
    trust = pinn.reconstruct(scaled(scan, 0.9)).trust
    assert trust.verdict == 'doubtful'
    assert '--scale-positions' in trust.sentence or 'check' in trust.sentence


def test_a_background_that_drowns_the_light_is_said() -> None:
    scan = scan_of(6, 'leaves', 4.0, 1e5)
    noise = numpy.random.default_rng(0).poisson(2.0, scan.patterns.shape)
    trust = pinn.reconstruct(
        replace(scan, patterns=(scan.patterns + noise).astype(numpy.uint32))
    ).trust
    assert trust.verdict == 'doubtful' and 'background' in trust.sentence


def test_a_beam_that_flickers_is_said() -> None:
    scan = scan_of(8, 'independent', 4.0, 4e5)
    rng = numpy.random.default_rng(0)
    counts = rng.binomial(numpy.asarray(scan.patterns), rng.uniform(0.6, 1.0, (196, 1, 1)))
    trust = pinn.reconstruct(replace(scan, patterns=counts.astype(numpy.uint32))).trust
    assert trust.verdict == 'doubtful' and 'brightness' in trust.sentence


def test_a_wrong_probe_that_was_found_is_not_taken_for_a_wrong_scale() -> None:
    scan = scan_of(20, 'photo', 4.0, 3e5)
    frequency = numpy.fft.fftfreq(64)
    squared = frequency[:, None] ** 2 + frequency[None] ** 2
    for strength in (150.0, 400.0):
        defocused = numpy.fft.ifft2(
            numpy.fft.fft2(scan.probe) * numpy.exp(-1j * strength * squared)
        )
        image = pinn.reconstruct(replace(scan, probe=defocused.astype(numpy.complex64)))
        assert 'probe' in image.freed and image.trust.verdict == 'right'
