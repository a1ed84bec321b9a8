"""Models made to harm: small files that would fill the memory, never end, or end the interpreter."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from forgeries import tensorflow_members, write_bytes, zip_bytes
from safetensors.numpy import save

from ptychodus_pinn_torch.backend import get_backend
from ptychodus_pinn_torch.config import Config, make_config
from ptychodus_pinn_torch.models import history_table
from ptychodus_pinn_torch.models.archive import Archive, ArchiveError, write_archive
from ptychodus_pinn_torch.models.opening import open_model
from ptychodus_pinn_torch.models.restricted_pickle import read_pickle
from ptychodus_pinn_torch.models.safe_zip import SafeZip
from ptychodus_pinn_torch.models.torch_file import load_tensors

ONES = numpy.ones(3, 'f4')
TEXT = b"S'" + b'x' * 1000 + b"'\np0\n0"


def doubled(call: bytes = b'') -> bytes:
    """Returns a pickle in which each of 40 values is a pair of the one before."""
    steps = [b'(g%d\ng%d\ntp%d\n0' % (i, i, i + 1) for i in range(40)]
    return TEXT + b''.join(steps) + call


def joined() -> bytes:
    steps = [b'cpathlib\nPath\n(g%d\ng%d\ntRp%d\n0' % (i, i, i + 1) for i in range(40)]
    return TEXT + b''.join(steps) + b'g40\n.'


def copied() -> bytes:
    """Returns a pickle that makes 100 000 arrays of one text of a million bytes."""
    state = b'(K\x01(J\x40\x42\x0f\x00tcnumpy\ndtype\n(U\x02u1tR\x89h\x00t'
    start = b'\x80\x02B\x40\x42\x0f\x00' + b'x' * 10**6 + b'q\x000' + state + b'q\x010'
    return start + b'(l' + 10**5 * b'cnumpy\nndarray\n)Rh\x01ba' + b'.'


PICKLES: dict[str, Callable[[], bytes]] = {
    'key of nested tuples': lambda: b'\x80\x04})' + 200_000 * b'\x85' + b'Ns.',
    'key of doubled tuples': lambda: doubled(b'}g40\nNs.'),
    'doubled tuples': lambda: doubled(b'g40\n.'),
    'path of doubled tuples': lambda: doubled(b'cpathlib\nPath\n(g40\ntR.'),
    'doubled paths': joined,
    'dtype of doubled tuples': lambda: doubled(b'cnumpy\ndtype\n(g40\ntR.'),
    'state of a list': lambda: b'\x80\x02]Nb.',
    'a million copies': copied,
    'a set': lambda: pickle.dumps({1, 2}),
    'a number of a million bits': lambda: pickle.dumps(1 << 10**6),
    'opcodes without end': lambda: b'\x80\x02' + 3_000_000 * b'N0' + b'N.',
    'text that is longer than the file': lambda: b'\x80\x04\x8d' + struct.pack('<Q', 2**62) + b'.',
}


@pytest.mark.parametrize('name', PICKLES)
def test_hostile_pickle_is_one_sentence(name: str) -> None:
    with pytest.raises(ArchiveError, match=r'^params.dill: is damaged: [^\n]*\.$'):
        read_pickle(PICKLES[name](), 'params.dill')


def test_place_in_the_memo_costs_nothing() -> None:
    assert read_pickle(b'\x80\x02Nr\x00\x00\x00\xf0.', 'params.dill') is None


def torch_bytes(tree: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def repickled(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """Returns a torch file whose pickle is another one."""
    with zipfile.ZipFile(io.BytesIO(data)) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    return zip_bytes(
        {name: change(x) if name.endswith('.pkl') else x for name, x in members.items()}
    )


CHECKPOINTS: dict[str, tuple[Any, str]] = {
    'sparse': (torch.eye(3).to_sparse(), 'sparse'),
    'without numbers': (torch.zeros(3, device='meta'), 'without numbers'),
    'a view that repeats': (torch.zeros(1).expand(30_000, 30_000), 'damaged or forged'),
}


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_tensor_that_is_no_weight_is_one_sentence(tmp_path: Path, name: str) -> None:
    value, words = CHECKPOINTS[name]
    tree = {'state_dict': {'network.a': value}, 'hyper_parameters': {'config': '{}'}}
    path = write_bytes(tmp_path / 'best.ckpt', torch_bytes(tree))
    with pytest.raises(ArchiveError, match=words) as caught:
        open_model(path)
    assert str(caught.value).startswith(str(path)) and '\n' not in str(caught.value)


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float64', 'int64', 'bool', 'complex64'])
def test_tensors_are_those_that_torch_reads(tmp_path: Path, dtype: str) -> None:
    whole = (torch.arange(24).reshape(4, 6) - 5).to(getattr(torch, dtype))
    tree = {'a': whole, 'b': whole.T, 'c': whole[1:, ::2], 'd': whole[2, 3], 'e': whole[:0]}
    path = write_bytes(tmp_path / 'a.ckpt', torch_bytes({**tree, 'size': whole.shape, 'n': 3}))
    found = load_tensors(SafeZip(path, str(path)))
    assert found.pop('n') == 3 and found.pop('size') == (4, 6)
    for name, tensor in tree.items():
        expected = tensor.float() if tensor.is_floating_point() else tensor
        assert found[name].shape == tensor.shape
        assert numpy.array_equal(found[name].numbers(), expected.numpy())


def test_tensors_that_share_their_numbers_fill_no_memory(tmp_path: Path) -> None:
    whole = torch.zeros(2**18)
    path = write_bytes(tmp_path / 'a.ckpt', torch_bytes([whole[i:] for i in range(100)]))
    tensors = load_tensors(SafeZip(path, str(path)))
    with pytest.raises(ArchiveError, match='would unpack to'):
        [tensor.numbers() for tensor in tensors]


@pytest.mark.parametrize('name', ['key of nested tuples', 'doubled paths'])
def test_hostile_checkpoint_is_one_sentence(tmp_path: Path, name: str) -> None:
    data = repickled(torch_bytes({'state_dict': {}}), lambda _: PICKLES[name]())
    path = write_bytes(tmp_path / 'a.ckpt', data)
    with pytest.raises(ArchiveError, match='is damaged: '):
        open_model(path)


def forged(path: Path, **changes: bytes) -> Path:
    """Returns the path of an archive of ours with other members, packed, their sums right."""
    with zipfile.ZipFile(write_archive(path, Archive(Config(), {'network.a': ONES}))) as bundle:
        members = {name: bundle.read(name) for name in bundle.namelist()}
    members |= {name.replace('_', '.'): data for name, data in changes.items()}
    manifest = json.loads(members.pop('manifest.json'))
    manifest['sha256'] = {name: hashlib.sha256(data).hexdigest() for name, data in members.items()}
    members = {'manifest.json': json.dumps(manifest).encode(), **members}
    return write_bytes(path, zip_bytes(members, is_packed=True))


BOMBS = {
    'weights_safetensors': lambda: save({'network.a': numpy.zeros(2**22)}),
    'history_csv': lambda: b'epoch\n' + 2**24 * b'\n',
    'config_json': lambda: b'{' + 2**20 * b' ' + b'}',
}


@pytest.mark.parametrize('name', BOMBS)
def test_member_that_grows_beyond_measure_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchiveError, match='would unpack to'):
        open_model(forged(tmp_path / 'a.h5.zip', **{name: BOMBS[name]()}))


def test_zips_in_zips_grow_no_further_than_one(tmp_path: Path) -> None:
    members = tensorflow_members()
    members['diffraction_to_obj/params.dill'] = bytes(2**22)
    for _ in range(3):
        members = {'wts.h5.zip': zip_bytes(members, is_packed=True)}
    path = write_bytes(tmp_path / 'a.zip', members['wts.h5.zip'])
    bundle = SafeZip(path, str(path)).inside('wts.h5.zip').inside('wts.h5.zip')
    bundle.read('diffraction_to_obj/params.dill')
    with pytest.raises(ArchiveError, match='would unpack to'):
        bundle.read('diffraction_to_obj/params.dill')


@pytest.mark.parametrize(
    'text, words',
    [
        (b'epoch\n' + b'1\n' * 11, 'more than 10 rows'),
        (b'epoch\n' + b'9' * 200_000, 'field larger than'),
        (b'epoch\none\n', 'could not convert'),
        (b'epoch\ninf\n', 'an epoch has no number'),
    ],
)
def test_history_that_is_none_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, words: str
) -> None:
    monkeypatch.setattr(history_table, 'MAX_ROWS', 10)
    with pytest.raises(ArchiveError, match=f'history.csv cannot be read: .*{words}'):
        open_model(forged(tmp_path / 'a.h5.zip', history_csv=text))


def test_no_room_is_made_for_a_network_that_the_weights_do_not_fit(tmp_path: Path) -> None:
    options = {'pattern_size': 1024, 'operator_width': 256, 'num_modes': 256, 'num_blocks': 32}
    config = make_config({'network': {'kind': 'fno', **options}})  # two terabytes of weights
    path = write_archive(tmp_path / 'a.h5.zip', Archive(config, {'network.a': ONES}))
    archive = open_model(path, backend='pytorch')
    with pytest.raises(ValueError, match=r'a\.h5\.zip: does not fit the network'):
        get_backend('pytorch').load_network(archive, Config())
