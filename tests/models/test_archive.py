"""The model archive: what it keeps, and what it refuses."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch.config import Config
from ptychodus_pinn_torch.models.archive import (
    MEMBERS,
    Archive,
    ArchiveError,
    read_archive,
    shipped_model,
    write_archive,
)
from ptychodus_pinn_torch.models.opening import describe_model, open_model

ARCHIVE = Archive(
    config=Config(),
    weights={'network.a': numpy.arange(6, dtype=numpy.float32).reshape(2, 3)},
    history=[{'epoch': 0.0, 'step': 5.0, 'loss': 0.25, 'held_out': None}],
    card='# A card',
    details={'pattern_size': 64},
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_archive(tmp_path / 'model.h5.zip', ARCHIVE)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    with zipfile.ZipFile(path) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    change(members)
    with zipfile.ZipFile(path, 'w') as bundle:
        for name, data in members.items():
            bundle.writestr(name, data)


def test_everything_comes_back(path: Path) -> None:
    archive = read_archive(path)
    assert archive.config == ARCHIVE.config
    assert numpy.array_equal(archive.weights['network.a'], ARCHIVE.weights['network.a'])
    assert archive.history[0]['loss'] == 0.25 and archive.history[0]['held_out'] is None
    assert archive.details == ARCHIVE.details and archive.card == ARCHIVE.card


def test_the_shipped_model_is_small_and_describes_itself() -> None:
    assert shipped_model().stat().st_size <= 2_000_000
    text = describe_model(shipped_model())
    assert 'unrolled' in text and 'random' in text
    assert len(read_archive(shipped_model()).card) > 200


@pytest.mark.parametrize('name', MEMBERS[1:])
def test_a_changed_member_is_noticed(path: Path, name: str) -> None:
    rewrite(path, lambda members: members.update({name: members[name] + b' '}))
    with pytest.raises(ArchiveError, match=f'{name} was changed'):
        read_archive(path)


@pytest.mark.parametrize('name', MEMBERS)
def test_a_missing_member_is_named(path: Path, name: str) -> None:
    rewrite(path, lambda members: members.pop(name) and None)
    with pytest.raises(ArchiveError, match=name.replace('.', r'\.')):
        read_archive(path)


def test_an_unknown_member_is_refused(path: Path) -> None:
    rewrite(path, lambda members: members.update({'../evil.py': b'x'}))
    with pytest.raises(ArchiveError, match='evil'):
        read_archive(path)


def test_a_truncated_file_and_no_zip_at_all_are_refused(path: Path, tmp_path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ArchiveError, match='damaged'):
        read_archive(path)
    other = tmp_path / 'x.h5.zip'
    other.write_text('hello')
    with pytest.raises(ArchiveError, match='is no zip'):
        read_archive(other)
    with pytest.raises(ArchiveError, match='is no model archive'):
        open_model(other)


def test_a_later_format_and_another_backend_are_refused(path: Path) -> None:
    with pytest.raises(ArchiveError, match='pytorch backend.* tensorflow backend'):
        open_model(path, backend='tensorflow')

    def advance(members: dict[str, bytes]) -> None:
        manifest = json.loads(members['manifest.json'])
        manifest['version'] = 99
        members['manifest.json'] = json.dumps(manifest).encode()

    rewrite(path, advance)
    with pytest.raises(ArchiveError, match='format version 99'):
        read_archive(path)


def test_a_bomb_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ptychodus_pinn_torch.models import archive

    monkeypatch.setitem(archive.MAX_MEMBER_BYTES, 'weights.safetensors', 10)
    with pytest.raises(ArchiveError, match='larger than'):
        read_archive(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    spoilt = Archive(config=Config(), weights={'network.a': numpy.array([numpy.nan])})
    path = write_archive(tmp_path / 'm.h5.zip', spoilt)
    with pytest.raises(ArchiveError, match='not finite'):
        read_archive(path)


def test_a_full_disk_leaves_the_old_model_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, 'No space left on device', str(path))

    monkeypatch.setattr('zipfile.ZipFile.writestr', full)
    with pytest.raises(OSError, match='No space'):
        write_archive(path, ARCHIVE)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]
