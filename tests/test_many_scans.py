"""Many scans in one call: a table, failures that stop nothing, and runs that are started again."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.commands import _images, _many_scans
from ptychodus_pinn_torch.reconstruction import procedure
from ptychodus_pinn_torch.scan.io.images import read_image
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan

DOCS = Path(__file__).resolve().parents[1] / 'docs'
QUICK = ['--refine', '1', '--no-picture', '--threads', '1']


@pytest.fixture
def folder(tmp_path: Path, tiny_scan: Scan) -> Path:
    """A folder with three scans and one that is cut short."""
    scans = tmp_path / 'scans'
    scans.mkdir()
    for number in range(3):
        write_scan_npz(scans / f'scan{number}.npz', tiny_scan)
    whole = (scans / 'scan0.npz').read_bytes()
    (scans / 'scan1b.npz').write_bytes(whole[: len(whole) // 2])
    return scans


def reconstruct(*words: Any) -> int:
    return main(['reconstruct', *map(str, words), *QUICK])


def table(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / 'results.csv').open(newline='') as file:
        return {row['name']: row for row in csv.DictReader(file)}


def test_a_folder_of_scans_becomes_images_and_a_table(
    folder: Path, tmp_path: Path, tiny_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    assert reconstruct(folder, '--output', out) == 1, 'one of them failed'
    told = capsys.readouterr()
    assert re.search(r'4 scans: 3 (right|doubtful|wrong), 1 failed; .*results.csv', told.out)
    assert re.search(r'\[3/4\] scan1b: failed: .*scan1b.npz .*cut short', told.err)
    rows = table(out)
    assert list(rows) == ['scan0', 'scan1', 'scan1b', 'scan2']
    for name, row in rows.items():
        if name == 'scan1b':
            assert 'cut short' in row['failure'] and not (out / 'scan1b.npz').exists()
            continue
        assert row['verdict'] and float(row['to_noise']) > 0 and float(row['seconds']) > 0
        assert read_image(out / f'{name}.npz').object_.shape == tiny_scan.object_.shape
        assert json.loads((out / f'{name}.json').read_text())['verdict'] == row['verdict']


def test_a_run_that_is_started_again_does_what_is_left(
    folder: Path, tmp_path: Path, tiny_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    first = [folder / 'scan0.npz', folder / 'scan1.npz', folder / 'scan1b.npz']
    assert reconstruct(*first, '--output', out) == 1
    made = (out / 'scan0.npz').stat().st_mtime_ns
    write_scan_npz(folder / 'scan1b.npz', tiny_scan)  # copied again
    capsys.readouterr()
    assert reconstruct(folder, '--output', out) == 0
    told = capsys.readouterr().out
    assert told.count('done before') == 3 and (out / 'scan0.npz').stat().st_mtime_ns == made
    assert len(table(out)) == 4 and not any(row['failure'] for row in table(out).values())


def test_an_image_of_other_options_is_not_taken_for_done_nor_replaced(
    folder: Path, tmp_path: Path, tiny_scan: Scan, capsys: pytest.CaptureFixture[str]
) -> None:
    out, scans = tmp_path / 'out', [folder / 'scan0.npz', folder / 'scan1.npz']
    assert reconstruct(*scans, '--output', out) == 0
    before = (out / 'scan0.npz').read_bytes()
    assert reconstruct(*scans, '--output', out, '--update-probe') == 1
    told = capsys.readouterr().err
    assert 'scan0.npz: was made of another reconstruction.update_probe' in told
    write_scan_npz(folder / 'scan1.npz', replace(tiny_scan, probe=2 * tiny_scan.probe))
    assert reconstruct(*scans, '--output', out) == 1
    assert 'scan1.npz: was made of another scan' in capsys.readouterr().err
    assert (out / 'scan0.npz').read_bytes() == before
    assert reconstruct(*scans, '--output', out, '--update-probe', '--overwrite') == 0
    assert (out / 'scan0.npz').read_bytes() != before
    (out / 'scan0.json').unlink()
    assert reconstruct(*scans, '--output', out) == 1
    assert 'scan0.npz: exists already' in capsys.readouterr().err


@pytest.mark.parametrize('moment', ['before the image', 'after the image'])
def test_a_run_that_is_killed_in_the_middle_of_a_scan_makes_it_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    out, scans = tmp_path / 'out', [folder / 'scan0.npz', folder / 'scan1.npz']
    write = _images.MadeImage.write

    def kill(self: Any, output: Path) -> None:
        if output.stem == 'scan1':
            if moment == 'after the image':
                write(self, output)
            raise KeyboardInterrupt
        write(self, output)

    monkeypatch.setattr(_images.MadeImage, 'write', kill)
    assert reconstruct(*scans, '--output', out) == 130
    assert (out / 'scan1.npz').exists() == (moment == 'after the image')
    monkeypatch.setattr(_images.MadeImage, 'write', write)
    assert reconstruct(*scans, '--output', out) == 0
    assert all(row['verdict'] for row in table(out).values()) and len(table(out)) == 2


def test_the_model_is_loaded_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    open_model = procedure.open_model

    def count(path: Path) -> Any:
        opened.append(path)
        return open_model(path)

    monkeypatch.setattr(procedure, 'open_model', count)
    assert reconstruct(folder, '--output', tmp_path / 'out') == 1
    assert len(opened) == 1


def test_scans_of_the_same_name_are_told_apart_by_their_folders(
    tmp_path: Path, tiny_scan: Scan
) -> None:
    paths = []
    for name in ('monday', 'tuesday'):
        (tmp_path / name).mkdir()
        paths.append(write_scan_npz(tmp_path / name / 'scan.npz', tiny_scan))
    assert reconstruct(*paths, '--output', tmp_path / 'out', '--format', 'h5') == 0
    found = sorted(path.name for path in (tmp_path / 'out').glob('*.h5'))
    assert found == ['monday_scan.h5', 'tuesday_scan.h5']
    assert read_image(tmp_path / 'out' / found[0]).object_.shape == tiny_scan.object_.shape


def test_parts_are_all_of_it_and_nothing_twice(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / 'scan1b.npz').unlink()
    for part in ('1/2', '2/2'):
        assert reconstruct(folder, '--output', tmp_path / 'out', '--part', part) == 0
    told = capsys.readouterr().out
    assert told.count('done before') == 0 and '2 scans: ' in told and '1 scans: ' in told
    assert sorted(table(tmp_path / 'out')) == ['scan0', 'scan1', 'scan2']


def test_a_script_gets_a_line_of_json_for_each_scan(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reconstruct(folder, '--output', tmp_path / 'out', '--json') == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line['name'] for line in lines] == ['scan0', 'scan1', 'scan1b', 'scan2']
    assert all(('verdict' in line) != ('failure' in line) for line in lines)


BAD: dict[str, tuple[Callable[[Path], list[Any]], int, str]] = {
    'output is a file': (lambda d: [d, '--output', d / 'image.npz'], 2, 'must be a folder'),
    'one picture': (lambda d: [d, '--output', d, '--picture', 'a.png'], 2, '--picture'),
    'one product': (lambda d: [d, '--output', d, '--product', 'p.h5'], 2, '--product'),
    'named twice': (
        lambda d: [d / 'scan0.npz', d / 'scan0.npz', '--output', d],
        2,
        'name each scan once',
    ),
    'no such part': (lambda d: [d, '--output', d / 'o', '--part', '3/2'], 2, '--part 3/2'),
    'part of one': (
        lambda d: [d / 'scan0.npz', '--output', d / 'o.npz', '--part', '1/2'],
        2,
        '--part has no effect on a single scan',
    ),
    'format of one': (
        lambda d: [d / 'scan0.npz', '--output', d / 'o.npz', '--format', 'h5'],
        2,
        '--format has no effect on a single scan',
    ),
    'folder of nothing': (lambda d: [d.parent / 'empty', '--output', d / 'o'], 1, 'holds no scans'),
    'no such model': (
        lambda d: [d, '--output', d / 'o', '--model', d / 'm.h5.zip'],
        1,
        'm.h5.zip',
    ),
}


@pytest.mark.parametrize('name', BAD)
def test_what_makes_no_sense_for_many_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (folder.parent / 'empty').mkdir()
    words, status, reason = BAD[name]
    before = sorted(folder.rglob('*'))
    assert reconstruct(*words(folder)) == status
    told = capsys.readouterr()
    assert reason in told.err and 'Traceback' not in told.err and told.out == ''
    assert [path for path in sorted(folder.rglob('*')) if path.is_file()] == [
        path for path in before if path.is_file()
    ]


@pytest.mark.slow
def test_the_recipe_for_slurm_does_every_scan_once(folder: Path, tmp_path: Path) -> None:
    (folder / 'scan1b.npz').unlink()
    page = (DOCS / 'many_scans.md').read_text()
    recipe = re.search(r'```bash\n(#!/bin/bash\n#SBATCH.*?)```', page, re.S)
    assert recipe
    script = recipe[1].replace('--output images', f'--output images {" ".join(QUICK)}')
    (tmp_path / 'recipe.sh').write_text(script)
    binaries = Path(sys.executable).parent
    for task in ('0', '1'):
        done = subprocess.run(
            ['bash', tmp_path / 'recipe.sh'],
            cwd=tmp_path,
            env={
                **os.environ,
                'PATH': f'{binaries}:{os.environ["PATH"]}',
                'SLURM_ARRAY_TASK_ID': task,
                'SLURM_ARRAY_TASK_COUNT': '2',
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    rows = table(tmp_path / 'images')
    assert sorted(rows) == ['scan0', 'scan1', 'scan2']
    assert numpy.all([float(row['to_noise']) > 0 for row in rows.values()])


def contents(folder: Path) -> dict[str, bytes]:
    """Returns what all files in a folder hold."""
    return {str(path): path.read_bytes() for path in folder.rglob('*') if path.is_file()}


@pytest.mark.parametrize('flags', [[], ['--overwrite']])
@pytest.mark.parametrize('way', ['files', 'folder', 'a linked folder', 'a folder of links'])
def test_scans_are_never_replaced_by_their_images(
    folder: Path, tmp_path: Path, flags: list[str], way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, scans, out = contents(folder), [folder], folder
    if way == 'files':
        scans = [folder / 'scan0.npz', folder / 'scan2.npz']
    elif way == 'a linked folder':
        out = tmp_path / 'link'
        out.symlink_to(folder)
    elif way == 'a folder of links':
        out = tmp_path / 'links'
        out.mkdir()
        for path in folder.iterdir():
            (out / path.name).symlink_to(path)
    assert reconstruct(*scans, '--output', out, *flags) == 1
    assert 'scan0.npz: is an input of this command' in capsys.readouterr().err
    after = contents(folder)
    assert {path: after[path] for path in before} == before
    assert set(after) - set(before) <= {str(folder / 'results.csv')}


def test_scans_of_other_parts_are_inputs_too(folder: Path) -> None:
    before = contents(folder)
    other = folder / 'sub'
    other.mkdir()
    (other / 'scan0.npz').write_bytes((folder / 'scan0.npz').read_bytes())
    words = [other / 'scan0.npz', folder / 'x.npz', '--output', folder, '--overwrite']
    (folder / 'scan0.npz').rename(folder / 'x.npz')
    (folder / 'scan0.npz').symlink_to(folder / 'x.npz')
    assert reconstruct(*words, '--part', '1/2') == 1
    assert (folder / 'scan0.npz').is_symlink()
    assert (folder / 'x.npz').read_bytes() == before[str(folder / 'scan0.npz')]


@pytest.mark.parametrize('name', ['scan0.json', 'scan0.png', 'scan0.npz'])
def test_a_file_that_no_run_has_written_is_not_replaced_unasked(
    folder: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    (out / name).write_bytes(b'{"scan": "precious"}')
    words = [folder / 'scan0.npz', folder / 'scan2.npz', '--output', out, *QUICK]
    words = [str(word) for word in words if word != '--no-picture']
    assert main(['reconstruct', *words]) == 1
    told = capsys.readouterr()
    assert f'{name}: exists already' in told.err and '1 failed' in told.out
    assert contents(out)[str(out / name)] == b'{"scan": "precious"}'
    assert not {'scan0.npz', 'scan0.png', 'scan0.json'} & {p.name for p in out.iterdir()} - {name}
    assert (out / 'scan2.npz').exists() and (out / 'scan2.png').exists()
    assert main(['reconstruct', *words, '--overwrite']) == 0
    assert contents(out)[str(out / name)] != b'{"scan": "precious"}'


def test_a_picture_that_a_killed_run_has_drawn_may_be_drawn_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / 'out'
    words = ['reconstruct', *(str(folder / f'scan{n}.npz') for n in (0, 2)), '--output', str(out)]
    words += [word for word in QUICK if word != '--no-picture']
    draw = _images.MadeImage.draw

    def kill(self: Any, picture: Path) -> None:
        draw(self, picture)
        raise KeyboardInterrupt

    monkeypatch.setattr(_images.MadeImage, 'draw', kill)
    assert main(words) == 130 and (out / 'scan0.png').exists()
    monkeypatch.setattr(_images.MadeImage, 'draw', draw)
    assert main(words) == 0


def test_a_table_of_the_user_is_not_replaced_unasked(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    (out / 'results.csv').write_text('sample,quality\n1,good\n')
    assert reconstruct(folder, '--output', out) == 1
    assert 'results.csv: exists already' in capsys.readouterr().err
    assert contents(out) == {str(out / 'results.csv'): b'sample,quality\n1,good\n'}
    assert reconstruct(folder, '--output', out, '--overwrite') == 1
    assert len(table(out)) == 4


def test_hidden_files_and_images_in_a_folder_are_no_scans(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / 'scan1b.npz').unlink()
    scans = [folder / 'scan0.npz', folder / 'scan1.npz']
    assert reconstruct(*scans, '--output', tmp_path / 'a') == 0
    assert reconstruct(*scans, '--output', tmp_path / 'b', '--format', 'h5') == 0
    (folder / 'image.npz').write_bytes((tmp_path / 'a' / 'scan0.npz').read_bytes())
    (folder / 'image.h5').write_bytes((tmp_path / 'b' / 'scan0.h5').read_bytes())
    (folder / '.0123.npz').write_bytes((folder / 'scan0.npz').read_bytes())
    capsys.readouterr()
    assert reconstruct(folder, '--output', tmp_path / 'out') == 0
    assert '3 scans: ' in capsys.readouterr().out
    assert sorted(table(tmp_path / 'out')) == ['scan0', 'scan1', 'scan2']


@pytest.mark.parametrize('error', [TypeError, AttributeError, ZeroDivisionError])
def test_no_error_of_one_scan_stops_the_others(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: type[Exception],
) -> None:
    read = _images.read_scan_from

    def fail(arguments: Any, path: Path) -> Scan:
        if path.stem == 'scan0':
            raise error('of another package')
        return read(arguments, path)

    monkeypatch.setattr(_images, 'read_scan_from', fail)
    scans = [folder / 'scan0.npz', folder / 'scan2.npz']
    assert reconstruct(*scans, '--output', tmp_path / 'out') == 1
    assert f'scan0.npz: {error.__name__}: of another package' in capsys.readouterr().err
    assert table(tmp_path / 'out')['scan2']['verdict']


def test_an_older_table_never_lands_last(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, scans = tmp_path / 'out', [folder / 'scan0.npz', folder / 'scan1.npz']
    assert reconstruct(*scans, '--output', out) == 0
    write, record = _many_scans.write_atomically, json.loads((out / 'scan0.json').read_text())

    def be_late(path: Path, content: Callable[[Path], object]) -> Path:
        if path.suffix == '.csv' and not (out / 'other.json').exists():
            (out / 'other.json').write_text(json.dumps(record))  # another part is done meanwhile
        return write(path, content)

    monkeypatch.setattr(_many_scans, 'write_atomically', be_late)
    assert reconstruct(*scans, '--output', out) == 0
    assert sorted(table(out)) == ['other', 'scan0', 'scan1']


def test_a_name_that_is_no_text_stops_nothing(folder: Path, tmp_path: Path) -> None:
    odd = folder / os.fsdecode(b'odd\xff$.npz')
    (folder / 'scan0.npz').rename(odd)
    assert reconstruct(odd, folder / 'scan1.npz', '--output', tmp_path / 'out') == 0
    assert len(table(tmp_path / 'out')) == 2
