"""Every example runs as it stands, and says something true."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parent.parent / 'examples'
EXAMPLES = sorted(FOLDER.glob('*.py'))

pytestmark = pytest.mark.slow


def run(path: Path, folder: Path, *words: str) -> str:
    """Returns what an example prints; nothing may land where it was started or elsewhere."""
    started = folder / 'started'
    started.mkdir()
    (folder / 'temporary').mkdir()
    before = set(FOLDER.rglob('*'))
    done = subprocess.run(
        [sys.executable, str(path), *words],
        cwd=started,
        env={**os.environ, 'TMPDIR': str(folder / 'temporary'), 'PYTHONDONTWRITEBYTECODE': '1'},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(started.iterdir())
    assert set(FOLDER.rglob('*')) == before
    return done.stdout


@pytest.mark.parametrize('path', EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_without_arguments(path: Path, tmp_path: Path) -> None:
    output = run(path, tmp_path)
    errors = re.search(r'phase error ([\d.]+) rad.*flat object ([\d.]+) rad', output)
    if errors:
        assert float(errors[1]) < 0.6 * float(errors[2])
    else:
        assert re.search(r'held-out patterns 0\.0|object of 69 x 69', output), output


def test_an_example_writes_into_the_folder_that_is_named(tmp_path: Path) -> None:
    folder = tmp_path / 'out'
    output = run(FOLDER / '03_own_network.py', tmp_path, str(folder))
    assert (folder / 'model.h5.zip').is_file() and str(folder) in output


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 4
