"""PtychoPINN's object API: scripts run when their import line is changed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from ptychodus_pinn_torch import api
from ptychodus_pinn_torch.config import ConfigError
from ptychodus_pinn_torch.interop.object_api import (
    ConfigManager,
    DataConfig,
    Datagen,
    DataloaderFormats,
    InferenceConfig,
    InferenceEngine,
    ModelConfig,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
    TrainingConfig,
)
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask
from ptychodus_pinn_torch.scan.io.output import write_scan_npz
from ptychodus_pinn_torch.scan.scan import Scan


def test_fields_have_the_defaults_they_have_there_and_no_others_are_taken() -> None:
    data = DataConfig(N=128)
    assert (data.N, data.C, data.x_bounds) == (128, 4, (0.1, 0.9))
    data.C = 1
    assert data.given() == {'N': 128, 'C': 1} and dict(data)['K'] == 6
    assert pickle.loads(pickle.dumps(data)) == data
    with pytest.raises(TypeError, match='DataConfig has no field flux'):
        DataConfig(flux=3)
    with pytest.raises(TypeError, match='ModelConfig has no field depth'):
        ModelConfig().depth = 3
    with pytest.raises(AttributeError, match='no field flux'):
        _ = data.flux


TREE = {
    'data_config': {'N': 32, 'C': 4},
    'model_config': {'mode': 'Supervised', 'batch_norm': True},
    'training_config': {'epochs': 3, 'batch_size': 8},
}


def test_configurations_are_read_from_json_mappings_and_fields(tmp_path: Path) -> None:
    nested, flat = tmp_path / 'nested.json', tmp_path / 'flat.json'
    nested.write_text(json.dumps(TREE))
    flat.write_text(json.dumps({k: x for part in TREE.values() for k, x in part.items()}))
    managers = [
        ConfigManager._from_json(nested),
        ConfigManager._from_json(flat),
        ConfigManager._flexible_load(TREE),
        ConfigManager._flexible_load(nested),
        ConfigManager._flexible_load(**TREE),
        ConfigManager(**TREE),  # type: ignore[arg-type]
        ConfigManager(
            DataConfig(N=32, C=4), ModelConfig(**TREE['model_config']), TREE['training_config']
        ),
    ]
    managers.append(ConfigManager._from_json(managers[0].to_json(tmp_path / 'again.json')))
    for manager in managers:
        assert manager.data_config == DataConfig(N=32, C=4)
        assert manager.to_config(steps_per_epoch=5) == managers[0].to_config(steps_per_epoch=5)
        assert manager.inference_config.batch_size == 1000, 'that of the training'
    config = managers[0].to_config(steps_per_epoch=5)
    assert config.training.max_steps == 15 and config.network.has_norm  # type: ignore[attr-defined]
    drawn = ConfigManager(DataConfig(N=32, C=1, n_subsample=7)).to_config()
    assert drawn.grouping.groups_per_pattern == 7 and drawn.grouping.max_patterns == 0
    manager = managers[0]
    manager.update(epochs=7, inference_config={'window': 4}, model_config=ModelConfig(C_model=1))
    assert manager.training_config.epochs == 7 and manager.inference_config.window == 4
    assert manager.model_config.batch_norm and manager.model_config.C_model == 1


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('{', 'is neither JSON nor YAML'),
        ('[1]', 'holds a list'),
        ('{"flux": 3}', 'no configuration has a field flux'),
        ('{"data_config": {"flux": 3}}', 'DataConfig has no field flux'),
    ],
)
def test_bad_json_is_one_sentence(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / 'config.json'
    path.write_text(text)
    with pytest.raises(ConfigError, match=f'config.json: .*{reason}'):
        ConfigManager._from_json(path)


def test_configurations_of_a_checkpoint_come_back(data_folder: Path, tmp_path: Path) -> None:
    path = data_folder / 'torch_checkpoints' / 'main_objectbig_false_N64.ckpt'
    data, model, training, inference = PtychoModel._extract_configs_from_checkpoint(str(path))
    assert (data.N, data.C, data.max_neighbor_distance) == (64, 1, 6.0)
    assert model.object_big is False and training.batch_size == 4
    assert isinstance(inference, InferenceConfig)
    loaded = PtychoModel.load(path)
    assert loaded.model.num_channels == 1
    with pytest.raises(ValueError, match='holds no configurations of PtychoPINN'):
        PtychoModel._extract_configs_from_checkpoint(str(own_checkpoint(tmp_path)))


def own_checkpoint(folder: Path) -> Path:
    path = folder / 'own.ckpt'
    torch.save({'state_dict': {'x': torch.zeros(1)}, 'hyper_parameters': {}}, path)
    return path


SCRIPT_CONFIG: dict[str, Any] = {
    'data_config': {'N': 32, 'C': 1},
    'model_config': {'mode': 'Unsupervised', 'n_filters_scale': 2, 'loss_function': 'Poisson'},
    'training_config': {
        'epochs': 100,
        'batch_size': 8,
        'learning_rate': 2e-3,
        'device': 'cpu',
        'scheduler': 'WarmupCosine',
        'lr_warmup_epochs': 2,
    },
    'datagen_config': {
        'pattern_size': 32,
        'num_positions': 100,
        'step_px': 3.0,
        'object_kind': 'leaves',
    },
}


def image_error(scan: Scan, image: Any) -> float:
    assert scan.truth is not None
    return compare_objects(image, scan.truth, weights=coverage_mask(scan)).nrmse


@pytest.mark.slow
def test_a_script_simulates_trains_saves_loads_and_makes_the_right_image(tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text(json.dumps(SCRIPT_CONFIG))
    # simulate
    manager = ConfigManager._from_json(tmp_path / 'config.json')
    (scan,) = Datagen(manager).simulate(1)
    (tmp_path / 'data').mkdir()
    write_scan_npz(tmp_path / 'data' / 'scan.npz', scan)
    # train
    loader = PtychoDataLoader(
        data_dir=tmp_path / 'data',
        config_manager=manager,
        data_format=DataloaderFormats('lightning_only_module'),
        output_dir=tmp_path / 'out',
    )
    model = PtychoModel._new_model(config_manager=manager)
    trainer = Trainer._from_lightning(
        model=model, dataloader=loader, orchestration='lightning', config_manager=manager
    )
    trainer.train(orchestration='lightning', experiment_name='first')
    saved = model.save(tmp_path / 'saved' / 'model')
    # infer
    loaded = PtychoModel.load(saved)
    engine = InferenceEngine(config_manager=manager, ptycho_model=loaded)
    image = engine.predict_and_stitch(loader)
    patches = engine.predict(loader)
    assert patches.shape == (100, 32, 32) and patches.dtype == numpy.complex64
    first = numpy.rint(loader.scans[0].positions_px[17] - 15.5).astype(int)
    y, x = numpy.clip(first, 0, numpy.asarray(image.shape) - 32)
    assert numpy.array_equal(patches[17], image[y : y + 32, x : x + 32])
    # evaluate, beside our own interface
    own = api.reconstruct(loader.scans[0], model=saved)
    assert own.trust is not None and own.trust.verdict == 'right'
    assert image_error(scan, image) <= 1.01 * image_error(scan, own.object_) < 0.05
    options = {'reconstruction.refine_epochs': 0, 'reconstruction.guard': False}
    alone = InferenceEngine(manager, loaded, options=options).predict_and_stitch(loader)
    flat = numpy.full_like(alone, numpy.abs(alone).mean())
    assert image_error(scan, image) < image_error(scan, alone) < 0.8 * image_error(scan, flat)


def test_an_untrained_model_and_a_bad_format_are_sentences(tmp_path: Path, tiny_scan: Scan) -> None:
    model = PtychoModel(DataConfig(N=32, C=1), ModelConfig(n_filters_scale=1))
    assert model.config.network.size_px == 32
    for action in (lambda: model.save(tmp_path / 'x'), lambda: model.model):
        with pytest.raises(ValueError, match='no weights yet'):
            action()
    with pytest.raises(ValueError, match='tensordict'):
        PtychoDataLoader(data_format='tensordict', scans=(tiny_scan,))
    with pytest.raises(ValueError, match=r'holds no \*\.npz'):
        PtychoDataLoader(tmp_path)


@pytest.mark.parametrize('where', ['argument', 'environment', 'setting'])
def test_the_engine_is_that_of_argument_environment_or_setting(
    tmp_path: Path, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    training = TrainingConfig(epochs=1, batch_size=8)
    backend = None
    if where == 'argument':
        backend = 'jax'
    elif where == 'environment':
        monkeypatch.setenv('PTYCHOPINN_BACKEND', 'jax')
    else:
        training.backend = 'jax'
    manager = ConfigManager(DataConfig(N=32, C=1), training_config=training)
    loader = PtychoDataLoader(config_manager=manager, output_dir=tmp_path, scans=(tiny_scan,))
    trainer = Trainer(
        PtychoModel._new_model(config_manager=manager), loader, manager, backend=backend
    )
    with pytest.raises(ValueError, match="'jax'"):
        trainer.train()


def test_fields_of_the_object_api_are_those_of_the_table(caplog: Any) -> None:
    manager = ConfigManager(
        DataConfig(N=64, C=4, K=6),
        ModelConfig(mode='Supervised', loss_function='Poisson', eca_encoder=True),
        TrainingConfig(epochs=3, batch_size=8, device='cuda:0', scheduler='WarmupCosine'),
    )
    config = manager.to_config(steps_per_epoch=5)
    assert config.training.max_steps == 15 and config.training.start == 'none'
    assert config.network.num_channels == config.grouping.group_size == 4
    assert config.network.attention == 'eca' and config.training.schedule == 'cosine'
    assert config.mode == 'supervised' and config.loss.kind == 'poisson'
    assert config.execution.accelerator == 'auto'
    assert [record.getMessage().partition(' ')[0] for record in caplog.records] == ['K']


def test_every_run_has_a_folder_and_no_model_replaces_another(
    tmp_path: Path, tiny_scan: Scan
) -> None:
    manager = ConfigManager(DataConfig(N=32, C=1), training_config=TrainingConfig(epochs=1))
    loader = PtychoDataLoader(config_manager=manager, output_dir=tmp_path, scans=(tiny_scan,))
    trainer = Trainer(PtychoModel._new_model(config_manager=manager), loader, manager)
    paths = [trainer.train(), trainer.train(), trainer.train(experiment_name='second')]
    assert [path.name for path in paths] == ['wts.h5.zip', 'wts_2.h5.zip', 'second.h5.zip']
    assert all(path.is_file() and path.parent.parent == tmp_path for path in paths)
    assert paths[0].parent.name.startswith('run_2')
