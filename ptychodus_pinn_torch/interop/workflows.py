"""The workflow functions that PtychoPINN's scripts call, thin over this package.

Same names and returns, this package's engine. Put right on the way: every pattern takes part in
training and image, groups contain the pattern they were drawn for, results do not depend on the
batch size, images lie on the grid of the object that was given and have no holes, histories are
filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..backend import TrainRequest, ignore_report, resolve_backend
from ..config import Config, override_config
from ..models.archive import BUNDLE_NAME
from ..models.opening import open_model
from ..scan.scan import Scan
from .bundles import load_inference_bundle_torch, save_torch_bundle
from .data_loading import load_data
from .grouped_data import MemmapDatasetBridge, PtychoDataContainerTorch, RawDataTorch
from .legacy_config import config_from_legacy, dataclass_to_legacy_dict, update_legacy_dict
from .params_cfg import cfg
from .reassembly import reassemble_position
from .trained_model import (
    MODEL_NAMES,
    TrainedModel,
    as_scan,
    history_of,
    keep_aside,
)

__all__ = [
    'MemmapDatasetBridge',
    'PtychoDataContainerTorch',
    'RawDataTorch',
    'TrainedModel',
    'load_data',
    'load_inference_bundle_torch',
    'load_inference_bundle_with_backend',
    'reassemble_position',
    'run_cdi_example_torch',
    'run_cdi_example_with_backend',
    'save_torch_bundle',
    'train_cdi_model_torch',
    'train_cdi_model_with_backend',
    'update_legacy_dict',
]


def _flip(scan: Scan, flip_x: bool, flip_y: bool, transpose: bool) -> Scan:
    """Returns the scan with its positions mirrored on the object's grid, patterns as they are."""
    last_px = numpy.asarray(scan.object_.shape, dtype=float) - 1.0
    positions = numpy.where([flip_y, flip_x], last_px - scan.positions_px, scan.positions_px)
    if not transpose:
        return replace(scan, positions_px=positions)
    return replace(scan, positions_px=positions[:, ::-1].copy(), object_=scan.object_.T.copy())


def _configure(
    config: Any, execution: Any, overrides: Mapping[str, Any] | None
) -> tuple[Config, Path]:
    """Returns our configuration, theirs or ours with overrides on top; and the output folder."""
    output = Path('training_outputs')
    if isinstance(config, Config):
        ours = config
    else:
        fields = dataclass_to_legacy_dict(config or {})
        output = Path(str(fields.pop('output_prefix', output)))
        ours = config_from_legacy(fields, execution).config
    return override_config(ours, dict(overrides or {}), source='overrides'), output


def train_cdi_model_torch(
    train_data: Any,
    test_data: Any = None,
    config: Any = None,
    execution_config: Any = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    backend: str | None = None,
) -> dict[str, Any]:
    """Returns what training has made: `history`, containers, `models`.

    `params.cfg` gets the configuration first. The lists of `history` have an entry for each of the
    epochs that were asked for.

    Args:
        train_data: `RawDataTorch`, a container, a scan, or the path of one.
        test_data: The same, to judge on; without it patterns are held out of the training data.
        config: PtychoPINN's `TrainingConfig` (or its fields), or our `Config`. The model is
            written to its `output_dir` as `wts.h5.zip`; one that is there gets another name.
        execution_config: `PyTorchExecutionConfig`, or its fields.
        overrides: Our options by path, such as `{'network.kind': 'unrolled'}`.
        backend: The engine; PTYCHOPINN_BACKEND where it is not given.
    """
    fields = {} if isinstance(config, Config) else dataclass_to_legacy_dict(config or {})
    update_legacy_dict(cfg, fields)
    engine = resolve_backend(backend)
    settings, folder = _configure(config, execution_config, overrides)
    scan = as_scan(train_data)
    validation = () if test_data is None else (as_scan(test_data),)
    keep_aside(folder / BUNDLE_NAME)
    folder.mkdir(parents=True, exist_ok=True)
    request = TrainRequest((scan,), settings, folder / BUNDLE_NAME, validation, backend=engine)
    from ..training.run import train

    path = train(request, ignore_report)
    history = history_of(open_model(path), fields.get('nepochs'))
    model = TrainedModel(path, settings, history, engine)
    return {
        'history': history,
        'history_epochs': list(range(1, len(history['train_loss']) + 1)),
        'train_container': train_data,
        'test_container': test_data,
        'models': dict.fromkeys(MODEL_NAMES, model),
        'model_instance': model,
        'model_path': path,
        'backend': engine,
    }


def run_cdi_example_torch(
    train_data: Any,
    test_data: Any,
    config: Any,
    flip_x: bool = False,
    flip_y: bool = False,
    transpose: bool = False,
    M: int = 20,  # noqa: N803
    do_stitching: bool = False,
    execution_config: Any = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    backend: str | None = None,
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, dict[str, Any]]:
    """Returns amplitude, phase (both None without stitching), and the results of the training.

    Args:
        train_data: See `train_cdi_model_torch`, as `config` and the last three.
        test_data: What the image is made of, and what training is judged on.
        flip_x: Mirror the columns of the positions of the test data; `flip_y` its rows.
        transpose: Exchange rows and columns of its positions.
        M: Not needed: patches are weighted by the probe, so no part of them is cut off.
        do_stitching: Make the image.
    """
    results = train_cdi_model_torch(
        train_data, test_data, config, execution_config, overrides, backend=backend
    )
    if not do_stitching or test_data is None:
        return None, None, results
    scan = _flip(as_scan(test_data), flip_x, flip_y, transpose)
    image = results['models'][MODEL_NAMES[0]].reconstruct(scan)
    amplitude, phase = numpy.abs(image), numpy.angle(image)
    results |= {
        'reconstructed_obj': image,
        'stitched_obj': image,
        'pred_amp': amplitude,
        'obj_tensor_full': image[None, ..., None],
        'global_offsets': scan.positions_px[:, ::-1].reshape(-1, 1, 2, 1),
        'recon_amp': amplitude,
        'recon_phase': phase,
    }
    return amplitude, phase, results


def _engine_of(config: Any) -> str:
    """Returns the engine of PTYCHOPINN_BACKEND, or the one that a configuration of theirs names.

    Raises:
        ValueError: it names none of the two.
    """
    fields = {} if isinstance(config, Config) else dataclass_to_legacy_dict(config or {})
    name = fields.get('backend')
    if name not in {None, 'tensorflow', 'pytorch'}:
        raise ValueError(
            f"backend = {name!r} of the configuration must be 'tensorflow' or 'pytorch'."
        )
    return resolve_backend(setting=name)


def train_cdi_model_with_backend(
    train_data: Any, test_data: Any, config: Any, *arguments: Any, **named: Any
) -> dict[str, Any]:
    """Returns what `train_cdi_model_torch` does, on the engine that the configuration names."""
    return train_cdi_model_torch(
        train_data, test_data, config, *arguments, **{'backend': _engine_of(config), **named}
    )


def run_cdi_example_with_backend(
    train_data: Any, test_data: Any, config: Any, *arguments: Any, **named: Any
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, dict[str, Any]]:
    """Returns what `run_cdi_example_torch` does, on the engine that the configuration names."""
    return run_cdi_example_torch(
        train_data, test_data, config, *arguments, **{'backend': _engine_of(config), **named}
    )


def load_inference_bundle_with_backend(
    bundle_dir: Path | str, config: Any = None, model_name: str = MODEL_NAMES[0]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns what `load_inference_bundle_torch` does, for the engine that the configuration names."""
    return load_inference_bundle_torch(bundle_dir, model_name, backend=_engine_of(config))
