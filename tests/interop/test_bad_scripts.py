"""Scripts, configurations, bundles and data sets that cannot be used: one sentence each."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy
import pytest
import torch

from ptychodus_pinn_torch.interop import object_api as objects
from ptychodus_pinn_torch.interop import workflows
from ptychodus_pinn_torch.interop.bundles import load_inference_bundle_torch, save_torch_bundle
from ptychodus_pinn_torch.interop.config_manager import ConfigManager
from ptychodus_pinn_torch.interop.legacy_config import config_from_legacy
from ptychodus_pinn_torch.interop.object_fields import DataConfig, ModelConfig, TrainingConfig
from ptychodus_pinn_torch.interop.params_cfg import read_params_cfg
from ptychodus_pinn_torch.ptycho_commands import ptycho_inference, ptycho_train
from ptychodus_pinn_torch.scan.io.hdf5 import write_scan_hdf5
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan

Case = Callable[[Path, Scan], Any]


def raw_data(scan: Scan, **changed: Any) -> workflows.RawDataTorch:
    y, x = scan.positions_px.T
    given: dict[str, Any] = {
        'xcoords': x, 'ycoords': y, 'diff3d': numpy.array(scan.patterns), 'probeGuess': scan.probe[0],
        'kind': 'counts',
    }  # fmt: skip
    return workflows.RawDataTorch(**(given | changed))


def text_file(folder: Path, text: str, name: str = 'config.json') -> Path:
    path = folder / name
    path.write_text(text)
    return path


def manager(**fields: Any) -> ConfigManager:
    return ConfigManager._flexible_load({'N': 32, 'C': 1, 'epochs': 1, 'device': 'cpu'} | fields)


def train_objects(folder: Path, scan: Scan, **fields: Any) -> Any:
    config = manager(**fields)
    loader = objects.PtychoDataLoader(
        write_scan_npz(folder / 'scan.npz', scan), config, output_dir=folder / 'out'
    )
    return objects.Trainer._from_lightning(
        objects.PtychoModel._new_model(None, config), loader
    ).train()


def from_np(scan: Scan, **changed: Any) -> Any:
    given = {
        'diff_patterns': numpy.array(scan.patterns),
        'probe': scan.probe,
        'positions': scan.positions_px,
    }
    return objects.PtychoDataLoader.from_np(**(given | changed))


SCRIPTS: dict[str, tuple[Case, str]] = {
    'no such format': (
        lambda d, s: objects.PtychoDataLoader(data_format='tensordict'),
        'tensordict',
    ),
    'folder without data': (lambda d, s: objects.PtychoDataLoader(d), 'holds no .*npz'),
    'folder that is not there': (
        lambda d, s: objects.PtychoDataLoader(d / 'missing'),
        'missing: there is no such',
    ),
    'fewer positions': (
        lambda d, s: from_np(s, positions=s.positions_px[:-1]),
        '35 patterns but 34 positions',
    ),
    'probe of another size': (lambda d, s: from_np(s, probe=s.probe[:, :16, :16]), '16, 16.* 32'),
    'positions in metres': (
        lambda d, s: from_np(s, positions=1e-8 * s.positions_px),
        'positions span .* not metres',
    ),
    'dark patterns': (
        lambda d, s: from_np(s, diff_patterns=0 * numpy.array(s.patterns)),
        'all patterns are zero',
    ),
    'no epochs': (lambda d, s: train_objects(d, s, epochs=0), 'epochs = 0 must be'),
    'no batch': (lambda d, s: train_objects(d, s, batch_size=0), 'batch_size'),
    'text for a number': (lambda d, s: train_objects(d, s, learning_rate='fast'), 'learning_rate'),
    'another size': (lambda d, s: train_objects(d, s, N=64), '64 px, the scans have 32 px'),
    'jax': (lambda d, s: train_objects(d, s, backend='jax'), 'jax'),
    'more devices than there are': (lambda d, s: train_objects(d, s, n_devices=-1), 'devices'),
    'saving before training': (
        lambda d, s: objects.PtychoModel().save(d / 'm'),
        'has no weights yet',
    ),
    'loading text': (
        lambda d, s: objects.PtychoModel.load(text_file(d, 'no model', 'm.ckpt')),
        'm.ckpt',
    ),
    'loading what is not there': (lambda d, s: objects.PtychoModel.load(d / 'm.ckpt'), 'm.ckpt'),
    'image of a new model': (
        lambda d, s: objects.InferenceEngine(manager(), objects.PtychoModel()).predict(from_np(s)),
        'has no weights yet',
    ),
    'simulation of an odd size': (
        lambda d, s: objects.Datagen(ConfigManager(datagen_config={'pattern_size': 33})).simulate(),
        'pattern size is 33',
    ),
    'simulation of a kind that there is not': (
        lambda d, s: objects.Datagen(
            ConfigManager(datagen_config={'object_kind': 'cheese'})
        ).simulate(),
        'cheese',
    ),
    'training on nothing': (lambda d, s: workflows.train_cdi_model_torch(None), 'NoneType'),
    'training on a list': (
        lambda d, s: workflows.train_cdi_model_torch([1, 2], config={'output_dir': d}),
        'a list holds no patterns',
    ),
    'engine in the configuration': (
        lambda d, s: workflows.train_cdi_model_with_backend(raw_data(s), None, {'backend': 'jax'}),
        "backend = 'jax'",
    ),
    'override that is no option': (
        lambda d, s: workflows.train_cdi_model_torch(
            raw_data(s), config={'output_dir': d}, overrides={'network.depth': 3}
        ),
        'network.depth',
    ),
    'test data of another size': (
        lambda d, s: workflows.train_cdi_model_torch(
            raw_data(s), d / 'missing.npz', {'output_dir': d}
        ),
        'missing.npz',
    ),
    'stitching with a wide M': (
        lambda d, s: workflows.reassemble_position(
            numpy.ones((2, 8, 8, 1)), numpy.zeros((2, 2)), 9
        ),
        'M = 9',
    ),
    'groups wider than the data': (
        lambda d, s: raw_data(s).generate_grouped_data(32, K=99, gridsize=9),
        'too few for groups of 81',
    ),
}

CONFIGURATIONS: dict[str, tuple[Case, str]] = {
    'no file': (lambda d, s: ConfigManager._from_json(d / 'no.json'), 'no.json: cannot be read'),
    'a number': (lambda d, s: ConfigManager._from_json(text_file(d, '3')), 'config.json: .*int'),
    'a section that is a list': (
        lambda d, s: ConfigManager._from_json(text_file(d, '{"data_config": [1]}')),
        'config.json: .*data_config',
    ),
    'broken YAML': (
        lambda d, s: ConfigManager._from_json(text_file(d, 'a: [', 'c.yaml')),
        'c.yaml',
    ),
    'binary': (
        lambda d, s: config_from_legacy(_binary(d)),
        'config.json: is neither JSON nor YAML',
    ),
    'fields in a list': (lambda d, s: config_from_legacy(text_file(d, '[3]')), 'config.json'),
    'gridsize of text': (
        lambda d, s: config_from_legacy({'gridsize': 'two'}),
        "gridsize = 'two' must",
    ),
    'grid_size of one number': (
        lambda d, s: config_from_legacy({'grid_size': 3}),
        'grid_size = 3 must be two',
    ),
    'negative weight': (lambda d, s: config_from_legacy({'weight_decay': -1}), 'weight_decay'),
    'no groups per batch': (
        lambda d, s: config_from_legacy({'nepochs': 3, 'batch_size': 0}),
        'batch_size = 0 must be',
    ),
    'no field of data': (lambda d, s: DataConfig(flux=1), 'DataConfig has no field flux'),
    'no field of models': (lambda d, s: ModelConfig(depth=1), 'ModelConfig has no field depth'),
    'no field of training': (lambda d, s: TrainingConfig().update(x=1), 'TrainingConfig .* x'),
    'parameters that are text': (
        lambda d, s: read_params_cfg(text_file(d, 'hello')),
        'config.json: is no snapshot',
    ),
}


def _binary(folder: Path) -> Path:
    path = folder / 'config.json'
    path.write_bytes(b'\xff\xfe\x00\x80')
    return path


def bundle(folder: Path, change: Callable[[dict[str, bytes]], Any]) -> Path:
    """Returns the folder of a bundle of plain modules with members changed."""
    modules = {'diffraction_to_obj': torch.nn.Linear(3, 2)}
    path = save_torch_bundle(modules, folder / 'wts.h5', {'N': 64})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, 'w') as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return folder


def _set(name: str, data: bytes) -> Callable[[dict[str, bytes]], Any]:
    return lambda members: members.__setitem__(name, data)


WEIGHTS = 'diffraction_to_obj/weights.safetensors'
BUNDLES: dict[str, tuple[Callable[[dict[str, bytes]], Any], str]] = {
    'no weights': (lambda members: members.pop(WEIGHTS), 'wts.h5.zip'),
    'weights of text': (_set(WEIGHTS, b'hello'), 'wts.h5.zip: is damaged'),
    'weights cut short': (_set(WEIGHTS, b'\x10' + 7 * b'\x00'), 'wts.h5.zip: is damaged'),
    'manifest of text': (_set('manifest_of_weights.json', b'no'), 'wts.h5.zip: is damaged'),
    'manifest of a list': (_set('manifest_of_weights.json', b'[]'), 'wts.h5.zip: is damaged'),
    'manifest without models': (_set('manifest_of_weights.json', b'{}'), 'wts.h5.zip: is damaged'),
    'models outside': (
        _set('manifest_of_weights.json', b'{"models": ["../../etc"]}'),
        'wts.h5.zip',
    ),
    'parameters of a list': (_set('params.json', b'[1]'), 'wts.h5.zip: holds a list'),
    'no parameters': (lambda members: members.pop('params.json'), 'wts.h5.zip'),
    'pickled parameters': (_set('params.json', b'\x80\x04cos\nsystem\n.'), 'wts.h5.zip'),
}


def h5(folder: Path, scan: Scan, change: Callable[[h5py.File], Any]) -> Path:
    path = write_scan_hdf5(folder / 'set.h5', scan)
    with h5py.File(path, 'r+') as file:
        change(file)
    return path


def _replace(name: str, value: Any) -> Callable[[h5py.File], Any]:
    def change(file: h5py.File) -> None:
        del file[name]
        if value is not None:
            file[name] = value

    return change


DATA_SETS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    'no patterns': (_replace('diff3d', None), "set.h5 has no key 'diff3d'"),
    'no columns': (_replace('xcoords', None), "set.h5 has no key 'xcoords'"),
    'flat patterns': (_replace('diff3d', numpy.ones((35, 32))), 'set.h5: the patterns have shape'),
    'patterns of text': (_replace('diff3d', numpy.full((35, 4, 4), b'x')), 'set.h5'),
    'other columns': (_replace('xcoords', numpy.arange(9.0)), '9 xcoords but 35 ycoords'),
    'columns of text': (_replace('xcoords', ['x'] * 35), 'set.h5: xcoords is of type'),
    'no number in a column': (_replace('xcoords', numpy.full(35, numpy.nan)), 'no position is finite'),
    'probe that is dark': (_replace('probeGuess', numpy.zeros((1, 32, 32))), 'probe'),
    'object of three dimensions': (_replace('objectGuess', numpy.ones((2, 2, 2, 2))), 'object'),
    'bad pixels of another size': (_replace('bad_pixels', numpy.zeros((3, 3), bool)), 'bad_pixels|mask'),
    'a marker that there is not': (_replace('diff3d_kind', 'photons'), "diff3d_kind is 'photons'"),
    'pixel size of text': (_replace('pixel_size_m', 'small'), 'pixel_size_m'),
}  # fmt: skip


def _expect(action: Callable[[], Any], words: str) -> None:
    """Asserts that the error is one of input, has the words, and is one paragraph."""
    errors = (ValueError, TypeError, KeyError, FileNotFoundError)
    with pytest.raises(errors, match=words) as found:
        action()
    assert '\n' not in str(found.value), found.value


def _files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('name', SCRIPTS)
def test_a_script_that_cannot_go_on_says_so(
    tmp_path: Path, tiny_scan: Scan, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    action, words = SCRIPTS[name]
    _expect(lambda: action(tmp_path, tiny_scan), words)
    assert not list(tmp_path.rglob('wts.h5.zip'))


@pytest.mark.parametrize('name', CONFIGURATIONS)
def test_a_configuration_that_makes_no_sense_is_named(
    tmp_path: Path, tiny_scan: Scan, name: str
) -> None:
    action, words = CONFIGURATIONS[name]
    _expect(lambda: action(tmp_path, tiny_scan), words)


@pytest.mark.parametrize('name', BUNDLES)
def test_a_bundle_that_is_damaged_is_named_and_left_as_it_was(tmp_path: Path, name: str) -> None:
    change, words = BUNDLES[name]
    folder = bundle(tmp_path, change)
    before = _files(folder)
    _expect(lambda: load_inference_bundle_torch(folder), words)
    assert _files(folder) == before


@pytest.mark.parametrize('name', DATA_SETS)
def test_a_data_set_that_cannot_be_used_is_named(
    tmp_path: Path, tiny_scan: Scan, name: str
) -> None:
    change, words = DATA_SETS[name]
    path = h5(tmp_path, tiny_scan, change)
    before = _files(tmp_path)
    _expect(lambda: read_scan(path), words)
    assert _files(tmp_path) == before


COMMANDS: dict[str, tuple[Callable[[list[str]], int], dict[str, Any], int, str]] = {
    'train: unknown field': (ptycho_train, {'flux': 3}, 2, '--train_data_file is needed'),
    'train: nonsense': (ptycho_train, {'train_data_file': 'SCAN', 'nepochs': 'ten'}, 2, 'ten'),
    'train: other size': (ptycho_train, {'train_data_file': 'SCAN', 'N': 64}, 1, '64 px'),
    'train: no test data': (
        ptycho_train,
        {'train_data_file': 'SCAN', 'N': 32, 'test_data_file': 'none.npz'},
        1,
        'none.npz',
    ),
    'image: no model': (ptycho_inference, {'test_data_file': 'SCAN'}, 2, '--model_path is needed'),
    'image: no such model': (
        ptycho_inference,
        {'test_data_file': 'SCAN', 'model_path': 'none'},
        1,
        'none',
    ),
    'image: a scan for a model': (
        ptycho_inference,
        {'test_data_file': 'SCAN', 'model_path': 'SCAN'},
        1,
        'scan.npz',
    ),
}


@pytest.mark.parametrize('name', COMMANDS)
def test_a_file_of_fields_that_makes_no_sense_is_a_sentence(
    tmp_path: Path,
    tiny_scan: Scan,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command, fields, status, words = COMMANDS[name]
    scan = str(write_scan_npz(tmp_path / 'scan.npz', replace(tiny_scan)))
    tree = {key: scan if value == 'SCAN' else value for key, value in fields.items()}
    path = text_file(tmp_path, json.dumps(tree))
    try:
        found = command(['--config', str(path)])
    except SystemExit as stop:
        found = int(stop.code or 0)
    message = capsys.readouterr().err
    assert found == status and words in message and 'Traceback' not in message
    assert not list(tmp_path.rglob('wts.h5.zip')) + list(tmp_path.rglob('reconstruction.npz'))
