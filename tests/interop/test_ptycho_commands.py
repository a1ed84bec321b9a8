"""`ptycho_train` and `ptycho_inference` with the flags that PtychoPINN has."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch import ptycho_commands
from ptychodus_pinn_torch.models.opening import open_model
from ptychodus_pinn_torch.ptycho_commands import ptycho_inference, ptycho_train
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan


@pytest.fixture
def scan_file(tmp_path: Path, tiny_scan: Scan) -> Path:
    return write_scan_npz(tmp_path / 'scan.npz', tiny_scan)


def test_a_model_is_trained_and_an_image_made(
    tmp_path: Path, scan_file: Path, tiny_scan: Scan
) -> None:
    config = tmp_path / 'config.yaml'
    config.write_text('nepochs: 9\nbatch_size: 8\nmodel:\n  N: 32\n  n_filters_scale: 1\n')
    words = ['--config', str(config), '--train_data_file', str(scan_file), '--nepochs', '2']
    words += ['--n_groups', '16', '--output_dir', str(tmp_path / 'out'), '--probe_trainable']
    words += ['--learning_rate', '5e-4', '--accelerator', 'cpu']
    assert ptycho_train(words) == 0
    archive = open_model(tmp_path / 'out' / 'wts.h5.zip')
    assert archive.config.training.max_steps == 4 and archive.config.physics.train_probe
    assert archive.config.training.learning_rate == 5e-4 and archive.config.network.size_px == 32
    assert ptycho_train(words) == 1, 'nothing is overwritten'
    words = ['--model_path', str(tmp_path / 'out'), '--test_data', str(scan_file)]
    words += ['--output_dir', str(tmp_path / 'images')]
    assert ptycho_inference(words) == 0
    with numpy.load(tmp_path / 'images' / 'reconstruction.npz') as file:
        assert file['object'].shape == tiny_scan.object_.shape
    assert (tmp_path / 'images' / 'reconstruction.png').is_file()
    assert ptycho_inference(words) == 1


@pytest.mark.parametrize(
    ('words', 'status', 'reason'),
    [
        ([], 2, '--train_data_file is needed'),
        (['--flux', '3'], 2, 'unrecognized arguments: --flux'),
        (['--probe_big', 'perhaps'], 2, 'neither true nor false'),
        (['--train_data_file', 'SCAN', '--batch_size', '-3'], 2, 'batch_size'),
        (['--train_data_file', 'missing.npz'], 1, 'missing.npz'),
        (['--train_data_file', 'SCAN', '--backend', 'jax'], 2, 'jax'),
        (['--config', 'missing.yaml'], 2, 'missing.yaml: cannot be read'),
    ],
)
def test_bad_words_are_one_sentence(
    tmp_path: Path,
    scan_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [str(scan_file) if word == 'SCAN' else word for word in words]
    try:
        found = ptycho_train(words)
    except SystemExit as stop:
        found = int(stop.code or 0)
    assert found == status and reason in capsys.readouterr().err
    assert not (tmp_path / 'training_outputs' / 'wts.h5.zip').exists()


def test_commands_are_installed_on_request_and_never_over_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def scripts(name: str, **arguments: Any) -> str:
        return str(tmp_path)

    monkeypatch.setattr(sysconfig, 'get_path', scripts)
    (tmp_path / 'ptycho_train').write_text('of PtychoPINN')
    assert ptycho_commands.install() == 1
    assert (tmp_path / 'ptycho_train').read_text() == 'of PtychoPINN'
    done = subprocess.run(
        [tmp_path / 'ptycho_inference', '--help'], capture_output=True, text=True, check=True
    )
    assert '--model_path' in done.stdout
    assert 'is there already' in capsys.readouterr().err


def test_the_module_is_a_command_too() -> None:
    module = 'ptychodus_pinn_torch.ptycho_commands'
    done = subprocess.run([sys.executable, '-m', module, 'fly'], capture_output=True, text=True)
    assert done.returncode == 2 and 'train,inference,install' in done.stderr
