"""Bad input to the commands that read scans: one sentence, the right status, nothing lost."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy
import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.scan.io.output import write_product
from ptychodus_pinn_torch.scan.scan import Scan

Arrays = dict[str, Any]


def _expect(capsys, arguments: list[str], status: int, *words: str) -> None:
    """Asserts status and a one-line message with all the words, and no traceback."""
    assert main(arguments) == status
    captured = capsys.readouterr()
    message = captured.err.strip().splitlines()[-1]
    assert 'Traceback' not in captured.err
    assert message.startswith(f'ptychodus-pinn {arguments[0]}: ')
    assert (
        len([line for line in captured.err.splitlines() if line.startswith('ptychodus-pinn')]) == 1
    )
    assert captured.out == ''
    for word in words:
        assert word in message, message


@pytest.fixture
def arrays(tiny_scan: Scan) -> Arrays:
    y, x = tiny_scan.positions_px.T
    return {
        'xcoords': x.copy(),
        'ycoords': y.copy(),
        'diff3d': numpy.array(tiny_scan.patterns),
        'probeGuess': tiny_scan.probe.copy(),
        'objectGuess': tiny_scan.truth.copy(),
    }


def _set(key: str, value: Callable[[Arrays], Any]) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        arrays[key] = value(arrays)

    return change


def _drop(key: str) -> Callable[[Arrays], None]:
    return lambda arrays: arrays.pop(key)


def _poke(key: str, index: Any, value: Any, dtype: Any = None) -> Callable[[Arrays], None]:
    def change(arrays: Arrays) -> None:
        array = arrays[key].astype(dtype or arrays[key].dtype)
        array[index] = value
        arrays[key] = array

    return change


BAD_NPZ: dict[str, tuple[Callable[[Arrays], Any], tuple[str, ...]]] = {
    'no patterns key': (_drop('diff3d'), ("no key 'diff3d'", 'it holds xcoords, ycoords')),
    'more counts than any detector holds': (
        _set('diff3d', lambda a: a['diff3d'] * 1e300),
        ('0 of 1024 detector pixels hold counts',),
    ),
    'no position key': (_drop('ycoords'), ("no key 'ycoords'",)),
    'no known key': (
        lambda a: [a.pop(k) for k in list(a)[:3]],
        ("no key 'xcoords'", 'it holds probe'),
    ),
    'fewer positions': (
        lambda a: a.update(xcoords=a['xcoords'][:-1], ycoords=a['ycoords'][:-1]),
        ('35 patterns but 34 positions',),
    ),
    'x and y differ': (
        _set('xcoords', lambda a: a['xcoords'][:-2]),
        ('33 xcoords but 35 ycoords',),
    ),
    'positions outside': (
        lambda a: a.update(ycoords=a['ycoords'] + 20.0),
        ('outside the object', '--exchange-axes'),
    ),
    'positions in metres': (
        lambda a: (a.pop('objectGuess'), a.update(xcoords=a['xcoords'] * 1e9)),
        ('check their unit',),
    ),
    'no pattern': (
        lambda a: a.update(
            diff3d=a['diff3d'][:0], xcoords=a['xcoords'][:0], ycoords=a['ycoords'][:0]
        ),
        ('holds no patterns',),
    ),
    'patterns and probe not square': (
        lambda a: a.update(diff3d=a['diff3d'][..., :30], probeGuess=a['probeGuess'][..., :30]),
        ('32 x 30', 'square', '--crop 30'),
    ),
    'patterns not square': (
        _set('diff3d', lambda a: a['diff3d'][:, :, :30]),
        ('(2, 32, 32)', '(32, 30)'),
    ),
    'patterns of two axes': (_set('diff3d', lambda a: a['diff3d'][0]), ('have shape (32, 32)',)),
    'odd patterns': (
        lambda a: a.update(diff3d=a['diff3d'][:, 1:, 1:], probeGuess=a['probeGuess'][:, 1:, 1:]),
        ('patterns of 31 pixels', '--crop'),
    ),
    'tiny patterns': (
        lambda a: a.update(
            diff3d=a['diff3d'][:, 8:24, 8:24], probeGuess=a['probeGuess'][:, 8:24, 8:24]
        ),
        ('patterns of 16 pixels', '32'),
    ),
    'complex patterns': (
        _set('diff3d', lambda a: a['diff3d'].astype(complex)),
        ('complex128', 'real numbers'),
    ),
    'counts not finite': (
        _poke('diff3d', numpy.s_[:, 5:], numpy.nan, numpy.float32),
        ('of 1024 detector pixels', 'counts'),
    ),
    'all counts zero': (_set('diff3d', lambda a: a['diff3d'] * 0), ('all patterns are zero',)),
    'amplitude or counts': (
        _set('diff3d', lambda a: numpy.sqrt(a['diff3d'] + numpy.float32(0.123))),
        ('--diffraction-kind counts or amplitude',),
    ),
    'unknown marker': (
        _set('diff3d_kind', lambda a: numpy.asarray('furlongs')),
        ("'furlongs'", '--diffraction-kind'),
    ),
    'zero probe': (_set('probeGuess', lambda a: a['probeGuess'] * 0), ('probe is zero',)),
    'probe not finite': (_poke('probeGuess', (0, 0, 0), numpy.nan), ('probe is not finite',)),
    'probe of another size': (
        _set('probeGuess', lambda a: a['probeGuess'][:, :30, :30]),
        ('probe has shape (2, 30, 30)', '(32, 32)'),
    ),
    'mask of another size': (
        _set('bad_pixels', lambda a: numpy.zeros((16, 16), dtype=bool)),
        ('mask has shape (16, 16)',),
    ),
    'everything masked': (
        _set('bad_pixels', lambda a: numpy.ones((32, 32), dtype=bool)),
        ('1024 of 1024 detector pixels bad', '--invert-mask'),
    ),
    'object not finite': (_poke('objectGuess', (0, 0), numpy.inf), ('object is not finite',)),
    'object of one axis': (
        _set('objectGuess', lambda a: a['objectGuess'][0]),
        ('object has shape (69,)',),
    ),
    'truth of another size': (
        _set('truth', lambda a: a['objectGuess'][1:]),
        ('both must lie on one grid',),
    ),
    'python objects': (
        _set('diff3d', lambda a: numpy.array([{'a': 1}], dtype=object)),
        ("key 'diff3d'", 'Python objects, which are never loaded'),
    ),
    'pickled probe': (
        _set('probeGuess', lambda a: numpy.array([{'a': 1}], dtype=object)),
        ("key 'probeGuess'", 'Python objects, which are never loaded'),
    ),
}


@pytest.mark.parametrize('case', BAD_NPZ)
def test_bad_scan_is_one_sentence(tmp_path: Path, arrays: Arrays, case: str, capsys):
    change, words = BAD_NPZ[case]
    change(arrays)
    path = tmp_path / 'scan.npz'
    numpy.savez(path, **arrays)
    before = path.read_bytes()
    _expect(capsys, ['inspect', str(path)], 1, str(path), *words)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('part', [0.2, 0.6, 0.95])
def test_truncated_file_is_one_sentence(tmp_path: Path, tiny_scan_path: Path, part, capsys):
    path = tmp_path / 'cut.npz'
    data = tiny_scan_path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    _expect(capsys, ['check', str(path)], 1, str(path), 'damaged or cut short')


def test_flipped_bits_are_noticed(tmp_path: Path, arrays: Arrays, capsys):
    path = tmp_path / 'scan.npz'
    numpy.savez_compressed(path, **arrays)
    data = bytearray(path.read_bytes())
    start = data.index(b'diff3d.npy') + 200
    data[start : start + 64] = bytes(64)
    path.write_bytes(data)
    _expect(capsys, ['check', str(path)], 1, str(path), 'cannot be read', 'copy or export it again')


@pytest.mark.parametrize('content', [b'', b'hello, this is no scan', b'\x93NUMPY\x01\x00'])
def test_something_else_is_one_sentence(tmp_path: Path, content, capsys):
    path = tmp_path / 'scan.npz'
    path.write_bytes(content)
    _expect(capsys, ['check', str(path)], 1, str(path), 'neither an NPZ nor an HDF5 file')


def test_missing_file_is_one_sentence(tmp_path: Path, capsys):
    path = tmp_path / 'nowhere.npz'
    for command in ('check', 'inspect'):
        _expect(capsys, [command, str(path)], 1, str(path), 'No such file')
    _expect(capsys, ['evaluate', str(path), '--reference', str(path)], 1, 'No such file')


def test_unreadable_file_is_one_sentence(tmp_path: Path, tiny_scan_path, monkeypatch, capsys):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, 'Permission denied', str(self))

    monkeypatch.setattr(Path, 'open', refuse)
    _expect(capsys, ['check', str(tiny_scan_path)], 1, str(tiny_scan_path), 'Permission denied')


def test_empty_folder_is_one_sentence(tmp_path: Path, capsys):
    _expect(capsys, ['check', str(tmp_path)], 1, str(tmp_path), 'without diffraction.h5')


@pytest.fixture
def pair(tmp_path: Path, tiny_scan: Scan) -> Path:
    """A folder with diffraction.h5 and product.h5."""
    with h5py.File(tmp_path / 'diffraction.h5', 'w') as file:
        file.create_dataset('patterns', data=tiny_scan.patterns, compression='lzf')
        file['patterns'].attrs['detector_pixel_width_m'] = 75e-6
        file['patterns'].attrs['detector_pixel_height_m'] = 75e-6
        file['indexes'] = numpy.arange(tiny_scan.num_patterns)
        file['bad_pixels'] = ~tiny_scan.good_pixels
    write_product(
        tmp_path / 'product.h5',
        tiny_scan,
        tiny_scan.truth,
        tiny_scan.positions_px,
        tiny_scan.probe,
        [],
    )
    return tmp_path


def test_pair_without_its_product_is_one_sentence(pair: Path, capsys):
    (pair / 'product.h5').unlink()
    _expect(capsys, ['check', str(pair)], 1, 'product.h5', 'is missing', '--product')


def test_product_without_its_patterns_is_one_sentence(pair: Path, capsys):
    (pair / 'diffraction.h5').unlink()
    _expect(capsys, ['check', str(pair / 'product.h5')], 1, 'diffraction.h5', 'is missing')


def test_product_without_probe_is_one_sentence(pair: Path, capsys):
    with h5py.File(pair / 'product.h5', 'r+') as file:
        del file['probe']
    _expect(capsys, ['check', str(pair)], 1, 'no complete product', 'it holds', 'loss_epochs')


def test_unknown_hdf5_is_one_sentence(tmp_path: Path, capsys):
    with h5py.File(tmp_path / 'x.h5', 'w') as file:
        file['entry'] = 1
    _expect(capsys, ['check', str(tmp_path / 'x.h5')], 1, 'neither a diffraction file', 'entry')


def test_cut_hdf5_is_one_sentence(pair: Path, capsys):
    path = pair / 'diffraction.h5'
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    _expect(capsys, ['check', str(pair)], 1, str(path), 'damaged or cut short')


def test_indexes_that_never_meet_are_one_sentence(pair: Path, capsys):
    with h5py.File(pair / 'diffraction.h5', 'r+') as file:
        file['indexes'][...] = numpy.arange(35) + 1000
    _expect(capsys, ['check', str(pair)], 1, 'No probe positions overlap')


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--crop', '64'], ('cannot crop patterns of 32 x 32 pixels to 64',)),
        (['--crop', '0'], ('cannot crop',)),
        (['--bin', '3'], ('cannot bin patterns of 32 pixels by 3',)),
        (['--bin', '2'], ('patterns of 16 pixels cannot be used',)),
    ],
)
def test_impossible_sizes_are_one_sentence(tiny_scan_path: Path, options, words, capsys):
    _expect(capsys, ['check', str(tiny_scan_path), *options], 1, *words)


@pytest.mark.parametrize(
    'arguments',
    [
        ['check'],
        ['check', 'a', '--no-such-option'],
        ['check', 'a', '--diffraction-kind', 'phase'],
        ['check', 'a', '--crop', 'many'],
        ['simulate', 'a.npz', '--object', 'cat'],
        ['no-such-command'],
        [],
    ],
)
def test_wrong_words_are_usage_errors(arguments, capsys):
    assert main(arguments) == 2
    assert 'usage:' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (['--pattern-size', '33'], ('pattern size is 33', 'even')),
        (['--photons', '-5'], ('photons is -5',)),
        (['--step', 'nan'], ('step_px is nan',)),
    ],
)
def test_impossible_simulations_are_usage_errors(tmp_path: Path, options, words, capsys):
    _expect(capsys, ['simulate', str(tmp_path / 'a.npz'), *options], 2, *words)
    assert list(tmp_path.iterdir()) == []


SIMULATE = ['--pattern-size', '32', '--num-positions', '9']


def test_full_disk_loses_nothing(tmp_path: Path, monkeypatch, capsys):
    path = tmp_path / 'scan.npz'
    path.write_bytes(b'precious')

    def fill_up(file, **arrays):
        file.write(b'half')
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(numpy, 'savez', fill_up)
    words = ['simulate', str(path), '--overwrite', *SIMULATE]
    _expect(capsys, words, 1, str(path), 'No space left on device')
    assert path.read_bytes() == b'precious' and list(tmp_path.iterdir()) == [path]


def test_output_that_cannot_be_written_is_one_sentence(tmp_path: Path, capsys):
    (tmp_path / 'file').touch()
    (tmp_path / 'folder.npz').mkdir()
    for name, words in (
        ('file/scan.npz', ('file', 'Is not a folder')),
        ('folder.npz', ('folder.npz', 'Is a directory')),
    ):
        _expect(capsys, ['simulate', str(tmp_path / name), *SIMULATE], 1, *words)


def test_images_that_do_not_fit_are_one_sentence(tmp_path: Path, tiny_scan_path: Path, capsys):
    path = tmp_path / 'r.npz'
    numpy.savez(path, object=numpy.ones((50, 60), dtype=numpy.complex64))
    _expect(
        capsys,
        ['evaluate', str(path), '--reference', str(tiny_scan_path)],
        1,
        'image of 50 x 60 pixels',
        '57 x 69',
        'one grid',
    )
    _expect(capsys, ['evaluate', str(path), '--scan', str(tiny_scan_path)], 1, '50 x 60', '57 x 69')


def test_nothing_to_compare_with_is_a_usage_error(tiny_scan_path: Path, capsys):
    _expect(capsys, ['evaluate', str(tiny_scan_path)], 2, '--reference')


def test_file_without_image_is_one_sentence(tmp_path: Path, capsys):
    path = tmp_path / 'r.npz'
    numpy.savez(path, losses=numpy.ones(3))
    _expect(
        capsys, ['evaluate', str(path), '--reference', str(path)], 1, "no key 'object'", 'losses'
    )


@pytest.mark.parametrize(
    'text', ['1\n2\nthree\n', '99\n', '-1\n', '', '# 1', '1 2 1', '1.5', 10**5 * '1\n', '9' * 9000]
)
def test_bad_list_of_patterns_is_one_sentence(tmp_path: Path, tiny_scan_path: Path, text, capsys):
    path = tmp_path / 'held.txt'
    path.write_text(text)
    scan = str(tiny_scan_path)
    _expect(
        capsys, ['evaluate', scan, '--scan', scan, '--held-out', str(path)], 1, str(path), 'number'
    )


@pytest.mark.parametrize('place', [-3.0, 900.0, 1e300])
def test_positions_outside_of_an_image_are_one_sentence(
    tmp_path: Path, tiny_scan: Scan, tiny_scan_path: Path, place, capsys
):
    path, positions = tmp_path / 'r.npz', tiny_scan.positions_px.copy()
    positions[7, 1] = place
    numpy.savez(path, object=tiny_scan.truth, probe=tiny_scan.probe, positions_px=positions)
    words = str(path), 'position number 7', 'outside', '57 x 69'
    scan = str(tiny_scan_path)
    _expect(capsys, ['evaluate', str(path), '--scan', scan], 1, *words)
    _expect(capsys, ['compare', str(path), '--scan', scan], 1, *words)
    numpy.savez(tmp_path / 'b.npz', object=tiny_scan.truth)
    _expect(capsys, ['evaluate', str(path), '--reference', str(tmp_path / 'b.npz')], 1, *words)


def test_an_image_with_one_probe_mode_is_compared(
    tmp_path: Path, tiny_scan: Scan, tiny_scan_path: Path, capsys
):
    path, scan = tmp_path / 'r.npz', str(tiny_scan_path)
    numpy.savez(path, object=tiny_scan.truth, probe=tiny_scan.probe[0])
    assert main(['compare', str(path), '--scan', scan, '--json']) == 0
    assert main(['evaluate', str(path), '--scan', scan]) == 0
    assert 'probe_overlap' in capsys.readouterr().out


@pytest.mark.parametrize('name', ['spoilt.npz', 'spoilt.ckpt'])
@pytest.mark.parametrize('command', ['inspect', 'check', 'evaluate'])
def test_a_zip_that_goes_on_elsewhere_is_named(tmp_path, capsys, name: str, command: str) -> None:
    path = tmp_path / name
    locator = b'PK\x06\x07' + (0).to_bytes(4, 'little') + bytes(8) + (2).to_bytes(4, 'little')
    path.write_bytes(b'PK\x03\x04' + bytes(60) + locator + b'PK\x05\x06' + bytes(18))
    more = ['--reference', str(path)] if command == 'evaluate' else []
    _expect(capsys, [command, str(path), *more], 1, name, 'multiple disks')
