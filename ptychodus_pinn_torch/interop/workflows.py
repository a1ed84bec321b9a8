"""The workflow functions that PtychoPINN's scripts call, thin over this package.

Same names and returns, this package's engine. Put right on the way: every pattern takes part in
training and image, groups contain the pattern they were drawn for, results do not depend on the
batch size, images lie on the grid of the object that was given and have no holes, histories are
filled.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import ArrayLike, NDArray

from ..backend import ReconstructRequest, TrainRequest, ignore_report, resolve_backend
from ..config import Config, override_config
from ..models.archive import Archive
from ..models.opening import open_model
from ..scan.files import read_scan
from ..scan.scan import Scan
from .grouped_data import REQUIRED, MemmapDatasetBridge, PtychoDataContainerTorch, RawDataTorch
from .legacy_config import config_from_legacy, dataclass_to_legacy_dict, update_legacy_dict

__all__ = [
    'MemmapDatasetBridge',
    'PtychoDataContainerTorch',
    'RawDataTorch',
    'TrainedModel',
    'load_inference_bundle_torch',
    'reassemble_position',
    'run_cdi_example_torch',
    'save_torch_bundle',
    'train_cdi_model_torch',
    'update_legacy_dict',
]

BUNDLE_NAME = 'wts.h5.zip'
MODEL_NAMES = ('diffraction_to_obj', 'autoencoder')


@dataclass
class TrainedModel:
    """A model archive that reconstructs.

    Attributes:
        path: The archive, ours or PtychoPINN's.
        config: Used for reconstruction.
        history: `train_loss` and `val_loss` of the training, if it is known.
    """

    path: Path
    config: Config
    history: dict[str, list[float]] = field(default_factory=dict)

    def reconstruct(self, data: Any) -> NDArray[numpy.complex64]:
        """Returns the complex image of raw data, a scan, or a file, on the object's grid."""
        from ..reconstruction import procedure

        request = ReconstructRequest(as_scan(data), self.config, self.path, resolve_backend())
        return procedure.reconstruct(request, ignore_report).object_  # type: ignore[no-any-return]

    __call__ = reconstruct


def as_scan(data: Any) -> Scan:
    """Returns the scan of whatever a script hands over.

    Raises:
        TypeError: nothing that holds patterns, positions and a probe.
    """
    if isinstance(data, Scan):
        return data
    if isinstance(data, (str, Path)):
        return read_scan(data)
    if isinstance(data, MemmapDatasetBridge):
        data = data.raw_data_torch
    if not isinstance(data, RawDataTorch) and all(hasattr(data, name) for name in REQUIRED):
        x, y, diff3d, probe = (getattr(data, name) for name in REQUIRED)
        data = RawDataTorch(x, y, diff3d, probe, objectGuess=getattr(data, 'objectGuess', None))
    if isinstance(data, RawDataTorch):
        return data.to_scan()
    raise TypeError(
        f'a {type(data).__name__} holds no patterns, positions and probe: give RawDataTorch, a '
        'scan, or the path of one.'
    )


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
) -> dict[str, Any]:
    """Returns what training has made: `history`, containers, `models`.

    Args:
        train_data: `RawDataTorch`, a scan, or the path of one.
        test_data: The same, to judge on; without it patterns are held out of the training data.
        config: PtychoPINN's `TrainingConfig` (or its fields), or our `Config`. The model is
            written to its `output_dir` as `wts.h5.zip`.
        execution_config: `PyTorchExecutionConfig`, or its fields.
        overrides: Our options by path, such as `{'network.kind': 'unrolled'}`.
    """
    settings, folder = _configure(config, execution_config, overrides)
    folder.mkdir(parents=True, exist_ok=True)
    scan = as_scan(train_data)
    validation = () if test_data is None else (as_scan(test_data),)
    backend = resolve_backend()
    request = TrainRequest((scan,), settings, folder / BUNDLE_NAME, validation, backend=backend)
    from ..training.run import train

    path = train(request, ignore_report)
    model = TrainedModel(path, _for_images(settings), _history_of(open_model(path)))
    return {
        'history': model.history,
        'train_container': scan,
        'test_container': validation[0] if validation else None,
        'models': dict.fromkeys(MODEL_NAMES, model),
        'model_path': path,
        'backend': backend,
    }


def _history_of(archive: Archive) -> dict[str, list[float]]:
    columns = {'train_loss': 'loss', 'val_loss': 'held_out'}
    return {
        name: [value for row in archive.history if (value := row.get(column)) is not None]
        for name, column in columns.items()
    }


def _for_images(config: Config) -> Config:
    """Returns the configuration with the network alone: scripts that refine say so."""
    return override_config(
        config, {'reconstruction.refine_epochs': 0, 'reconstruction.guard': False}
    )


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
) -> tuple[NDArray[Any] | None, NDArray[Any] | None, dict[str, Any]]:
    """Returns amplitude, phase (both None without stitching), and the results of the training.

    Args:
        train_data: See `train_cdi_model_torch`, as `config` and the last two.
        test_data: What the image is made of, and what training is judged on.
        flip_x: Mirror the columns of the positions of the test data; `flip_y` its rows.
        transpose: Exchange rows and columns of its positions.
        M: Not needed: patches are weighted by the probe, so no part of them is cut off.
        do_stitching: Make the image.
    """
    results = train_cdi_model_torch(train_data, test_data, config, execution_config, overrides)
    if not do_stitching or test_data is None:
        return None, None, results
    scan = _flip(as_scan(test_data), flip_x, flip_y, transpose)
    image = results['models'][MODEL_NAMES[0]].reconstruct(scan)
    amplitude, phase = numpy.abs(image), numpy.angle(image)
    results |= {
        'obj_tensor_full': image[None, ..., None],
        'global_offsets': scan.positions_px[:, ::-1].reshape(-1, 1, 2, 1),
        'recon_amp': amplitude,
        'recon_phase': phase,
    }
    return amplitude, phase, results


def load_inference_bundle_torch(
    bundle_dir: Path | str,
    model_name: str = 'diffraction_to_obj',
    *,
    scale_contract_version: str | None = None,
    measurement_domain: str | None = None,
) -> tuple[dict[str, TrainedModel], dict[str, Any]]:
    """Returns the models of a bundle by name, and its parameters.

    Read are our archives and PtychoPINN's of both backends; the wrong one is never loaded as if
    it were the right one. The last two arguments are not needed: counts have one scale here.

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
    if model_name not in MODEL_NAMES:
        raise KeyError(f'{path}: holds no {model_name}; there are {", ".join(MODEL_NAMES)}.')
    archive = open_model(path, backend=resolve_backend())
    model = TrainedModel(path, _for_images(Config()), _history_of(archive))
    network = archive.config.network
    params = {
        'N': int(archive.details.get('pattern_size') or network.size_px),
        'gridsize': max(1, round(network.stack_size**0.5)),
        'intensity_scale': 1.0,
        'backend': archive.backend,
    }
    return dict.fromkeys(MODEL_NAMES, model), params


def save_torch_bundle(
    models_dict: Mapping[str, TrainedModel],
    base_path: Path | str,
    config: Any = None,
    intensity_scale: float | None = None,
) -> Path:
    """Returns the path of the archive that now holds the models: `base_path` with `.zip`.

    An archive of ours, in which nothing can execute, and which PtychoPINN does not read.

    Raises:
        KeyError: no `diffraction_to_obj` among the models.
        TypeError: it is no model of this package.
    """
    if MODEL_NAMES[0] not in models_dict:
        raise KeyError(f'the models lack {MODEL_NAMES[0]}; there are {", ".join(models_dict)}.')
    base = Path(base_path)
    target = base if base.name.endswith('.zip') else base.with_name(f'{base.name}.zip')
    target.parent.mkdir(parents=True, exist_ok=True)
    model = models_dict[MODEL_NAMES[0]]
    if not isinstance(model, TrainedModel):
        raise TypeError(
            f'{MODEL_NAMES[0]} is a {type(model).__name__}: only models that '
            'train_cdi_model_torch or load_inference_bundle_torch has returned can be saved.'
        )
    if model.path.resolve() != target.resolve():
        shutil.copyfile(model.path, target)
    return target


def reassemble_position(
    obj_tensor: ArrayLike,
    global_offsets: ArrayLike,
    M: int = 10,  # noqa: N803
) -> NDArray[numpy.complex64]:
    """Returns the mean of the central M x M pixels of patches, each at its offset.

    PtychoPINN's stitching: bilinear, unweighted, centred on the mean offset, zero where no patch
    is. `ptychodus_pinn_torch.reconstruct` weights by the probe and keeps the object's grid.

    Args:
        obj_tensor: (n, N, N, 1) complex patches.
        global_offsets: (n, 1, 2, 1) float64, [x, y].
        M: Even side of the part of a patch that is used.

    Raises:
        ValueError: shapes that do not fit, or M larger than the patches.
    """
    patches = numpy.asarray(obj_tensor)
    if patches.ndim == 4:
        patches = patches[..., 0]
    offsets = numpy.asarray(global_offsets, dtype=numpy.float64).reshape(-1, 2)
    if patches.ndim != 3 or len(patches) != len(offsets):
        raise ValueError(f'{patches.shape} patches do not fit {len(offsets)} offsets.')
    if patches.shape[1] < M or M < 1:
        raise ValueError(f'M = {M} does not fit patches of {patches.shape[1]} px.')
    first = patches.shape[1] // 2 - M // 2
    crops = patches[:, first : first + M, first : first + M].astype(numpy.complex128)
    shifts = offsets - offsets.mean(axis=0)
    pad = int(numpy.ceil(numpy.abs(shifts).max()))
    pad += pad % 2
    total = numpy.zeros((M + 2 * pad + 1,) * 2, dtype=numpy.complex128)
    number = numpy.zeros(total.shape)
    for crop, (x, y) in zip(crops, shifts):
        top, left = int(numpy.floor(y)), int(numpy.floor(x))
        for down, weight_y in ((0, 1.0 - (y - top)), (1, y - top)):
            for right, weight_x in ((0, 1.0 - (x - left)), (1, x - left)):
                y0, x0 = pad + top + down, pad + left + right
                weight = weight_y * weight_x
                if weight == 0.0:
                    continue
                total[y0 : y0 + M, x0 : x0 + M] += weight * crop
                number[y0 : y0 + M, x0 : x0 + M] += weight
    return (total / (1e-9 + number))[:-1, :-1].astype(numpy.complex64)
