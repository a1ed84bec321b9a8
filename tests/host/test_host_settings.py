import pytest
from ptychodus.api.settings import SettingsRegistry

from ptychodus_pinn_torch.config import Config, ConfigError
from ptychodus_pinn_torch.host.settings import (
    PINNTorchSettings,
    check_effects,
    find_ini_faults,
    group_name,
    iter_host_options,
)

KEYS = ('pinn-torch_unsupervised', 'pinn-torch_supervised')


@pytest.fixture
def registry():
    return SettingsRegistry()


@pytest.fixture
def settings(registry):
    return PINNTorchSettings(registry)


def test_every_option_has_a_key_and_the_defaults_are_the_defaults(settings, registry):
    assert settings.read('unsupervised') == Config()
    for option in iter_host_options():
        assert option.name in registry[group_name(option.section)].parameters()


def test_mode_is_that_of_the_reconstructor(settings):
    assert settings.read('supervised').mode == 'supervised'


def test_values_survive_a_round_trip_through_an_ini(settings, registry, tmp_path):
    values = {
        'training.max_steps': '123',
        'training.learning_rate': '3e-4',
        'training.start': '/some where/100 %.h5.zip',
        'reconstruction.update_probe': 'True',
        'loss.kind': 'poisson',
        'reconstruction.memory_MB': '64',
    }
    for path, text in values.items():
        settings.get_parameter(path).set_value(text)
    settings.backend.set_value('tensorflow')
    registry.save_settings(tmp_path / 'settings.ini')
    other_registry = SettingsRegistry()
    other = PINNTorchSettings(other_registry)
    other_registry.open_settings(tmp_path / 'settings.ini')
    assert other.read('unsupervised') == settings.read('unsupervised')
    config = other.read('unsupervised')
    assert config.training.learning_rate == 3e-4
    assert config.training.start == '/some where/100 %.h5.zip'
    assert config.reconstruction.update_probe == 'on'
    assert other.backend.get_value() == 'tensorflow'


@pytest.mark.parametrize(
    ('path', 'text'),
    [
        ('training.max_steps', 'many'),
        ('training.max_steps', '0'),
        ('training.learning_rate', '1,5'),
        ('reconstruction.guard', 'perhaps'),
        ('loss.kind', 'cheese'),
        ('training.seed', ''),
    ],
)
def test_bad_text_opens_and_is_a_sentence_when_read(settings, registry, tmp_path, path, text):
    section, name = path.split('.')
    (tmp_path / 'bad.ini').write_text(f'[{group_name(section)}]\n{name} = {text}\n')
    registry.open_settings(tmp_path / 'bad.ini')
    with pytest.raises(ConfigError, match=f'PINN-Torch settings: {path} = .*INI file'):
        settings.read('unsupervised')
    faults = find_ini_faults(tmp_path / 'bad.ini', KEYS)
    assert len(faults) == 1 and path in faults[0]


@pytest.mark.parametrize(
    ('values', 'backend', 'words'),
    [
        ({'execution.devices': '2'}, 'tensorflow', 'execution.devices has no effect'),
        ({'network.kind': 'cnn', 'loss.deep_supervision': '0.1'}, 'pytorch', 'cnn network'),
        ({'loss.probe_reference': '1'}, 'pytorch', 'physics.train_probe'),
    ],
)
def test_what_does_nothing_under_engine_or_network_is_refused(settings, values, backend, words):
    for path, text in values.items():
        settings.get_parameter(path).set_value(text)
    with pytest.raises(ConfigError, match=words):
        check_effects(settings.read('unsupervised'), command='train', backend=backend)
    check_effects(settings.read('unsupervised'), command='reconstruct', backend='pytorch')


def test_what_only_the_other_reconstructor_uses_is_logged(settings, caplog):
    settings.get_parameter('loss.kind').set_value('poisson')
    with caplog.at_level('INFO'):
        check_effects(settings.read('unsupervised'), command='train', backend='pytorch')
        assert caplog.text == ''
        check_effects(settings.read('supervised'), command='train', backend='pytorch')
    assert 'loss.kind has no effect in supervised mode' in caplog.text


def test_an_ini_is_examined_as_a_whole(tmp_path):
    ini = tmp_path / 'settings.ini'
    ini.write_text(
        '[Processing]\nAlgorithm = pty-chi_LSQML\n[PINNTorchTraining]\nmaxsteps = 3\nseed = 4\n'
        '[PINNTorchCheese]\nkind = 1\n[PINNTorch]\nbackend = jax\n'
    )
    faults = find_ini_faults(ini, KEYS)
    assert len(faults) == 4
    assert 'pty-chi_lsqml is not in Ptychodus' in faults[0]
    assert 'maxsteps is no option' in faults[1] and 'max_steps' in faults[1]
    assert '[PINNTorchCheese] is no group' in faults[2]
    assert 'backend = jax is unknown' in faults[3]


def test_a_good_ini_has_no_faults(settings, registry, tmp_path):
    registry.save_settings(tmp_path / 'settings.ini')
    assert find_ini_faults(tmp_path / 'settings.ini', KEYS) == []
    assert 'cannot be read' in find_ini_faults(tmp_path / 'none.ini', KEYS)[0]
