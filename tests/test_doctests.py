"""The examples in docstrings run, and every public name has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
import tempfile
from pathlib import Path

import pytest

import ptychodus_pinn_torch
from ptychodus_pinn_torch import _HOMES

FLAGS = doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
WITH_EXAMPLES = sorted(set(ptychodus_pinn_torch.__all__) - {'Scan'})
"""A scan is not made by hand: `read_scan` and `simulate` return one."""


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_the_example_of_a_public_name_is_true(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    module = importlib.import_module(_HOMES[name], ptychodus_pinn_torch.__name__)
    found = doctest.DocTestFinder(recurse=False).find(
        getattr(ptychodus_pinn_torch, name), name, module=module
    )
    assert sum(len(test.examples) for test in found) >= 3
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    for test in found:
        runner.run(test, out=said.append)
    assert not runner.failures, ''.join(said)


def test_every_public_name_is_on_the_page_of_the_interface() -> None:
    page = Path(__file__).resolve().parent.parent / 'docs' / 'api.md'
    text = page.read_text(encoding='utf-8')
    for name in ptychodus_pinn_torch.__all__:
        home = inspect.getmodule(getattr(ptychodus_pinn_torch, name))
        assert home is not None and re.search(rf'{home.__name__}\.{name}\b', text), name
