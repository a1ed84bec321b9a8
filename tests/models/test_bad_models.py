"""Damaged, forged and unsuitable models: one sentence each, and nothing runs."""

from __future__ import annotations

import copy
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy
import pytest
import torch
from forgeries import (
    Attack,
    hdf5_bytes,
    small_graph,
    small_weights,
    tensorflow_members,
    write_bytes,
    zip_bytes,
)

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.models.archive import ArchiveError
from ptychodus_pinn_torch.models.opening import open_model
from ptychodus_pinn_torch.models.restricted_pickle import read_pickle

MODEL = 'diffraction_to_obj'


def changed_weights(change: Callable[[h5py.File], None]) -> bytes:
    buffer = io.BytesIO(small_weights())
    with h5py.File(buffer, 'r+') as file:
        change(file)
    return buffer.getvalue()


def changed_graph(kind: str, **values: Any) -> dict[str, Any]:
    graph = copy.deepcopy(small_graph())
    for layer in graph['config']['layers']:
        if layer['class_name'] == kind:
            layer['config'].update(values)
    return graph


def without(kind: str) -> dict[str, Any]:
    graph = small_graph()
    layers = [item for item in graph['config']['layers'] if item['class_name'] != kind]
    return {'config': {'layers': layers}}


def archive(**parts: Any) -> bytes:
    return zip_bytes(tensorflow_members(**parts))


def renamed(members: dict[str, bytes], **changes: bytes | None) -> bytes:
    names = {
        'keras': f'{MODEL}/model.keras',
        'params': f'{MODEL}/params.dill',
        'manifest': 'manifest.dill',
        'extra': '../evil.txt',
    }
    members = dict(members)
    for key, data in changes.items():
        if data is None:
            del members[names[key]]
        else:
            members[names[key]] = data
    return zip_bytes(members)


def link_out(file: h5py.File) -> None:
    del file['layers/conv2d_3/vars/0']
    file['layers/conv2d_3/vars/0'] = h5py.ExternalLink('/etc/hostname', '/0')


def soft_link(file: h5py.File) -> None:
    del file['layers/conv2d_3']
    file['layers/conv2d_3'] = h5py.SoftLink('/layers/conv2d_1')


def keep_outside(file: h5py.File) -> None:
    del file['layers/conv2d_3/vars/1']
    file['layers/conv2d_3/vars'].create_dataset(
        '1', (8,), 'f4', external=[('/etc/hostname', 0, 32)]
    )


def spoil(file: h5py.File) -> None:
    file['layers/conv2d_2/vars/1'][0] = numpy.nan


def huge(file: h5py.File) -> None:
    del file['layers/conv2d_3/vars/0']
    file.create_dataset('layers/conv2d_3/vars/0', (3, 3, 10**5, 10**5), 'f4', chunks=(3, 3, 64, 64))


def double(file: h5py.File) -> None:
    del file['layers/conv2d_1/vars/0'], file['layers/conv2d_1/vars/1']
    file['layers/conv2d_1/vars/0'] = numpy.zeros((5, 5, 8, 8), 'f4')
    file['layers/conv2d_1/vars/1'] = numpy.zeros(8, 'f4')


def twice() -> bytes:
    buffer = io.BytesIO(archive())
    with zipfile.ZipFile(buffer, 'a') as bundle, pytest.warns(UserWarning):
        bundle.writestr('manifest.dill', b'again')
    return buffer.getvalue()


def bomb() -> bytes:
    members = tensorflow_members()
    members[f'{MODEL}/params.dill'] = bytes(2**24)
    return zip_bytes(members, is_packed=True)


def deep() -> bytes:
    inner = zip_bytes({'wts.h5.zip': zip_bytes({'wts.h5.zip': archive()})})
    return zip_bytes({'wts.h5.zip': inner})


CASES: dict[str, tuple[Callable[[], bytes], str]] = {
    'truncated': (lambda: archive()[:-400], 'cut short'),
    'damaged inside': (lambda: archive().replace(b'class_name', b'CLASS_NAME', 1), 'damaged'),
    'nested too deep': (deep, 'nested too deep'),
    'path out of the archive': (lambda: renamed(tensorflow_members(), extra=b'x'), 'leads out'),
    'a member twice': (twice, 'twice'),
    'a bomb': (bomb, 'would unpack to'),
    'no model': (lambda: renamed(tensorflow_members(), keras=None), 'model.keras is missing'),
    'no params': (lambda: renamed(tensorflow_members(), params=None), 'params.dill is missing'),
    'params without N': (lambda: archive(params={'gridsize': 1}), 'lacks N and gridsize'),
    'params of words': (lambda: archive(params={'N': 'x', 'gridsize': 1}), 'are no numbers'),
    'another size': (lambda: archive(params={'N': 128, 'gridsize': 1}), 'two models'),
    'another gridsize': (lambda: archive(params={'N': 64, 'gridsize': 2}), 'two models'),
    'weights of more channels': (
        lambda: archive(graph=small_graph(4), params={'N': 64, 'gridsize': 2}),
        'two models',
    ),
    'graph of another size': (
        lambda: archive(graph=small_graph(1, 128), params={'N': 128, 'gridsize': 1}),
        'two models',
    ),
    'external link': (lambda: archive(weights=changed_weights(link_out)), 'to elsewhere'),
    'soft link': (lambda: archive(weights=changed_weights(soft_link)), 'to elsewhere'),
    'external storage': (lambda: archive(weights=changed_weights(keep_outside)), 'elsewhere'),
    'huge weight': (lambda: archive(weights=changed_weights(huge)), 'would unpack to'),
    'not finite': (lambda: archive(weights=changed_weights(spoil)), 'not finite'),
    'kernel of 5 x 5': (lambda: archive(weights=changed_weights(double)), 'no 3 x 3 convolution'),
    'no weights': (lambda: archive(weights=hdf5_bytes(lambda file: None)), 'lacks layers'),
    'weights are no HDF5': (lambda: archive(weights=b'words'), 'model.weights.h5 is damaged'),
    'fewer layers': (lambda: archive(graph=without('Conv2D')), 'no PtychoPINN network'),
    'no graph': (lambda: archive(graph={'config': 3}), 'no Keras graph'),
    'old complex layer': (
        lambda: archive(graph=changed_graph('CombineComplexLayer', use_polar=False)),
        'use_polar',
    ),
    'unknown activation': (
        lambda: archive(graph=changed_graph('ActivationLayer', activation_name='gelu')),
        'gelu',
    ),
    'no padding': (lambda: archive(graph=without('ZeroPadding2D')), 'pad_object'),
    'saved model': (
        lambda: zip_bytes({'manifest.dill': pickle.dumps({}), f'{MODEL}/saved_model.pb': b''}),
        'SavedModel',
    ),
    'old checkpoint': (
        lambda: zip_bytes({'manifest.dill': pickle.dumps({}), f'{MODEL}/w.index': b''}),
        'TensorFlow checkpoint',
    ),
    'bare HDF5': (lambda: small_weights(), 'bare HDF5'),
    'bare pickle': (lambda: pickle.dumps({'a': 1}), 'is a pickle'),
}


@pytest.mark.parametrize('name', CASES)
def test_bad_archive_is_one_sentence(tmp_path: Path, name: str) -> None:
    make, words = CASES[name]
    path = write_bytes(tmp_path / 'wts.h5.zip', make())
    with pytest.raises(ArchiveError, match=words) as caught:
        open_model(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.endswith('.') and '\n' not in text
    assert sorted(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('member', ['manifest', 'params'])
def test_pickle_that_calls_something_is_refused(tmp_path: Path, member: str) -> None:
    attack = pickle.dumps({'N': 64, 'version': Attack(tmp_path / 'attacked')})
    path = tmp_path / 'wts.h5.zip'
    write_bytes(path, renamed(tensorflow_members(), **{member: attack}))
    with pytest.raises(ArchiveError, match='mkdir, which would have to be run'):
        open_model(path)
    assert not (tmp_path / 'attacked').exists()


@pytest.mark.parametrize(
    'data',
    [
        b'',
        b'\x80\x04',
        pickle.dumps(eval),
        pickle.dumps(numpy.array([print], dtype=object)),
        b'cnumpy\ndtype\n(S"O8"\ntR.',
        b'cnumpy._core.multiarray\nscalar\n(I1\nI2\ntR.',
        b'cpathlib\nPath\nN}S"_function"\ncbuiltins\ncomplex\ns\x86b.',
        b'X\xff\xff\xff\x7f',
        b'\x80\x04' + b'(' * 100_000 + b'.',
    ],
)
def test_forged_pickle_is_one_sentence(data: bytes) -> None:
    with pytest.raises(ArchiveError):
        read_pickle(data, 'params.dill')


def test_pickle_that_unfolds_without_end_is_refused() -> None:
    value: Any = [0] * 10
    for _ in range(30):
        value = [value] * 10
    with pytest.raises(ArchiveError, match='nested too deep'):
        read_pickle(pickle.dumps(value), 'params.dill')


def test_plain_values_and_arrays_are_read() -> None:
    tree = {
        'N': 64,
        'a': [1.5, None, True],
        'p': numpy.arange(6.0).reshape(2, 3).T,
        's': numpy.float32(2.5),
        'c': numpy.ones((2, 2), 'c8'),
        'path': Path('x'),
    }
    found = read_pickle(pickle.dumps(tree, protocol=2), 'params.dill')
    assert found['a'] == tree['a'] and found['s'] == 2.5 and found['path'] == 'x'
    assert numpy.array_equal(found['p'], tree['p']) and found['c'].dtype == numpy.complex64


def save(path: Path, tree: Any) -> Path:
    torch.save(tree, path)
    return path


def test_checkpoint_that_calls_something_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / 'a.ckpt', {'state_dict': Attack(tmp_path / 'attacked')})
    with pytest.raises(ArchiveError, match='would have to be run'):
        open_model(path)
    assert not (tmp_path / 'attacked').exists()


@pytest.fixture
def checkpoint(data_folder: Path) -> Any:
    path = data_folder / 'torch_checkpoints' / 'torchapi_amp_N64.ckpt'
    tree = torch.load(path, map_location='cpu', weights_only=True)
    return {key: tree[key] for key in ('state_dict', 'hyper_parameters', 'epoch')}


def drop_weight(tree: Any) -> None:
    del tree['state_dict']['model.autoencoder.decoder_amp.amp.conv1.weight']


def cut_weight(tree: Any) -> None:
    name = 'model.autoencoder.encoder.blocks.1.conv1.weight'
    tree['state_dict'][name] = tree['state_dict'][name][:, :5]


def not_finite(tree: Any) -> None:
    tree['state_dict']['model.autoencoder.encoder.blocks.1.conv1.bias'][0] = float('inf')


BAD_CHECKPOINTS: dict[str, tuple[Callable[[Any], None], str]] = {
    'no weights': (lambda tree: tree.pop('state_dict'), 'no state_dict'),
    'no parameters': (lambda tree: tree.pop('hyper_parameters'), 'no hyper_parameters'),
    'of something else': (lambda tree: tree['state_dict'].clear(), 'no weights of a PtychoPINN'),
    'a weight missing': (drop_weight, 'first.inner.weight is missing'),
    'a weight cut': (cut_weight, 'the network wants'),
    'not finite': (not_finite, 'not finite'),
    'another size': (
        lambda tree: tree['hyper_parameters']['data_config'].update(N=128),
        'two models',
    ),
    'another group': (
        lambda tree: tree['hyper_parameters']['data_config'].update(C=1),
        'two models',
    ),
    'batch norm': (
        lambda tree: tree['hyper_parameters']['model_config'].update(batch_norm=True),
        'batch normalisation',
    ),
    'shared decoder': (
        lambda tree: tree['hyper_parameters']['model_config'].update(use_shared_decoder=True),
        'shared decoder',
    ),
    'another architecture': (
        lambda tree: tree['hyper_parameters']['model_config'].update(architecture='neuralop_uno'),
        "'neuralop_uno'",
    ),
    'operator without its weights': (
        lambda tree: tree['hyper_parameters']['model_config'].update(architecture='fno'),
        'operator.lifter.conv1.weight is missing',
    ),
}


@pytest.mark.parametrize('name', BAD_CHECKPOINTS)
def test_bad_checkpoint_is_one_sentence(tmp_path: Path, checkpoint: Any, name: str) -> None:
    change, words = BAD_CHECKPOINTS[name]
    change(checkpoint)
    path = save(tmp_path / 'a.ckpt', checkpoint)
    with pytest.raises(ArchiveError, match=words) as caught:
        open_model(path)
    assert '\n' not in str(caught.value)


def test_truncated_checkpoint_is_one_sentence(tmp_path: Path, checkpoint: Any) -> None:
    path = save(tmp_path / 'a.ckpt', checkpoint)
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(ArchiveError, match='cut short'):
        open_model(path)


def test_command_refuses_without_a_trace(tmp_path: Path, capsys: Any) -> None:
    source = write_bytes(tmp_path / 'wts.h5.zip', archive()[:-400])
    output = tmp_path / 'model.h5.zip'
    assert main(['convert', str(source), '--output', str(output)]) == 1
    assert main(['convert', str(tmp_path / 'none.zip'), '--output', str(output)]) == 1
    assert main(['convert', str(source), '--output', str(tmp_path / 'x.pt')]) == 2
    assert sorted(tmp_path.iterdir()) == [source]
    assert capsys.readouterr().err.count('\n') == 3


def test_model_of_another_pattern_size_is_refused(tmp_path: Path, tiny_scan_path: Path) -> None:
    source = write_bytes(tmp_path / 'wts.h5.zip', archive())
    output = tmp_path / 'image.npz'
    words = ['reconstruct', str(tiny_scan_path), '--model', str(source), '--output', str(output)]
    assert main(words) == 1
    assert not output.exists()
