"""The one door through which any model is opened: ours, and those of PtychoPINN."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from ..config import Config
from .archive import (
    BUNDLE_NAME,
    NETWORK_PREFIX,
    Archive,
    ArchiveError,
    check_backend,
    config_from_text,
    read_archive,
    write_archive,
)
from .foreign_model import ForeignModel
from .lightning_checkpoint import model_from_tree, read_torch_bundle
from .restricted_pickle import read_pickle
from .safe_zip import SafeZip
from .tensorflow_archive import MODEL, read_tensorflow_archive
from .torch_file import StoredTensor, load_tensors

__all__ = ['convert_model', 'describe_model', 'open_model', 'read_without_torch']

logger = logging.getLogger(__name__)

Kind = Literal['archive', 'tensorflow', 'torch', 'checkpoint']

_ZIP_MAGIC, _HDF5_MAGIC, _PICKLE_MAGIC = b'PK\x03\x04', b'\x89HDF\r\n\x1a\n', b'\x80'


def open_model(path: Path, *, backend: str | None = None) -> Archive:
    """Returns the model at a path, whatever it is; nothing in it is executed.

    Read are our archives of every format, the checkpoints of our runs, and of PtychoPINN:
    TensorFlow's `wts.h5.zip` (also inside another zip, or its folder), Lightning checkpoints and
    bundles of the torch codes. A network that the named backend cannot run is refused.

    Raises:
        ArchiveError: none of these, or one that cannot be used; says why.
        FileNotFoundError: there is no such file.
    """
    kind, bundle, file = _recognise(path)
    if kind == 'archive':
        archive = read_archive(bundle)
    else:
        tree = load_tensors(bundle) if kind == 'checkpoint' else {}
        if _is_of_a_run(tree):
            archive = _archive_from_run(tree, file)
        else:
            archive = _read_foreign(kind, bundle, tree).to_archive()
    archive = replace(archive, path=path)
    if backend is not None:
        check_backend(archive, backend)
    return archive


def read_without_torch(path: Path) -> Archive | ForeignModel:
    """Returns what can be read of a model in a process that must not import torch.

    An archive of ours, or a model of TensorFlow's PtychoPINN as it was found.

    Raises:
        ArchiveError: a file of torch, or as `open_model`.
        FileNotFoundError: there is no such file.
    """
    kind, bundle, _ = _recognise(path)
    if kind == 'archive':
        return replace(read_archive(bundle), path=path)
    if kind == 'tensorflow':
        return _read_foreign(kind, bundle, {})
    raise ArchiveError(
        f'{path}: is a torch model, not a model archive: convert it with ptychodus-pinn convert, '
        'then load the result.'
    )


def convert_model(path: Path, output: Path) -> Path:
    """Returns the path of the archive in our present format that now holds a model.

    Raises:
        ArchiveError: as `open_model`.
    """
    archive = open_model(path)
    logger.info('%s: %s', path, archive.details.get('converted_from', 'a model of this package'))
    return write_archive(output, archive)


def describe_model(path: Path) -> str:
    """Returns in plain words what a model is and what it was made for.

    Raises:
        ArchiveError: as `open_model`.
    """
    archive = open_model(path)
    numbers = sum(int(array.size) for array in archive.weights.values())
    lines = [
        f'{path.name}: a model of the {archive.backend} backend, made {archive.created}',
        f'  network       {archive.config.network.kind}, {numbers:,} numbers',
        f'  training      {archive.config.mode}, loss {archive.config.loss.kind}',
    ]
    lines += [f'  {key:<13} {value}' for key, value in archive.details.items()]
    if archive.packages:
        packages = ', '.join(f'{name} {version}' for name, version in archive.packages.items())
        lines.append(f'  written by    {packages}')
    if archive.history:
        last = archive.history[-1]
        lines.append(
            '  last epoch    ' + ', '.join(f'{k} {v:.5g}' for k, v in last.items() if v is not None)
        )
    return '\n'.join(lines)


def _recognise(path: Path) -> tuple[Kind, SafeZip, Path]:
    """Returns what a model is, by the names of its members; those members; and its file."""
    file = path / BUNDLE_NAME if path.is_dir() else path
    if (path / 'saved_model.pb').is_file():
        raise ArchiveError(
            f'{path}: is a TensorFlow SavedModel, which can only be run, not read: save it again '
            'with a PtychoPINN that writes model.keras.'
        )
    if not file.is_file():
        raise FileNotFoundError(f'{file}: there is no such model file.')
    _check_first_bytes(file)
    bundle = SafeZip(file, str(file))
    kind = _kind_of(bundle)
    if kind is not None:
        return kind, bundle, file
    nested = [name for name in bundle.names if name.rpartition('/')[2] == BUNDLE_NAME]
    if not nested:
        raise ArchiveError(f'{file}: is no model: no manifest.json in it; found {bundle.shown()}.')
    if len(nested) > 1:
        raise ArchiveError(f'{file}: holds {len(nested)} models: unpack the one to be used.')
    inner = bundle.inside(nested[0])
    kind = _kind_of(inner)
    if kind is None:
        raise ArchiveError(f'{file}: {nested[0]} holds no model: it is nested too deep.')
    return kind, inner, file


def _check_first_bytes(file: Path) -> None:
    with file.open('rb') as stream:
        first = stream.read(8)
    if first.startswith(_HDF5_MAGIC):
        reason = 'is a bare HDF5 file, not a model archive: give the wts.h5.zip it was made into'
    elif first.startswith(_PICKLE_MAGIC):
        reason = (
            'is a pickle, which would have to be run to be read: give the checkpoint or the '
            'archive instead'
        )
    elif not first.startswith(_ZIP_MAGIC):
        reason = 'is no model archive, which is a zip: choose another file, or copy it again'
    else:
        return
    raise ArchiveError(f'{file}: {reason}.')


def _kind_of(bundle: SafeZip) -> Kind | None:
    names = bundle.names
    if 'manifest.json' in names:
        return 'archive'
    if any(name.endswith('/data.pkl') for name in names):
        return 'checkpoint'
    has_model = any(name.startswith(f'{MODEL}/') for name in names)
    if 'manifest.dill' in names:  # forged ones are refused, though nothing in them is needed
        read_pickle(bundle.read('manifest.dill'), f'{bundle.source}: manifest.dill')
    elif not has_model:
        return None
    if not has_model:
        raise ArchiveError(f'{bundle.source}: holds no {MODEL}; found {bundle.shown()}.')
    return 'torch' if f'{MODEL}/model.pth' in names else 'tensorflow'


def _read_foreign(kind: Kind, bundle: SafeZip, tree: Any) -> ForeignModel:
    """Returns a model of PtychoPINN; what a forged one has in wrong places is refused."""
    try:
        if kind == 'checkpoint':
            return model_from_tree(tree, bundle.source)
        return read_torch_bundle(bundle) if kind == 'torch' else read_tensorflow_archive(bundle)
    except ArchiveError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise ArchiveError(
            f'{bundle.source}: is no model of PtychoPINN that can be understood: {error}.'
        ) from error


def _is_of_a_run(tree: Any) -> bool:
    """Returns whether a checkpoint has the weights of a network of ours."""
    state = tree.get('state_dict') if isinstance(tree, Mapping) else None
    return isinstance(state, Mapping) and any(str(x).startswith(NETWORK_PREFIX) for x in state)


def _archive_from_run(tree: Mapping[str, Any], path: Path) -> Archive:
    """Returns the model of a checkpoint of a run of ours, `best.ckpt` or `last.ckpt`.

    The configuration is that of the checkpoint, or the one that lies beside it in the folder of
    the run. Probes that were trained along stay behind: they belong to the scans of the run.
    """
    weights = {
        str(name): value.numbers()
        for name, value in tree['state_dict'].items()
        if str(name).startswith(NETWORK_PREFIX) and isinstance(value, StoredTensor)
    }
    details = {
        'made_from': f'a training run, {path.parent.name}/{path.name}',
        'epoch': tree.get('epoch'),
        'steps': tree.get('global_step'),
    }
    archive = Archive(_config_of(tree, path), weights, details=details, created='by a training run')
    return archive.check_weights(str(path))


def _config_of(tree: Mapping[str, Any], path: Path) -> Config:
    parameters = tree.get('hyper_parameters')
    text = parameters.get('config') if isinstance(parameters, Mapping) else None
    if isinstance(text, str):
        return config_from_text(text.encode(), f'{path}: hyper_parameters')
    beside = path.with_name('config.json')
    if not beside.is_file():
        raise ArchiveError(
            f'{path}: holds no configuration, and there is no {beside.name} beside it: leave the '
            'checkpoint in the folder of its run, or use the *.h5.zip that the run has written.'
        )
    return config_from_text(beside.read_bytes(), str(beside))
