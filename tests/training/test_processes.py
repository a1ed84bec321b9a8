"""Several processes: who is who, what they do together, and that none of them hangs or crashes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch.models.archive import read_archive
from ptychodus_pinn_torch.training.processes import process_rank

SCRIPT = """
import sys
from pathlib import Path
from ptychodus_pinn_torch import api

options = {
    'training.start': 'none', 'training.max_steps': 4, 'network.num_stages': 2,
    'network.width': 4, 'network.num_subsets': 4, 'grouping.group_size': 16,
    'execution.num_threads': 1, 'execution.logger': 'none', 'execution.accelerator': 'cpu',
}
for word in sys.argv[2:]:
    name, _, value = word.partition('=')
    options[name] = value
if 'training.start' in dict(word.split('=') for word in sys.argv[2:]):
    for name in ('network.num_stages', 'network.width', 'network.num_subsets'):
        options.pop(name)
scan = api.simulate(pattern_size=32, num_positions=100, step_px=3.0, seed=2)
api.train(scan, Path(sys.argv[1]), options=options)
"""
TORCHRUN = ('-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2')


def launch(
    folder: Path, name: str, *words: str, by: tuple[str, ...] = (), **variables: str
) -> dict:
    """Returns the weights that a run in processes of its own has written."""
    script = folder / 'run.py'
    script.write_text(SCRIPT, encoding='utf-8')
    output = folder / f'{name}.h5.zip'
    done = subprocess.run(
        [sys.executable, *by, script, output, *words],
        env={**os.environ, 'OMP_NUM_THREADS': '1', **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(read_archive(output).weights)


def assert_close(first: dict, second: dict) -> None:
    for name in first:
        assert numpy.allclose(first[name], second[name], atol=1e-4), name


@pytest.mark.slow
def test_two_processes_do_together_what_one_does_with_twice_the_batch(tmp_path: Path) -> None:
    one = launch(tmp_path, 'one', 'training.batch_size=2')
    two = launch(tmp_path, 'two', 'training.batch_size=1', by=TORCHRUN)
    own = launch(tmp_path, 'own', 'training.batch_size=1', 'execution.devices=2')
    assert_close(one, two)
    assert_close(one, own)  # started by Lightning itself: every process has its own part


@pytest.mark.slow
def test_two_processes_take_larger_steps_where_asked(tmp_path: Path) -> None:
    words = ('training.batch_size=1', 'training.optimizer=sgd', 'training.momentum=0.0')
    rates = ('training.learning_rate=0.02', 'training.rate_scaling=linear')
    scaled = launch(tmp_path, 'scaled', *words, *rates, by=TORCHRUN)
    wanted = launch(tmp_path, 'wanted', *words, 'training.learning_rate=0.04', by=TORCHRUN)
    assert_close(scaled, wanted)
    plain = launch(tmp_path, 'plain', *words, rates[0], by=TORCHRUN)
    assert any(not numpy.allclose(plain[name], scaled[name], atol=1e-5) for name in plain)


@pytest.mark.slow
def test_what_does_not_learn_in_every_step_does_not_stop_the_others(tmp_path: Path) -> None:
    launch(tmp_path, 'start')
    start = f'training.start={tmp_path / "start.h5.zip"}'
    launch(tmp_path, 'tuned', start, 'training.finetune=decoder', by=TORCHRUN)
    words = ('physics.train_scale=True', 'training.synthetic_fraction=0.5')
    launch(tmp_path, 'synthetic', *words, by=TORCHRUN)


@pytest.mark.slow
def test_an_allocation_of_slurm_alone_starts_no_processes(tmp_path: Path) -> None:
    launch(tmp_path, 'alone', SLURM_NTASKS='4', SLURM_PROCID='0', SLURM_JOB_ID='1')


@pytest.mark.parametrize(
    ('variables', 'wanted'),
    [
        ({}, (0, 1)),
        ({'RANK': '3', 'WORLD_SIZE': '8', 'LOCAL_RANK': '1'}, (3, 8)),
        ({'SLURM_STEP_ID': '0', 'SLURM_PROCID': '2', 'SLURM_NTASKS': '4'}, (2, 4)),
        ({'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'}, (0, 1)),
        ({'LOCAL_RANK': '1'}, (1, 1)),
    ],
)
def test_rank_and_number_of_processes(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: tuple[int, int]
) -> None:
    for name in (
        'RANK',
        'WORLD_SIZE',
        'LOCAL_RANK',
        'SLURM_STEP_ID',
        'SLURM_PROCID',
        'SLURM_NTASKS',
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert process_rank() == wanted
