"""The configuration as flags: what is shown, and what is refused because it would do nothing."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Literal

import pytest

from ptychodus_pinn_torch import config as config_module
from ptychodus_pinn_torch.cli import build_parser, main
from ptychodus_pinn_torch.commands._config_options import CONFIGURED, SCOPES, config_from
from ptychodus_pinn_torch.config import Config, NetworkConfig, iter_options, option

REQUIRED = {
    'train': ['train', 'x.npz', '--output', 'm.h5.zip'],
    'pretrain': ['pretrain', '--output', 'm.h5.zip'],
    'reconstruct': ['reconstruct', 'x.npz', '--output', 'y.npz'],
    'live': ['live', '--probe', 'x.npz', '--output', 'y', '--folder', 'z'],
}


def read(command: str, *words: str, backend: str = 'pytorch') -> Config:
    """Returns the configuration that the words of a command describe."""
    typed = [*REQUIRED[command], *words]
    return config_from(build_parser(typed).parse_args(typed), backend=backend)


@pytest.mark.parametrize('command', CONFIGURED)
def test_help_is_short_and_help_all_has_every_option(command, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '80')
    assert main([command, '--help']) == 0
    short = capsys.readouterr().out
    assert main([command, '--help-all']) == 0
    long = capsys.readouterr().out
    assert len(short.splitlines()) <= 60
    assert '--help-all' in short
    for item in iter_options():
        is_shown = re.search(rf'{re.escape(item.flag)}[\s,]', long) is not None
        applies = item.applies_to(SCOPES.get(command, command))
        assert is_shown == applies, item.path
        if item.is_basic and applies and command not in SCOPES:
            assert item.description[:10] in short, item.path


@pytest.mark.parametrize(
    ('command', 'words', 'path'),
    [
        ('reconstruct', '--execution.devices 4', '--execution.devices'),
        ('reconstruct', '--physics.train-probe', '--physics.train-probe'),
        ('reconstruct', '--steps 9', '--steps'),
        ('train', '--mode supervised --loss.kind poisson', 'loss.kind'),
        ('train', '--loss.probe-reference 1', 'loss.probe_reference'),
        ('train', '--network cnn --network.num-stages 3', 'network.num_stages'),
        ('train', '--network cnn --loss.deep-supervision 0.1', 'loss.deep_supervision'),
        ('reconstruct', '--refine 4 --reconstruction.final-steps 9', 'final_steps'),
        ('train', '--backend jax', 'jax'),
        ('reconstruct', '--backend jax', 'jax'),
        ('train', '--labels y.npz', '--labels'),
        ('train', '--network cheese', 'cheese'),
        ('train', '--preset best --config c.json', '--preset'),
    ],
)
def test_what_would_do_nothing_is_refused_by_name(command, words, path, capsys, monkeypatch):
    monkeypatch.delenv('PTYCHOPINN_BACKEND', raising=False)
    assert main([*REQUIRED[command], *words.split()]) == 2
    assert path in capsys.readouterr().err.splitlines()[-1]


def test_options_of_another_engine_are_refused_by_name():
    assert read('train', '--execution.devices', '4').execution.devices == 4
    with pytest.raises(config_module.ConfigError, match=r'execution\.devices .* tensorflow'):
        read('train', '--execution.devices', '4', backend='tensorflow')


def test_a_file_is_refused_for_what_does_nothing_but_serves_several_commands(tmp_path: Path):
    path = tmp_path / 'config.json'
    path.write_text('{"training": {"max_steps": 7}, "reconstruction": {"refine_epochs": 2}}')
    assert read('train', '--config', str(path)).training.max_steps == 7
    assert read('reconstruct', '--config', str(path)).reconstruction.refine_epochs == 2
    path.write_text('{"loss": {"probe_reference": 1.0}}')
    with pytest.raises(config_module.ConfigError, match=r'loss\.probe_reference'):
        read('train', '--config', str(path))
    assert read('train', '--config', str(path), '--physics.train-probe').physics.train_probe


def test_pretraining_takes_no_other_engine_from_the_environment(tmp_path, capsys, monkeypatch):
    words = ['pretrain', '--output', str(tmp_path / 'm.h5.zip')]
    for name in ('jax', 'tensorflow'):
        monkeypatch.setenv('PTYCHOPINN_BACKEND', name)
        assert main(words) in (1, 2)
        assert name in capsys.readouterr().err.lower()
    assert list(tmp_path.iterdir()) == []


class WaveletConfig(NetworkConfig):
    """A network of somebody else."""

    kind: Literal['wavelet'] = option('wavelet', 'Wavelets.')
    num_scales: int = option(3, 'Scales of the wavelet transform.', ge=1, le=9)


class WaveletNetwork:
    """What the entry point names."""

    config_type = WaveletConfig


@pytest.fixture
def wavelet(monkeypatch) -> None:
    """Registers the network."""
    found = config_module.entry_points

    def entry_points(*, group: str) -> Any:
        item = EntryPoint('wavelet', f'{__name__}:WaveletNetwork', group)
        return [*found(group=group), *([item] if group == config_module.NETWORK_GROUP else [])]

    monkeypatch.setattr(config_module, 'entry_points', entry_points)


@pytest.mark.usefixtures('wavelet')
@pytest.mark.parametrize('flag', ['--network wavelet', '--network.kind=wavelet'])
def test_a_network_of_others_brings_its_own_flags(flag):
    config = read('train', *flag.split(), '--network.num-scales', '5')
    assert config.network == WaveletConfig(num_scales=5)
