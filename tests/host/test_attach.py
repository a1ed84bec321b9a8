"""Attaching adds and never harms; each case in an interpreter of its own."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

OURS = ['pinn-torch_unsupervised', 'pinn-torch_supervised']
LIST = """
import json, sys
from ptychodus.model import ModelCore
core = ModelCore()
print('KEYS', json.dumps(list(core.processing_core.processing_api.available_reconstructors())))
print('MODULES', json.dumps([name for name in sys.modules if '.' not in name]))
"""


def run(*, path=(), before=''):
    environment = {**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(before) + LIST],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = dict(
        line.split(' ', 1) for line in done.stdout.splitlines() if line[:4] in ('KEYS', 'MODU')
    )
    assert 'KEYS' in lines, done.stdout + done.stderr
    return json.loads(lines['KEYS']), json.loads(lines['MODULES']), done.stdout + done.stderr


def make_distribution(folder, name, module, entry):
    folder.mkdir()
    (folder / f'{name}.py').write_text(textwrap.dedent(module))
    info = folder / f'{name}-1.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    (info / 'entry_points.txt').write_text(
        f'[ptychodus.reconstructor_libraries]\n{name} = {name}:{entry}\n'
    )
    return folder


DUMMY = """
from ptychodus.api.reconstruct import NullReconstructor, ReconstructorLibrary
class Dummy(ReconstructorLibrary):
    def __init__(self, settings_registry, is_developer_mode_enabled):
        super().__init__('dummy')
    name = '{name}'
    def __iter__(self):
        yield NullReconstructor('Engine')
"""


def test_a_model_core_lists_us_and_imports_no_framework():
    keys, modules, _ = run()
    assert keys[-2:] == OURS
    assert not {'torch', 'lightning', 'tensorflow', 'PyQt5'} & set(modules)


def test_attaching_twice_lists_once():
    before = """
        import ptychodus.model.core
        from ptychodus_pinn_torch.host.attach import attach
        assert attach() and attach()
    """
    keys, _, _ = run(before=before)
    assert keys.count(OURS[0]) == 1


def test_libraries_of_others_are_listed_too(tmp_path):
    folder = make_distribution(tmp_path / 'a', 'dummy', DUMMY.format(name='Dummy'), 'Dummy')
    keys, _, _ = run(path=[folder])
    assert set(keys) >= {*OURS, 'dummy_engine'}


def test_each_broken_library_costs_one_line_and_harms_no_other(tmp_path):
    modules = {
        'braising': ('raise RuntimeError("cheese")', 'RuntimeError: cheese'),
        'bleaving': ('raise SystemExit(3)', 'SystemExit: 3'),
        'bempty': ('Other = 1', 'AttributeError'),
        'bunder': (DUMMY.format(name='My_Dummy'), "its name 'My_Dummy' contains"),
        'btaken': (DUMMY.format(name='pty-CHI'), "its name 'pty-CHI' is taken"),
    }
    folders = [
        make_distribution(tmp_path / name, name, module, 'Dummy')
        for name, (module, _) in modules.items()
    ]
    keys, _, text = run(path=folders)
    assert set(OURS) <= set(keys)
    assert all(sentence in text for _, sentence in modules.values())
    assert len([line for line in text.splitlines() if 'is left out' in line]) == len(modules)


@pytest.mark.parametrize(
    ('before', 'sentence'),
    [
        (
            """
            import importlib.metadata as metadata
            original = metadata.version
            metadata.version = lambda name: '1.8.0' if name == 'ptychodus' else original(name)
            """,
            '1.8.0 is installed',
        ),
        (
            """
            import ptychodus.api.reconstruct as module
            module.TrainableReconstructor.__abstractmethods__ |= {'bake'}
            """,
            '(bake)',
        ),
        (
            """
            import ptychodus.model.core as module
            class ProcessingCore(module.ProcessingCore):
                def __init__(self, a, b, c, d):
                    super().__init__(a, b, c, d)
            module.ProcessingCore = ProcessingCore
            """,
            'takes (self, a, b, c, d)',
        ),
        (
            """
            import sys
            sys.modules['ptychodus_pinn_torch.host.attach'] = None
            """,
            'could not be attached',
        ),
    ],
)
def test_a_foreign_host_starts_without_us_and_says_why(before, sentence):
    keys, _, text = run(before=before)
    assert not set(OURS) & set(keys)
    assert sentence in text
    assert text.count('ERROR') == 1


def test_importing_the_plugin_module_costs_nothing():
    import ptychodus_pinn_torch.host.ptychodus_plugin as plugin

    source = Path(plugin.__file__).read_text()
    before_function = source.partition('def register_plugins')[0]
    assert 'ptychodus_pinn_torch' not in before_function


START = """
import sys
import ptychodus.model.core
from ptychodus.api.settings import SettingsRegistry
before = set(sys.modules)
from ptychodus_pinn_torch.host.ptychodus_plugin import register_plugins
register_plugins(None)
from ptychodus_pinn_torch.host.attach import load_libraries
assert load_libraries(SettingsRegistry(), False, [])
found = {name.partition('.')[0] for name in set(sys.modules) - before}
print(*sorted(found - set(sys.stdlib_module_names)))
"""


def test_attaching_imports_no_package_but_ours():
    done = subprocess.run([sys.executable, '-c', START], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ['ptychodus_pinn_torch']
