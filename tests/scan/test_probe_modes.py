"""Modes that are copies of each other are found, whatever their factor, phase and order."""

from __future__ import annotations

import numpy
import pytest

from ptychodus_pinn_torch.scan.probe_modes import (
    add_mode,
    describe_similar_modes,
    find_similar_modes,
    separate_modes,
)
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.simulation.sample_probes import make_probe


@pytest.fixture
def probe() -> numpy.ndarray:
    """Three orthogonal modes."""
    return make_probe('disk', 64, num_modes=3, photons=1e6)


def test_orthogonal_modes_and_dark_ones_are_no_copies(probe, real_scan: Scan):
    dark = numpy.zeros_like(probe[:2])
    assert find_similar_modes(numpy.concatenate([probe, dark])) == []
    assert find_similar_modes(probe[:1]) == [] and describe_similar_modes(probe) == ''
    assert find_similar_modes(real_scan.probe) == []


def test_a_copy_is_found_in_whatever_brightness_phase_and_order(probe):
    noise = numpy.random.default_rng(0).normal(size=probe[0].shape) * 0.1 * numpy.abs(probe[0])
    copy = (0.3j * (probe[0] + noise)).astype(numpy.complex64)
    for order in ([0, 1], [1, 0]):
        ((first, second, overlap),) = find_similar_modes(numpy.stack([probe[0], copy])[order])
        assert (first, second) == (0, 1) and 0.95 < overlap < 1.0


def test_the_sentence_names_modes_overlap_and_the_flag_that_mends_it(probe):
    copies = numpy.stack([probe[0], 0.5 * probe[0], 0.2 * probe[0]])
    text = describe_similar_modes(copies)
    assert 'Of the 3 probe modes' in text and '1 and 2 (100 %), 1 and 3 (100 %)' in text
    assert 'pass --physics.num-probe-modes 1 to reconstruct and train' in text
    first_are_copies = numpy.stack([probe[0], 0.9 * probe[0], 0.2 * probe[1]])
    text = describe_similar_modes(first_are_copies)
    assert '1 and 2 (100 %)' in text and 'give a probe with orthogonal modes' in text
    assert '--physics' not in text, 'it would leave out a mode of its own'


def test_copies_give_way_to_orthogonal_modes_of_their_power(probe):
    given = numpy.stack([0.3 * probe[0], probe[0], 0.5j * probe[0], 0.1 * probe[1]])
    parted = separate_modes(given.astype(numpy.complex64))
    assert find_similar_modes(parted) == []
    flat = parted.reshape(len(parted), -1)
    gram = numpy.abs(flat.conj() @ flat.T)
    power = (numpy.abs(given) ** 2).sum(axis=(1, 2))
    numpy.testing.assert_allclose(numpy.diag(gram), numpy.sort(power)[::-1], rtol=1e-4)
    numpy.testing.assert_allclose(gram - numpy.diag(numpy.diag(gram)), 0.0, atol=1e-3 * power.max())
    numpy.testing.assert_allclose(separate_modes(probe), probe, atol=1e-3 * numpy.abs(probe).max())


def test_new_modes_are_orthogonal_and_take_their_power_from_the_others(probe):
    modes = probe[:1]
    for _ in range(4):
        before, modes = modes, add_mode(modes, 0.1)
        assert len(modes) == len(before) + 1
        flat = modes.reshape(len(modes), -1)
        gram = numpy.abs(flat.conj() @ flat.T)
        total = (numpy.abs(before) ** 2).sum()
        assert gram.trace() == pytest.approx(total, rel=1e-4)
        assert gram[-1, -1] == pytest.approx(0.1 * total, rel=1e-4)
        numpy.testing.assert_allclose(gram[-1, :-1], 0.0, atol=1e-4 * total)
