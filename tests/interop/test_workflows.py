"""The workflow API of PtychoPINN: its keys, shapes, signs and returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from forgeries import tensorflow_members, write_bytes, zip_bytes

from ptychodus_pinn_torch.cli import main
from ptychodus_pinn_torch.config import Config, override_config
from ptychodus_pinn_torch.interop.params_cfg import cfg
from ptychodus_pinn_torch.interop.scan_export import write_amplitude_npz
from ptychodus_pinn_torch.interop.trained_model import as_scan
from ptychodus_pinn_torch.interop.workflows import (
    MemmapDatasetBridge,
    PtychoDataContainerTorch,
    RawDataTorch,
    load_data,
    load_inference_bundle_torch,
    load_inference_bundle_with_backend,
    reassemble_position,
    run_cdi_example_torch,
    run_cdi_example_with_backend,
    save_torch_bundle,
    train_cdi_model_torch,
    train_cdi_model_with_backend,
)
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan
from ptychodus_pinn_torch.training.module import PtychoPINN


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
    data.diff3d = roots * numpy.float32(0.37)
    assert numpy.allclose(data.to_scan().patterns, counts, rtol=1e-3, atol=1e-3)
    data.diff3d = roots + numpy.float32(0.1)
    with pytest.raises(ValueError, match='do not tell'):
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


def test_script_trains_saves_loads_and_makes_the_image(
    tmp_path: Path, tiny_scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
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
    assert any('is refined through the physics' in text for text in caplog.messages)
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


def test_more_groups_than_patterns_need_oversampling(
    tiny_scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    data, number = raw_data(tiny_scan), tiny_scan.num_patterns
    with pytest.raises(ValueError, match=f'{number + 5} groups of 4.*enable_oversampling'):
        data.generate_grouped_data(32, K=6, nsamples=number + 5, gridsize=2)
    found = data.generate_grouped_data(
        32, K=6, nsamples=3 * number, gridsize=2, enable_oversampling=True, neighbor_pool_size=8
    )
    assert len(found['nn_indices']) == 3 * number
    per_pattern = numpy.bincount(found['sample_indices'], minlength=number)
    assert numpy.array_equal(per_pattern, numpy.full(number, 3))
    assert len({tuple(sorted(row)) for row in found['nn_indices'].tolist()}) > number
    with pytest.raises(ValueError, match='K=3 must be >= C=4'):
        data.generate_grouped_data(
            32, K=6, nsamples=9, gridsize=2, enable_oversampling=True, neighbor_pool_size=3
        )
    assert len(data.generate_grouped_data(32, nsamples=900)['nn_indices']) == number
    assert f'900 groups were asked for: there are {number} patterns' in caplog.text


def test_sequential_sampling_does_not_depend_on_the_seed(tiny_scan: Scan) -> None:
    data = raw_data(tiny_scan)
    found = [
        data.generate_grouped_data(
            32, K=6, nsamples=9, gridsize=2, seed=seed, sequential_sampling=True
        )['nn_indices']
        for seed in (1, 2)
    ]
    assert numpy.array_equal(*found) and found[0][:, 0].tolist() == list(range(9))


@pytest.mark.parametrize('gridsize', [1, 2])
def test_a_container_gives_back_the_scan_that_it_was_made_of(
    tiny_scan: Scan, gridsize: int
) -> None:
    data = raw_data(tiny_scan)
    grouped = data.generate_grouped_data(
        32, K=6, nsamples=tiny_scan.num_patterns, gridsize=gridsize
    )
    back = as_scan(PtychoDataContainerTorch(grouped, tiny_scan.probe[0]))
    assert numpy.array_equal(back.patterns, tiny_scan.patterns)
    assert numpy.allclose(back.positions_px, data.to_scan().positions_px, atol=0.01)
    del grouped['diffraction']
    scaled = as_scan(PtychoDataContainerTorch(grouped, tiny_scan.probe[0], nphotons=1e5)).patterns
    powers = numpy.asarray(tiny_scan.patterns, dtype=float) ** 2
    assert numpy.allclose(scaled / scaled.mean(), powers / powers.mean(), rtol=1e-3, atol=1e-3)


def test_both_routes_put_positions_at_the_same_place(tmp_path: Path, tiny_scan: Scan) -> None:
    path = write_amplitude_npz(tmp_path / 'scan.npz', tiny_scan)
    direct = read_scan(path)
    for other in (
        MemmapDatasetBridge(path).raw_data_torch.to_scan(),
        as_scan(load_data(path)),
    ):
        assert numpy.abs(other.positions_px - direct.positions_px).max() < 0.01
        assert other.object_.shape == direct.object_.shape


@pytest.mark.parametrize(
    'options',
    [{'flip_x': True}, {'flip_y': True}, {'swap_xy': True}, {'coord_scale': 0.5}],
    ids=lambda options: ','.join(options),
)
def test_data_are_loaded_with_coordinates_as_asked(
    tmp_path: Path, tiny_scan: Scan, options: dict[str, Any]
) -> None:
    path = write_amplitude_npz(tmp_path / 'scan.npz', tiny_scan)
    plain, changed = load_data(path), load_data(path, **options)
    assert numpy.array_equal(plain.diff3d, changed.diff3d)
    y, x = plain.ycoords, plain.xcoords
    wanted_x = {'flip_x': -x, 'swap_xy': y, 'coord_scale': 0.5 * x}.get(next(iter(options)), x)
    wanted_y = {'flip_y': -y, 'swap_xy': x, 'coord_scale': 0.5 * y}.get(next(iter(options)), y)
    for found, wanted in ((changed.xcoords, wanted_x), (changed.ycoords, wanted_y)):
        assert numpy.allclose(numpy.diff(found), numpy.diff(wanted), atol=1e-9)


def test_a_part_of_the_data_is_loaded(
    tmp_path: Path, tiny_scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_amplitude_npz(tmp_path / 'scan.npz', tiny_scan)
    assert len(load_data(path, n_images=7).xcoords) == 7
    some, same, other = (load_data(path, n_subsample=9, subsample_seed=seed) for seed in (1, 1, 2))
    assert numpy.array_equal(some.scan_index, same.scan_index)
    assert not numpy.array_equal(some.xcoords, other.xcoords) and len(some.xcoords) == 9
    caplog.clear()
    assert len(load_data(path, n_images=5, n_subsample=9).xcoords) == 9
    load_data(path, n_images=5, subsample_seed=3)
    assert 'n_images = 5 is left out' in caplog.messages[0]
    assert 'subsample_seed is left out' in caplog.messages[1]


def test_params_cfg_is_filled_first_and_restored(tmp_path: Path, tiny_scan: Scan) -> None:
    cfg.clear()
    config = {'N': 32, 'nepochs': 3, 'n_groups': 16, 'batch_size': 8, 'output_dir': tmp_path / 'o'}
    results = train_cdi_model_torch(
        raw_data(tiny_scan), config=config, overrides={'training.start': 'none'}
    )
    assert cfg['N'] == 32 and cfg['output_prefix'] == str(tmp_path / 'o')
    history = results['history']
    assert len(history['train_loss']) == len(history['val_loss']) == 3
    assert results['history_epochs'] == [1, 2, 3]
    cfg.clear()
    _, params = load_inference_bundle_torch(tmp_path / 'o')
    assert cfg['N'] == params['N'] == 32 and cfg['gridsize'] == 1
    assert cfg['object.big'] is True and cfg['batch_size'] == 8


def test_any_module_is_saved_and_its_weights_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    modules = {'diffraction_to_obj': torch.nn.Linear(3, 2), 'autoencoder': torch.nn.Conv2d(1, 1, 3)}
    config = {'N': 64, 'gridsize': 2, 'probe_trainable': True}
    path = save_torch_bundle(modules, tmp_path / 'wts.h5', config, intensity_scale=3.5)
    models, params = load_inference_bundle_torch(path.parent)
    assert params == {'N': 64, 'gridsize': 2, 'probe.trainable': True, 'intensity_scale': 3.5}
    for name, module in modules.items():
        fresh = type(module)(*(3, 2) if name == 'diffraction_to_obj' else (1, 1, 3))
        fresh.load_state_dict(models[name])
        assert all(map(torch.equal, fresh.parameters(), module.parameters()))
    with pytest.raises(KeyError, match='holds no probe_net'):
        load_inference_bundle_torch(path.parent, 'probe_net')
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match='wts.h5.zip'):
        load_inference_bundle_torch(path.parent)


def test_a_module_of_ours_is_saved_as_a_model(tmp_path: Path, tiny_scan: Scan) -> None:
    config = override_config(
        Config(), {'network.kind': 'cnn', 'network.pattern_size': 32, 'network.first_width': 2}
    )
    path = save_torch_bundle(
        {'diffraction_to_obj': PtychoPINN(config)}, tmp_path / 'wts.h5', {'nepochs': 5}
    )
    models, params = load_inference_bundle_torch(path.parent)
    assert params['N'] == 32 and params['nepochs'] == 5
    image = models['diffraction_to_obj'](tiny_scan)
    assert image.shape == tiny_scan.object_.shape and numpy.isfinite(image).all()


@pytest.mark.parametrize('backend', ['pytorch', 'tensorflow', 'jax'])
def test_the_selectors_take_the_engine_of_the_configuration(
    tmp_path: Path, tiny_scan: Scan, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        'ptychodus_pinn_torch.interop.workflows.resolve_backend',
        lambda argument=None, setting=None: asked.append((argument, setting)) or 'pytorch',
    )
    config = {'N': 32, 'nepochs': 1, 'n_groups': 8, 'batch_size': 8, 'output_dir': tmp_path / 'o'}
    arguments = (raw_data(tiny_scan), None, {**config, 'backend': backend})
    named = {'overrides': {'training.start': 'none'}}
    if backend == 'jax':
        with pytest.raises(ValueError, match="backend = 'jax'.*must be 'tensorflow' or 'pytorch'"):
            run_cdi_example_with_backend(*arguments, **named)
        return
    results = train_cdi_model_with_backend(*arguments, **named)
    assert asked[0] == (None, backend) and results['backend'] == 'pytorch'
    models, _ = load_inference_bundle_with_backend(tmp_path / 'o', {'backend': 'pytorch'})
    assert set(models) == {'diffraction_to_obj', 'autoencoder'}


def test_a_second_training_keeps_the_model_of_the_first(
    tmp_path: Path, tiny_scan: Scan, caplog: pytest.LogCaptureFixture
) -> None:
    config = {'N': 32, 'nepochs': 1, 'n_groups': 16, 'output_dir': tmp_path}
    for _ in range(3):
        train_cdi_model_torch(raw_data(tiny_scan), config=config)
    assert sorted(path.name for path in tmp_path.glob('*.zip')) == [
        'wts.h5.zip', 'wts_2.h5.zip', 'wts_3.h5.zip',
    ]  # fmt: skip
    assert any('was there: it is kept as wts_3.h5.zip' in text for text in caplog.messages)
