"""Small valid files of every kind that the package reads, and the commands that read them."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy
import yaml
from fuzz_formats import PARAMS, zip_bytes

__all__ = ['KINDS', 'SCAN_KINDS', 'Kind', 'make_samples']


@dataclass(frozen=True)
class Kind:
    """A kind of files.

    Attributes:
        name: Of the kind.
        files: Names in the folder of samples; one of them is spoilt at a time.
        format: How the files are spoilt by their meaning.
        commands: Words of the command line; `@` is the folder with the spoilt file, `%` that of the
            samples, `>` that for outputs. A first word in brackets is a function of the child.
    """

    name: str
    files: tuple[str, ...]
    format: str
    commands: tuple[str, ...]


_QUICK = '--reconstruction.refine-epochs 0 --reconstruction.start flat --quiet'
_IMAGE = f'--output >/image.npz --overwrite {_QUICK}'
_TRAIN = '--output >/model.h5.zip --overwrite --no-check --config %/config.json'


def _scan_commands(path: str) -> tuple[str, ...]:
    return (
        f'check {path}',
        f'inspect {path}',
        f'inspect {path} --draw >/scan.png --overwrite',
        f'reconstruct {path} {_IMAGE}',
        f'evaluate %/image.npz --scan {path}',
        f'convert {path} --output >/scan.npz --overwrite',
    )


SCAN_KINDS = (
    Kind(
        'scan', ('scan.npz',), 'npz', (*_scan_commands('@/scan.npz'), f'train @/scan.npz {_TRAIN}')
    ),
    Kind('pair', ('diffraction.h5', 'product.h5'), 'hdf5', _scan_commands('@')),
    Kind('cxi', ('diffraction.cxi', 'product.cxi'), 'hdf5', _scan_commands('@/diffraction.cxi')),
    Kind('training-set', ('train.h5',), 'hdf5', _scan_commands('@/train.h5')),
    Kind('mat', ('scan.mat',), 'mat', _scan_commands('@/scan.mat')),
    Kind(
        'image',
        ('image.npz',),
        'npz',
        (
            'evaluate @/image.npz --reference %/scan.npz',
            'evaluate @/image.npz --scan %/scan.npz',
            'evaluate %/image.npz --reference @/image.npz',
            'compare @/image.npz %/other.npz --scan %/scan.npz --picture >/a.png --overwrite',
            'inspect @/image.npz --draw >/a.png --overwrite',
            'convert %/scan.npz --labels @/image.npz --output >/set.npz --overwrite',
        ),
    ),
)
"""What passes the doors of scans and images."""

_MODEL_COMMANDS = 'inspect {}', 'convert {} --output >/made.h5.zip --overwrite --quiet'

KINDS = (
    Kind(
        'archive',
        ('model.h5.zip',),
        'archive',
        (
            *(text.format('@/model.h5.zip') for text in _MODEL_COMMANDS),
            '(backend) @/model.h5.zip',
            f'reconstruct %/scan.npz {_IMAGE.replace("start flat", "start network")} --model @/model.h5.zip',
            'train %/scan.npz --output >/new.h5.zip --overwrite --no-check --quiet --steps 1 '
            '--start @/model.h5.zip',
        ),
    ),
    Kind(
        'checkpoint',
        ('run.ckpt',),
        'checkpoint',
        tuple(text.format('@/run.ckpt') for text in _MODEL_COMMANDS),
    ),
    Kind(
        'tensorflow',
        ('wts.h5.zip',),
        'tensorflow',
        (*(text.format('@/wts.h5.zip') for text in _MODEL_COMMANDS), '(bundle) @/wts.h5.zip'),
    ),
    Kind('bundle', ('ours/wts.h5.zip', 'others/wts.h5.zip'), 'archive', ('(bundle) @/FILE',)),
    Kind(
        'config',
        ('config.json', 'config.yaml'),
        'json',
        (
            f'reconstruct %/scan.npz {_IMAGE} --config @/FILE',
            f'train %/scan.npz {_TRAIN.replace("%/config.json", "@/FILE")} --steps 1 --quiet',
        ),
    ),
    Kind(
        'legacy',
        ('legacy.json', 'legacy.yaml'),
        'json',
        ('(legacy) @/FILE', '(flat) @/FILE', '(commands) @/FILE', '(manager) @/FILE'),
    ),
    Kind('manager', ('manager.json',), 'json', ('(manager) @/manager.json',)),
    Kind('params', ('params.json',), 'json', ('(params) @/params.json',)),
    Kind('message', ('message.json',), 'json', ('(message) @/message.json',)),
    Kind('message-cbor', ('message.cbor',), 'cbor', ('(message) @/message.cbor',)),
    Kind(
        'held-out',
        ('held.txt',),
        'text',
        ('evaluate %/image.npz --scan %/scan.npz --held-out @/held.txt',),
    ),
)
"""What passes other doors."""

NETWORK = {
    'kind': 'unrolled',
    'num_stages': 2,
    'width': 4,
    'num_subsets': 4,
    'num_memory': 2,
}
CONFIG = {
    'mode': 'unsupervised',
    'network': NETWORK,
    'grouping': {'group_size': 9},
    'training': {'max_steps': 1, 'start': 'none', 'warmup_fraction': 0.0, 'seed': 3},
    'reconstruction': {'refine_epochs': 0},
    'execution': {'num_threads': 1, 'logger': 'none'},
}
LEGACY = {
    'model': {'N': 32, 'gridsize': 1, 'model_type': 'pinn', 'amp_activation': 'silu'},
    'train_data_file': 'scan.npz',
    'nepochs': 1,
    'batch_size': 4,
    'nphotons': 1e6,
    'n_groups': 8,
    'backend': 'pytorch',
}
MANAGER = {
    'data_config': {'N': 64, 'C': 4, 'K': 6, 'grid_size': [2, 2]},
    'model_config': {'mode': 'Unsupervised', 'loss_function': 'Poisson'},
    'training_config': {'epochs': 3, 'batch_size': 8, 'device': 'cpu'},
    'inference_config': {},
    'datagen_config': {},
}


def make_samples(folder: Path) -> None:
    """Writes one good file of each kind."""
    from scipy.io import savemat

    from ptychodus_pinn_torch.scan.io.hdf5 import write_scan_hdf5
    from ptychodus_pinn_torch.scan.io.output import (
        write_product,
        write_reconstruction_npz,
        write_scan_npz,
    )
    from ptychodus_pinn_torch.simulation.simulated_scan import SimulationSpec, simulate_scan

    scan = simulate_scan(
        SimulationSpec(pattern_size=32, num_positions=16, step_px=3.0, seed=3, num_modes=2)
    )
    assert scan.truth is not None
    write_scan_npz(folder / 'scan.npz', scan)
    write_scan_hdf5(folder / 'train.h5', scan, {})
    with numpy.load(folder / 'scan.npz') as file:
        savemat(
            folder / 'scan.mat', {name: file[name] for name in file if file[name].dtype.kind != 'U'}
        )
    with h5py.File(folder / 'diffraction.h5', 'w') as file:
        file['patterns'] = numpy.asarray(scan.patterns)
        file['patterns'].attrs['detector_pixel_width_m'] = 75e-6
        file['patterns'].attrs['detector_pixel_height_m'] = 75e-6
        file['indexes'] = numpy.arange(scan.num_patterns)
        file['bad_pixels'] = ~scan.good_pixels
    parts = scan.truth, scan.positions_px, scan.probe
    write_product(folder / 'product.h5', scan, *parts, [])
    for name, object_ in (('image.npz', scan.truth), ('other.npz', scan.truth * 1.01)):
        write_reconstruction_npz(
            folder / name,
            object_=object_,
            positions_px=scan.positions_px,
            probe=scan.probe,
            losses=[(1, 0.5)],
            judged={'illumination': numpy.ones(object_.shape, 'f4')},
        )
    _write_cxi(folder, scan)
    _write_models(folder)
    _write_texts(folder)


def _write_cxi(folder: Path, scan: object) -> None:
    from ptychodus.plugins.cxi_file import CXIProductFileIO

    from ptychodus_pinn_torch.scan.io.products import make_host_product
    from ptychodus_pinn_torch.scan.scan import Scan

    assert isinstance(scan, Scan)
    with h5py.File(folder / 'diffraction.cxi', 'w') as file:
        file['entry_1/instrument_1/detector_1/data'] = numpy.asarray(scan.patterns)
        file['entry_1/instrument_1/detector_1/mask'] = (~scan.good_pixels).astype(numpy.uint32)
        file['entry_1/data_1/data'] = h5py.SoftLink('/entry_1/instrument_1/detector_1/data')
    product = make_host_product(scan, scan.object_, scan.positions_px, scan.probe, ())
    CXIProductFileIO().write(folder / 'product.cxi', product)


def _write_models(folder: Path) -> None:
    import torch

    from ptychodus_pinn_torch.config import make_config
    from ptychodus_pinn_torch.interop.bundles import save_torch_bundle
    from ptychodus_pinn_torch.models.archive import Archive, write_archive
    from ptychodus_pinn_torch.networks.registry import build_network

    config = make_config(CONFIG)
    state = build_network(config.network).state_dict()
    weights = {f'network.{name}': x.numpy() for name, x in state.items()}
    history = [{'epoch': 0.0, 'step': 5.0, 'loss': 0.25, 'held_out': None}]
    details = {'pattern_size': 32, 'params_cfg': {'N': 32, 'gridsize': 1}}
    write_archive(
        folder / 'model.h5.zip', Archive(config, weights, history, 'card', details=details)
    )
    tree = {
        'state_dict': {f'network.{name}': x for name, x in state.items()},
        'hyper_parameters': {'config': config.model_dump_json()},
        'epoch': 3,
        'global_step': 7,
    }
    torch.save(tree, folder / 'run.ckpt')
    (folder / 'wts.h5.zip').write_bytes(_tensorflow_bytes())
    for name in ('ours', 'others'):
        (folder / name).mkdir()
    shutil.copy(folder / 'model.h5.zip', folder / 'ours' / 'wts.h5.zip')
    save_torch_bundle(
        {'diffraction_to_obj': torch.nn.Linear(3, 4)}, folder / 'others' / 'wts.h5', {'N': 32}
    )


def _tensorflow_bytes() -> bytes:
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / 'models'))
    from forgeries import tensorflow_members

    return zip_bytes(tensorflow_members(params=PARAMS))


def _write_texts(folder: Path) -> None:
    import cbor2

    from ptychodus_pinn_torch.live.messages import encode_frames

    for name, tree in (('config', CONFIG), ('legacy', LEGACY), ('manager', MANAGER)):
        (folder / f'{name}.json').write_text(json.dumps(tree))
        (folder / f'{name}.yaml').write_text(yaml.safe_dump(tree))
    params = {'N': 32, 'a': {'dtype': 'complex64', 'values': [[[1.0, 2.0]]]}, 'b': [1, 'x', None]}
    (folder / 'params.json').write_text(json.dumps(params))
    frames = numpy.arange(32, dtype='u2').reshape(2, 4, 4)
    (folder / 'message.json').write_bytes(encode_frames([7, 9], frames, as_json=True))
    positions = {'kind': 'positions', 'ids': [1, 2], 'y_px': [0.0, 1.0], 'x_px': [1.0, 3.5]}
    (folder / 'message.cbor').write_bytes(cbor2.dumps(positions))
    (folder / 'held.txt').write_text('1\n2\n3\n')
