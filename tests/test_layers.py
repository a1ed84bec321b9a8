"""The table of layers in the design, checked from the code's own imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ptychodus_pinn_torch

PACKAGE = Path(ptychodus_pinn_torch.__file__).parent
NAME = 'ptychodus_pinn_torch'

ENGINES = {'torch', 'lightning', 'tensorflow', 'keras'}
QT = {'PyQt5'}
FORBIDDEN = {
    'config': ENGINES | QT | {'numpy', 'scipy', 'ptychodus'},
    'backend': ENGINES | QT | {'numpy', 'ptychodus'},
    'scan': ENGINES | QT,
    'metrics': ENGINES | QT,
    'simulation': ENGINES | QT,
    'progress': ENGINES | QT | {'numpy', 'ptychodus'},
    'pictures': ENGINES | QT,
    'models': ENGINES | QT,
    'physics': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'networks': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'training': QT | {'tensorflow'},
    'tensorflow_backend': QT | {'torch', 'lightning'},
    'cli': ENGINES | QT,
    'commands': ENGINES | QT,
    'host': ENGINES,
    'interop': ENGINES | QT,
}
"""What no module of a layer may import when it is imported."""

OWN_FORBIDDEN = {
    'config': {'*'},
    'scan': {
        'physics',
        'networks',
        'training',
        'tensorflow_backend',
        'interop',
        'host',
        'commands',
    },
    'physics': {'training', 'tensorflow_backend', 'host', 'commands'},
    'networks': {'scan', 'training', 'tensorflow_backend', 'host', 'commands'},
    'training': {'tensorflow_backend', 'host', 'commands'},
    'tensorflow_backend': {'training', 'networks', 'physics', 'host', 'commands'},
}
"""Layers of our own that no module of a layer may import when it is imported."""


def modules() -> list[Path]:
    """Returns every module of the package."""
    return sorted(PACKAGE.rglob('*.py'))


def layer_of(path: Path) -> str:
    """Returns the first folder or the name of a module at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports_when_imported(tree: ast.Module) -> list[ast.Import | ast.ImportFrom]:
    """Returns imports outside of functions and of `if TYPE_CHECKING`."""
    found: list[ast.Import | ast.ImportFrom] = []
    queue: list[ast.AST] = list(tree.body)
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
            queue += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            queue += list(ast.iter_child_nodes(node))
    return found


def names_of(node: ast.Import | ast.ImportFrom, path: Path) -> list[str]:
    """Returns absolute dotted names."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if node.level == 0:
        return [node.module or '']
    package = [NAME, *path.relative_to(PACKAGE).parent.parts]
    base = package[: len(package) - node.level + 1]
    prefix = '.'.join([*base, *([node.module] if node.module else [])])
    return [prefix] if node.module else [f'{prefix}.{alias.name}' for alias in node.names]


@pytest.mark.parametrize('path', modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down_the_layers(path: Path) -> None:
    layer = layer_of(path)
    forbidden = set(FORBIDDEN.get(layer, set()))
    if layer == 'host' and path.stem != 'view':
        forbidden |= QT
    own = OWN_FORBIDDEN.get(layer, set())
    for node in imports_when_imported(ast.parse(path.read_text(encoding='utf-8'))):
        for name in names_of(node, path):
            root, *rest = name.split('.')
            assert root not in forbidden, f'{layer} imports {name} at line {node.lineno}'
            if root == NAME and rest:
                assert '*' not in own, f'{layer} imports {name} at line {node.lineno}'
                assert rest[0] not in own, f'{layer} imports {name} at line {node.lineno}'


def test_importing_the_package_imports_no_other() -> None:
    code = (
        'import sys; before = set(sys.modules); import ptychodus_pinn_torch; '
        "found = {name.partition('.')[0] for name in set(sys.modules) - before}; "
        'print(*(found - set(sys.stdlib_module_names)))'
    )
    output = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert output == [NAME]


def test_no_two_modules_share_a_name() -> None:
    names = [path.stem for path in modules() if path.stem != '__init__']
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize('path', modules(), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_that_is_opened_can_execute(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            assert (node.arg, node.value.value) not in {
                ('allow_pickle', True),
                ('weights_only', False),
            }
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            if isinstance(owner, ast.Name) and owner.id in {'pickle', 'dill', 'joblib'}:
                assert node.func.attr not in {'load', 'loads'}
