"""Models of PtychoPINN as models of ours."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from .archive import SHARED_NETWORKS, Archive, ArchiveError, read_archive, write_archive
from .foreign_model import ForeignModel
from .lightning_checkpoint import load_tensors, model_from_checkpoint, read_checkpoint
from .restricted_pickle import read_pickle
from .safe_zip import SafeZip
from .tensorflow_archive import MODEL, read_tensorflow_archive

__all__ = ['convert_model', 'read_foreign_model', 'recognise_model']

logger = logging.getLogger(__name__)

BUNDLE_NAME = 'wts.h5.zip'
TORCH_VERSION = '2.0-pytorch'
_ZIP_MAGIC, _HDF5_MAGIC, _PICKLE_MAGIC = b'PK\x03\x04', b'\x89HDF\r\n\x1a\n', b'\x80'


def recognise_model(path: Path) -> Archive | None:
    """Returns a model of PtychoPINN as an archive of ours; None if it is not one.

    Read are TensorFlow's `wts.h5.zip` (also inside another zip, or its folder), Lightning
    checkpoints and bundles of the torch codes. Nothing in them is executed.

    Raises:
        ArchiveError: it is one, and cannot be used; says why.
    """
    model = read_foreign_model(path)
    return None if model is None else model.to_archive(path)


def open_model(path: Path) -> Archive:
    """Returns the archive at a path: ours, or another's that can be converted.

    Raises:
        ArchiveError: neither.
    """
    return recognise_model(path) or read_archive(path)


def check_backend(archive: Archive, backend: str) -> None:
    """Refuses an archive of another engine for a network that is not there on this one.

    Raises:
        ArchiveError: names both engines.
    """
    kind = archive.config.network.kind
    if backend == archive.backend or kind in SHARED_NETWORKS:
        return
    raise ArchiveError(
        f'{archive.path}: holds the {kind} network of the {archive.backend} backend and cannot be '
        f'run by the {backend} backend: choose --backend {archive.backend}, or train again.'
    )


def convert_model(path: Path, output: Path) -> Path:
    """Returns the path of the archive of ours that now holds a model of PtychoPINN.

    Raises:
        ArchiveError: no model of PtychoPINN, or one that cannot be used.
    """
    archive = recognise_model(path)
    if archive is None:
        raise ArchiveError(
            f'{path}: is no model of PtychoPINN: give a wts.h5.zip, a .ckpt, or a bundle.'
        )
    logger.info('%s: %s', path, archive.details.get('converted_from'))
    return write_archive(output, archive)


def read_foreign_model(path: Path) -> ForeignModel | None:
    """Returns a model of PtychoPINN under our names; None if the file is not one.

    Raises:
        ArchiveError: it is one, and cannot be used.
    """
    if path.is_dir():
        if (path / 'saved_model.pb').is_file():
            raise ArchiveError(
                f'{path}: is a TensorFlow SavedModel, which can only be run, not read: save it '
                'again with a PtychoPINN that writes model.keras.'
            )
        if not (path / BUNDLE_NAME).is_file():
            return None
        path = path / BUNDLE_NAME
    if not path.is_file():
        return None
    with path.open('rb') as file:
        magic = file.read(8)
    if magic.startswith(_HDF5_MAGIC):
        raise ArchiveError(
            f'{path}: is a bare HDF5 file, not a model archive: give the wts.h5.zip it was made '
            'into.'
        )
    if magic.startswith(_PICKLE_MAGIC):
        raise ArchiveError(
            f'{path}: is a pickle, which would have to be run to be read: give the checkpoint or '
            'the archive instead.'
        )
    if not magic.startswith(_ZIP_MAGIC):
        return None
    return _read_zip(SafeZip(path, str(path)), path)


def _read_zip(bundle: SafeZip, path: Path) -> ForeignModel | None:
    names = bundle.names
    if 'manifest.json' in names:
        return None
    if any(name.endswith('/data.pkl') for name in names):
        return read_checkpoint(path)
    nested = [name for name in names if name == BUNDLE_NAME or name.endswith(f'/{BUNDLE_NAME}')]
    if nested and not any(name.endswith('.dill') for name in names):
        if len(nested) > 1:
            raise ArchiveError(f'{path}: holds {len(nested)} models: unpack the one to be used.')
        inner = SafeZip(bundle.read(nested[0]), f'{path}: {nested[0]}')
        if not any(name.endswith('.dill') for name in inner.names):
            raise ArchiveError(f'{path}: {nested[0]} holds no model: it is nested too deep.')
        bundle = inner
    return _read_bundle(bundle)


def _read_bundle(bundle: SafeZip) -> ForeignModel | None:
    names = bundle.names
    has_model = any(name.startswith(f'{MODEL}/') for name in names)
    if 'manifest.dill' not in names and not has_model:
        return None
    version = ''
    if 'manifest.dill' in names:
        manifest = read_pickle(bundle.read('manifest.dill'), f'{bundle.source}: manifest.dill')
        version = str(manifest.get('version', '')) if isinstance(manifest, dict) else ''
    if not has_model:
        shown = ', '.join(sorted(names)[:6])
        raise ArchiveError(f'{bundle.source}: holds no {MODEL}; found {shown}.')
    if version == TORCH_VERSION or f'{MODEL}/model.pth' in names:
        return _read_torch_bundle(bundle)
    return read_tensorflow_archive(bundle)


def _read_torch_bundle(bundle: SafeZip) -> ForeignModel:
    """Returns the model of a bundle of the main torch code."""
    source = bundle.source
    state = load_tensors(BytesIO(bundle.read(f'{MODEL}/model.pth')), f'{source}: model.pth')
    if not isinstance(state, Mapping) or '_sentinel' in state:
        raise ArchiveError(f'{source}: {MODEL}/model.pth holds no weights.')
    params = read_pickle(bundle.read(f'{MODEL}/params.dill'), f'{source}: {MODEL}/params.dill')
    if not isinstance(params, dict) or not {'N', 'gridsize'} <= set(params):
        raise ArchiveError(f'{source}: params.dill lacks N and gridsize: the file is incomplete.')
    model, data = _configs_of_params(params, state)
    if 'torch_scaling_metadata.pt' in bundle.names:
        stored = load_tensors(
            BytesIO(bundle.read('torch_scaling_metadata.pt')), f'{source}: torch_scaling_metadata'
        )
        if isinstance(stored, Mapping):
            model.update(stored.get('model_config') or {})
            data.update(stored.get('data_config') or {})
    found = model_from_checkpoint(state, model, data, source)
    found.details['converted_from'] = 'PtychoPINN torch bundle'
    return found


def _configs_of_params(
    params: Mapping[str, Any], state: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what the legacy parameters say of network and data; weights tell the rest."""
    names = set(state)
    model = {
        'architecture': params.get('architecture', 'cnn'),
        'amp_activation': params.get('amp_activation', 'silu'),
        'object_big': params.get('object.big', True),
        'probe_big': params.get('probe.big', True),
        'pad_object': params.get('pad_object', True),
        'cnn_output_mode': params.get('generator_output_mode', 'real_imag'),
        'cbam_encoder': any('.attention.ChannelGate.' in name for name in names),
    }
    data = {'N': params['N'], 'C': int(params['gridsize']) ** 2}
    return model, data
