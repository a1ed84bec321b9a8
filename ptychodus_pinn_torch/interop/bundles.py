"""Bundles of models under PtychoPINN's names: saved, and loaded with their parameters."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..backend import resolve_backend
from ..config import Config
from ..models.archive import BUNDLE_NAME, NETWORK_PREFIX, Archive, ArchiveError, write_archive
from ..models.opening import open_model
from ..models.safe_zip import SafeZip
from ..scan.io.npz import is_zip
from ..scan.io.output import write_atomically
from ..trees import parse_json
from .legacy_config import dataclass_to_legacy_dict, legacy_from_config, update_legacy_dict
from .params_cfg import cfg, decode_params, encode_params
from .trained_model import MODEL_NAMES, TrainedModel, history_of

__all__ = ['load_inference_bundle_torch', 'save_torch_bundle']

WEIGHTS, PARAMS, MANIFEST = 'weights.safetensors', 'params.json', 'manifest_of_weights.json'


def load_inference_bundle_torch(
    bundle_dir: Path | str,
    model_name: str = 'diffraction_to_obj',
    *,
    scale_contract_version: str | None = None,
    measurement_domain: str | None = None,
    backend: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the models of a bundle by name, and its parameters, which `params.cfg` gets as well.

    Read are our archives and PtychoPINN's of both backends; the wrong one is never loaded as if
    it were the right one. `scale_contract_version` and `measurement_domain` are not needed: counts
    have one scale here. Of models of other classes than ours (see `save_torch_bundle`), the tensors by name.

    Raises:
        ValueError: the folder is missing or no folder, or the model cannot be used.
        FileNotFoundError: no `wts.h5.zip` in it.
        KeyError: no model of that name; lists what is there.
    """
    folder = Path(bundle_dir)
    if not folder.is_dir():
        raise ValueError(f'{folder}: is no folder: give the folder of a {BUNDLE_NAME}.')
    path = folder / BUNDLE_NAME
    if not path.is_file():
        raise FileNotFoundError(f'{path}: there is no such model.')
    if is_zip(path) and MANIFEST in (bundle := SafeZip(path, str(path))).names:
        models, params = _read_weights(bundle)
    else:
        models, params = {}, {}
    known = tuple(models) or MODEL_NAMES
    if model_name not in known:
        raise KeyError(f'{path}: holds no {model_name}; there are {", ".join(known)}.')
    if not models:
        archive = open_model(path, backend=resolve_backend(backend))
        model = TrainedModel(path, Config(), history_of(archive), backend)
        models, params = dict.fromkeys(MODEL_NAMES, model), _params_of(archive)
    cfg.update((key, value) for key, value in params.items() if value is not None)
    return models, params


def _params_of(archive: Archive) -> dict[str, Any]:
    network = archive.config.network
    kept = archive.details.get('params_cfg')
    known = legacy_from_config(archive.config) if network.kind in {'cnn', 'fno'} else {}
    return {
        **dataclass_to_legacy_dict(known),
        **(kept if isinstance(kept, dict) else {}),
        'N': archive.details.get('pattern_size') or network.size_px,
        'gridsize': max(1, round(network.stack_size**0.5)),
        'intensity_scale': 1.0,
        'backend': archive.backend,
    }


def save_torch_bundle(
    models_dict: Mapping[str, Any],
    base_path: Path | str,
    config: Any = None,
    intensity_scale: float | None = None,
) -> Path:
    """Returns the path of the archive that now holds the models: `base_path` with `.zip`.

    An archive of ours, in which nothing can execute, and which PtychoPINN does not read. Of
    modules of other classes than ours the weights are written, each under its name; to run them again,
    their class must be at hand.

    Args:
        models_dict: Models of ours, modules of ours, or any `torch.nn.Module`, by name.
        base_path: Where to write.
        config: PtychoPINN's configuration, kept as parameters.
        intensity_scale: Kept with them.

    Raises:
        KeyError: no `diffraction_to_obj` among the models.
        TypeError: it is no model.
    """
    from torch import nn

    if MODEL_NAMES[0] not in models_dict:
        raise KeyError(f'the models lack {MODEL_NAMES[0]}; there are {", ".join(models_dict)}.')
    base = Path(base_path)
    target = base if base.name.endswith('.zip') else base.with_name(f'{base.name}.zip')
    target.parent.mkdir(parents=True, exist_ok=True)
    model = models_dict[MODEL_NAMES[0]]
    if isinstance(model, TrainedModel):
        if model.path.resolve() != target.resolve():
            write_atomically(target, lambda part: shutil.copyfile(model.path, part))
        return target
    if not isinstance(model, nn.Module):
        raise TypeError(
            f'{MODEL_NAMES[0]} is a {type(model).__name__}: give a torch.nn.Module, or a model that '
            'train_cdi_model_torch or load_inference_bundle_torch has returned.'
        )
    params: dict[str, Any] = {}
    update_legacy_dict(params, config)
    if intensity_scale is not None:
        params['intensity_scale'] = float(intensity_scale)
    own = getattr(model, 'config', None)
    network = getattr(model, 'network', None)
    if isinstance(own, Config) and isinstance(network, nn.Module):
        weights = {
            NETWORK_PREFIX + name: value.detach().cpu().numpy()
            for name, value in network.state_dict().items()
        }
        details = {
            'pattern_size': own.network.size_px,
            'params_cfg': json.loads(encode_params(params)),
        }
        return write_archive(target, Archive(own, weights, details=details))
    modules = {name: item for name, item in models_dict.items() if isinstance(item, nn.Module)}
    return write_atomically(target, lambda part: _write_weights(part, modules, params))


def _write_weights(path: Path, modules: Mapping[str, Any], params: Mapping[str, Any]) -> None:
    from safetensors.torch import save

    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, json.dumps({'models': list(modules), 'version': 1}))
        archive.writestr(PARAMS, encode_params(params))
        for name, module in modules.items():
            tensors = {key: x.detach().cpu().clone() for key, x in module.state_dict().items()}
            archive.writestr(f'{name}/{WEIGHTS}', save(tensors))


def _read_weights(bundle: SafeZip) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns tensors by model and name, and the parameters.

    Raises:
        ArchiveError: damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        names = parse_json(bundle.read(MANIFEST))['models']
        models = {str(name): load(bundle.read(f'{name}/{WEIGHTS}')) for name in names}
    except ArchiveError:
        raise
    except (SafetensorError, ValueError, TypeError, LookupError) as error:
        raise ArchiveError(f'{bundle.source}: is damaged: {error}.') from error
    return models, decode_params(bundle.read(PARAMS), bundle.source)
