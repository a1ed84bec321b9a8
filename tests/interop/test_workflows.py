"""The workflow API of PtychoPINN: its keys, shapes, signs and returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from forgeries import tensorflow_members, write_bytes, zip_bytes

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.interop.object_api import (
    ConfigManager,
    DataConfig,
    Datagen,
    DatagenConfig,
    InferenceEngine,
    ModelConfig,
    PtychoDataLoader,
    PtychoModel,
    Trainer,
    TrainingConfig,
)
from ptychodus_pinn_torch.interop.scan_export import write_amplitude_npz
from ptychodus_pinn_torch.interop.workflows import (
    MemmapDatasetBridge,
    PtychoDataContainerTorch,
    RawDataTorch,
    load_inference_bundle_torch,
    reassemble_position,
    run_cdi_example_torch,
    save_torch_bundle,
    train_cdi_model_torch,
)
from ptychodus_pinn_torch.scan.files import read_scan
from ptychodus_pinn_torch.scan.scan import Scan


def raw_data(scan: Scan, **arguments: Any) -> RawDataTorch:
    y, x = scan.positions_px.T
    counts = numpy.asarray(scan.patterns)
    return RawDataTorch(x, y, counts, scan.probe, objectGuess=scan.object_, **arguments)


@pytest.mark.parametrize('gridsize', [1, 2])
def test_groups_have_the_documented_keys_shapes_and_sign(tiny_scan: Scan, gridsize: int) -> None:
    data = raw_data(tiny_scan)
    found = data.generate_grouped_data(32, K=6, nsamples=10, seed=1, gridsize=gridsize)
    channels = gridsize**2
    shapes = {
        'diffraction': (10, 32, 32, channels),
        'X_full': (10, 32, 32, channels),
        'Y': (10, 32, 32, channels),
        'coords_nn': (10, 1, 2, channels),
        'coords_offsets': (10, 1, 2, 1),
        'coords_relative': (10, 1, 2, channels),
        'nn_indices': (10, channels),
    }
    assert {name: found[name].shape for name in shapes} == shapes
    assert found['X_full'].dtype == numpy.float32 and found['Y'].dtype == numpy.complex64
    assert found['nn_indices'].dtype == (numpy.int64 if gridsize == 1 else numpy.int32)
    assert found['coords_offsets'].dtype == numpy.float64
    assert numpy.allclose(
        found['coords_relative'], found['coords_offsets'] - found['coords_nn'], atol=1e-9
    )
    assert numpy.allclose(found['coords_nn'][:, 0, 0], data.xcoords[found['nn_indices']])
    assert numpy.array_equal(found['nn_indices'][:, 0], found['sample_indices'])
    energy = (found['X_full'].astype(float) ** 2).sum(axis=(1, 2)).mean()
    assert energy == pytest.approx(256.0, rel=1e-4)
    again = data.generate_grouped_data(32, K=6, nsamples=10, seed=1, gridsize=gridsize)
    assert numpy.array_equal(again['nn_indices'], found['nn_indices'])
    container = PtychoDataContainerTorch(found, tiny_scan.probe[0])
    assert container.X.shape == shapes['X_full'] and container.global_offsets.ndim == 4
    assert container.norm_Y_I == pytest.approx(float(numpy.sqrt(1e9 / energy)), rel=1e-4)
    del found['coords_start_relative'], found['Y']
    container = PtychoDataContainerTorch(found, tiny_scan.probe[0])
    assert numpy.array_equal(container.coords_nominal, container.coords_relative)


def test_grouping_refuses_with_a_sentence(tiny_scan: Scan) -> None:
    data = raw_data(tiny_scan)
    with pytest.raises(ValueError, match='K=3 must be >= C=4'):
        data.generate_grouped_data(32, K=3, gridsize=2)
    with pytest.raises(ValueError, match='N = 64 was asked for'):
        data.generate_grouped_data(64)
    with pytest.raises(ValueError, match='matching shapes'):
        RawDataTorch([1.0], [1.0, 2.0], data.diff3d, data.probeGuess)
    grouped = data.generate_grouped_data(32, nsamples=2)
    with pytest.raises(TypeError, match='X_full is float64'):
        PtychoDataContainerTorch({**grouped, 'X_full': grouped['X_full'].astype(float)}, [0])


def test_amplitudes_are_told_from_counts(tiny_scan: Scan) -> None:
    counts = raw_data(tiny_scan).to_scan().patterns
    roots = numpy.sqrt(numpy.asarray(tiny_scan.patterns, dtype=numpy.float32))
    data = raw_data(tiny_scan)
    data.diff3d = roots
    assert numpy.allclose(data.to_scan().patterns, counts, rtol=1e-4)
    data.diff3d = roots * 0.37
    with pytest.raises(ValueError, match="kind='counts'"):
        data.to_scan()


def test_exported_amplitudes_come_back_as_counts(tmp_path: Path, tiny_scan: Scan) -> None:
    path = write_amplitude_npz(tmp_path / 'amplitude.npz', tiny_scan)
    back = read_scan(path)
    assert numpy.allclose(back.patterns, tiny_scan.patterns, rtol=1e-4, atol=1e-3)
    assert back.num_modes == 1 and numpy.allclose(back.positions_px, tiny_scan.positions_px)
    bridge = MemmapDatasetBridge(path)
    other = bridge.raw_data_torch.to_scan()
    assert numpy.allclose(other.positions_px, back.positions_px)
    assert numpy.allclose(bridge.raw_data_torch.to_scan().patterns, back.patterns, rtol=1e-5)
    assert bridge.get_grouped_data(nsamples=3)['X_full'].shape == (3, 32, 32, 1)
    numpy.savez(tmp_path / 'other.npz', xcoords=[1.0])
    with pytest.raises(KeyError, match='lacks ycoords, diff3d, probeGuess; it holds xcoords'):
        MemmapDatasetBridge(tmp_path / 'other.npz')


def test_convert_command_writes_scans_in_both_conventions(
    tmp_path: Path, tiny_scan_path: Path, tiny_scan: Scan
) -> None:
    for convention in ('counts', 'amplitude'):
        output = tmp_path / f'{convention}.npz'
        words = ['convert', str(tiny_scan_path), '--output', str(output)]
        assert main([*words, '--convention', convention, '--quiet']) == 0
        assert numpy.allclose(read_scan(output).patterns, tiny_scan.patterns, rtol=1e-4, atol=1e-3)
        assert main(words) == 1  # there already


def test_stitching_is_that_of_tensorflow(data_folder: Path) -> None:
    golden = numpy.load(data_folder / 'tf_archive' / 'gs1' / 'gs1_golden.npz')
    found = reassemble_position(
        golden['stitch_obj_centre'][..., None], golden['stitch_global_offsets'], 20
    )
    assert found.shape == golden['stitched'].shape
    assert numpy.abs(found - golden['stitched']).max() < 5e-5


def test_stitching_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match='M = 10 does not fit patches of 8 px'):
        reassemble_position(numpy.ones((2, 8, 8, 1)), numpy.zeros((2, 1, 2, 1)))
    with pytest.raises(ValueError, match='do not fit 3 offsets'):
        reassemble_position(numpy.ones((2, 8, 8, 1)), numpy.zeros((3, 1, 2, 1)), 4)


def test_script_trains_saves_loads_and_makes_the_image(tmp_path: Path, tiny_scan: Scan) -> None:
    config = {
        'model': {'N': 32, 'gridsize': 1, 'n_filters_scale': 1},
        'nepochs': 1,
        'n_groups': 24,
        'batch_size': 8,
        'output_dir': tmp_path / 'out',
    }
    data = raw_data(tiny_scan)
    amplitude, phase, results = run_cdi_example_torch(
        data, data, config, do_stitching=True, overrides={'training.start': 'none'}
    )
    assert amplitude is not None and phase is not None
    assert amplitude.shape == phase.shape == tiny_scan.object_.shape
    assert set(results) >= {'history', 'train_container', 'test_container', 'models', 'recon_amp'}
    assert results['history']['train_loss'] and results['backend'] == 'pytorch'
    path = save_torch_bundle(results['models'], tmp_path / 'saved' / 'wts.h5')
    assert path.name == 'wts.h5.zip'
    models, params = load_inference_bundle_torch(path.parent)
    assert params['N'] == 32 and params['gridsize'] == 1
    image = models['diffraction_to_obj'].reconstruct(data)
    assert numpy.allclose(numpy.abs(image), amplitude, atol=1e-5)


def test_bundles_of_tensorflow_load_and_missing_ones_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='is no folder'):
        load_inference_bundle_torch(tmp_path / 'none')
    with pytest.raises(FileNotFoundError, match='wts.h5.zip'):
        load_inference_bundle_torch(tmp_path)
    write_bytes(tmp_path / 'wts.h5.zip', zip_bytes(tensorflow_members()))
    models, params = load_inference_bundle_torch(tmp_path)
    assert set(models) == {'diffraction_to_obj', 'autoencoder'} and params['N'] == 64
    with pytest.raises(KeyError, match='holds no probe_net'):
        load_inference_bundle_torch(tmp_path, 'probe_net')


def test_object_api_trains_and_makes_the_image(tmp_path: Path, tiny_scan: Scan) -> None:
    manager = ConfigManager(
        DataConfig(N=32, C=1, K=6),
        ModelConfig(mode='Unsupervised', n_filters_scale=1, loss_function='Poisson'),
        TrainingConfig(epochs=1, batch_size=8, learning_rate=1e-3, device='cpu'),
        datagen_config=DatagenConfig(pattern_size=32, num_positions=12, step_px=3.0),
    )
    loader = PtychoDataLoader.from_np(
        numpy.asarray(tiny_scan.patterns), tiny_scan.probe, tiny_scan.positions_px, manager
    )
    loader.output_dir = tmp_path
    model = PtychoModel._new_model(config_manager=manager)
    engine = InferenceEngine(manager, model)
    with pytest.raises(ValueError, match='no weights yet'):
        engine.predict_and_stitch(loader)
    path = Trainer._from_lightning(model, loader, config_manager=manager).train()
    image = engine.predict_and_stitch(loader)
    assert image.shape == loader.scans[0].object_.shape and numpy.isfinite(image).all()
    loaded = PtychoModel.load(path)
    ConfigManager.from_loaded_model(loaded).validate_arch_compatibility(loaded)
    with pytest.raises(ValueError, match='takes patterns of 32 px, the data have 64 px'):
        ConfigManager(DataConfig(N=64)).validate_arch_compatibility(loaded)
    assert [scan.num_patterns for scan in Datagen(manager).simulate(2)] == [12, 12]


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


def test_workflows_run_on_the_engine_of_the_environment(
    tmp_path: Path, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'jax')
    config = {'N': 32, 'output_dir': tmp_path / 'out'}
    with pytest.raises(ValueError, match="'jax', from the variable PTYCHOPINN_BACKEND"):
        train_cdi_model_torch(raw_data(tiny_scan), config=config)
    write_bytes(tmp_path / 'wts.h5.zip', zip_bytes(tensorflow_members()))
    monkeypatch.setenv('PTYCHOPINN_BACKEND', 'tensorflow')
    monkeypatch.setattr('ptychodus_pinn_torch.backend.is_backend_available', lambda name: True)
    with pytest.raises(ValueError, match='pytorch backend.*tensorflow backend'):
        load_inference_bundle_torch(tmp_path)


def test_output_folder_is_not_said_to_be_left_out(
    tmp_path: Path, tiny_scan: Scan, caplog: Any
) -> None:
    config = {'N': 32, 'nepochs': 1, 'n_groups': 8, 'batch_size': 8, 'output_dir': tmp_path / 'out'}
    results = train_cdi_model_torch(
        raw_data(tiny_scan), config=config, overrides={'training.start': 'none'}
    )
    assert results['model_path'] == tmp_path / 'out' / 'wts.h5.zip'
    assert 'output_dir' not in caplog.text


def test_what_is_no_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match='diffraction_to_obj is a int'):
        save_torch_bundle({'diffraction_to_obj': 3}, tmp_path / 'wts.h5')  # type: ignore[dict-item]
