"""JSON and YAML of unknown origin: the values, or one sentence that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.config import ConfigError, load_config, load_tree
from ptychodus_pinn_torch.interop.config_manager import ConfigManager
from ptychodus_pinn_torch.interop.legacy_config import (
    config_from_legacy,
    dataclass_to_legacy_dict,
)
from ptychodus_pinn_torch.interop.params_cfg import read_params_cfg
from ptychodus_pinn_torch.ptycho_commands import ptycho_train
from ptychodus_pinn_torch.trees import show

STEPS = [
    (f'{"bcdefghi"[i]}: &{"bcdefghi"[i]}', ','.join(['*' + 'abcdefgh'[i]] * 9)) for i in range(8)
]
LAUGHS = 'a: &a [x,x,x,x,x,x,x,x,x]\n' + ''.join(f'{name} [{nine}]\n' for name, nine in STEPS)
MERGES = 'a: &a {x: 1}\n' + ''.join(f'{name} {{<<: [{nine}]}}\n' for name, nine in STEPS)

BAD: dict[str, tuple[str, str]] = {
    'lists of lists': ('a.yaml', LAUGHS + 'mode: *i'),
    'merges of merges': ('a.yaml', MERGES + '<<: *i'),
    'a list that is in itself': ('a.yaml', 'mode: &a [*a]'),
    'many brackets': ('a.yaml', '[' * 100_000),
    'many dashes': ('a.yaml', '- ' * 100_000),
    'code': ('a.yaml', '!!python/object/apply:os.mkdir [attacked]'),
    'no date': ('a.yaml', 'mode: 2001-99-99'),
    'a number without end': ('a.yaml', 'training: {max_steps: ' + '9' * 100_000 + '}'),
    'two megabytes': ('a.json', ' ' * 2**21),
    'nested JSON': ('a.json', '{"a":' * 100_000),
    'less nested JSON': ('a.json', '{"a":' * 200 + '1' + '}' * 200),
    'a long number': ('a.json', '{"a": ' + '9' * 10_000 + '}'),
    'half a letter': ('a.json', '{"mode": "\\ud800"}'),
    'not a number': ('a.json', '{"training": {"max_steps": NaN}}'),
    'a long text': ('a.json', '{"mode": "' + 'x' * 100_000 + '"}'),
    'nothing': ('a.json', ''),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_configuration_is_one_short_sentence(tmp_path: Path, name: str) -> None:
    file, text = BAD[name]
    path = tmp_path / file
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    found = str(caught.value)
    assert found.startswith(f'{path}: ') and found.endswith('.') and '\n' not in found
    assert len(found) < 600 and not Path('attacked').exists()


def test_what_aliases_stand_for_is_read(tmp_path: Path) -> None:
    path = tmp_path / 'a.yaml'
    path.write_text('training: &a {max_steps: 3}\nother: {<<: *a, seed: 1}\nlast: [*a, *a]\n')
    steps = {'max_steps': 3}
    expected = {'training': steps, 'other': {**steps, 'seed': 1}, 'last': [steps, steps]}
    assert load_tree(path) == expected


def test_a_folder_is_no_configuration(tmp_path: Path, tiny_scan_path: Path, capsys: Any) -> None:
    words = ['train', str(tiny_scan_path), '--output', str(tmp_path / 'm.h5.zip')]
    assert main([*words, '--config', str(tmp_path)]) == 2
    assert f'{tmp_path}: is no file.' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text, words',
    [
        ('{"model": 5}', 'model is 5, not fields'),
        ('{"model": "../other.json"}', "model is '../other.json', not fields"),
        ('{"model": [1, 2]}', 'model is'),
        ('{"nepochs": Infinity}', 'nepochs = inf'),
        ('{"N": Infinity}', 'N = inf'),
        ('{"nepochs": 1e300}', 'nepochs = 1e'),
        ('{"mae_weight": "much"}', "mae_weight = 'much' must be a number"),
        ('{"grid_size": [2, null]}', 'grid_size'),
        ('{"probe_mask": true, "N": "x"}', 'N = '),
        ('{"lr_warmup_epochs": {}, "nepochs": 3}', 'lr_warmup_epochs = {}'),
        ('{"gradient_clip_val": []}', r'gradient_clip_val = \[\]'),
        ('{"batch_size": ' + '[' * 20 + ']' * 20 + '}', r'batch_size = \[\[\[...\]\]\]: '),
    ],
)
def test_a_field_that_makes_no_sense_is_named_with_its_file(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / 'theirs.json'
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        config_from_legacy(path)
    assert str(caught.value).startswith(str(path)) and '\n' not in str(caught.value)


def test_a_section_within_a_section_is_named_with_its_file(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / 'theirs.json'
    path.write_text('{"train_data_file": "a.npz", "model": {"model": 3}}')
    assert ptycho_train(['--config', str(path)]) == 2
    assert capsys.readouterr().err == f'{path}: model is 3, not fields with values.\n'


def test_no_file_is_opened_for_a_name_in_a_file(tmp_path: Path) -> None:
    (tmp_path / 'other.json').write_text('{"N": 128}')
    (tmp_path / 'a.json').write_text(f'{{"model": "{tmp_path}/other.json"}}')
    with pytest.raises(ConfigError, match='not fields with values'):
        dataclass_to_legacy_dict(tmp_path / 'a.json')


@pytest.mark.parametrize(
    'text, words',
    [
        ('{"training_config": {"epochs": 3, "batch_size": "x"}}', "batch_size = 'x'"),
        ('{"training_config": {"epochs": 3, "batch_size": Infinity}}', 'batch_size = inf'),
        ('{"data_config": {"n_subsample": "all"}}', 'n_subsample'),
        ('{"data_config": {"C": NaN}}', 'C = nan must be a whole number'),
    ],
)
def test_a_field_of_the_object_api_is_named_with_its_file(
    tmp_path: Path, text: str, words: str
) -> None:
    path = tmp_path / 'theirs.json'
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        ConfigManager._from_json(path).to_config()
    assert str(caught.value).startswith(str(path))


def test_parameters_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / 'params.json'
    for text in ('{"a": {"dtype": "f4", "values": 1' + '0' * 400 + '}}', '[' * 10**5, '{"a": NaN'):
        path.write_text(text)
        with pytest.raises(ConfigError, match='is no snapshot of params.cfg'):
            read_params_cfg(path)


def test_a_command_names_its_configuration_and_shows_no_control_characters(
    tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / 'theirs.json'
    path.write_text('{"train_data_file": "--help", "N": "\\u001b[2J"}')
    assert ptycho_train(['--config', str(path)]) == 2
    text = capsys.readouterr().err
    assert text.startswith(f'{path}: N = ') and '\x1b' not in text
    path.write_text('{"train_data_file": "--help"}')
    assert ptycho_train(['--config', str(path), '--output_dir', str(tmp_path / 'out')]) == 1
    assert '--help: No such file' in capsys.readouterr().err


def test_values_are_shown_in_short() -> None:
    value: Any = ['x' * 1000] * 1000
    for _ in range(20):
        value = [value] * 10
    assert len(show(value)) < 200 and len(show('x' * 10**6)) < 200 and show(3.5) == '3.5'
