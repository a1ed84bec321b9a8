"""No command replaces what is there unless it is told to, and never one of its inputs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch.backend import Reconstruction
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.commands import demo
from ptychodus_pinn_torch.reconstruction import procedure
from ptychodus_pinn_torch.scan.io.output import write_atomically, write_product
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan

PRECIOUS = b'precious'
SIMULATE = ('--pattern-size', 32, '--num-positions', 9)


def call(*words: Any) -> int:
    """Returns the exit status of a command."""
    return main([str(word) for word in words])


@pytest.fixture
def precious(tmp_path: Path):
    """Returns a function that makes a file that must not be touched."""

    def make(name: str) -> Path:
        path = tmp_path / name
        path.write_bytes(PRECIOUS)
        return path

    return make


@pytest.fixture(autouse=True)
def engine(monkeypatch):
    """An engine that returns the object of the scan at once, and counts how often it was asked."""

    class Engine:
        runs = 0

        def reconstruct(self, request, report, *alone):
            self.runs += 1
            scan: Scan = request.scan
            coverage = numpy.ones(scan.object_.shape, dtype=numpy.float32)
            return Reconstruction(scan.object_, scan.positions_px, scan.probe, (), coverage)

    engine = Engine()
    monkeypatch.setattr(procedure, 'reconstruct', engine.reconstruct)
    return engine


def test_simulate_replaces_a_file_only_when_told_to(precious, capsys):
    path = precious('scan.npz')
    assert call('simulate', path, *SIMULATE) == 1
    assert path.read_bytes() == PRECIOUS and '--overwrite' in capsys.readouterr().err
    assert call('simulate', path, *SIMULATE, '--overwrite') == 0
    assert read_scan(path).num_patterns == 9


def test_reconstruct_keeps_the_picture_beside_its_output(
    tmp_path, tiny_scan_path, precious, engine, capsys
):
    picture = precious('image.png')
    words = ('reconstruct', tiny_scan_path, '--output', tmp_path / 'image.npz')
    assert call(*words) == 1
    assert 'image.png: exists already' in capsys.readouterr().err
    assert picture.read_bytes() == PRECIOUS and engine.runs == 0
    assert call(*words, '--no-picture') == 0
    assert picture.read_bytes() == PRECIOUS
    assert call(*words, '--overwrite') == 0
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('name', ['image.npz', 'other.npz'])
def test_a_picture_replaces_neither_output_nor_scan(
    tmp_path, tiny_scan_path, name, precious, engine
):
    other = precious('other.npz')
    words = ('reconstruct', tiny_scan_path, '--output', tmp_path / 'image.npz', '--overwrite')
    assert call(*words, '--picture', tmp_path / name) == 2
    assert other.read_bytes() == PRECIOUS and engine.runs == 0


def test_a_bad_picture_folder_is_found_before_the_run(
    tmp_path, tiny_scan_path, precious, engine, capsys
):
    precious('file')
    words = ('reconstruct', tiny_scan_path, '--output', tmp_path / 'image.npz')
    assert call(*words, '--picture', tmp_path / 'file' / 'image.png') == 1
    assert 'Is not a folder' in capsys.readouterr().err
    assert engine.runs == 0


def test_inspect_draws_over_a_file_only_when_told_to(tiny_scan_path, precious):
    picture = precious('scan.png')
    assert call('inspect', tiny_scan_path, '--draw', picture) == 1
    assert picture.read_bytes() == PRECIOUS
    assert call('inspect', tiny_scan_path, '--draw', picture, '--overwrite') == 0
    assert picture.read_bytes().startswith(b'\x89PNG')


@pytest.mark.parametrize('name', demo.FILES)
def test_demo_replaces_a_file_only_when_told_to(tmp_path, name, precious, capsys):
    path = precious(name)
    assert call('demo', '--output', tmp_path) == 1
    assert path.read_bytes() == PRECIOUS and list(tmp_path.iterdir()) == [path]
    assert '--overwrite' in capsys.readouterr().err


@pytest.mark.parametrize('command', ['convert', 'train', 'reconstruct', 'inspect'])
def test_an_input_is_never_replaced(tmp_path, tiny_scan_path, command, capsys):
    before = tiny_scan_path.read_bytes()
    link = tmp_path / {'inspect': 'link.png', 'train': 'link.h5.zip'}.get(command, 'link.npz')
    link.hardlink_to(tiny_scan_path)
    flag = '--draw' if command == 'inspect' else '--output'
    assert call(command, tiny_scan_path, flag, link, '--overwrite') == 2
    assert 'is an input of this command' in capsys.readouterr().err
    assert tiny_scan_path.read_bytes() == before


def test_the_product_beside_the_patterns_is_an_input_too(tmp_path, tiny_scan, capsys):
    scan = tiny_scan
    path = write_product(
        tmp_path / 'product.h5', scan, scan.object_, scan.positions_px, scan.probe, []
    )
    assert call('reconstruct', tmp_path, '--output', path, '--overwrite') == 2
    assert 'is an input' in capsys.readouterr().err


def test_a_model_is_not_trained_over_itself(tmp_path, tiny_scan_path, precious, capsys):
    model = precious('model.h5.zip')
    words = ('train', tiny_scan_path, '--output', model, '--start', model, '--overwrite')
    assert call(*words) == 2
    assert 'is an input' in capsys.readouterr().err and model.read_bytes() == PRECIOUS


def test_demo_works_where_nobody_counts_memory(monkeypatch):
    monkeypatch.setitem(sys.modules, 'resource', None)
    assert demo._peak_memory_mb() is None


def test_a_link_that_leads_nowhere_is_not_replaced_unasked(tmp_path, tiny_scan_path, engine):
    link = tmp_path / 'image.npz'
    link.symlink_to(tmp_path / 'elsewhere.npz')
    words = ('reconstruct', tiny_scan_path, '--output', link, '--no-picture')
    assert call(*words) == 1 and link.is_symlink() and engine.runs == 0
    assert call(*words, '--overwrite') == 0
    assert not link.is_symlink() and not (tmp_path / 'elsewhere.npz').exists()


@pytest.mark.parametrize('name', [b'a$_{$.npz', b'scan\xff.npz'])
def test_any_file_name_is_drawn_and_told(tmp_path, tiny_scan_path, name, capsys):
    scan = tiny_scan_path.rename(tmp_path / os.fsdecode(name))
    words = ('reconstruct', scan, '--output', scan.with_name(f'out_{scan.name}'))
    assert call(*words) == 0, capsys.readouterr().err
    assert scan.with_name(f'out_{scan.stem}.png').read_bytes().startswith(b'\x89PNG')
    assert call('inspect', scan, '--draw', tmp_path / 'scan.png') == 0, capsys.readouterr().err


def full_disk(path: Path) -> None:
    path.write_bytes(b'half')
    raise OSError(28, 'No space left on device', str(path))


def nameless(path: Path) -> None:
    raise OSError(f'cannot write {path}')


def no_source(path: Path) -> None:
    shutil.copyfile(path.with_name('gone.npz'), path)


@pytest.mark.parametrize(('write', 'named'), [(full_disk, 'image.npz'), (nameless, 'image.npz'), (no_source, 'gone.npz')])  # fmt: skip
def test_an_error_of_writing_names_the_file_that_was_asked_for(tmp_path, write, named):
    with pytest.raises(OSError, match=named) as caught:
        write_atomically(tmp_path / 'image.npz', write)
    assert '/.' not in str(caught.value) and not list(tmp_path.iterdir())
