"""Several processes that torchrun starts make the image that one makes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan


@pytest.fixture(scope='module')
def wide_scan() -> Scan:
    return pinn.simulate(
        num_positions=900, pattern_size=32, step_px=8.0, object_kind='leaves', seed=0
    )


def run_two(*words: object) -> subprocess.CompletedProcess[str]:
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone']
    command = [*torchrun, '--nproc-per-node', 2, '-m', 'ptychodus_pinn_torch.cli', *words]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)


def distance(a: Any, b: Any) -> float:
    return float(numpy.linalg.norm(a - b) / numpy.linalg.norm(a))


def reconstruct(scan: Scan, folder: Path, *flags: object) -> tuple[dict[str, Any], Any, Any]:
    """Returns the figures of two processes, and the images of one and of two."""
    path = write_scan_npz(folder / 'scan.npz', scan)
    words = ['reconstruct', path, '--no-picture', '--json', *flags]
    assert main([*map(str, words), '--output', str(folder / 'one.npz')]) == 0
    done = run_two(*words, '--output', folder / 'two.npz')
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line]
    return json.loads(line), numpy.load(folder / 'one.npz'), numpy.load(folder / 'two.npz')


def test_two_processes_make_the_image_of_one(wide_scan: Scan, tmp_path: Path) -> None:
    figures, one, two = reconstruct(wide_scan, tmp_path)
    assert figures['verdict'] == 'right'
    for name in ('object', 'coverage', 'misfit_frames', 'losses'):
        assert distance(one[name], two[name]) < 1e-5, name


def test_two_processes_move_probe_positions_brightness_and_background_as_one_does(
    wide_scan: Scan, tmp_path: Path
) -> None:
    y, x = numpy.mgrid[:32, :32] - 15.5
    bent = wide_scan.probe * numpy.exp(0.01j * (y**2 + x**2))
    rng = numpy.random.default_rng(0)
    places = wide_scan.positions_px + rng.normal(size=wide_scan.positions_px.shape)
    scan = replace(wide_scan, probe=bent.astype('complex64'), positions_px=places)
    flags = [f'--update-{name}' for name in ('probe', 'positions', 'factors', 'background')]
    flags += ['--reconstruction.refine-epochs', '6']
    figures, one, two = reconstruct(scan, tmp_path, *flags)
    assert set(figures['freed']) == {'probe', 'positions', 'factors', 'background'}
    assert distance(one['probe'], scan.probe) > 1e-3
    # rounding of the probe by 1e-7 changes this object by 4e-4, in one process as well
    for name in ('object', 'probe', 'positions_px', 'losses'):
        assert distance(one[name], two[name]) < 1e-3, name


def test_a_scan_of_one_tile_is_not_shared(tmp_path: Path) -> None:
    scan = pinn.simulate(num_positions=100, pattern_size=32, object_kind='leaves', seed=0)
    figures, one, two = reconstruct(scan, tmp_path)
    assert numpy.array_equal(one['object'], two['object'])
    assert any('each of 2 processes makes all of it' in text for text in figures['messages'])


def test_two_processes_keep_to_the_time_of_the_first(wide_scan: Scan, tmp_path: Path) -> None:
    figures, _, two = reconstruct(wide_scan, tmp_path, '--seconds', '0.6')
    assert numpy.isfinite(two['object']).all()
    assert any('the time of 0.6 s' in message for message in figures['messages'])


def test_a_part_of_a_single_scan_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, wide_scan: Scan, tmp_path: Path
) -> None:
    path = write_scan_npz(tmp_path / 'scan.npz', wide_scan)
    monkeypatch.setenv('RANK', '0')
    monkeypatch.setenv('WORLD_SIZE', '2')
    words = ['reconstruct', path, '--output', tmp_path / 'image.npz', '--part', '1/2']
    assert main([*map(str, words)]) == 2
    assert 'no effect on a single scan' in capsys.readouterr().err


def test_many_scans_are_shared(wide_scan: Scan, tmp_path: Path) -> None:
    folder = tmp_path / 'scans'
    folder.mkdir()
    small = wide_scan.select(numpy.arange(100))
    for number in range(3):
        write_scan_npz(folder / f'scan{number}.npz', small)
    words = ['reconstruct', folder, '--no-picture', '--json', '--reconstruction.refine-epochs', '1']
    done = run_two(*words, '--output', tmp_path / 'images')
    assert done.returncode == 0, done.stderr
    names = [json.loads(line)['name'] for line in done.stdout.splitlines() if line]
    assert sorted(names) == ['scan0', 'scan1', 'scan2']
    table = (tmp_path / 'images' / 'results.csv').read_text().splitlines()
    assert len(table) == 4


def test_a_part_is_refused_where_torchrun_shares_the_scans(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, wide_scan: Scan, tmp_path: Path
) -> None:
    path = write_scan_npz(tmp_path / 'scan.npz', wide_scan)
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    words = ['reconstruct', path, path, '--part', '1/2', '--output', tmp_path / 'images']
    assert main([*map(str, words)]) == 2
    assert '--part has no effect under torchrun' in capsys.readouterr().err
