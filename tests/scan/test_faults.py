"""What detectors, shutters and other programs do to patterns: read as what was measured, or left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest
from scipy import ndimage

from ptychodus_pinn_torch import simulate
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import Triage, examine_frames

NUMBER, SIZE = 81, 64


@pytest.fixture(scope='module')
def clean() -> Scan:
    return simulate(
        pattern_size=SIZE, num_positions=NUMBER, step_px=5.0, photons=3e4, object_kind='leaves',
        probe_kind='fzp', path='snake', seed=3,
    )  # fmt: skip


@pytest.fixture
def read(clean: Scan, tmp_path: Path) -> Callable[..., tuple[Scan, Triage]]:
    def write_and_read(patterns: Any, **more: Any) -> tuple[Scan, Triage]:
        y, x = clean.positions_px.T
        given = {'diff3d': patterns, 'xcoords': x, 'ycoords': y, 'probeGuess': clean.probe, **more}
        options = {key: given.pop(key) for key in ('diffraction_kind', 'gain') if key in given}
        numpy.savez(tmp_path / 'scan.npz', **given)
        scan = read_scan(tmp_path / 'scan.npz', **options)
        return scan, examine_frames(scan)

    return write_and_read


@dataclass
class Fault:
    """What is done to counts (N, H, W), and what must be told of it.

    Attributes:
        spoil: Changes a copy of the counts in place, or returns others.
        out: Frames that must be left out, and no others.
        bad: How many pixels must be bad.
        words: Of one of the sentences.
        wanted: What good frames and pixels must hold; the counts by default.
        options: Of reading, or arrays of the file.
    """

    spoil: Callable[[Any, numpy.random.Generator], Any]
    out: range = range(0)
    bad: int = 0
    words: str = ''
    wanted: Callable[[Any], Any] | None = None
    dtype: str = 'f4'
    options: dict[str, Any] = field(default_factory=dict)


def _put(index: Any, value: Any) -> Callable[[Any, Any], Any]:
    def spoil(counts: Any, _: numpy.random.Generator) -> Any:
        counts[index] = value
        return counts

    return spoil


def _hot(counts: Any, rng: numpy.random.Generator) -> Any:
    counts[:, 2, 3] = rng.poisson(1e5, NUMBER)
    return counts


def _stray(counts: Any, rng: numpy.random.Generator) -> Any:
    counts[40:] = 0
    for frame in range(40, NUMBER):
        y, x = rng.integers(SIZE, size=(2, rng.poisson(2.0)))
        counts[frame, y, x] += 1
    return counts


def _dark_taken_off(counts: Any, rng: numpy.random.Generator) -> Any:
    dark = rng.poisson(0.7, (50, SIZE, SIZE)).mean(axis=0)
    return numpy.maximum(counts + rng.poisson(0.7, counts.shape) - dark, 0.0)


def _frozen(counts: Any, _: numpy.random.Generator) -> Any:
    counts[30:] = counts[29]
    return counts


def _single_nans(counts: Any, rng: numpy.random.Generator) -> Any:
    y, x = rng.integers(SIZE, size=(2, NUMBER))
    counts[numpy.arange(NUMBER), y, x] = numpy.nan
    return counts


GAP, TOP = numpy.s_[:, 35:41], numpy.s_[27:54, : SIZE // 2]
AMPLITUDES = dict(spoil=lambda counts, _: numpy.sqrt(counts) * 0.013, words='units of 0.013')
FAULTS = {
    'hot pixel far from the middle': Fault(_hot, bad=1, words='hot'),
    **{
        f'failed frame, {dtype}': Fault(_put(5, value), range(5, 6), dtype=dtype)
        for dtype, value in (('u2', 65535), ('u4', 2**32 - 1), ('f4', 65535.0))
    },
    'a third of failed frames': Fault(_put(numpy.s_[5:32], 2**32 - 1), range(5, 32), dtype='u4'),
    **{
        f'gap of {value}, {dtype}': Fault(_put(GAP, value), bad=384, words='limit', dtype=dtype)
        for dtype, value in (('u4', 65535), ('i4', 65535), ('f4', 2**32 - 1), ('f8', 2**32 - 1))
    },
    'gap of -1 beside noise': Fault(
        lambda counts, rng: _put(GAP, -1)(counts + rng.normal(0, 0.4, counts.shape), rng),
        bad=384,
        wanted=lambda counts: counts,
        options={'diffraction_kind': 'counts'},
    ),
    **{
        f'floats, {unit} a photon': Fault(
            lambda counts, _, unit=unit: counts * unit, words=f'{unit}'
        )
        for unit in (120.3, 8047.8)
    },
    'amplitudes in their unit, told': Fault(
        **AMPLITUDES, options={'diffraction_kind': 'amplitude'}
    ),
    'amplitudes in their unit, marked': Fault(**AMPLITUDES, options={'diff3d_kind': 'amplitude'}),
    'amplitudes, gain of their squares': Fault(
        lambda counts, _: numpy.sqrt(7.5 * counts),
        options={'diffraction_kind': 'amplitude', 'gain': 7.5},
    ),
    'mean dark taken off': Fault(_dark_taken_off, wanted=lambda counts: counts),
    'background taken off': Fault(
        lambda counts, rng: counts + rng.poisson(1.0, counts.shape) - 1,
        dtype='i4',
        words='noise',
        wanted=lambda counts: counts,
    ),
    'shutter with stray counts': Fault(_stray, range(40, NUMBER), dtype='u4'),
    'frames that are none, more than half': Fault(
        _put(numpy.s_[40:], numpy.nan), range(40, NUMBER)
    ),
    'module that drops out for a third': Fault(_put(TOP, 0), range(27, 54), dtype='u4'),
    'frozen detector': Fault(_frozen, range(30, NUMBER), dtype='u4'),
    'single values that are none': Fault(_single_nans, words='no counts', wanted=lambda c: c),
}


@pytest.mark.parametrize('name', FAULTS)
def test_a_fault_is_told_and_costs_what_it_spoils_alone(
    clean: Scan, read: Callable[..., tuple[Scan, Triage]], name: str
) -> None:
    fault, counts = FAULTS[name], numpy.asarray(clean.patterns).astype('f8')
    spoilt = fault.spoil(counts.copy(), numpy.random.default_rng(5)).astype(fault.dtype)
    scan, triage = read(spoilt, **fault.options)
    kept = triage.kept(NUMBER)
    assert kept.tolist() == [frame for frame in range(NUMBER) if frame not in fault.out]
    assert (~scan.good_pixels).sum() == fault.bad
    told = ' '.join([finding.message for finding in scan.findings] + [triage.sentence()])
    assert fault.words in told
    assert 'fft-shifted' not in told
    found = scan.patterns[kept][:, scan.good_pixels]
    wanted = counts[kept][:, scan.good_pixels]
    if fault.wanted is None:
        numpy.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3)
    else:  # with its noise, or without a few of its values
        assert abs(found.mean() / wanted.mean() - 1.0) < 0.1


def test_the_edge_of_an_opaque_part_leaves_no_frame_out(
    clean: Scan, read: Callable[..., tuple[Scan, Triage]]
) -> None:
    y, x = clean.positions_px.T
    is_behind = x > numpy.median(x)
    dim = numpy.random.default_rng(1).poisson(0.03 * clean.patterns)
    scan, triage = read(numpy.where(is_behind[:, None, None], dim, clean.patterns).astype('u4'))
    assert len(triage.kept(NUMBER)) == NUMBER
    # the same in time is a shutter
    is_late = numpy.arange(NUMBER) > NUMBER // 2
    scan, triage = read(numpy.where(is_late[:, None, None], dim, clean.patterns).astype('u4'))
    assert len(triage.kept(NUMBER)) < 0.6 * NUMBER


TURNS: dict[str, Callable[[Any], Any]] = {
    'rows and columns of a raster': lambda patterns: patterns.reshape(9, 9, SIZE, SIZE),
    'an axis of length one': lambda patterns: patterns[:, None],
    'one more axis in front': lambda patterns: patterns[None],
    'frames last': lambda patterns: numpy.moveaxis(patterns, 0, -1),
}


@pytest.mark.parametrize('name', TURNS)
def test_patterns_come_in_every_usual_order(clean: Scan, read: Any, name: str) -> None:
    scan, _ = read(TURNS[name](clean.patterns))
    assert numpy.array_equal(scan.patterns, clean.patterns)


def test_frames_are_told_from_rows_where_all_axes_have_one_length(
    clean: Scan, read: Any, tmp_path: Path
) -> None:
    part = clean.select(numpy.arange(SIZE))
    y, x = part.positions_px.T
    for turned in (part.patterns, numpy.moveaxis(part.patterns, 0, -1)):
        scan, _ = read(turned, xcoords=x, ycoords=y)
        assert numpy.array_equal(scan.patterns, part.patterns)


@pytest.mark.parametrize(
    ('turn', 'words'),
    [
        (lambda probe: numpy.repeat(probe[:1], NUMBER, axis=0), '81 patterns'),
        (lambda probe: numpy.stack([probe[0].real, probe[0].imag]), 'real and imaginary'),
        (lambda probe: numpy.stack([probe[0].real, probe[0].imag], axis=-1), 'real and imaginary'),
        (lambda probe: numpy.fft.fftshift(probe, (1, 2)), 'fft-shifted'),
        (lambda probe: probe[0][..., None, None], ''),
    ],
    ids=['one a frame', 'two parts', 'two parts last', 'shifted', 'axes behind'],
)
def test_a_probe_is_turned_and_it_is_said(clean: Scan, read: Any, turn: Any, words: str) -> None:
    scan, _ = read(clean.patterns, probeGuess=turn(clean.probe))
    assert numpy.allclose(scan.probe, clean.probe[:1])
    assert words in ' '.join(finding.message for finding in scan.findings)


@pytest.mark.parametrize('turn', [lambda p: p.T, lambda p: p[:, None], lambda p: p[..., None]])
def test_positions_come_in_every_usual_order(clean: Scan, tmp_path: Path, turn: Any) -> None:
    path = tmp_path / 'scan.npz'
    numpy.savez(
        path, diff3d=clean.patterns, positions_px=turn(clean.positions_px), probe=clean.probe
    )
    moved = read_scan(path).positions_px - clean.positions_px
    assert numpy.ptp(moved, axis=0).max() < 1e-9


def test_positions_within_a_pixel_are_asked_about(clean: Scan, read: Any) -> None:
    y, x = 0.01 * clean.positions_px.T
    with pytest.raises(ValueError, match='check their unit'):
        read(clean.patterns, xcoords=x, ycoords=y)


def test_a_weak_sample_behind_a_ring_has_no_dead_pixels(tmp_path: Path) -> None:
    frequency = numpy.hypot(*numpy.meshgrid(*[numpy.arange(SIZE) - SIZE // 2] * 2, indexing='ij'))
    far_field = ((frequency > 8) & (frequency < 20)) * 30.0
    probe = numpy.fft.fftshift(numpy.fft.ifft2(numpy.fft.ifftshift(far_field), norm='ortho'))
    weak = far_field**2 * 1e-3 + ndimage.gaussian_filter(far_field**2, 1.5) * 2e-4
    patterns = numpy.random.default_rng(2).poisson(weak, (100, SIZE, SIZE)).astype('u4')
    y, x = numpy.divmod(numpy.arange(100), 10) * numpy.array([[4.0]])
    numpy.savez(tmp_path / 'ring.npz', diff3d=patterns, xcoords=x, ycoords=y, probe=probe[None])
    assert read_scan(tmp_path / 'ring.npz').good_pixels.all()
