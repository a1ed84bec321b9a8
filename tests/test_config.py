"""The configuration tree: one declaration per option, errors that name it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.config import (
    Config,
    ConfigError,
    iter_options,
    load_config,
    override_config,
    preset,
)

sys.path.insert(0, str(Path(__file__).parent.parent / 'docs'))

from configuration_reference import configuration_reference


def test_json_round_trip_is_the_identity() -> None:
    config = override_config(preset('best'), {'loss.kind': 'poisson', 'training.seed': 3})
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_every_option_has_a_description_and_appears_in_the_reference() -> None:
    text = configuration_reference()
    for item in iter_options():
        assert len(item.description) > 10, item.path
        assert f'`{item.name}`' in text


def test_the_reference_in_the_documentation_is_up_to_date() -> None:
    page = Path(__file__).parent.parent / 'docs' / 'configuration.md'
    assert page.read_text(encoding='utf-8') == configuration_reference()


@pytest.mark.parametrize(
    ('values', 'words'),
    [
        ({'training.max_step': 3}, 'training.max_step is no option'),
        ({'training.learning_rate': -1}, 'training.learning_rate'),
        ({'loss.kind': 'mse'}, "'poisson' or 'mae'"),
        ({'nothing.at_all': 1}, 'nothing is no option'),
    ],
)
def test_a_bad_option_is_named(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        override_config(Config(), values)


@pytest.mark.parametrize('suffix', ['.json', '.yaml'])
def test_files_hold_what_differs_from_the_defaults(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f'config{suffix}'
    path.write_text(json.dumps({'training': {'max_steps': 7}}), encoding='utf-8')
    assert load_config(path).training.max_steps == 7


@pytest.mark.parametrize('text', ['{', '[1]', '{"training": {"max_steps": 0}}'])
def test_a_bad_file_is_a_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / 'config.json'
    path.write_text(text, encoding='utf-8')
    with pytest.raises(ConfigError, match=r'config\.json'):
        load_config(path)


def test_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match='quick, default, best'):
        preset('fast')


@pytest.mark.parametrize(
    'words',
    [
        ['train'],
        ['fly'],
        ['reconstruct', 'x.npz', '--output', 'y.npz', '--no-such-option'],
        ['reconstruct', 'x.npz', '--output', 'y.npz', '--reconstruction.alpha', '7'],
        ['reconstruct', 'x.npz', '--output', 'y.png'],
        ['train', 'x.npz', '--output', 'y.pt'],
        ['pretrain', '--output', 'm.h5.zip', '--canvas-size', '65'],
    ],
)
def test_wrong_words_exit_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.strip()


def test_help_of_every_command_shows_units_and_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from ptychodus_pinn_torch.cli import _COMMANDS

    for command in set(_COMMANDS) - {'app'}:  # which hands --help on to Ptychodus
        assert main([command, '--help']) == 0
    assert main(['train', '--help']) == 0
    text = capsys.readouterr().out
    assert '[steps]' in text and '(default: 900)' in text
