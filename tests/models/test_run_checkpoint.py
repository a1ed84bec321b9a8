"""Checkpoints of our own runs are models."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch.backend import TrainRequest
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.models.archive import ArchiveError
from ptychodus_pinn_torch.models.opening import describe_model, open_model, read_without_torch
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.training.run import train


@pytest.fixture(scope='module')
def model(tmp_path_factory: Any, tiny_scan: Scan) -> Path:
    """The archive of a short run; the run folder lies beside it."""
    options = {
        'training.start': 'none',
        'training.max_steps': 4,
        'grouping.group_size': 16,
        'network.num_stages': 2,
        'network.width': 4,
        'network.num_subsets': 4,
        'execution.num_threads': 1,
        'execution.logger': 'none',
    }
    output = tmp_path_factory.mktemp('run') / 'model.h5.zip'
    request = TrainRequest((tiny_scan,), override_config(Config(), options), output)
    return train(request, lambda report: None)


def checkpoint_of(model: Path, name: str = 'best') -> Path:
    return model.parent / 'model.run' / f'{name}.ckpt'


def change(path: Path, target: Path, **values: Any) -> Path:
    """Returns the path of a copy of a checkpoint with other values."""
    tree = torch.load(path, map_location='cpu', weights_only=True)
    torch.save({**tree, **values}, target)
    return target


def test_the_best_checkpoint_is_the_model_of_the_archive(model: Path) -> None:
    archive, found = open_model(model), open_model(checkpoint_of(model), backend='pytorch')
    assert found.config.network == archive.config.network
    assert found.config.training == archive.config.training
    assert set(found.weights) == {name for name in archive.weights if name.startswith('network.')}
    for name, array in found.weights.items():
        assert numpy.array_equal(array, archive.weights[name]), name
    assert 'a training run' in describe_model(checkpoint_of(model, 'last'))


def test_the_configuration_in_a_checkpoint_is_enough(model: Path, tmp_path: Path) -> None:
    path = checkpoint_of(model)
    with pytest.raises(ArchiveError, match='holds no configuration'):
        open_model(change(path, tmp_path / 'alone.ckpt', hyper_parameters={}))
    text = open_model(model).config.model_dump_json()
    whole = change(path, tmp_path / 'whole.ckpt', hyper_parameters={'config': text})
    assert open_model(whole).config == open_model(model).config
    for wrong, words in (('{', 'cannot be read'), ('[]', 'a list'), ('{"mode": 3}', 'mode')):
        forged = change(path, tmp_path / 'forged.ckpt', hyper_parameters={'config': wrong})
        with pytest.raises(ArchiveError, match=words):
            open_model(forged)


def test_a_checkpoint_that_is_not_finite_is_refused(model: Path, tmp_path: Path) -> None:
    shutil.copy(checkpoint_of(model).with_name('config.json'), tmp_path)
    state = torch.load(checkpoint_of(model), map_location='cpu', weights_only=True)['state_dict']
    state = {name: value * float('nan') for name, value in state.items()}
    path = change(checkpoint_of(model), tmp_path / 'best.ckpt', state_dict=state)
    with pytest.raises(ArchiveError, match='not finite'):
        open_model(path)


def test_commands_take_a_checkpoint_for_a_model(
    model: Path, tmp_path: Path, tiny_scan_path: Path, capsys: Any
) -> None:
    best, output = str(checkpoint_of(model)), tmp_path / 'image.npz'
    words = ['reconstruct', str(tiny_scan_path), '--output', str(output), '--quiet']
    assert main([*words, '--model', best, '--reconstruction.refine-epochs', '0']) == 0
    assert output.is_file()
    assert main(['inspect', best]) == 0
    assert 'unrolled' in capsys.readouterr().out
    assert main(['convert', best, '--output', str(tmp_path / 'made.h5.zip'), '--quiet']) == 0
    assert open_model(tmp_path / 'made.h5.zip').config.network.kind == 'unrolled'


def test_a_process_without_torch_says_what_to_do(model: Path) -> None:
    with pytest.raises(ArchiveError, match='convert it with ptychodus-pinn convert'):
        read_without_torch(checkpoint_of(model))
