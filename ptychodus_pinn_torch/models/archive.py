"""The model archive: a zip in which nothing can execute."""

from __future__ import annotations

import datetime
import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..config import Config, iter_options, make_config
from ..trees import parse_json
from .history_table import history_text, parse_history
from .safe_zip import ArchiveError, SafeZip

__all__ = [
    'EXTENSION',
    'Archive',
    'ArchiveError',
    'check_backend',
    'config_from_text',
    'read_archive',
    'shipped_model',
    'write_archive',
]

EXTENSION = '.h5.zip'
FORMAT = 'ptychodus-pinn-torch model'
FORMAT_VERSION = 2
"""Version 1, of package 0.1.0, had all networks' options side by side."""

MAX_MEMBER_BYTES = {
    'manifest.json': 2**20,
    'config.json': 2**20,
    'weights.safetensors': 2**31,
    'history.csv': 2**28,
    'README.md': 2**22,
}
MEMBERS = tuple(MAX_MEMBER_BYTES)
MANIFEST = {'backend': 'pytorch', 'created': '', 'packages': {}, 'details': {}, 'version': 0}
"""What the manifest says if it does not say it, beside the sums of the members."""
DETAILS = {'pattern_size': 0, 'steps': 0, 'fingerprints': [], 'params_cfg': {}}
"""Details that are used, not only shown."""
SHARED_NETWORKS = {'cnn'}
"""Networks that every engine runs, with the same weights."""
BUNDLE_NAME = 'wts.h5.zip'
"""Of a model in a folder, as PtychoPINN saves it."""
NETWORK_PREFIX = 'network.'
"""What the names of a network's weights begin with; probes and scales have other names."""


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
        created: When, or by what, it was made.
        packages: Versions of the packages that made it.
    """

    config: Config
    weights: Mapping[str, NDArray[Any]]
    history: Sequence[Mapping[str, float | None]] = ()
    card: str = ''
    backend: str = 'pytorch'
    details: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None
    created: str = ''
    packages: Mapping[str, str] = field(default_factory=dict)

    def check_weights(self, source: str) -> Archive:
        """Returns the archive itself if all its weights are numbers.

        Raises:
            ArchiveError: names the weight that is not finite.
        """
        for name, array in self.weights.items():
            if not numpy.isfinite(array).all():
                raise ArchiveError(f'{source}: weight {name} is not finite: train the model again.')
        return self

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


def check_backend(archive: Archive, backend: str) -> None:
    """Refuses a model whose network the engine cannot run.

    Raises:
        ArchiveError: names the engine that made the model, and the one that was chosen.
    """
    kind = archive.config.network.kind
    is_shared = kind in SHARED_NETWORKS and not any(
        item.section == 'network'
        and item.scope.backends
        and backend not in item.scope.backends
        and item.value_in(archive.config) != item.default
        for item in iter_options(kind)
    )
    if backend == archive.backend or is_shared:
        return
    raise ArchiveError(
        f'{archive.path or "the model"}: holds the {kind} network of the {archive.backend} '
        f'backend, which the {backend} backend cannot run: choose --backend {archive.backend}, or '
        'another model.'
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in ('ptychodus-pinn-torch', 'ptychodus', 'torch', 'lightning', 'tensorflow', 'numpy'):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def write_archive(path: Path, archive: Archive) -> Path:
    """Returns the path of the archive, written whole or not at all.

    Raises:
        OSError: the folder is missing or full; what was there before stays as it was.
    """
    from safetensors.numpy import save

    from ..scan.io.output import write_atomically

    contiguous = {name: numpy.asarray(array, order='C') for name, array in archive.weights.items()}
    members = {
        'config.json': archive.config.model_dump_json(indent=2).encode(),
        'weights.safetensors': save(contiguous),
        'history.csv': history_text(archive.history).encode(),
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

    def write(temporary: Path) -> None:
        with zipfile.ZipFile(temporary, 'w', zipfile.ZIP_DEFLATED) as bundle:
            for name, data in members.items():
                bundle.writestr(name, data)

    path.parent.mkdir(parents=True, exist_ok=True)
    return write_atomically(path, write)


def read_archive(file: Path | SafeZip) -> Archive:
    """Returns the archive, every member checked against its sum.

    Raises:
        ArchiveError: not an archive of ours, damaged, too large, of a later format, or with
            weights that are not finite.
        FileNotFoundError: no such file.
    """
    bundle = file if isinstance(file, SafeZip) else SafeZip(file, str(file))
    source = bundle.source
    _check_names(bundle)
    members = {name: bundle.read(name, MAX_MEMBER_BYTES[name]) for name in MEMBERS}
    manifest = _parse_manifest(members['manifest.json'], source)
    for name in MEMBERS[1:]:
        if hashlib.sha256(members[name]).hexdigest() != manifest['sha256'].get(name):
            raise ArchiveError(f'{source}: {name} was changed or damaged after it was written.')
    archive = Archive(
        config=config_from_text(
            members['config.json'], f'{source}: config.json', manifest['version']
        ),
        weights=_parse_weights(members['weights.safetensors'], source),
        history=_history(members['history.csv'], source),
        card=members['README.md'].decode(errors='replace'),
        backend=manifest['backend'],
        details=manifest['details'],
        path=file if isinstance(file, Path) else None,
        created=manifest['created'],
        packages=manifest['packages'],
    )
    return archive.check_weights(source)


def _check_names(bundle: SafeZip) -> None:
    names = bundle.names
    if 'manifest.json' not in names:
        raise ArchiveError(f'{bundle.source}: holds no manifest.json; found {bundle.shown()}.')
    missing = [name for name in MEMBERS if name not in names]
    if missing:
        raise ArchiveError(
            f'{bundle.source}: {", ".join(missing)} is missing: the archive is incomplete.'
        )
    unknown = [name for name in names if name not in MEMBERS]
    if unknown:
        raise ArchiveError(f'{bundle.source}: holds {unknown[0]!r}, which no model archive has.')


def _parse_json(data: bytes, source: str) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise ArchiveError(f'{source} cannot be read: {error}.') from error


def _parse_manifest(data: bytes, source: str) -> dict[str, Any]:
    found = _parse_json(data, f'{source}: manifest.json')
    if not isinstance(found, dict) or found.get('format') != FORMAT:
        raise ArchiveError(f'{source}: is not a model of ptychodus-pinn-torch.')
    manifest = {**MANIFEST, **found}
    _check_types(manifest, {**MANIFEST, 'sha256': {}}, source)
    known = {key: item for key, item in manifest['details'].items() if item is not None}
    _check_types(known, {key: item for key, item in DETAILS.items() if key in known}, source)
    if not 1 <= manifest['version'] <= FORMAT_VERSION:
        raise ArchiveError(
            f'{source}: has format version {manifest["version"]}, this package reads 1 to '
            f'{FORMAT_VERSION}: install a newer ptychodus-pinn-torch.'
        )
    return manifest


def _check_types(tree: Mapping[str, Any], examples: Mapping[str, Any], source: str) -> None:
    for key, example in examples.items():
        kind, wanted = type(tree.get(key)), type(example)
        if kind is not wanted or kind is int and abs(tree[key]) >= 2**63:
            raise ArchiveError(
                f'{source}: manifest.json: {key} is a {kind.__name__} where a {wanted.__name__} '
                'belongs: it is damaged or forged.'
            )


def _history(data: bytes, source: str) -> list[dict[str, float | None]]:
    try:
        return parse_history(data)
    except ValueError as error:
        raise ArchiveError(f'{source}: history.csv cannot be read: {error}.') from error


def _parse_weights(data: bytes, source: str) -> dict[str, NDArray[Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArchiveError(f'{source}: weights.safetensors cannot be read: {error}.') from error


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


_GONE = {'reconstruction': ('refine_method',)}
"""Options of format 2 that are gone since, and had no effect on a network."""


def _upgrade(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the configuration of an archive of format 1 as it is written since."""
    known = {item.path for item in iter_options()}
    upgraded = dict(tree)
    for section, options in tree.items():
        if not isinstance(options, dict):
            continue
        if section == 'network':
            kind = str(options.get('architecture', 'unrolled'))
            names = _RENAMED.get(kind, {})
            renamed = {names[old]: value for old, value in options.items() if old in names}
            upgraded[section] = {'kind': kind, **renamed}
        else:  # without options that are gone since
            upgraded[section] = {
                key: options[key] for key in options if f'{section}.{key}' in known
            }
    return upgraded


def config_from_text(data: bytes, source: str, version: int = FORMAT_VERSION) -> Config:
    """Returns the configuration that JSON text of some format version describes.

    Raises:
        ArchiveError: no JSON, or options that are unknown or out of bounds.
    """
    tree = _parse_json(data, source)
    if not isinstance(tree, dict):
        raise ArchiveError(f'{source}: holds a {type(tree).__name__} and no sections of options.')
    for section, names in _GONE.items():
        if isinstance(options := tree.get(section), dict):
            tree[section] = {key: value for key, value in options.items() if key not in names}
    try:
        return make_config(_upgrade(tree) if version == 1 else tree, source=source)
    except ValueError as error:
        raise ArchiveError(str(error)) from error
