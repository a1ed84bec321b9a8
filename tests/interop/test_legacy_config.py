"""PtychoPINN's configurations: nothing is lost in silence."""

from __future__ import annotations

import dataclasses
import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy
import pytest

from ptychodus_pinn_torch.config import Config, ConfigError, iter_options, override_config
from ptychodus_pinn_torch.interop.config_manager import ConfigManager
from ptychodus_pinn_torch.interop.legacy_classes import (
    ModelConfig,
    PyTorchExecutionConfig,
    TrainingConfig,
    to_inference_config,
    to_model_config,
    to_training_config,
)
from ptychodus_pinn_torch.interop.legacy_config import (
    KEY_MAPPINGS,
    config_from_legacy,
    dataclass_to_legacy_dict,
    legacy_from_config,
    update_legacy_dict,
)
from ptychodus_pinn_torch.interop.legacy_fields import (
    EXECUTION_FIELDS,
    INFERENCE_FIELDS,
    MODEL_FIELDS,
    OBJECT_FIELDS,
    TRAINING_FIELDS,
)
from ptychodus_pinn_torch.interop.object_fields import DataConfig, InferenceConfig
from ptychodus_pinn_torch.interop.object_fields import ModelConfig as ObjectModelConfig
from ptychodus_pinn_torch.interop.object_fields import TrainingConfig as ObjectTrainingConfig
from ptychodus_pinn_torch.interop.params_cfg import read_params_cfg, write_params_cfg


@dataclass(frozen=True)
class TheirModel:
    N: int = 64
    gridsize: int = 2
    object_big: bool = True
    probe_mask_diameter: float | None = None


@dataclass
class TheirTraining:
    model: TheirModel = field(default_factory=TheirModel)
    nepochs: int = 10
    n_groups: int | None = None
    output_dir: Path = Path('out')
    probe_trainable: bool = True


def test_flat_dictionary_has_the_nine_other_names() -> None:
    assert len(KEY_MAPPINGS) == 9
    found = dataclass_to_legacy_dict(TheirTraining())
    assert found['object.big'] is True and found['output_prefix'] == 'out'
    assert found['probe.trainable'] is True and 'model' not in found and found['N'] == 64


def test_none_leaves_what_is_there() -> None:
    parameters: dict[str, Any] = {'n_groups': 77, 'nepochs': 1, 'other': 'kept'}
    update_legacy_dict(parameters, TheirTraining())
    assert parameters['n_groups'] == 77 and parameters['nepochs'] == 10
    assert parameters['other'] == 'kept'


def test_tables_hold_every_field_of_their_classes() -> None:
    numbers = [len({row.name for row in rows}) for rows in (MODEL_FIELDS, INFERENCE_FIELDS)]
    assert numbers == [23, 12]
    assert len({row.name for row in TRAINING_FIELDS}) == 38
    shared = {'gradient_clip_val', 'gradient_clip_algorithm', 'scheduler'}
    assert len({row.name for row in EXECUTION_FIELDS} | shared) == 40


@pytest.mark.parametrize(
    'rows', [MODEL_FIELDS, TRAINING_FIELDS, INFERENCE_FIELDS, EXECUTION_FIELDS, OBJECT_FIELDS]
)
def test_every_field_maps_or_is_named_in_a_warning(rows: Any) -> None:
    for row in rows:
        if row.option is None:
            found = config_from_legacy({row.name: 'something else'})
            assert any(row.name in text for text in found.warnings), row.name


def test_unknown_fields_are_named() -> None:
    assert 'flux is no field' in config_from_legacy({'flux': 3}).warnings[0]


def test_fields_become_options() -> None:
    execution = {'learning_rate': 5e-4, 'accelerator': 'gpu', 'precision': '16-mixed', 'devices': 2}
    found = config_from_legacy(
        {
            'model': {'N': 128, 'gridsize': 2, 'n_filters_scale': 2, 'model_type': 'supervised'},
            'batch_size': 8,
            'nepochs': 10,
            'n_groups': 100,
            'neighbor_count': 7,
            'probe_trainable': True,
            'scheduler': 'WarmupCosine',
            'lr_warmup_epochs': 2,
            'mae_weight': 1.0,
            'nll_weight': 0.0,
        },
        execution,
    )
    config = found.config
    assert [text.partition(' ')[0] for text in found.warnings] == ['precision']
    assert (config.network.pattern_size, config.network.num_channels) == (128, 4)
    assert config.grouping.group_size == 4 and config.grouping.neighbor_pool == 2.0
    assert config.training.max_steps == 130 and config.training.warmup_fraction == 0.2
    assert config.training.schedule == 'cosine' and config.loss.kind == 'mae'
    assert config.mode == 'supervised' and config.physics.train_probe
    assert config.execution.accelerator == 'cuda' and config.execution.devices == 2
    assert config.training.learning_rate == 5e-4 and config.network.kind == 'cnn'


@pytest.mark.parametrize(
    'field, value, path, expected',
    [
        ('precision', '16-mixed', 'execution.precision', 'bf16-mixed'),
        ('devices', 'auto', 'execution.devices', 1),
        ('amp_activation', 'sigmoid', 'network.amplitude', 'sigmoid'),
    ],
)
def test_change_of_meaning_is_said(field: str, value: str, path: str, expected: Any) -> None:
    found = config_from_legacy({field: value})
    section, name = path.split('.')
    assert getattr(getattr(found.config, section), name) == expected
    assert len(found.warnings) == 1 and field in found.warnings[0]


@pytest.mark.parametrize(
    ('fields', 'options'),
    [
        ({'torch_loss_mode': 'mae'}, {'loss.kind': 'mae'}),
        ({'loss_function': 'MAE'}, {'loss.kind': 'mae'}),
        ({'mae_weight': 1.0, 'nll_weight': 0.0}, {'loss.kind': 'mae'}),
        (
            {'torch_loss_mode': 'mae', 'torch_mae_pred_l2_match_target': True},
            {'loss.kind': 'mae', 'loss.match_power': True},
        ),
        (
            {'realspace_weight': 2.0},
            {
                'mode': 'supervised',
                'loss.object_kind': 'squared',
                'loss.counts_weight': 0.5,
            },
        ),
        (
            {'realspace_mae_weight': 4.0, 'nll_weight': 2.0},
            {'mode': 'supervised', 'loss.object_kind': 'absolute', 'loss.counts_weight': 0.5},
        ),
        (
            {'optimizer': 'sgd', 'momentum': 0.5},
            {'training.optimizer': 'sgd', 'training.momentum': 0.5},
        ),
        ({'gradient_clip_val': 0.3}, {'training.clip_norm': 0.3, 'training.clip_value': 0.0}),
        (
            {'gradient_clip_val': 0.3, 'gradient_clip_algorithm': 'value'},
            {'training.clip_value': 0.3},
        ),
        (
            {'object_big': False, 'gridsize': 2},
            {'network.num_channels': 1, 'grouping.group_size': 1},
        ),
        ({'N': 128, 'probe_mask': True}, {'physics.probe_mask_px': 64.0}),
        ({'probe_mask': True, 'probe_mask_diameter': 40}, {'physics.probe_mask_px': 40.0}),
        ({'probe_mask': False, 'probe_mask_diameter': 40}, {'physics.probe_mask_px': 0.0}),
        ({'n_subsample': 99}, {'grouping.max_patterns': 99}),
        ({'amp_activation': 'swish'}, {'network.amplitude': 'silu'}),
        (
            {'batch_norm': True, 'cbam_bottleneck': True},
            {'network.has_norm': True, 'network.bottleneck_attention': True},
        ),
        ({'use_shared_decoder': False}, {'network.has_shared_decoder': False}),
        (
            {
                'architecture': 'fno',
                'fno_modes': 9,
                'fno_width': 20,
                'fno_blocks': 3,
                'fno_cnn_blocks': 1,
            },
            {
                'network.kind': 'fno',
                'network.num_modes': 9,
                'network.operator_width': 20,
                'network.num_blocks': 3,
                'network.num_refiners': 1,
            },
        ),
        ({'architecture': 'cnn', 'fno_modes': 9}, {'network.kind': 'cnn'}),
        ({'generator_output_mode': 'real_imag'}, {'network.head': 'amplitude_phase'}),
        (
            {'architecture': 'fno', 'generator_output_mode': 'real_imag'},
            {'network.head': 'real_imaginary'},
        ),
        ({'grid_size': (2, 2)}, {'network.num_channels': 4, 'grouping.group_size': 4}),
    ],
    ids=lambda value: ','.join(value),
)
def test_fields_mean_here_what_they_mean_there(
    fields: dict[str, Any], options: dict[str, Any]
) -> None:
    found = config_from_legacy(fields)
    assert not found.warnings
    known = {item.path: item for item in iter_options(found.config.network.kind)}
    assert {path: known[path].value_in(found.config) for path in options} == options


@pytest.mark.parametrize(
    'fields',
    [
        {'gradient_clip_val': 1.0, 'gradient_clip_algorithm': 'agc'},
        {'mae_weight': 0.5},
        {'torch_loss_mode': 'huber'},
        {'architecture': 'neuralop_uno'},
        {'fno_input_transform': 'log1p'},
        {'enable_oversampling': True},
        {'probe_mask_sigma': 3.0},
    ],
    ids=lambda fields: ','.join(fields),
)
def test_what_cannot_be_kept_is_said(fields: dict[str, Any]) -> None:
    warnings = config_from_legacy(fields).warnings
    assert len(warnings) == 1 and list(fields)[-1].partition('_')[0] in warnings[0]


def test_nonsense_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match='configuration of PtychoPINN'):
        config_from_legacy({'N': 'large'})
    with pytest.raises(ConfigError, match='batch_size'):
        config_from_legacy({'batch_size': -3})


def test_there_and_back_again(tmp_path: Path) -> None:
    config = override_config(
        Config(),
        {
            'network.kind': 'cnn',
            'network.pattern_size': 128,
            'network.num_channels': 4,
            'training.batch_size': 8,
            'training.schedule': 'plateau',
            'loss.kind': 'poisson',
            'physics.train_probe': True,
        },
    )
    fields = legacy_from_config(config)
    assert set(fields) == {row.name for row in TRAINING_FIELDS} | {'model'}
    path = tmp_path / 'config.json'
    path.write_text(json.dumps(fields), encoding='utf-8')
    back = config_from_legacy(path)
    assert [text for text in back.warnings if 'backend' not in text] == []
    for name in ('pattern_size', 'num_channels', 'first_width', 'has_outer_branch'):
        assert getattr(back.config.network, name) == getattr(config.network, name)
    assert back.config.loss == config.loss and back.config.physics == config.physics
    assert back.config.training.schedule == 'plateau'


def test_snapshot_of_the_parameters_is_read_as_written(tmp_path: Path) -> None:
    probe = (numpy.arange(6.0).reshape(2, 3) * (1 + 2j)).astype(numpy.complex64)
    path = write_params_cfg(
        tmp_path / 'params.json', {'N': 64, 'probe': probe, 'x': Path('a/b'), 'k': numpy.float32(2)}
    )
    found = read_params_cfg(path)
    assert found['N'] == 64 and found['x'] == 'a/b' and found['k'] == 2.0
    assert numpy.array_equal(found['probe'], probe) and found['probe'].dtype == probe.dtype
    nested = {'a': [{'b': numpy.arange(3)}], 'c': (1, None)}
    found = read_params_cfg(write_params_cfg(tmp_path / 'nested.json', nested))
    assert found['a'][0]['b'].tolist() == [0, 1, 2] and found['c'] == [1, None]
    (tmp_path / 'forged.json').write_text('{"a": {"dtype": "x", "values": 3}}')
    with pytest.raises(ConfigError, match='is no snapshot'):
        read_params_cfg(tmp_path / 'forged.json')
    with pytest.raises(ConfigError, match='parameter f is a function'):
        write_params_cfg(tmp_path / 'b.json', {'f': test_unknown_fields_are_named})


def test_parameters_of_a_tensorflow_archive_are_read(data_folder: Path, tmp_path: Path) -> None:
    import zipfile

    with zipfile.ZipFile(data_folder / 'tf_archive' / 'gs1' / 'wts.h5.zip') as bundle:
        data = bundle.read('diffraction_to_obj/params.dill')
    path = tmp_path / 'params.dill'
    path.write_bytes(data)
    found = read_params_cfg(path)
    assert found['N'] == 64 and found['probe'].shape == (64, 64, 1)
    assert found['intensity_scale'] == pytest.approx(31.25, rel=1e-6)


def test_classes_have_the_fields_and_defaults_they_have_there() -> None:
    model = ModelConfig(N=128, gridsize=2)
    training = TrainingConfig(model, nepochs=3, n_groups=64)
    assert (model.n_filters_scale, training.batch_size, training.nphotons) == (2, 16, 1e9)
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.N = 64
    training.batch_size = 8
    assert pickle.loads(pickle.dumps(training)) == training
    found = config_from_legacy(training, PyTorchExecutionConfig(learning_rate=5e-4))
    assert found.config.network.num_channels == 4  # type: ignore[attr-defined]
    assert found.config.training.max_steps == 24 and found.config.training.learning_rate == 5e-4
    flat = dataclass_to_legacy_dict(training)
    assert flat['N'] == 128 and flat['object.big'] is True and flat['nepochs'] == 3
    with pytest.raises(TypeError, match='flux'):
        ModelConfig(flux=1)


def test_configurations_of_the_object_api_become_those_of_the_workflows() -> None:
    data = DataConfig(N=32, C=4, K=7, nphotons=1e6, n_subsample=9)
    model = ObjectModelConfig(mode='Supervised', amp_activation='silu', loss_function='MAE')
    training = ObjectTrainingConfig(epochs=7, scheduler='Cosine', warmup_epochs=2, optimizer='sgd')
    theirs = to_model_config(data, model, {'probe_big': False})
    assert (theirs.N, theirs.gridsize, theirs.model_type) == (32, 2, 'supervised')
    assert theirs.amp_activation == 'swish' and theirs.probe_big is False
    whole = to_training_config(theirs, data, model, training, {'train_data_file': Path('a.npz')})
    assert (whole.nepochs, whole.scheduler, whole.lr_warmup_epochs) == (7, 'WarmupCosine', 2)
    assert (whole.torch_loss_mode, whole.mae_weight, whole.nll_weight) == ('mae', 1.0, 0.0)
    assert whole.neighbor_count == 7 and whole.nphotons == 1e6 and whole.optimizer == 'sgd'
    assert whole.n_subsample is None and whole.backend == 'pytorch'
    paths = {'model_path': Path('m'), 'test_data_file': Path('b.npz')}
    used = to_inference_config(theirs, data, InferenceConfig(), paths)
    assert used.model_path == Path('m') and used.neighbor_count == 7 and used.model is theirs
    with pytest.raises(ValueError, match='InferenceConfig needs test_data_file'):
        to_inference_config(theirs, data, InferenceConfig(), {'model_path': Path('m')})
    with pytest.raises(TypeError, match='ModelConfig has no field flux'):
        to_model_config(data, model, {'flux': 1})
    with pytest.raises(ValueError, match='groups of 6 patterns are no square'):
        to_model_config(DataConfig(grid_size=(2, 3)), model)
    ours = config_from_legacy(whole).config
    assert ours.loss.kind == 'mae' and ours.mode == 'supervised'
    same = ConfigManager(data, model, training).to_config()
    assert ours.network.num_channels == same.network.num_channels  # type: ignore[attr-defined]
