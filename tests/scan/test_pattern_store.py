"""Patterns on disk."""

from __future__ import annotations

import resource
import zipfile
from pathlib import Path

import h5py
import numpy
import pytest

from ptychodus_pinn_torch.scan.io.hdf5 import Hdf5Arrays, open_hdf5
from ptychodus_pinn_torch.scan.io.pattern_store import (
    block_slices,
    map_npz_member,
    stage_blocks,
    stage_npz_member,
)


@pytest.fixture
def patterns() -> numpy.ndarray:
    return numpy.random.default_rng(0).poisson(7.0, (21, 16, 18)).astype(numpy.uint16)


@pytest.mark.parametrize('order', ['C', 'F'])
def test_stored_member_is_mapped_in_place(tmp_path: Path, patterns, order):
    path = tmp_path / 'a.npz'
    numpy.savez(path, first=numpy.arange(5), diff3d=numpy.asarray(patterns, order=order))
    mapped = map_npz_member(path, 'diff3d')
    assert isinstance(mapped, numpy.memmap) and mapped.dtype == numpy.uint16
    assert Path(mapped.filename) == path
    numpy.testing.assert_array_equal(mapped, patterns)
    with pytest.raises(ValueError, match='read-only'):
        mapped[0] = 0


@pytest.mark.parametrize('order', ['C', 'F'])
def test_compressed_member_is_staged_without_a_change(tmp_path: Path, patterns, order):
    path = tmp_path / 'a.npz'
    numpy.savez_compressed(path, diff3d=numpy.asarray(patterns, order=order))
    assert map_npz_member(path, 'diff3d') is None
    staged = stage_npz_member(path, 'diff3d')
    assert staged.dtype == numpy.uint16
    numpy.testing.assert_array_equal(staged, patterns)
    assert not staged.flags.writeable


def test_member_with_objects_is_refused(tmp_path: Path):
    path = tmp_path / 'a.npz'
    numpy.savez(path, diff3d=numpy.array([{'a': 1}], dtype=object))
    with pytest.raises(ValueError, match='objects'):
        map_npz_member(path, 'diff3d')


def test_contiguous_hdf5_is_mapped_and_chunked_is_not(tmp_path: Path, patterns):
    path = tmp_path / 'a.h5'
    with h5py.File(path, 'w') as file:
        file['plain'] = patterns
        file.create_dataset('packed', data=patterns, compression='lzf')
    with open_hdf5(path) as file:
        plain, packed = (Hdf5Arrays(file).patterns(name) for name in ('plain', 'packed'))
    assert plain.place is not None and plain.place[0] == path and packed.place is None
    for stored in (plain, packed):
        mapped = stored.load()
        assert isinstance(mapped, numpy.memmap)
        numpy.testing.assert_array_equal(mapped, patterns)


def test_blocks_cover_every_pattern_once():
    rows = numpy.concatenate([numpy.arange(9000)[part] for part in block_slices(9000, 32768)])
    numpy.testing.assert_array_equal(rows, numpy.arange(9000))


def test_staging_leaves_no_file_and_little_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    shape = (2000, 128, 128)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    staged = stage_blocks(
        shape,
        numpy.dtype(numpy.uint16),
        lambda rows: numpy.full((rows.stop - rows.start, 128, 128), rows.start, numpy.uint16),
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert staged.shape == shape and int(staged[0, 0, 0]) == 0 and int(staged[-1, 0, 0]) > 0
    assert list(tmp_path.iterdir()) == []
    assert after - before < 50_000, 'kilobytes beyond what a block needs'


def test_full_disk_while_staging_is_an_error_and_not_a_crash(monkeypatch):
    def refuse(rows):
        raise OSError(28, 'No space left on device')

    with pytest.raises(OSError, match='No space left'):
        stage_blocks((4, 8, 8), numpy.dtype(numpy.uint16), refuse)


def test_truncated_member_is_noticed(tmp_path: Path, patterns):
    path = tmp_path / 'a.npz'
    numpy.savez_compressed(path, diff3d=patterns)
    broken = tmp_path / 'b.npz'
    data = path.read_bytes()
    broken.write_bytes(data[: len(data) // 2])
    with pytest.raises(zipfile.BadZipFile):
        map_npz_member(broken, 'diff3d')
