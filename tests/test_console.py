"""What leaves for the terminal is plain text, and every failure one sentence."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.commands import inspect as command
from ptychodus_pinn_torch.console import TRACEBACK_VARIABLE, PlainStream
from ptychodus_pinn_torch.models.archive import shipped_model, write_archive
from ptychodus_pinn_torch.models.opening import open_model

HOSTILE = '\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r'


def fail(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(_: Any) -> int:
        raise error

    monkeypatch.setattr(command, 'run', run)


@pytest.mark.parametrize(
    'error, words',
    [
        (TypeError("'int' object is not iterable"), "TypeError: 'int' object is not iterable"),
        (IndexError('index 3 is out of bounds'), 'a damaged file, or a defect of the program'),
        (KeyError('probe'), 'KeyError: probe'),
        (RecursionError('too deep'), 'RecursionError'),
        (ZeroDivisionError(), TRACEBACK_VARIABLE),
        (AssertionError(), 'AssertionError'),
        (MemoryError(), 'not enough memory'),
        (ValueError('two\n  lines'), 'two lines'),
        (ValueError('x' * 10**6), ' ... '),
        (OSError(5, 'Input/output error'), 'Input/output error'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_any_failure_is_one_sentence_that_names_the_file(
    error: BaseException, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / 'some.npz'
    path.touch()
    fail(monkeypatch, error)
    assert main(['inspect', str(path)]) == 1
    out, text = capsys.readouterr()
    assert not out and text.startswith(f'ptychodus-pinn inspect: {path}: ') and words in text
    assert text.count('\n') == 1 and len(text) < 3000


def test_a_sentence_that_names_its_file_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / 'some.npz'
    path.touch()
    fail(monkeypatch, ValueError(f'{path}: holds no image.'))
    assert main(['inspect', str(path), '--draw', str(tmp_path / 'a.png')]) == 1
    assert capsys.readouterr().err == f'ptychodus-pinn inspect: {path}: holds no image.\n'


def test_the_traceback_is_shown_to_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fail(monkeypatch, TypeError('why'))
    assert main(['inspect', 'a.npz']) == 1 and 'Traceback' not in capsys.readouterr().err
    monkeypatch.setenv(TRACEBACK_VARIABLE, '1')
    assert main(['inspect', 'a.npz']) == 1 and 'Traceback' in capsys.readouterr().err


def test_control_characters_never_reach_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    archive = open_model(shipped_model())
    details = {'made\x1b[31m': HOSTILE}
    path = write_archive(tmp_path / 'a\x1b[2J.h5.zip', replace(archive, details=details))
    assert main(['inspect', str(path)]) == 0
    out = capsys.readouterr().out
    assert not set(out) & set('\x1b\x07\x9b\u202e\r')
    assert '\\x1b]0;owned\\x07' in out and 'a\\x1b[2J.h5.zip' in out
    name = os.fsdecode(b'\xff\x1b.npz')
    assert main(['inspect', name, '--no\x1bflag']) == 2
    assert main(['inspect', name]) == 1
    assert '\x1b' not in capsys.readouterr().err


def test_json_stays_json(tmp_path: Path, capsys: Any) -> None:
    stream = PlainStream(sys.stdout)
    stream.write(json.dumps({'a': HOSTILE}))
    assert json.loads(capsys.readouterr().out) == {'a': HOSTILE}


def test_a_terminal_without_our_letters_gets_others() -> None:
    buffer = io.BytesIO()
    stream = PlainStream(io.TextIOWrapper(buffer, 'ascii'))
    stream.write('3 µm\n')
    stream.flush()
    assert buffer.getvalue() == b'3 \\xb5m\n'


@pytest.mark.skipif(sys.platform == 'win32', reason='Windows has no such pipes')
def test_a_reader_that_leaves_hears_nothing_more() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, '-m', 'ptychodus_pinn_torch.cli', 'inspect', str(shipped_model())]
    found = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert found.returncode == 1 and found.stderr == ''
