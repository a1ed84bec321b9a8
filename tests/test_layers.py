"""The order of the rooms, checked from the code's own imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ptychodus_pinn_torch

PACKAGE = Path(ptychodus_pinn_torch.__file__).parent
NAME = 'ptychodus_pinn_torch'

ENGINES = {'torch', 'lightning', 'tensorflow', 'keras'}
QT = {'PyQt5'}
ROOMS = (
    'console',
    'trees',
    'config',
    'scan',
    'simulation',
    'metrics',
    'physics',
    'solver',
    'networks',
    'backend',
    'progress',
    'models',
    'reconstruction',
    'checks',
    'training',
    'tensorflow_backend',
    'pictures',
    'live',
    'interop',
    'api',
    'host',
    'commands',
    'cli',
    'ptycho_commands',
)
"""The rooms of the house from the ground up: a room imports from itself and from those before."""

FORBIDDEN = {
    'trees': ENGINES | QT | {'numpy', 'scipy', 'ptychodus'},
    'config': ENGINES | QT | {'numpy', 'scipy', 'ptychodus'},
    'backend': ENGINES | QT | {'numpy', 'ptychodus'},
    'progress': ENGINES | QT | {'numpy', 'ptychodus'},
    'scan': ENGINES | QT,
    'simulation': ENGINES | QT,
    'metrics': ENGINES | QT,
    'models': ENGINES | QT,
    'physics': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'solver': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'networks': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'reconstruction': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'checks': QT | {'lightning', 'tensorflow', 'ptychodus'},
    'training': QT | {'tensorflow', 'ptychodus'},
    'tensorflow_backend': QT | {'lightning', 'ptychodus'},
    'console': ENGINES | QT | {'numpy', 'ptychodus'},
    'cli': ENGINES | QT,
    'ptycho_commands': ENGINES | QT,
    'api': ENGINES | QT,
    'pictures': ENGINES | QT,
    'live': QT | {'lightning', 'tensorflow'},
    'commands': ENGINES | QT,
    'host': ENGINES,
    'interop': ENGINES | QT,
}
"""What no module of a room may import when it is imported."""


def modules() -> list[Path]:
    """Returns every module of the package."""
    return sorted(PACKAGE.rglob('*.py'))


def layer_of(path: Path) -> str:
    """Returns the first folder or the name of a module at the top."""
    return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports_of(tree: ast.Module, *, has_functions: bool) -> list[ast.Import | ast.ImportFrom]:
    """Returns the imports of a module, without those of `if TYPE_CHECKING`."""
    found: list[ast.Import | ast.ImportFrom] = []
    queue: list[ast.AST] = list(tree.body)
    functions = () if has_functions else (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    while queue:
        node = queue.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test):
            queue += node.orelse
        elif not isinstance(node, functions):
            queue += list(ast.iter_child_nodes(node))
    return found


def own_imports(path: Path) -> set[str]:
    """Returns the modules of the package that a module imports, wherever, as `room.module`."""
    known = {module_of(item) for item in modules()}
    found = set()
    for node in imports_of(ast.parse(path.read_text(encoding='utf-8')), has_functions=True):
        for name in names_of(node, path):
            if name.partition('.')[0] != NAME:
                continue
            inner = name.partition('.')[2]
            named = (
                {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            )
            inside = {f'{inner}.{item}'.lstrip('.') for item in named} & known
            found |= inside or ({inner} & known)
    return found - {module_of(path)}


def module_of(path: Path) -> str:
    """Returns `room.module`; the room alone for its `__init__`."""
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


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
def test_a_room_imports_no_framework_that_is_not_its_own(path: Path) -> None:
    room = layer_of(path)
    forbidden = set(FORBIDDEN.get(room, set()))
    if room == 'host' and path.stem != 'view':
        forbidden |= QT
    for node in imports_of(ast.parse(path.read_text(encoding='utf-8')), has_functions=False):
        for name in names_of(node, path):
            root = name.partition('.')[0]
            assert root not in forbidden, f'{room} imports {name} at line {node.lineno}'


def test_imports_point_down_those_inside_functions_included() -> None:
    rank = {room: number for number, room in enumerate(ROOMS)}
    rooms = {layer_of(path) for path in modules()} - {'__init__'}
    assert rooms == set(ROOMS)
    wrong = [
        f'{module_of(path)} imports {name}'
        for path in modules()
        if layer_of(path) != '__init__'
        for name in own_imports(path)
        if name and rank[name.partition('.')[0]] > rank[layer_of(path)]
    ]
    assert not wrong


def test_there_is_no_circle_those_inside_functions_included() -> None:
    edges = {module_of(path): own_imports(path) for path in modules()}
    TopologicalSorter(edges).prepare()  # raises CycleError, which names the modules


def test_no_module_name_stands_twice() -> None:
    names = [path.stem for path in modules() if path.stem != '__init__']
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize('room', [room for room in ROOMS if (PACKAGE / room).is_dir()])
def test_every_room_says_what_belongs_there_and_what_does_not(room: str) -> None:
    text = ast.get_docstring(ast.parse((PACKAGE / room / '__init__.py').read_text('utf-8')))
    assert text is not None and len(text.split('. ')) + text.count('.\n') >= 2


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
