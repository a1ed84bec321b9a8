"""Whether patterns are counts or amplitudes, and in which unit, is told by their values alone."""

from __future__ import annotations

import logging

import numpy
import pytest

from ptychodus_pinn_torch.scan.diffraction_kind import recognise_kind


@pytest.fixture(scope='module')
def counts() -> numpy.ndarray:
    rng = numpy.random.default_rng(5)
    return rng.poisson(rng.exponential(30.0, (8, 24, 24))).astype(numpy.float32)


@pytest.mark.parametrize('unit', [1.0, 0.37, 1e-4, 12.5])
@pytest.mark.parametrize('is_amplitude', [False, True])
def test_values_come_back_as_counts(
    counts: numpy.ndarray, unit: float, is_amplitude: bool, caplog: pytest.LogCaptureFixture
) -> None:
    values = (numpy.sqrt(counts) if is_amplitude else counts) * numpy.float32(unit)
    with caplog.at_level(logging.WARNING):
        found = recognise_kind(values, 'scan.npz', 'say which')
    assert found.is_amplitude == is_amplitude
    assert numpy.allclose(found.to_counts(values), counts, rtol=1e-3, atol=1e-3)
    assert ('which its values prove' in caplog.text) == (unit != 1.0)


def test_single_photons_may_be_missing(counts: numpy.ndarray) -> None:
    values = numpy.sqrt(numpy.where(counts == 1.0, 0.0, counts)) * numpy.float32(0.2)
    found = recognise_kind(values, 'scan.npz', 'say which')
    assert found.is_amplitude and found.factor == pytest.approx(25.0, rel=1e-4)


def test_integers_are_counts_and_other_numbers_tell_nothing(counts: numpy.ndarray) -> None:
    assert recognise_kind(counts.astype(numpy.uint16), 'scan.npz', 'say which').is_plain
    rng = numpy.random.default_rng(0)
    for values in (
        counts + rng.random(counts.shape),
        rng.random((4, 8, 8)),
        numpy.sqrt(counts) + 0.1,
    ):
        with pytest.raises(
            ValueError, match='scan.npz: diff3d may hold counts or amplitudes.*say which'
        ):
            recognise_kind(values.astype(numpy.float32), 'scan.npz', 'say which')
