"""A batch system that ends a run loses nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ptychodus_pinn_torch.models.archive import read_archive


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no such signal to handle')
def test_a_terminated_training_keeps_its_best_model_and_exits_143(
    tmp_path: Path, tiny_scan_path: Path
) -> None:
    options = (
        '--steps 100000 --start none --network.num-stages 2 --network.width 4 '
        '--network.num-memory 2 --grouping.group-size 9 --training.warmup-fraction 0 --no-check'
    )
    process = subprocess.Popen(
        [sys.executable, '-m', 'ptychodus_pinn_torch.cli', 'train', tiny_scan_path,
         '--output', tmp_path / 'model.h5.zip', *options.split()],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    checkpoint = tmp_path / 'model.run' / 'last.ckpt'
    deadline = time.monotonic() + 120.0
    while not checkpoint.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors
    assert 'holds the best model so far' in errors and 'terminated' in errors
    assert read_archive(tmp_path / 'model.h5.zip').details['steps'] > 0


TERMINATED_WHILE_WRITING = """
import os, signal, sys, numpy
signal.signal(signal.SIGINT, signal.{})  # ignored, as shells have it in the background
def savez(file, **arrays):
    file.write(b'half')
    os.kill(os.getpid(), signal.SIGTERM)
numpy.savez = savez
from ptychodus_pinn_torch.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no such signal to handle')
@pytest.mark.parametrize('interrupt', ['default_int_handler', 'SIG_IGN'])
@pytest.mark.parametrize('command', ['simulate', 'convert'])
def test_a_command_that_is_terminated_while_it_writes_leaves_nothing(
    tmp_path: Path, tiny_scan_path: Path, command: str, interrupt: str
) -> None:
    output = tmp_path / 'out' / 'scan.npz'
    words = [output, '--num-positions', '4']
    words = [tiny_scan_path, '--output', output] if command == 'convert' else words
    done = subprocess.run(
        [
            sys.executable,
            '-c',
            TERMINATED_WHILE_WRITING.format(interrupt),
            command,
            *map(str, words),
        ],
        check=False,
    )
    assert done.returncode == 143
    assert not list(output.parent.iterdir())
