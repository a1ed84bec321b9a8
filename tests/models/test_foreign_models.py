"""Models of PtychoPINN give here what they gave there."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from forgeries import tensorflow_members, write_bytes, zip_bytes

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.backend import ReconstructRequest, get_backend
from ptychodus_pinn_torch.config import Config, make_config, override_config
from ptychodus_pinn_torch.host.model_file import inspect_model
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_of
from ptychodus_pinn_torch.models.archive import ArchiveError
from ptychodus_pinn_torch.models.opening import convert_model, open_model
from ptychodus_pinn_torch.networks.ptychopinn import PinnLayout, PtychoPinnNetwork
from ptychodus_pinn_torch.networks.published_merging import extract_patches, merge_patches
from ptychodus_pinn_torch.networks.registry import build_network
from ptychodus_pinn_torch.physics.forward_model import predict
from ptychodus_pinn_torch.physics.measured_scan import measure_scan
from ptychodus_pinn_torch.reconstruction.procedure import reconstruct
from ptychodus_pinn_torch.scan.scan import Scan

CHECKPOINTS = (
    'latent_experimental_rect_N64',
    'latent_experimental_polar_N64',
    'torchapi_amp_N64',
    'main_ci_N64',
    'main_shared_decoder_N64',
    'main_shared_decoder_amp_N64',
    'main_batchnorm_N64',
    'main_attention_N64',
    'main_objectbig_false_N64',
    'main_probemask_N64',
    'main_amp_sigmoid_N64',
    'main_fno_N64',
    'main_ffno_N64',
)


def network_of(path: Path) -> PtychoPinnNetwork:
    network = get_backend('pytorch').load_network(open_model(path), Config())
    assert isinstance(network, PtychoPinnNetwork)
    return network


def answers(network: PtychoPinnNetwork, inputs: Any, *, as_merged: bool = False) -> Any:
    """Returns patches (B, N, N, C); as merged: divided by the border as TensorFlow does."""
    with torch.inference_mode():
        patches = network.patches(torch.from_numpy(inputs).permute(0, 3, 1, 2))
    if as_merged:
        mask = numpy.zeros(patches.shape[-2:])
        mask[16:48, 16:48] = 1.0
        patches = patches / torch.from_numpy(mask + 1e-3)
    return patches.permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize('name', ['gs1', 'gs2'])
def test_tensorflow_archive_gives_the_patches_of_tensorflow(data_folder: Path, name: str) -> None:
    folder = data_folder / 'tf_archive' / name
    golden = numpy.load(folder / f'{name}_golden.npz')
    is_single = name == 'gs1'
    found = answers(network_of(folder / 'wts.h5.zip'), golden['X'], as_merged=is_single)
    expected = golden['obj_patches' if is_single else 'obj_channels']
    assert numpy.abs(found - expected).max() < 5e-6


def test_tensorflow_input_scale_is_that_of_the_original(data_folder: Path) -> None:
    golden = numpy.load(data_folder / 'tf_archive' / 'gs1' / 'gs1_golden.npz')
    network = network_of(data_folder / 'tf_archive' / 'gs1' / 'wts.h5.zip')
    counts = torch.from_numpy(golden['diffraction'] ** 2)[:, None]
    found = network._normalised(counts, None).square().sum(dim=(-2, -1)).mean()
    assert float(found) == pytest.approx(1024.0, rel=1e-4)


@pytest.mark.parametrize('name', CHECKPOINTS)
def test_checkpoint_gives_the_patches_of_its_code(data_folder: Path, name: str) -> None:
    folder = data_folder / 'torch_checkpoints'
    golden = numpy.load(folder / f'{name}_io.npz')
    key = 'in_rms_scaling_constant'
    scale = golden[key if key in golden.files else 'in_rms_input_scale']
    network = network_of(folder / f'{name}.ckpt')
    with torch.inference_mode():
        found = network.patches(torch.from_numpy(golden['in_images'] * scale)).numpy()
    assert numpy.abs(found - golden['out_object']).max() < 1e-5


@pytest.mark.parametrize(
    'name', ['main_batchnorm_N64', 'main_shared_decoder_N64', 'main_ffno_N64', 'main_fno_N64']
)
def test_a_checkpoint_is_trained_on_and_makes_images(
    data_folder: Path, tmp_path: Path, name: str
) -> None:
    source = data_folder / 'torch_checkpoints' / f'{name}.ckpt'
    options = {
        'training.start': str(source),
        'training.max_steps': 3,
        'execution.logger': 'none',
        'execution.num_threads': 1,
    }
    scan = pinn.simulate(num_positions=49)
    path = pinn.train(scan, tmp_path / 'm.h5.zip', options=options)
    before, after = (open_model(item).network_weights() for item in (source, path))
    assert set(before) == set(after)
    assert not any(numpy.array_equal(before[key], after[key]) for key in before)
    alone = {'reconstruction.refine_epochs': 0, 'reconstruction.guard': False}
    assert numpy.isfinite(pinn.reconstruct(scan, model=path, options=alone).object_).all()


@pytest.mark.parametrize('name', ['main_ci_N64', 'main_probemask_N64', 'main_amp_sigmoid_N64'])
def test_regions_are_merged_and_extracted_as_the_code_does(data_folder: Path, name: str) -> None:
    folder = data_folder / 'torch_checkpoints'
    golden = numpy.load(folder / f'{name}_io.npz')
    key = 'in_rms_scaling_constant'
    scale = golden[key if key in golden.files else 'in_rms_input_scale']
    network = network_of(folder / f'{name}.ckpt')
    with torch.inference_mode():
        patches = network.patches(torch.from_numpy(golden['in_images'] * scale))
    coords, probe = (torch.from_numpy(golden[key]) for key in ('in_coords_relative', 'in_probe'))
    compared = 0
    for kind, weights in (('central', None), ('probe', probe)):
        merged = merge_patches(patches, coords.float(), int(golden['ref_padded_size']), weights)
        assert numpy.abs(merged.numpy() - golden[f'ref_reassembled_{kind}']).max() < 2e-5
        if f'ref_extracted_{kind}' in golden.files:
            found = extract_patches(merged, coords.float(), 64)
            assert numpy.abs(found.numpy() - golden[f'ref_extracted_{kind}']).max() < 2e-5
            compared += 1
    assert compared == 1


def as_scan(golden: Any) -> Scan:
    """Returns the scan of the golden file, its frames made anew from its truth."""
    from scipy.ndimage import map_coordinates

    truth, probe = golden['object_truth'], golden['probe_guess']
    offsets = golden['stitch_global_offsets'].reshape(-1, 2)[::2]
    probe = probe * numpy.sqrt(1e6 / numpy.sum(numpy.abs(probe) ** 2))
    inside = numpy.mgrid[:64, :64] - 32
    frames = []
    for x, y in offsets:
        where = [inside[0] + y, inside[1] + x]
        patch = map_coordinates(truth.real, where) + 1j * map_coordinates(truth.imag, where)
        wave = numpy.fft.fftshift(numpy.fft.fft2(probe * patch, norm='ortho'))
        frames.append(numpy.random.default_rng(0).poisson(numpy.abs(wave) ** 2))
    return Scan(
        'golden',
        numpy.stack(frames).astype(numpy.float32),
        offsets[:, ::-1] - 0.5,
        probe[None].astype(numpy.complex64),
        numpy.ones_like(truth),
        numpy.ones((64, 64), dtype=bool),
        truth=truth,
    )


@pytest.mark.slow
def test_converted_model_reconstructs_better_than_a_flat_object(data_folder: Path) -> None:
    folder = data_folder / 'tf_archive' / 'gs1'
    scan = as_scan(numpy.load(folder / 'gs1_golden.npz'))
    area = coverage_of(scan.object_.shape, scan.probe, scan.positions_px) > 0.3
    figures = {}
    for start in ('network', 'flat'):
        config = override_config(
            Config(),
            {'reconstruction.refine_epochs': 0, 'reconstruction.start': start},
        )
        request = ReconstructRequest(scan=scan, config=config, model=folder / 'wts.h5.zip')
        image = reconstruct(request, lambda report: None).object_
        figures[start] = compare_objects(image, scan.truth, weights=area).nrmse
    assert figures['network'] < 0.75 * figures['flat']


def test_conversion_writes_an_archive_of_ours(tmp_path: Path) -> None:
    source = write_bytes(tmp_path / 'wts.h5.zip', zip_bytes(tensorflow_members()))
    archive = open_model(convert_model(source, tmp_path / 'model.h5.zip'), backend='pytorch')
    assert archive.config.network.kind == 'ptychopinn'
    assert archive.details['pattern_size'] == 64
    x = numpy.random.default_rng(0).random((2, 64, 64, 1)).astype('f4')
    network = get_backend('pytorch').load_network(archive, Config())
    assert isinstance(network, PtychoPinnNetwork)
    assert numpy.array_equal(answers(network_of(source), x), answers(network, x))


@pytest.mark.parametrize('num_channels', [1, 4, 9])
def test_both_nestings_and_the_folder_are_recognised(tmp_path: Path, num_channels: int) -> None:
    inner = zip_bytes(tensorflow_members(num_channels=num_channels))
    paths = [write_bytes(tmp_path / 'wts.h5.zip', inner), tmp_path]
    for name in ('wts.h5.zip', 'model/wts.h5.zip'):
        outer = zip_bytes({name: inner, 'loss.png': b'png'})
        paths.append(write_bytes(tmp_path / f'{name[:3]}.zip', outer))
    x = numpy.random.default_rng(0).random((1, 64, 64, num_channels)).astype('f4')
    found = [answers(network_of(path), x) for path in paths]
    assert all(numpy.array_equal(found[0], other) for other in found[1:])


def test_torch_bundle_is_the_checkpoint_that_it_holds(data_folder: Path, tmp_path: Path) -> None:
    path = data_folder / 'torch_checkpoints' / 'main_ci_N64.ckpt'
    checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    state, stored = io.BytesIO(), io.BytesIO()
    torch.save(checkpoint['state_dict'], state)
    torch.save(dict(checkpoint['hyper_parameters']), stored)
    params = {'N': 64, 'gridsize': 2, 'intensity_scale': 1.0, '_version': '2.0-pytorch'}
    members = {
        'manifest.dill': pickle.dumps({'models': ['a'], 'version': '2.0-pytorch'}),
        'diffraction_to_obj/model.pth': state.getvalue(),
        'diffraction_to_obj/params.dill': pickle.dumps(params),
    }
    x = numpy.random.default_rng(0).random((1, 64, 64, 4)).astype('f4')
    expected = answers(network_of(path), x)
    for extra in ({}, {'torch_scaling_metadata.pt': stored.getvalue()}):
        bundle = write_bytes(tmp_path / 'wts.h5.zip', zip_bytes({**members, **extra}))
        assert numpy.array_equal(answers(network_of(bundle), x), expected)


def test_what_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / 'missing.h5.zip'):
        with pytest.raises(FileNotFoundError, match='there is no such model file'):
            open_model(missing)
    own = zip_bytes({'manifest.json': b'{}', 'config.json': b'{}'})
    for data, words in (
        (b'words', 'is no model archive'),
        (zip_bytes({'x': b''}), 'no manifest.json in it; found x'),
        (own, 'weights.safetensors, history.csv, README.md is missing'),
    ):
        with pytest.raises(ArchiveError, match=words):
            open_model(write_bytes(tmp_path / 'a.h5.zip', data))


@pytest.mark.parametrize('num_channels', [1, 4])
def test_converted_model_explains_the_counts_in_sum_whatever_the_chunks(
    tmp_path: Path, simulated_scan: Scan, num_channels: int
) -> None:
    scan = simulated_scan.select(numpy.arange(0, 144, 6))
    members = tensorflow_members(num_channels=num_channels)
    network = network_of(write_bytes(tmp_path / 'wts.h5.zip', zip_bytes(members)))
    found = []
    for chunk_bytes in (1, 2**26):
        measurement = measure_scan(scan, chunk_bytes=chunk_bytes).measurement
        with torch.inference_mode():
            found.append(network.reconstruct(measurement).object_)
    assert float((found[0] - found[1]).abs().max() / found[0].abs().max()) < 1e-3
    expected = predict(found[0], measurement.chunk(torch.arange(measurement.num_patterns)))
    assert float(expected.sum()) == pytest.approx(float(measurement.totals.sum()), rel=1e-3)


def test_layout_survives_the_configuration() -> None:
    layout = PinnLayout('main', 64, 4, (32, 64, 128), (64, 32), 4, 32, 4, 4, is_masked=True)
    assert PinnLayout.from_text(layout.to_text()) == layout
    with pytest.raises(ValueError, match='convert the model'):
        PinnLayout.from_text(json.dumps([1, 2]))
    with pytest.raises(ValueError, match='convert the model'):
        PinnLayout.from_text('[' * 100_000)


@pytest.mark.parametrize(
    'change',
    [
        {'operator': 'fno', 'operator_width': 8, 'num_modes': 8, 'num_blocks': 10**9},
        {'operator': 'fno', 'operator_width': 8, 'num_modes': 8, 'num_blocks': 257},
        {'operator_expansion': 10**12},
        {'num_channels': 10**9},
        {'num_channels': None},
        {'pattern_size': 64.0},
        {'first_channels': -1},
        {'input_energy': 0.0},
        {'refiner_widths': [10**9]},
        {'activation': 'exp'},
    ],
    ids=str,
)
def test_layout_that_no_network_has_is_refused(change: dict[str, Any]) -> None:
    layout = PinnLayout('main', 64, 4, (32, 64, 128), (64, 32), 4, 32, 4, 4)
    text = json.dumps({**json.loads(layout.to_text()), **change})
    config = make_config({'network': {'kind': 'ptychopinn', 'layout': text}})
    with pytest.raises(ValueError):
        build_network(config.network)


@pytest.mark.parametrize(
    'function, banned',
    [
        ('open_model', {'tensorflow', 'keras', 'dill'}),
        ('read_without_torch', {'tensorflow', 'keras', 'dill', 'torch', 'lightning'}),
    ],
)
def test_nothing_that_is_not_needed_is_imported(
    tmp_path: Path, function: str, banned: set[str]
) -> None:
    theirs = write_bytes(tmp_path / 'wts.h5.zip', zip_bytes(tensorflow_members()))
    code = (
        'import sys; from pathlib import Path; '
        f'from ptychodus_pinn_torch.models.opening import {function} as read; '
        'from ptychodus_pinn_torch.models.archive import shipped_model; '
        f'assert read(Path({str(theirs)!r})) and read(shipped_model()); '
        f'assert not {banned!r} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


def test_host_names_what_it_is_given(tmp_path: Path, data_folder: Path) -> None:
    theirs = write_bytes(tmp_path / 'wts.h5.zip', zip_bytes(tensorflow_members()))
    assert 'TensorFlow model of PtychoPINN for patterns of 64 px' in inspect_model(theirs).summary
    with pytest.raises(ArchiveError, match='is a torch model, .* convert it with'):
        inspect_model(data_folder / 'torch_checkpoints' / 'main_ci_N64.ckpt')
