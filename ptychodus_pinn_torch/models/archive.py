"""The model archive: a zip in which nothing can execute."""

from __future__ import annotations

import csv
import datetime
import hashlib
import io
import json
import logging
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..config import Config, make_config

__all__ = [
    'EXTENSION',
    'Archive',
    'ArchiveError',
    'describe_archive',
    'read_archive',
    'shipped_model',
    'write_archive',
]

logger = logging.getLogger(__name__)

EXTENSION = '.h5.zip'
FORMAT = 'ptychodus-pinn-torch model'
FORMAT_VERSION = 2
"""Version 1, of package 0.1.0, had all networks' options side by side."""

MEMBERS = ('manifest.json', 'config.json', 'weights.safetensors', 'history.csv', 'README.md')
MAX_MEMBER_BYTES = {
    'manifest.json': 2**20,
    'config.json': 2**20,
    'weights.safetensors': 2**31,
    'history.csv': 2**28,
    'README.md': 2**22,
}
SHARED_NETWORKS = {'cnn'}
"""Networks that every engine runs, with the same weights."""
NETWORK_PREFIX = 'network.'
"""What the names of a network's weights begin with; probes and scales have other names."""

HISTORY_COLUMNS = ('epoch', 'step', 'loss', 'floor', 'held_out', 'learning_rate')


class ArchiveError(ValueError):
    """A model archive that cannot be used; the message names the file and the reason."""


@dataclass(frozen=True)
class Archive:
    """A trained model and how it was made.

    Attributes:
        config: The configuration of its training, network included.
        weights: Arrays by name.
        history: Rows of `HISTORY_COLUMNS`.
        card: The model card, Markdown.
        backend: Engine that wrote it.
        details: What it was made for: pattern size, probe modes, photons, metrics.
        path: Where it was read from.
    """

    config: Config
    weights: Mapping[str, NDArray[Any]]
    history: Sequence[Mapping[str, float | None]] = ()
    card: str = ''
    backend: str = 'pytorch'
    details: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None

    def network_weights(self) -> dict[str, NDArray[Any]]:
        """Returns the weights of the network by its own names."""
        return {
            name.removeprefix(NETWORK_PREFIX): array
            for name, array in self.weights.items()
            if name.startswith(NETWORK_PREFIX)
        }


def shipped_model() -> Path:
    """Returns the path of the model that comes with the package."""
    return Path(__file__).parent / f'universal{EXTENSION}'


def _versions() -> dict[str, str]:
    found = {}
    for name in ('ptychodus-pinn-torch', 'ptychodus', 'torch', 'lightning', 'tensorflow', 'numpy'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_archive(path: Path, archive: Archive) -> Path:
    """Writes an archive next to its place and renames it, so that nothing is half written.

    Raises:
        OSError: the folder is missing or full; what was there before stays as it was.
    """
    from safetensors.numpy import save

    contiguous = {name: numpy.ascontiguousarray(array) for name, array in archive.weights.items()}
    members = {
        'config.json': archive.config.model_dump_json(indent=2).encode(),
        'weights.safetensors': save(contiguous),
        'history.csv': _history_text(archive.history).encode(),
        'README.md': archive.card.encode(),
    }
    manifest = {
        'format': FORMAT,
        'version': FORMAT_VERSION,
        'backend': archive.backend,
        'created': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'packages': _versions(),
        'details': dict(archive.details),
        'sha256': {name: hashlib.sha256(data).hexdigest() for name, data in members.items()},
    }
    members = {'manifest.json': json.dumps(manifest, indent=2).encode(), **members}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    try:
        with (
            os.fdopen(handle, 'wb') as file,
            zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as bundle,
        ):
            for name, data in members.items():
                bundle.writestr(name, data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _history_text(history: Sequence[Mapping[str, float | None]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, HISTORY_COLUMNS, extrasaction='ignore')
    writer.writeheader()
    for row in history:
        writer.writerow({key: '' if row.get(key) is None else row[key] for key in HISTORY_COLUMNS})
    return buffer.getvalue()


def _parse_history(text: str) -> list[dict[str, float | None]]:
    return [
        {key: float(value) if value else None for key, value in row.items()}
        for row in csv.DictReader(io.StringIO(text))
    ]


def read_archive(path: Path, *, backend: str | None = None) -> Archive:
    """Returns the archive, every member checked against its sum.

    Args:
        path: The file.
        backend: Refuse an archive of another engine.

    Raises:
        ArchiveError: not an archive of ours, damaged, too large, of a later format, of another
            engine, or with weights that are not finite.
        FileNotFoundError: no such file.
    """
    members, manifest = _read_members(path)
    found = str(manifest.get('backend', 'pytorch'))
    version = int(manifest.get('version', 0))
    config = _parse_config(path, members['config.json'], version)
    if backend not in {None, found} and config.network.kind not in SHARED_NETWORKS:
        raise ArchiveError(
            f'{path}: was made by the {found} backend and cannot be run by the {backend} backend: '
            f'choose --backend {found}, or train again.'
        )
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        weights = load(members['weights.safetensors'])
    except SafetensorError as error:
        raise ArchiveError(f'{path}: weights.safetensors cannot be read: {error}.') from error
    for name, array in weights.items():
        if not numpy.isfinite(array).all():
            raise ArchiveError(f'{path}: weight {name} is not finite: train the model again.')
    return Archive(
        config=config,
        weights=weights,
        history=_parse_history(members['history.csv'].decode()),
        card=members['README.md'].decode(errors='replace'),
        backend=found,
        details=manifest.get('details', {}),
        path=path,
    )


_RENAMED = {
    'cnn': {
        'cnn_pattern_size': 'pattern_size',
        'cnn_channels': 'num_channels',
        'cnn_width': 'first_width',
        'cnn_skips': 'has_skips',
        'cnn_attention': 'attention',
        'cnn_head': 'head',
        'cnn_outer_branch': 'has_outer_branch',
        'cnn_stem': 'stem',
    },
    'ptychopinn': {'ptychopinn_layout': 'layout'},
    'unrolled': {name: name for name in ('num_stages', 'width', 'num_subsets', 'num_memory')},
}
"""Names of the options of each network in format 1, and what they are called since."""


def _upgrade_network(network: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the network section of an archive of format 1 as it is written since."""
    kind = str(network.get('architecture', 'unrolled'))
    names = _RENAMED.get(kind, {})
    renamed = {names[old]: value for old, value in network.items() if old in names}
    return {'kind': kind, **renamed}


def _parse_config(path: Path, data: bytes, version: int) -> Config:
    try:
        tree = json.loads(data)
    except ValueError as error:
        raise ArchiveError(f'{path}: config.json cannot be read: {error}.') from error
    if version == 1 and isinstance(tree, dict) and isinstance(tree.get('network'), dict):
        tree['network'] = _upgrade_network(tree['network'])
    return make_config(tree, source=f'{path}: config.json')


def _read_members(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    if not path.is_file():
        raise FileNotFoundError(f'{path}: there is no such model file.')
    try:
        with zipfile.ZipFile(path) as bundle:
            names = [item.filename for item in bundle.infolist()]
            _check_names(path, names)
            members = {name: _read_member(path, bundle, name) for name in MEMBERS}
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise ArchiveError(f'{path}: is no model archive, or is damaged: {error}.') from error
    try:
        manifest = json.loads(members['manifest.json'])
    except ValueError as error:
        raise ArchiveError(f'{path}: manifest.json cannot be read: {error}.') from error
    if not isinstance(manifest, dict) or manifest.get('format') != FORMAT:
        raise ArchiveError(f'{path}: is not a model of ptychodus-pinn-torch.')
    if int(manifest.get('version', 0)) > FORMAT_VERSION:
        raise ArchiveError(
            f'{path}: has format version {manifest["version"]}, this package reads up to '
            f'{FORMAT_VERSION}: install a newer ptychodus-pinn-torch.'
        )
    sums = manifest.get('sha256', {})
    for name in MEMBERS[1:]:
        if hashlib.sha256(members[name]).hexdigest() != sums.get(name):
            raise ArchiveError(f'{path}: {name} was changed or damaged after it was written.')
    return members, manifest


def _check_names(path: Path, names: list[str]) -> None:
    if len(set(names)) != len(names):
        raise ArchiveError(f'{path}: holds a member twice: it is damaged or forged.')
    if 'manifest.json' not in names:
        shown = ', '.join(sorted(names)[:6])
        kind = (
            'it looks like a PtychoPINN model: convert it with ptychodus-pinn convert'
            if 'manifest.dill' in names or any(name.endswith('.dill') for name in names)
            else f'found {shown or "nothing"}'
        )
        raise ArchiveError(f'{path}: holds no manifest.json; {kind}.')
    missing = [name for name in MEMBERS if name not in names]
    if missing:
        raise ArchiveError(f'{path}: {", ".join(missing)} is missing: the archive is incomplete.')
    unknown = [name for name in names if name not in MEMBERS]
    if unknown:
        raise ArchiveError(f'{path}: holds {unknown[0]!r}, which no model archive has.')


def _read_member(path: Path, bundle: zipfile.ZipFile, name: str) -> bytes:
    limit = MAX_MEMBER_BYTES[name]
    with bundle.open(name) as member:
        data = member.read(limit + 1)
    if len(data) > limit:
        raise ArchiveError(f'{path}: {name} is larger than {limit} bytes: refused.')
    return data


def read_manifest(path: Path) -> dict[str, Any]:
    """Returns the manifest of an archive, checked.

    Raises:
        ArchiveError: as `read_archive`.
    """
    return _read_members(path)[1]


def describe_archive(path: Path) -> str:
    """Returns in plain words what a model is and what it was made for.

    Raises:
        ArchiveError: as `read_archive`.
    """
    from .opening import recognise_model

    foreign = recognise_model(path)
    archive = read_archive(path) if foreign is None else foreign
    manifest: dict[str, Any] = {'created': 'by PtychoPINN'}
    if foreign is None:
        manifest = read_manifest(path)
    network = archive.config.network
    numbers = sum(int(array.size) for array in archive.weights.values())
    lines = [
        f'{path.name}: a model of the {archive.backend} backend, made {manifest.get("created")}',
        f'  network       {network.kind}, {numbers:,} numbers',
        f'  training      {archive.config.mode}, loss {archive.config.loss.kind}',
    ]
    lines += [f'  {key:<13} {value}' for key, value in archive.details.items()]
    packages = manifest.get('packages', {})
    if packages:
        lines.append('  written by    ' + ', '.join(f'{k} {v}' for k, v in packages.items()))
    if archive.history:
        last = archive.history[-1]
        lines.append(
            '  last epoch    ' + ', '.join(f'{k} {v:.5g}' for k, v in last.items() if v is not None)
        )
    return '\n'.join(lines)
