"""Training sets as HDF5 hold what those as NPZ hold."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy
import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.scan.io.hdf5 import write_scan_hdf5
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan


def assert_same(first: Scan, second: Scan) -> None:
    assert numpy.array_equal(first.patterns, second.patterns)
    assert first.patterns.dtype == second.patterns.dtype
    for name in ('positions_px', 'probe', 'object_', 'truth', 'good_pixels'):
        assert numpy.array_equal(getattr(first, name), getattr(second, name)), name
    assert first.pixel_size_m == second.pixel_size_m and first.metadata == second.metadata


def is_mapped(array: numpy.ndarray | None) -> bool:
    while array is not None and not isinstance(array, numpy.memmap):
        array = array.base
    return array is not None


def test_both_files_give_the_same_scan_and_neither_is_read_into_memory(
    tmp_path: Path, tiny_scan: Scan
) -> None:
    scans = [
        read_scan(write_scan_npz(tmp_path / 'scan.npz', tiny_scan)),
        read_scan(write_scan_hdf5(tmp_path / 'scan.h5', tiny_scan)),
    ]
    assert_same(*scans)
    assert all(is_mapped(scan.patterns) for scan in scans)


def test_compressed_sets_and_amplitudes_are_read(tmp_path: Path, tiny_scan: Scan) -> None:
    write_scan_hdf5(tmp_path / 'scan.h5', tiny_scan)
    with h5py.File(tmp_path / 'scan.h5', 'r+') as file:
        roots = numpy.sqrt(file['diff3d'][()].astype('f4'))
        del file['diff3d'], file['diff3d_kind']
        file.create_dataset('diff3d', data=roots, chunks=(4, 32, 32), compression='gzip')
        file['diff3d_kind'] = 'amplitude'
    assert numpy.allclose(read_scan(tmp_path / 'scan.h5').patterns, tiny_scan.patterns, atol=1e-2)


def test_the_command_converts_both_ways(tmp_path: Path, tiny_scan: Scan, capsys) -> None:
    source = write_scan_npz(tmp_path / 'scan.npz', tiny_scan)
    there, back = tmp_path / 'there.h5', tmp_path / 'back.npz'
    assert main(['convert', str(source), '--output', str(there)]) == 0
    assert main(['convert', str(there), '--output', str(back)]) == 0
    assert_same(read_scan(source), read_scan(back))
    words = [
        'convert',
        str(source),
        '--output',
        str(tmp_path / 'a.h5'),
        '--convention',
        'amplitude',
    ]
    assert main(words) == 2 and 'as *.npz only' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('spoil', 'reason'),
    [
        (lambda file: file.pop('ycoords'), "no key 'ycoords'"),
        (lambda file: file.__delitem__('xcoords'), "no key 'xcoords'"),
        (
            lambda file: (file.pop('probeGuess'), file.create_group('probeGuess')),
            'There is no probe: one is estimated',
        ),
    ],
    ids=['no ycoords', 'no xcoords', 'probe is a group'],
)
def test_what_is_missing_is_named(
    tmp_path: Path, tiny_scan: Scan, capsys, caplog, spoil, reason
) -> None:
    path = write_scan_hdf5(tmp_path / 'scan.h5', tiny_scan)
    with h5py.File(path, 'r+') as file:
        spoil(file)
    main(['inspect', str(path)])
    assert reason in capsys.readouterr().err + caplog.text
