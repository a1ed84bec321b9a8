"""Public names: each has a docstring, arrays have shapes, and numbers have units."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ptychodus_pinn_torch

PACKAGE = Path(ptychodus_pinn_torch.__file__).parent
ROOMS = ('physics', 'networks', 'reconstruction', 'training', 'metrics', 'scan')
"""The rooms whose functions take and return arrays; in these, shapes are asked for."""

SIZE = r'(?:[A-Z]\w*|\d+|\.\.\.)'
SHAPE = re.compile(rf'\({SIZE}(?:, {SIZE})+\)|\((?:\w|\d+),\)')
"""(N, 2), (Y, X), (B, P, H, W), (2,), (..., H, W)."""

ARRAY = re.compile(r'\b(Tensor|NDArray|ndarray)\b')
JAXTYPED = re.compile(r"\b(?:Bool|Complex|Float|Inexact|Int|Num|Shaped)\[[\w.]+, '[^']*'\]")
QUANTITIES = {
    'energy': ('_eV', '_J'),
    'wavelength': ('_m',),
    'distance': ('_m',),
    'angle': ('_rad', '_deg'),
    'timeout': ('_s',),
    'seconds': ('_s',),
    'step': ('_px', '_m', '_rad'),
    'position': ('_px', '_m'),
    'positions': ('_px', '_m'),
}
"""What a parameter that is called so is measured in has to end its name."""
UNITLESS = {
    'Phase.step',  # a factor
    'RpieSettings.step',
    'Registration.distance',  # relative
    'RunLog.seconds',
}
ANY_SHAPE = {
    'build_with_weights',
    'load_weights',
    'check_weights',
    'TrainingRun',
    'TrainingRun.keep_best',
    'Fitted',
    'map_npz_member',
    'stage_npz_member',
    'stage_blocks',
    'judge',
}
"""Weights and figures by name, and readers of arrays that may have any shape."""


class Definition(NamedTuple):
    """A public function or class, or a public method of one."""

    module: str
    name: str
    node: ast.FunctionDef | ast.ClassDef
    context: str
    """Docstrings of what it is in."""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob('*.py'))


def public_names(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return list(ast.literal_eval(node.value))
    return []


def definitions(path: Path) -> Iterator[Definition]:
    tree = ast.parse(path.read_text(encoding='utf-8'))
    names, module = public_names(tree), str(path.relative_to(PACKAGE))
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name not in names:
            continue
        yield Definition(module, node.name, node, '')
        if isinstance(node, ast.ClassDef):
            context = ast.get_docstring(node) or ''
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith('_'):
                    yield Definition(module, f'{node.name}.{member.name}', member, context)
                if isinstance(member, ast.FunctionDef) and member.name == '__init__':
                    yield Definition(module, f'{node.name}.__init__', member, context)


def annotations(node: ast.FunctionDef | ast.ClassDef) -> dict[str, str]:
    """Returns the annotation of each parameter or field, and of the result."""
    if isinstance(node, ast.ClassDef):
        fields = [x for x in node.body if isinstance(x, ast.AnnAssign)]
        names = [(ast.unparse(x.target), ast.unparse(x.annotation)) for x in fields]
        return {name: kind for name, kind in names if not name.startswith('_')}
    arguments = node.args
    found = {
        x.arg: ast.unparse(x.annotation)
        for x in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        if x.annotation is not None
    }
    if node.returns is not None:
        found['return'] = ast.unparse(node.returns)
    return found


def without_shape(definition: Definition) -> list[str]:
    """Returns the arrays of a definition of which neither annotation nor docstring has a shape."""
    text = (ast.get_docstring(definition.node) or '') + definition.context
    arrays = {
        name: kind
        for name, kind in annotations(definition.node).items()
        if ARRAY.search(JAXTYPED.sub('', kind))
    }
    return [] if SHAPE.search(text) else sorted(arrays)


def everything(*rooms: str) -> list[Definition]:
    chosen = [path for path in modules() if not rooms or path.parent.name in rooms]
    return [definition for path in chosen for definition in definitions(path)]


def test_every_public_name_exists_and_has_a_docstring() -> None:
    silent = []
    for path in modules():
        tree = ast.parse(path.read_text(encoding='utf-8'))
        if ast.get_docstring(tree) is None and path.stat().st_size:
            silent.append(str(path.relative_to(PACKAGE)))
    silent += [
        f'{d.module}: {d.name}'
        for d in everything()
        if not d.name.endswith('__init__') and ast.get_docstring(d.node) is None
    ]
    assert silent == []


def test_every_module_with_public_definitions_says_which() -> None:
    unsaid = []
    for path in modules():
        if path.parent.name == 'commands' or path.name == 'ptychodus_plugin.py':
            continue  # names that the program, and the host, ask for
        tree = ast.parse(path.read_text(encoding='utf-8'))
        kinds = (ast.FunctionDef, ast.ClassDef)
        found = [x.name for x in tree.body if isinstance(x, kinds) and not x.name.startswith('_')]
        if found and not public_names(tree):
            unsaid.append(str(path.relative_to(PACKAGE)))
    assert unsaid == []


def test_every_public_array_has_a_shape() -> None:
    lacking = [
        f'{d.module}: {d.name}({", ".join(without_shape(d))})'
        for d in everything(*ROOMS)
        if without_shape(d) and d.name not in ANY_SHAPE
    ]
    assert lacking == []


def test_every_quantity_has_its_unit_by_suffix() -> None:
    lacking = [
        f'{d.module}: {d.name}({name})'
        for d in everything(*ROOMS)
        for name, kind in annotations(d.node).items()
        for suffixes in [QUANTITIES.get(name)]
        if suffixes and re.search(r'float|Tensor|NDArray', kind)
        if f'{d.name}.{name}' not in UNITLESS
    ]
    assert lacking == []


@pytest.mark.parametrize('text', ['(N, 2) pixels', '(2,) first', '(..., H, W)', 'modes (P, H, W)'])
def test_shapes_are_recognised(text: str) -> None:
    assert SHAPE.search(text)


@pytest.mark.parametrize('text', ['a window (see `cut`)', 'pixels (y, x)', 'f(x)', '(A sentence.)'])
def test_other_brackets_are_no_shapes(text: str) -> None:
    assert not SHAPE.search(text)
