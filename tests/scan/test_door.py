"""Whatever layout, type, order, kind and damage a scan comes in: the same arrays, or a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.scan.triage import examine_frames

PIXEL_M = (1e-8, 1.25e-8)
Arrays = dict[str, Any]


@dataclass(frozen=True)
class Written:
    """A scan as it was written: what reading it must give, and what must be called bad."""

    arrays: Arrays
    counts: numpy.ndarray
    bad_pixels: numpy.ndarray
    bad_frames: frozenset[int]


def write(path: Path, layout: str, arrays: Arrays) -> Path:
    """Writes arrays by name in a layout."""
    if layout == 'npz':
        numpy.savez(path.with_suffix('.npz'), **arrays)
        return path.with_suffix('.npz')
    if layout == 'packed npz':
        numpy.savez_compressed(path.with_suffix('.npz'), **arrays)
        return path.with_suffix('.npz')
    if layout == 'mat':
        savemat(path.with_suffix('.mat'), arrays)
        return path.with_suffix('.mat')
    block = 512 if layout == 'h5 with a user block' else 0
    with h5py.File(path.with_suffix('.h5'), 'w', userblock_size=block) as file:
        for name, values in arrays.items():
            is_packed = layout == 'packed h5' and name == 'diff3d'
            extra = {'chunks': True, 'compression': 'gzip'} if is_packed else {}
            file.create_dataset(name, data=values, **extra)
    return path.with_suffix('.h5')


LAYOUTS = ('npz', 'packed npz', 'mat', 'h5', 'packed h5', 'h5 with a user block')
KINDS = ('counts', 'float counts', 'amplitudes', 'gain 7', 'gain 0.37')
DAMAGES = (
    'none', 'stuck at the limit', 'not a number', 'marked by -1', 'dark frames', 'glaring frames',
    'glitch', 'far glitch', 'no position', 'fft-shifted', 'dead', 'module gap', 'torn',
)  # fmt: skip


def make(
    scan: Scan, kind: str, damage: str, mask: str, *, is_last: bool, is_metres: bool
) -> Written:
    """Returns the arrays of a scan that was written in some way, and spoilt."""
    counts = numpy.array(scan.patterns).astype(numpy.int64)
    good, frames = numpy.ones(counts.shape[1:], bool), set[int]()
    number, middle = len(counts), counts.shape[1] // 2
    positions = scan.positions_px.copy()
    spoilt = counts.copy()
    if damage == 'dark frames':
        frames = set(range(number // 2, number))
        spoilt[number // 2 :] = 0
    elif damage == 'glaring frames':
        frames = set(range(number // 2))
        spoilt[: number // 2] *= 200
    elif damage == 'torn':
        frames = {5}
        spoilt[5, middle:] = 0
    elif damage in ('glitch', 'far glitch', 'no position'):
        frames = {7}
        positions[7] = {'glitch': 1e4, 'far glitch': 1e6, 'no position': numpy.nan}[damage]
    elif damage == 'dead':
        good[middle, middle + 1] = good[middle - 2, middle] = False
    elif damage == 'module gap':
        good[:, middle + 2 : middle + 4] = False
    spoilt = spoilt * good
    values: Any = {
        'counts': lambda: spoilt.astype(numpy.uint32),
        'float counts': lambda: spoilt.astype(numpy.float32),
        'amplitudes': lambda: numpy.sqrt(spoilt).astype(numpy.float32),
        'gain 7': lambda: (7 * spoilt).astype(numpy.uint32),
        'gain 0.37': lambda: (0.37 * spoilt).astype(numpy.float32),
    }[kind]()
    if damage == 'stuck at the limit' and values.dtype.kind == 'u':
        values[:, 3, 4] = values[:, 9, 9] = 2**32 - 1
        good[3, 4] = good[9, 9] = False
    elif damage == 'not a number' and values.dtype.kind == 'f':
        values[:, 3, 4] = numpy.nan
        good[3, 4] = False
        values[4] = numpy.nan
        frames = {4}
    elif damage == 'marked by -1':
        values = values.astype(numpy.int64 if values.dtype.kind == 'u' else values.dtype)
        values[:, 3, 4] = -1
        good[3, 4] = False
    if damage == 'fft-shifted':
        values = numpy.fft.ifftshift(values, axes=(1, 2))
    masked = numpy.zeros(good.shape, bool)
    masked[1, 2] = mask != 'none'
    arrays = {
        'diff3d': numpy.moveaxis(values, 0, -1) if is_last else values,
        'probeGuess': scan.probe,
    }
    if is_metres:
        arrays |= {'positions_m': positions * PIXEL_M, 'pixel_size_m': numpy.asarray(PIXEL_M)}
    else:
        arrays |= {'xcoords': positions[:, 1], 'ycoords': positions[:, 0]}
    if mask != 'none':
        given = numpy.fft.ifftshift(masked) if damage == 'fft-shifted' else masked
        arrays[mask] = (given if mask == 'bad_pixels' else ~given).astype(numpy.uint8)
    return Written(arrays, counts, masked | ~good, frozenset(frames))


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    layout=st.sampled_from(LAYOUTS),
    kind=st.sampled_from(KINDS),
    damage=st.sampled_from(DAMAGES),
    mask=st.sampled_from(['none', 'bad_pixels', 'mask', 'good_pixels']),
    is_last=st.booleans(),
    is_metres=st.booleans(),
)
def test_a_scan_is_the_same_in_whatever_it_comes(
    tmp_path: Path,
    door_scan: Scan,
    layout: str,
    kind: str,
    damage: str,
    mask: str,
    is_last: bool,
    is_metres: bool,
) -> None:
    written = make(door_scan, kind, damage, mask, is_last=is_last, is_metres=is_metres)
    scan = read_scan(write(tmp_path / 'scan', layout, written.arrays))
    triage = examine_frames(scan)
    kept = triage.kept(scan.num_patterns)
    assert set(range(len(written.counts))) - set(kept.tolist()) == written.bad_frames
    assert numpy.array_equal(~scan.good_pixels, written.bad_pixels)
    read = numpy.asarray(scan.patterns)[kept][:, scan.good_pixels]
    assert numpy.allclose(read, written.counts[kept][:, scan.good_pixels], rtol=1e-3, atol=1e-2)
    steps = numpy.diff(scan.positions_px[kept], axis=0)
    assert numpy.allclose(steps, numpy.diff(door_scan.positions_px[kept], axis=0), atol=1e-6)
    if is_metres:
        assert scan.pixel_size_m == PIXEL_M
    told = ' '.join([*(item.message for item in scan.findings), triage.sentence()])
    for words in {
        'stuck at the limit': 'at the limit' if kind in ('counts', 'gain 7') else '',
        'dead': 'are dead', 'module gap': 'are dead', 'fft-shifted': 'fft-shifted',
        'dark frames': 'empty', 'glaring frames': 'far too bright', 'torn': 'torn',
        'far glitch': 'number 7', 'glitch': 'number 7', 'no position': 'number 7',
    }.get(damage, ''), {'amplitudes': 'squared', 'gain 7': '7 in the', 'gain 0.37': '0.37 in'}.get(kind, ''):  # fmt: skip
        assert words in told


@pytest.fixture(scope='module')
def door_scan() -> Scan:
    """81 patterns of 32 x 32 pixels in random order of no frame that repeats."""
    from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

    return simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=81, step_px=3.0, photons=3e5, seed=11)
    )


@pytest.mark.parametrize('turn', ['PHW', 'HWP', '11PHW', 'N', 'HW'])
def test_a_probe_comes_in_every_usual_shape(tmp_path: Path, tiny_scan: Scan, turn: str) -> None:
    probe = tiny_scan.probe
    shapes = {
        'PHW': probe,
        'HWP': numpy.moveaxis(probe, 0, -1),
        '11PHW': probe[None, None],
        'N': numpy.repeat(probe[None], tiny_scan.num_patterns, axis=0),
        'HW': probe[0],
    }
    y, x = tiny_scan.positions_px.T
    numpy.savez(
        tmp_path / 'scan.npz',
        diff3d=tiny_scan.patterns,
        xcoords=x,
        ycoords=y,
        probeGuess=shapes[turn],
    )
    wanted = probe[:1] if turn == 'HW' else probe
    assert numpy.allclose(read_scan(tmp_path / 'scan.npz').probe, wanted, atol=1e-4)


def test_frames_that_are_not_square_are_cropped_first(tmp_path: Path, simulated_scan: Scan) -> None:
    wide = numpy.pad(simulated_scan.patterns, ((0, 0), (0, 0), (8, 8)))
    y, x = simulated_scan.positions_px.T
    numpy.savez(tmp_path / 'scan.npz', diff3d=wide, xcoords=x * 80 / 64, ycoords=y)
    with pytest.raises(ValueError, match='64 x 80 pixels but must be square: say --crop 64'):
        read_scan(tmp_path / 'scan.npz')
    scan = read_scan(tmp_path / 'scan.npz', crop=64)
    assert numpy.array_equal(scan.patterns, simulated_scan.patterns)
    steps = numpy.diff(scan.positions_px, axis=0)
    assert numpy.allclose(steps, numpy.diff(simulated_scan.positions_px, axis=0), atol=1e-6)


def test_a_mask_that_calls_most_pixels_bad_is_asked_about(tmp_path: Path, tiny_scan: Scan) -> None:
    y, x = tiny_scan.positions_px.T
    good = numpy.ones((32, 32), bool)
    good[3, 4] = False
    numpy.savez(
        tmp_path / 'scan.npz', diff3d=tiny_scan.patterns, xcoords=x, ycoords=y, bad_pixels=good
    )
    with pytest.raises(ValueError, match='scan.npz: the mask calls 1023 of 1024.*--invert-mask'):
        read_scan(tmp_path / 'scan.npz')
    scan = read_scan(tmp_path / 'scan.npz', invert_mask=True)
    assert numpy.array_equal(scan.good_pixels, good)
    for name in ('mask.npy', 'mask.npz', 'mask.h5', 'mask.tif'):
        path = tmp_path / name
        if name.endswith('npy'):
            numpy.save(path, ~good)
        elif name.endswith('npz'):
            numpy.savez(path, bad_pixels=~good)
        elif name.endswith('h5'):
            with h5py.File(path, 'w') as file:
                file['good_pixels'] = good
        else:
            import tifffile

            tifffile.imwrite(path, (~good).astype(numpy.uint8))
        assert numpy.array_equal(
            read_scan(tmp_path / 'scan.npz', bad_pixels=path).good_pixels, good
        )


@pytest.mark.parametrize('layout', ['npz', 'h5'])
@pytest.mark.parametrize('is_last', [True, False])
def test_metres_become_pixels_by_energy_distance_and_detector(
    tmp_path: Path, tiny_scan: Scan, layout: str, is_last: bool
) -> None:
    values = numpy.array(tiny_scan.patterns)
    said = {key: value for key, value in hosted(tiny_scan).items() if key != 'detector_pixel_um'}
    arrays = {
        'diff3d': numpy.moveaxis(values, 0, -1) if is_last else values,
        'positions_m': tiny_scan.positions_px * 1e-8,
    }
    path = write(tmp_path / 'scan', layout, arrays)
    with pytest.raises(ValueError, match='--energy-ev, --distance-m, --detector-pixel-um'):
        read_scan(path)
    told = read_scan(path, **hosted(tiny_scan))
    pixel_m = hosted(tiny_scan)['detector_pixel_um'][0] * 1e-6
    about = {'energy_eV': said['energy_ev'], 'distance_m': 1.0, 'detector_pixel_m': pixel_m}
    oblong = {**about, 'detector_pixel_m': (pixel_m, 2 * pixel_m)}
    with pytest.raises(ValueError, match='say --detector-pixel-um'):
        read_scan(write(tmp_path / 'scan', layout, arrays | oblong))
    scan = read_scan(write(tmp_path / 'scan', layout, arrays | about))
    assert scan.pixel_size_m == told.pixel_size_m == pytest.approx((1e-8, 1e-8))
    steps = numpy.diff(scan.positions_px, axis=0)
    assert numpy.allclose(steps, numpy.diff(tiny_scan.positions_px, axis=0), atol=1e-6)


def test_a_pixel_mask_is_not_zero_where_bad(tmp_path: Path, tiny_scan: Scan) -> None:
    y, x = tiny_scan.positions_px.T
    mask = numpy.zeros((32, 32), numpy.uint32)
    mask[3, 4], mask[5, 6] = 1, 0x10
    arrays = {'diff3d': tiny_scan.patterns, 'xcoords': x, 'ycoords': y, 'pixel_mask': mask}
    scan = read_scan(write(tmp_path / 'scan', 'h5', arrays))
    assert numpy.array_equal(scan.good_pixels, mask == 0)


@pytest.mark.parametrize('key', ['name', 'diff3d_kind'])
def test_a_name_that_is_a_python_object_is_left_out_and_never_loaded(
    tmp_path: Path, tiny_scan: Scan, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    y, x = tiny_scan.positions_px.T
    numpy.savez(tmp_path / 'scan.npz', diff3d=tiny_scan.patterns, xcoords=x, ycoords=y,
                **{key: numpy.array('counts', object)})  # fmt: skip
    if key == 'name':
        assert 'name' not in read_scan(tmp_path / 'scan.npz').metadata
        assert (
            "'name': it holds Python objects, which are never loaded. It is left out" in caplog.text
        )
        return
    with pytest.raises(ValueError, match=r"diff3d_kind': it holds Python objects, which are never"):
        read_scan(tmp_path / 'scan.npz')


# -- containers


@pytest.fixture
def set_path(tmp_path: Path, tiny_scan: Scan) -> Path:
    """A training set in HDF5 without patterns, and `raw.h5` with them beside it."""
    y, x = tiny_scan.positions_px.T
    (tmp_path / 'inside').mkdir()
    path = tmp_path / 'inside' / 'scan.h5'
    with h5py.File(path, 'w') as file:
        file['pad'] = numpy.arange(4096)
        file['xcoords'], file['ycoords'], file['probeGuess'] = x, y, tiny_scan.probe
    for folder in (tmp_path, tmp_path / 'inside'):
        with h5py.File(folder / 'raw.h5', 'w') as file:
            file['entry/data'] = tiny_scan.patterns
    return path


def test_a_link_is_followed_to_the_bytes_of_its_own_file(set_path: Path, tiny_scan: Scan) -> None:
    with h5py.File(set_path, 'r+') as file:
        file['there'] = h5py.ExternalLink('raw.h5', '/entry')
        file['diff3d'] = h5py.SoftLink('/there/data')
    assert numpy.array_equal(read_scan(set_path).patterns, tiny_scan.patterns)


def test_a_link_out_of_the_folder_is_followed_only_when_told(
    set_path: Path, tiny_scan: Scan
) -> None:
    with h5py.File(set_path, 'r+') as file:
        file['diff3d'] = h5py.ExternalLink('../raw.h5', '/entry/data')
    with pytest.raises(ValueError, match=r'scan.h5.*\.\./raw.h5.*--allow-links'):
        read_scan(set_path)
    assert numpy.array_equal(read_scan(set_path, allow_links=True).patterns, tiny_scan.patterns)


@pytest.mark.parametrize('is_missing', [False, True])
def test_a_virtual_dataset_is_read_from_its_parts_or_the_missing_one_is_named(
    set_path: Path, tiny_scan: Scan, is_missing: bool
) -> None:
    layout = h5py.VirtualLayout(tiny_scan.patterns.shape, tiny_scan.patterns.dtype)
    layout[:] = h5py.VirtualSource('raw.h5', 'entry/data', tiny_scan.patterns.shape)
    with h5py.File(set_path, 'r+') as file:
        file.create_virtual_dataset('diff3d', layout)
    if not is_missing:
        assert numpy.array_equal(read_scan(set_path).patterns, tiny_scan.patterns)
        return
    (set_path.parent / 'raw.h5').unlink()
    with pytest.raises(ValueError, match='scan.h5.*raw.h5, which is missing'):
        read_scan(set_path)


def link(file: Path, name: str, source: str, scan: Scan) -> None:
    """Makes a dataset of the patterns that are `entry/data` of another file."""
    shape = scan.patterns.shape
    layout = h5py.VirtualLayout(shape, scan.patterns.dtype)
    layout[:] = h5py.VirtualSource(source, 'entry/data', shape)
    with h5py.File(file, 'a') as opened:
        opened.create_virtual_dataset(name, layout)


def test_raw_data_outside_of_hdf5_are_those_beside_the_file(
    set_path: Path, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = numpy.array(tiny_scan.patterns)
    values.tofile(set_path.with_name('raw.bin'))
    (values + 1).tofile(set_path.parents[1] / 'raw.bin')  # another file of the same name
    monkeypatch.chdir(set_path.parents[1])
    raw = {'external': [('raw.bin', 0, values.nbytes)]}
    with h5py.File(set_path, 'r+') as file:
        file.create_dataset('diff3d', values.shape, values.dtype, **raw)
    with h5py.File(set_path.with_name('part.h5'), 'w') as file:
        file.create_dataset('entry/data', values.shape, values.dtype, **raw)
    assert numpy.array_equal(read_scan(set_path).patterns, values)
    with h5py.File(set_path, 'r+') as file:
        del file['diff3d']
    link(set_path, 'diff3d', 'part.h5', tiny_scan)  # HDF5 takes no folder for these
    with pytest.raises(ValueError, match=r'scan.h5.*raw.bin.*go to the folder'):
        read_scan(set_path)
    monkeypatch.chdir(set_path.parent)
    assert numpy.array_equal(read_scan(set_path).patterns, values)


@pytest.mark.parametrize('kind', ['external', 'virtual', 'virtual of virtual', 'raw', 'filter'])
def test_what_is_missing_is_not_called_damaged(set_path: Path, tiny_scan: Scan, kind: str) -> None:
    shape, dtype = tiny_scan.patterns.shape, tiny_scan.patterns.dtype
    words = 'it links to gone.h5, which is missing: put that file beside it.'
    if kind == 'virtual of virtual':
        link(set_path.with_name('part.h5'), 'entry/data', 'gone.h5', tiny_scan)
    if kind.startswith('virtual'):
        link(set_path, 'diff3d', 'gone.h5' if kind == 'virtual' else 'part.h5', tiny_scan)
    with h5py.File(set_path, 'r+') as file:
        if kind == 'external':
            file['diff3d'] = h5py.ExternalLink('gone.h5', '/entry/data')
        elif kind == 'raw':
            file.create_dataset(
                'diff3d', shape, dtype, external=[('gone.h5', 0, tiny_scan.patterns.nbytes)]
            )
        elif kind == 'filter':
            words = 'it is packed by the HDF5 filter 32123 (of a detector), which is not installed'
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk(shape)
            creation.set_filter(32123, h5py.h5z.FLAG_OPTIONAL)
            space = h5py.h5s.create_simple(shape)
            h5py.h5d.create(file.id, b'diff3d', h5py.h5t.NATIVE_UINT16, space, creation)
    with pytest.raises(ValueError) as caught:
        read_scan(set_path)
    assert str(caught.value).startswith(f"{set_path} cannot be read at key 'diff3d': {words}")


@pytest.mark.parametrize('numbers', [(0, 1), (0, 2), (1, 2)])
def test_a_gap_in_numbered_parts_of_a_virtual_dataset_is_named(
    set_path: Path, tiny_scan: Scan, numbers: tuple[int, int]
) -> None:
    values = numpy.array(tiny_scan.patterns)[:34]
    frames, rest = 17, values.shape[1:]
    for number, part in zip(numbers, (values[:17], values[17:])):
        with h5py.File(set_path.with_name(f'part_{number}.h5'), 'w') as file:
            file['x'] = part
    whole = h5py.h5s.create_simple((0, *rest), (h5py.h5s.UNLIMITED, *rest))
    whole.select_hyperslab((0, 0, 0), (h5py.h5s.UNLIMITED, 1, 1), (frames, *rest), (frames, *rest))
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_virtual(whole, b'part_%b.h5', b'x', h5py.h5s.create_simple((frames, *rest)))
    with h5py.File(set_path, 'r+') as file:
        for name in ('xcoords', 'ycoords'):
            kept = file[name][:34]
            del file[name]
            file[name] = kept
        kind = h5py.h5t.py_create(values.dtype)
        h5py.h5d.create(file.id, b'diff3d', kind, whole, creation)
    if numbers == (0, 1):
        assert numpy.array_equal(read_scan(set_path).patterns, values)
        return
    missing = min({0, 1, 2} - set(numbers))
    with pytest.raises(ValueError, match=f'scan.h5.*part_{missing}.h5, which is missing'):
        read_scan(set_path)


@pytest.mark.parametrize('num_groups', [1, 2])
def test_a_scan_in_a_group_is_found_where_it_is_the_only_one(
    tmp_path: Path, tiny_scan: Scan, num_groups: int
) -> None:
    y, x = tiny_scan.positions_px.T
    with h5py.File(tmp_path / 'scan.h5', 'w') as file:
        file['about/energy'] = 1.0
        for number in range(num_groups):
            group = file.create_group(f'entry/scan_{number}')
            group['diffraction'], group['xcoords'], group['ycoords'] = tiny_scan.patterns, x, y
    if num_groups == 1:
        assert numpy.array_equal(read_scan(tmp_path / 'scan.h5').patterns, tiny_scan.patterns)
        return
    with pytest.raises(ValueError, match=r'scan.h5.*/entry/scan_0, /entry/scan_1'):
        read_scan(tmp_path / 'scan.h5')


def test_filters_of_detectors_are_read(set_path: Path, tiny_scan: Scan) -> None:
    hdf5plugin = pytest.importorskip('hdf5plugin')
    with h5py.File(set_path, 'r+') as file:
        file.create_dataset('diff3d', data=tiny_scan.patterns, **hdf5plugin.Bitshuffle())
    assert numpy.array_equal(read_scan(set_path).patterns, tiny_scan.patterns)


def test_a_dataset_that_claims_what_the_file_does_not_hold_is_refused(set_path: Path) -> None:
    with h5py.File(set_path, 'r+') as file:
        file.create_dataset('diff3d', (10**7, 64, 64), 'u2', chunks=(1, 64, 64), fillvalue=0)
    with pytest.raises(ValueError, match='scan.h5.*claims 81920 MB'):
        read_scan(set_path)


def test_matlab_files_are_turned_into_our_order(tmp_path: Path, tiny_scan: Scan) -> None:
    y, x = tiny_scan.positions_px.T
    path = tmp_path / 'scan.mat'
    with h5py.File(path, 'w', userblock_size=512) as file:  # as MATLAB 7.3 lays it out
        file['diff3d'] = numpy.moveaxis(tiny_scan.patterns, 0, -1).T
        pairs = numpy.zeros(tiny_scan.probe.shape[::-1], [('real', 'f4'), ('imag', 'f4')])
        turned = numpy.moveaxis(tiny_scan.probe, 0, -1)
        pairs = numpy.zeros(turned.T.shape, [('real', 'f4'), ('imag', 'f4')])
        pairs['real'], pairs['imag'] = turned.T.real, turned.T.imag
        file['probeGuess'] = pairs
        file['xcoords'], file['ycoords'] = x[:, None], y[:, None]
    with path.open('r+b') as stream:
        stream.write(b'MATLAB 7.3 MAT-file, Platform: GLNXA64')
    scan = read_scan(path)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    assert numpy.allclose(scan.probe, tiny_scan.probe)


# -- formats of the host


def hosted(scan: Scan, **more: Any) -> dict[str, Any]:
    """Returns what the instrument's files do not say."""
    pixel_m = 12.398419843320026e-7 / 1e4 * 1.0 / (scan.pattern_shape[0] * 1e-8)
    return {'energy_ev': 1e4, 'distance_m': 1.0, 'detector_pixel_um': (1e6 * pixel_m,), **more}


@pytest.mark.parametrize('name', ['NPY', 'NPZ', 'CXI', 'fold_slice'])
@pytest.mark.parametrize('positions', ['CSV', 'TXT'])
def test_what_the_host_writes_is_read_back(
    tmp_path: Path, tiny_scan: Scan, name: str, positions: str
) -> None:
    from ptychodus.api.diffraction import (
        DiffractionDatasetLayoutNode,
        DiffractionMetadata,
        SimpleDiffractionArray,
        SimpleDiffractionDataset,
    )
    from ptychodus.api.geometry import ImageExtent
    from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence

    from ptychodus_pinn_torch.scan.io.hosted import load_registry

    registry, number = load_registry(), tiny_scan.num_patterns
    array = SimpleDiffractionArray('a', numpy.arange(number), numpy.array(tiny_scan.patterns))
    about = DiffractionMetadata([number], tiny_scan.patterns.dtype, ImageExtent(32, 32))
    dataset = SimpleDiffractionDataset(about, DiffractionDatasetLayoutNode.create_root(), [array])
    path = tmp_path / {'fold_slice': 'a.h5', 'CXI': 'a.cxi'}.get(name, f'a.{name.lower()}')
    registry.diffraction_file_writers.get_strategy_by_name(name).write(path, dataset)
    metres = (tiny_scan.positions_px - 30.0) * 1e-8
    sequence = ProbePositionSequence([ProbePosition(k, x, y) for k, (y, x) in enumerate(metres)])
    places = tmp_path / f'positions.{positions.lower()}'
    registry.probe_position_file_writers.get_strategy_by_name(positions).write(places, sequence)
    scan = read_scan(path, patterns_format=name, positions_file=places, **hosted(tiny_scan))
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    assert scan.pixel_size_m == pytest.approx((1e-8, 1e-8))
    steps_m = numpy.diff(scan.positions_px, axis=0) * scan.pixel_size_m
    assert numpy.abs(steps_m - numpy.diff(metres, axis=0)).max() < 1e-9
    assert scan.metadata['photon_energy_eV'] == 1e4


def test_images_and_text_are_read_by_their_endings(tmp_path: Path, tiny_scan: Scan) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / 'scan_0.tif', numpy.array(tiny_scan.patterns))
    rows = '\n'.join(f'{x * 1e-8!r} {y * 1e-8!r}' for y, x in tiny_scan.positions_px.tolist())
    (tmp_path / 'positions.txt').write_text('# x y\n' + rows + '\n', encoding='ascii')
    scan = read_scan(
        tmp_path / 'scan_0.tif', positions_file=tmp_path / 'positions.txt', **hosted(tiny_scan)
    )
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    steps = numpy.diff(scan.positions_px, axis=0)
    assert numpy.allclose(steps, numpy.diff(tiny_scan.positions_px, axis=0), atol=1e-6)


def test_what_a_format_does_not_say_is_asked_for(tmp_path: Path, tiny_scan: Scan) -> None:
    numpy.save(tmp_path / 'a.npy', tiny_scan.patterns)
    with pytest.raises(ValueError, match=r'a.npy.*--positions'):
        read_scan(tmp_path / 'a.npy')
    (tmp_path / 'p.csv').write_text(''.join(f'{k}e-8,0\n' for k in range(35)), encoding='ascii')
    with pytest.raises(ValueError, match='--energy-ev, --distance-m, --detector-pixel-um'):
        read_scan(tmp_path / 'a.npy', positions_file=tmp_path / 'p.csv')
    with pytest.raises(ValueError, match='NOTHING: Ptychodus knows APS_PtychoSAXS'):
        read_scan(tmp_path / 'a.npy', patterns_format='NOTHING')


def test_the_command_lists_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    import json

    from ptychodus_pinn_torch.cli import main

    assert main(['formats', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert [len(told[kind]) for kind in ('patterns', 'positions', 'products')] == [27, 32, 7]
    assert main(['formats']) == 0
    assert 'CNM_APS_HXN_TIFF' in capsys.readouterr().out


def test_positions_of_another_file_leave_mapped_patterns_where_they_are(
    tmp_path: Path, tiny_scan: Scan
) -> None:
    numpy.savez(tmp_path / 'a.npz', diff3d=tiny_scan.patterns, probeGuess=tiny_scan.probe)
    metres = tiny_scan.positions_px * 1e-8
    rows = ''.join(f'{y!r},{x!r}\n' for y, x in metres.tolist())
    (tmp_path / 'p.csv').write_text(rows, encoding='ascii')
    more = hosted(tiny_scan, positions_file=tmp_path / 'p.csv')
    scan = read_scan(tmp_path / 'a.npz', **more)
    base: Any = scan.patterns
    while not isinstance(base, numpy.memmap):
        base = base.base
    assert Path(base.filename) == tmp_path / 'a.npz'
    assert numpy.abs(numpy.diff(scan.positions_px - tiny_scan.positions_px, axis=0)).max() < 1e-6
    with pytest.raises(ValueError, match='--positions-format has no effect'):
        read_scan(tmp_path / 'a.npz', positions_format='CSV', positions=None)
