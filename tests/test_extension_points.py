"""What CONTRIBUTING.md promises to those who add something: its own code is run here."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
import tomllib
import types
from pathlib import Path

import numpy
import pytest

from ptychodus_pinn_torch import api, cli, config
from ptychodus_pinn_torch.commands import _config_options as flags
from ptychodus_pinn_torch.config import Config, ConfigError, override_config
from ptychodus_pinn_torch.host.settings import iter_host_options
from ptychodus_pinn_torch.models.archive import read_archive
from ptychodus_pinn_torch.networks.registry import build_network
from ptychodus_pinn_torch.scan.io import reading
from ptychodus_pinn_torch.scan.io.raw import RawScan

ROOT = Path(__file__).resolve().parent.parent
QUICK = {
    'training.max_steps': 12,
    'training.start': 'none',
    'grouping.group_size': 16,
    'execution.accelerator': 'cpu',
    'execution.num_threads': 1,
}


def code_block(heading: str, language: str) -> str:
    """Returns the first block of code in that language under a heading of CONTRIBUTING.md."""
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    section = text.partition(f'\n### {heading}\n')[2].partition('\n### ')[0]
    found = re.search(rf'^```{language}\n(.*?)^```$', section, re.DOTALL | re.MULTILINE)
    assert found, f'CONTRIBUTING.md has no {language} under {heading}'
    return found.group(1)


def class_lines(code: str, name: str) -> list[str]:
    """Returns the lines of a class."""
    block = code.partition(f'class {name}')[2].partition('\nclass ')[0]
    return [line for line in block.splitlines() if line.strip()]


@pytest.fixture
def own_distribution(tmp_path, monkeypatch):
    """Installs the network of CONTRIBUTING.md, and a broken one, as another distribution."""
    folder = tmp_path / 'site'
    information = folder / 'dummy_network-1.0.dist-info'
    information.mkdir(parents=True)
    code = code_block('A network', 'python')
    (folder / 'dummy_network.py').write_text(code, encoding='utf-8')
    (folder / 'broken_network.py').write_text(
        'from dummy_network import DummyConfig\n'
        'from torch import nn\n\n'
        'class BrokenNetwork(nn.Module):\n'
        '    config_type, num_passes, is_precise = DummyConfig, 1, False\n'
        '    def __init__(self, config):\n'
        '        super().__init__()\n',
        encoding='utf-8',
    )
    project = tomllib.loads(code_block('A network', 'toml'))['project']
    ((group, names),) = project['entry-points'].items()
    lines = [f'[{group}]', *(f'{name} = {value}' for name, value in names.items())]
    lines.append('broken = broken_network:BrokenNetwork')
    (information / 'entry_points.txt').write_text('\n'.join(lines), encoding='utf-8')
    (information / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: dummy-network\nVersion: 1.0\n', encoding='utf-8'
    )
    monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ('dummy_network', 'broken_network'):
        sys.modules.pop(name, None)


def test_our_code_does_not_know_the_name_of_the_network() -> None:
    package = Path(config.__file__).parent
    assert not [p for p in package.rglob('*.py') if 'dummy' in p.read_text('utf-8').lower()]


def test_a_network_takes_ten_lines() -> None:
    assert len(class_lines(code_block('A network', 'python'), 'DummyNetwork')) <= 10


def test_a_network_of_others_trains_and_reconstructs(own_distribution, tiny_scan, tmp_path) -> None:
    options = {**QUICK, 'network.kind': 'dummy', 'network.brightness': 0.25}
    path = api.train(tiny_scan, tmp_path / 'model.h5.zip', options=options)
    archive = read_archive(path)
    assert archive.config.network.model_dump() == {'kind': 'dummy', 'brightness': 0.25}
    assert archive.network_weights()['brightness'] != 0.25  # it has learnt
    image = api.reconstruct(tiny_scan, path, options={'reconstruction.refine_epochs': 1})
    assert image.object_.shape == tiny_scan.object_.shape
    assert numpy.isfinite(image.object_).all()


def test_its_options_are_flags_once_it_is_named(own_distribution, capsys) -> None:
    assert cli.main(['train', '--network', 'dummy', '--help-all']) == 0
    assert '--network.brightness' in capsys.readouterr().out
    assert cli.main(['train', '--help-all']) == 0
    assert '--network.brightness' not in capsys.readouterr().out


def test_the_command_line_of_the_page_trains_it(own_distribution, tiny_scan_path, tmp_path) -> None:
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    words = re.search(r'`ptychodus-pinn (train SCAN --network dummy [^`]*)`', text)
    assert words is not None
    line = words[1].replace('SCAN', str(tiny_scan_path))
    line = line.replace('model.h5.zip', str(tmp_path / 'model.h5.zip'))
    quick = '--steps 2 --grouping.group-size 16 --device cpu --threads 1'
    assert cli.main([*line.split(), *quick.split()]) == 0
    network = read_archive(tmp_path / 'model.h5.zip').config.network
    assert network.model_dump() == {'kind': 'dummy', 'brightness': 0.7}


@pytest.mark.parametrize('kind', ['unrolled', 'cnn'])
def test_its_options_are_refused_for_other_networks(own_distribution, kind) -> None:
    with pytest.raises(ConfigError, match='network.brightness'):
        override_config(Config(), {'network.kind': kind, 'network.brightness': 0.25})


def test_its_bounds_hold_and_our_options_are_not_its_own(own_distribution) -> None:
    with pytest.raises(ConfigError, match='network.*brightness.*greater than 0'):
        override_config(Config(), {'network.kind': 'dummy', 'network.brightness': 0.0})
    with pytest.raises(ConfigError, match='network.*num_stages'):
        override_config(Config(), {'network.kind': 'dummy', 'network.num_stages': 2})


def test_a_network_that_breaks_the_contract_is_refused_in_a_sentence(own_distribution) -> None:
    dummy = override_config(Config(), {'network.kind': 'dummy'}).network
    broken = dummy.model_copy(update={'kind': 'broken'})
    with pytest.raises(
        ValueError,
        match=r"'broken': .* breaks the contract of networks; it lacks early_parameters, recon.*\.$",
    ):
        build_network(broken)


def test_an_option_is_one_line(monkeypatch, tmp_path) -> None:
    namespace: dict[str, object] = {}
    code = 'class LossConfig(Base):\n    """What training minimises."""\n    '
    code += code_block('An option', 'python')
    exec(code, {'option': config.option, 'Base': config.LossConfig}, namespace)
    section = namespace['LossConfig']

    class Wider(Config):
        loss: section = section()  # type: ignore[valid-type]

    for module in (config, flags):
        monkeypatch.setattr(module, 'Config', Wider)
    option = next(item for item in config.iter_options() if item.path == 'loss.smoothing')
    assert (option.default, option.unit, option.minimum) == (0.0, 'rad', 0.0)

    parser = argparse.ArgumentParser()
    parser.set_defaults(command='train')
    flags.add_config_options(parser, 'train')
    given = parser.parse_args(['--loss.smoothing', '0.5'])
    assert flags.config_from(given, backend='pytorch').loss.smoothing == 0.5
    parser = argparse.ArgumentParser()
    flags.add_config_options(parser, 'reconstruct')
    with pytest.raises(SystemExit):  # the section says that it is for training
        parser.parse_args(['--loss.smoothing', '0.5'])

    assert 'loss.smoothing' in {item.path for item in iter_host_options()}
    (tmp_path / 'own.json').write_text('{"loss": {"smoothing": -1.0}}', encoding='utf-8')
    with pytest.raises(ConfigError, match='loss.smoothing.*greater than or equal to 0'):
        config.load_config(tmp_path / 'own.json')
    assert '| `smoothing` | `0.0` | from 0 | train, pretrain | Weight of' in reference_page()


def reference_page() -> str:
    """Returns the page of all options."""
    path = ROOT / 'docs' / 'configuration_reference.py'
    specification = importlib.util.spec_from_file_location('configuration_reference', path)
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return str(module.configuration_reference())


def test_a_file_layout_is_two_functions(monkeypatch, tiny_scan, tmp_path) -> None:
    code = code_block('A file layout', 'python')
    assert len([line for line in code.splitlines() if line]) <= 10
    namespace = {
        'numpy': numpy,
        'Layout': reading.Layout,
        'RawScan': RawScan,
        'LAYOUTS': reading.LAYOUTS,
    }
    exec(code, namespace)
    monkeypatch.setattr(reading, 'LAYOUTS', namespace['LAYOUTS'])
    for name in ('patterns', 'positions_px', 'probe'):
        numpy.save(tmp_path / f'{name}.npy', getattr(tiny_scan, name))
    scan = reading.read_scan(tmp_path)
    assert numpy.array_equal(scan.patterns, tiny_scan.patterns)
    steps = numpy.diff(scan.positions_px, axis=0) - numpy.diff(tiny_scan.positions_px, axis=0)
    assert numpy.allclose(steps, 0.0)
    assert not scan.has_object
    monkeypatch.undo()
    with pytest.raises(ValueError, match='diffraction'):
        reading.read_scan(tmp_path)


def test_a_command_is_a_module_and_a_line(monkeypatch, tiny_scan, tiny_scan_path, capsys) -> None:
    module = types.ModuleType('ptychodus_pinn_torch.commands.count')
    module.__package__ = 'ptychodus_pinn_torch.commands'
    exec(code_block('A command', 'python'), module.__dict__)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(cli._COMMANDS, 'count', 'count the photons')
    assert cli.main(['count', str(tiny_scan_path)]) == 0
    photons = tiny_scan.mean_counts() * tiny_scan.num_patterns
    assert capsys.readouterr().out == f'{photons:.3g} photons\n'
    assert cli.main(['--help']) == 0
    assert 'count the photons' in capsys.readouterr().out


def test_a_model_says_so_when_its_network_is_not_installed(
    own_distribution, tiny_scan, tmp_path, monkeypatch
) -> None:
    options = {**QUICK, 'training.max_steps': 1, 'network.kind': 'dummy'}
    path = api.train(tiny_scan, tmp_path / 'model.h5.zip', options=options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="network.kind = 'dummy' is unknown: choose one of"):
        api.reconstruct(tiny_scan, path)


def test_every_command_is_a_module_with_configure_and_run() -> None:
    for name in cli._COMMANDS:
        module = importlib.import_module(f'ptychodus_pinn_torch.commands.{name}')
        assert callable(module.configure) and callable(module.run)
