"""The model archive: what it keeps, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch.config import CnnConfig, Config, override_config
from ptychodus_pinn_torch.models.archive import (
    FORMAT_VERSION,
    MEMBERS,
    Archive,
    ArchiveError,
    check_backend,
    read_archive,
    shipped_model,
    write_archive,
)
from ptychodus_pinn_torch.models.opening import convert_model, describe_model, open_model

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


def test_a_single_number_comes_back_as_a_single_number(tmp_path: Path) -> None:
    number = replace(ARCHIVE, weights={'network.scale': numpy.array(0.5, dtype=numpy.float32)})
    found = read_archive(write_archive(tmp_path / 'model.h5.zip', number)).weights
    assert found['network.scale'].shape == () and found['network.scale'] == 0.5


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


def write_format_1(path: Path, network: dict[str, Any], **sections: Any) -> Path:
    """Returns the path of an archive as version 0.1.0 of the package wrote it."""
    return write_old(path, 1, network=network, **sections)


def write_old(path: Path, version: int, **sections: Any) -> Path:
    """Returns the path of an archive with some sections as a format of old had them."""
    write_archive(path, ARCHIVE)

    def change(members: dict[str, bytes]) -> None:
        config = json.dumps({**json.loads(members['config.json']), **sections}).encode()
        manifest = json.loads(members['manifest.json'])
        manifest['version'] = version
        manifest['sha256']['config.json'] = hashlib.sha256(config).hexdigest()
        members |= {'config.json': config, 'manifest.json': json.dumps(manifest).encode()}

    rewrite(path, change)
    return path


OLD_NETWORK = {
    'architecture': 'unrolled',
    **{'num_stages': 8, 'width': 12, 'num_subsets': 9, 'num_memory': 4},
    **{'cnn_pattern_size': 32, 'cnn_channels': 4, 'cnn_width': 8, 'cnn_skips': False},
    **{'cnn_attention': 'eca', 'cnn_head': 'real_imaginary', 'cnn_outer_branch': True},
    **{'cnn_stem': 1, 'ptychopinn_layout': ''},
}


def test_the_shipped_model_of_format_1_opens_with_its_options() -> None:
    network = open_model(shipped_model()).config.network
    assert network.model_dump() == {
        'kind': 'unrolled',
        **{'num_stages': 8, 'width': 12, 'num_subsets': 9, 'num_memory': 4},
    }


def test_a_cnn_of_format_1_opens_with_the_options_it_was_written_with(tmp_path: Path) -> None:
    network = {**OLD_NETWORK, 'architecture': 'cnn'}
    gone = {'alpha': 0.5, 'an_option_of_old': 3}
    path = write_format_1(tmp_path / 'old.h5.zip', network, reconstruction=gone)
    found = open_model(path).config
    dumped = found.network.model_dump()
    added = ('amplitude', 'bottleneck_attention', 'has_norm', 'has_shared_decoder')
    assert {key: dumped.pop(key) for key in added} == {
        key: getattr(CnnConfig(), key) for key in added
    }
    assert dumped == {
        'kind': 'cnn',
        **{'pattern_size': 32, 'num_channels': 4, 'first_width': 8, 'has_skips': False},
        **{'attention': 'eca', 'head': 'real_imaginary', 'has_outer_branch': True, 'stem': 1},
    }
    again = write_archive(tmp_path / 'new.h5.zip', replace(ARCHIVE, config=found))
    assert open_model(again).config == found


def test_an_option_that_is_gone_since_is_no_reason_to_refuse_a_model(tmp_path: Path) -> None:
    gone = {'alpha': 0.5, 'refine_method': 'rpie'}
    path = write_old(tmp_path / 'old.h5.zip', FORMAT_VERSION, reconstruction=gone)
    assert open_model(path).config.reconstruction.alpha == 0.5


def test_a_network_of_both_engines_runs_on_either(tmp_path: Path) -> None:
    cnn = override_config(Config(), {'network.kind': 'cnn'})
    path = write_archive(tmp_path / 'c.h5.zip', replace(ARCHIVE, config=cnn))
    assert open_model(path, backend='tensorflow').config == cnn


def test_written_archives_honour_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        path = write_archive(tmp_path / 'm.h5.zip', ARCHIVE)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_converting_writes_the_present_format(tmp_path: Path) -> None:
    path = convert_model(shipped_model(), tmp_path / 'm.h5.zip')
    with zipfile.ZipFile(path) as bundle:
        assert json.loads(bundle.read('manifest.json'))['version'] == FORMAT_VERSION
    assert open_model(path).config == open_model(shipped_model()).config


@pytest.mark.parametrize(
    ('options', 'is_shared'),
    [({'network.amplitude': 'silu'}, True), ({'network.has_norm': True}, False)],
    ids=['shared', 'of one engine'],
)
def test_a_network_that_one_engine_alone_has_is_refused_by_the_other(
    options: dict[str, Any], is_shared: bool
) -> None:
    archive = Archive(override_config(Config(), {'network.kind': 'cnn', **options}), {})
    check_backend(archive, 'pytorch')
    if is_shared:
        check_backend(archive, 'tensorflow')
        return
    with pytest.raises(ArchiveError, match='which the tensorflow backend cannot run'):
        check_backend(archive, 'tensorflow')
