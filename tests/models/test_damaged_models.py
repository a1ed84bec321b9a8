"""Models damaged at random: the same weights, or one sentence; never anything else."""

from __future__ import annotations

import hashlib
import json
import random
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
from forgeries import write_bytes, zip_bytes

from ptychodus_pinn_torch.models.archive import (
    MEMBERS,
    Archive,
    ArchiveError,
    shipped_model,
    write_archive,
)
from ptychodus_pinn_torch.models.opening import open_model

WRONG = (None, True, -1, 1.5, 10**400, 'x', [], [1], {}, {'a': None})
"""Values of every type of JSON."""


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Returns the bytes with one changed, with several changed mostly near the end, or cut."""
    changed = bytearray(data)
    kind = rng.randrange(3)
    if kind == 0:
        changed[rng.randrange(len(data))] = rng.randrange(256)
    elif kind == 1:
        tail = max(0, len(data) - 1500)  # the directory of a zip is its end
        for _ in range(rng.randrange(1, 9)):
            start = tail if rng.random() < 0.7 else 0
            changed[rng.randrange(start, len(data))] = rng.randrange(256)
    else:
        place = rng.randrange(1, len(data))
        return bytes(changed[:place] if rng.random() < 0.5 else changed[place:])
    return bytes(changed)


def opened(path: Path) -> Archive | None:
    """Returns the model, or None if it was refused in one sentence that names the file."""
    try:
        return open_model(path)
    except ArchiveError as error:
        text = str(error)
        assert text.startswith(str(path)) and text.endswith('.') and '\n' not in text
        return None


def check_damage(source: Path, folder: Path, number: int) -> None:
    """Opens damaged copies of a model; what opens has the weights and options of the original."""
    data, expected = source.read_bytes(), open_model(source)
    rng = random.Random(source.name)
    num_refused = 0
    for _ in range(number):
        found = opened(write_bytes(folder / source.name, damaged(data, rng)))
        num_refused += found is None
        if found is not None:
            assert found.config == expected.config and set(found.weights) == set(expected.weights)
            for name, array in expected.weights.items():
                assert numpy.array_equal(found.weights[name], array), name
    assert num_refused > number // 2


def test_damaged_archive_of_ours_is_noticed(tmp_path: Path) -> None:
    check_damage(shipped_model(), tmp_path, 300)


def test_damaged_archive_of_tensorflow_is_noticed(data_folder: Path, tmp_path: Path) -> None:
    check_damage(data_folder / 'tf_archive' / 'gs1' / 'wts.h5.zip', tmp_path, 60)


def test_damaged_checkpoint_is_noticed(data_folder: Path, tmp_path: Path) -> None:
    check_damage(data_folder / 'torch_checkpoints' / 'torchapi_amp_N64.ckpt', tmp_path, 90)


@pytest.fixture
def members(tmp_path: Path) -> dict[str, bytes]:
    """The members of an archive with the options of the shipped model and a small weight."""
    archive = replace(open_model(shipped_model()), weights={'network.a': numpy.ones(3)})
    with zipfile.ZipFile(write_archive(tmp_path / 'small.h5.zip', archive)) as bundle:
        return {name: bundle.read(name) for name in bundle.namelist()}


def sealed(members: dict[str, bytes]) -> bytes:
    """Returns an archive whose sums are right, whatever its members are."""
    manifest = json.loads(members['manifest.json'])
    manifest['sha256'] = {
        name: hashlib.sha256(members[name]).hexdigest()
        for name in MEMBERS
        if 'manifest' not in name
    }
    return zip_bytes({**members, 'manifest.json': json.dumps(manifest).encode()})


def places(tree: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yields the path of every value of nested mappings."""
    yield above
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from places(value, (*above, key))


def replaced(tree: Any, place: tuple[str, ...], value: Any) -> Any:
    if not place:
        return value
    return {**tree, place[0]: replaced(tree[place[0]], place[1:], value)}


@pytest.mark.parametrize('name', ['manifest.json', 'config.json'])
def test_value_of_a_wrong_type_is_one_sentence(
    tmp_path: Path, members: dict[str, bytes], name: str
) -> None:
    tree = json.loads(members[name])
    for place in places(tree):
        if len(place) > 1 and place[0] == 'details':
            continue  # free text
        for value in WRONG:
            forged = {**members, name: json.dumps(replaced(tree, place, value)).encode()}
            data = zip_bytes(forged) if name == 'manifest.json' else sealed(forged)
            found = opened(write_bytes(tmp_path / 'a.h5.zip', data))
            if name == 'manifest.json' and not isinstance(value, str | dict):
                assert found is None or len(place) > 1, (place, value)


def test_forged_member_with_the_right_sum_is_one_sentence(
    tmp_path: Path, members: dict[str, bytes]
) -> None:
    rng = random.Random(4)
    for _ in range(200):
        name = rng.choice(MEMBERS[1:])
        data = damaged(members[name], rng)
        opened(write_bytes(tmp_path / 'a.h5.zip', sealed({**members, name: data})))


@pytest.mark.parametrize(
    'change, words',
    [
        ({'version': None}, 'version is a NoneType where a int belongs'),
        ({'version': 0}, 'format version 0'),
        ({'version': 10**400}, 'version is a int where'),
        ({'details': {'pattern_size': 'x'}}, 'pattern_size is a str where a int belongs'),
        ({'details': {'fingerprints': 3}}, 'fingerprints is a int where a list belongs'),
        ({'details': {'params_cfg': []}}, 'params_cfg is a list where a dict belongs'),
        ({'sha256': []}, 'sha256 is a list where a dict belongs'),
        ({'format': 'other'}, 'is not a model of ptychodus-pinn-torch'),
    ],
)
def test_manifest_that_is_no_manifest_is_refused(
    tmp_path: Path, members: dict[str, bytes], change: dict[str, Any], words: str
) -> None:
    manifest = {**json.loads(members['manifest.json']), **change}
    data = zip_bytes({**members, 'manifest.json': json.dumps(manifest).encode()})
    with pytest.raises(ArchiveError, match=words):
        open_model(write_bytes(tmp_path / 'a.h5.zip', data))
