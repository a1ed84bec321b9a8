"""Whether patterns are counts or amplitudes, and in which unit, is told by their values alone."""

from __future__ import annotations

import numpy
import pytest

from ptychodus_pinn_torch.scan.io.kinds import recognise_kind


@pytest.fixture(scope='module')
def counts() -> numpy.ndarray:
    rng = numpy.random.default_rng(5)
    return rng.poisson(rng.exponential(30.0, 8 * 24 * 24)).astype(numpy.float32)


@pytest.mark.parametrize('unit', [1.0, 0.37, 1e-4, 12.5, 7.0])
@pytest.mark.parametrize('is_amplitude', [False, True])
def test_values_come_back_as_counts(counts: numpy.ndarray, unit: float, is_amplitude: bool) -> None:
    values = (numpy.sqrt(counts) if is_amplitude else counts) * numpy.float32(unit)
    found = recognise_kind(values)
    assert found is not None and found.is_amplitude == is_amplitude
    assert numpy.allclose(found.to_counts(values), counts, rtol=1e-3, atol=1e-3)
    assert (f'{unit:.6g}' in found.describe()) == (unit != 1.0)


@pytest.mark.parametrize('gain', [2, 7, 13])
def test_whole_numbers_with_a_common_divisor_are_so_many_units_a_photon(
    counts: numpy.ndarray, gain: int
) -> None:
    values = (counts * gain).astype(numpy.uint32)
    values[::5000] += 1_000_003  # spikes have no divisor
    found = recognise_kind(values)
    assert found is not None and found.factor == pytest.approx(1.0 / gain)


@pytest.mark.parametrize('gain', [1.7, 2.4, 3.6])
@pytest.mark.parametrize('rounded', [numpy.rint, numpy.floor])
def test_units_that_were_rounded_are_found(counts: numpy.ndarray, gain: float, rounded) -> None:
    found = recognise_kind(rounded(counts * gain).astype(numpy.uint16))
    assert found is not None and found.factor == pytest.approx(1.0 / gain, rel=0.01)


@pytest.mark.parametrize('mean', [0.05, 0.5, 3.0, 30.0, 300.0, 1e5])
def test_counts_of_every_brightness_are_counts(mean: float) -> None:
    for seed in range(20):
        rng = numpy.random.default_rng(seed)
        for rate in (rng.exponential(mean, 40_000), numpy.full(40_000, mean)):
            found = recognise_kind(rng.poisson(rate).astype(numpy.uint32))
            assert found is not None and found.is_plain, (mean, seed, found)


def test_single_photons_may_be_missing(counts: numpy.ndarray) -> None:
    values = numpy.sqrt(numpy.where(counts == 1.0, 0.0, counts)) * numpy.float32(0.2)
    found = recognise_kind(values)
    assert found is not None and found.is_amplitude
    assert found.factor == pytest.approx(25.0, rel=1e-4)


def test_integers_are_counts_and_other_numbers_tell_nothing(counts: numpy.ndarray) -> None:
    found = recognise_kind(counts.astype(numpy.uint16))
    assert found is not None and found.is_plain
    rng = numpy.random.default_rng(0)
    for values in (
        counts + rng.random(counts.shape),
        rng.random(300),
        numpy.sqrt(counts) + 0.1,
    ):
        assert recognise_kind(values.astype(numpy.float32)) is None
