"""Pty-Chi's LSQML and rPIE on a scan of ours, one stretch of CPU time after the other.

Pty-Chi (https://github.com/AdvancedPhotonSource/pty-chi) is called through its public API.
"""

from __future__ import annotations

import importlib.machinery
import os
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from numpy.typing import NDArray

from ptychodus_pinn_torch.scan.scan import Scan

_MARGIN_PX = 16
"""What the object is wider on each side than ours: refined positions may leave the grid."""


@dataclass(frozen=True)
class Setting:
    """How Pty-Chi is run.

    Attributes:
        name: Of the row.
        engine: 'LSQML' or 'RPIE'.
        batch: Patterns per update, drawn at random.
        step: Of the object, on top of the rule's own.
        alpha: Regularisation of rPIE, of object and probe; LSQML has none.
        momentum: Gain of LSQML's momentum; 0 switches it off.
        is_poisson: Whether LSQML assumes Poisson noise in the place of Gaussian amplitudes.
    """

    name: str
    engine: str
    batch: int
    step: float = 1.0
    alpha: float = 1.0
    momentum: float = 0.0
    is_poisson: bool = False


@dataclass(frozen=True)
class Freed:
    """What is adjusted beside the object.

    Attributes:
        probe: From the first epoch on.
        positions: Likewise.
    """

    probe: bool = False
    positions: bool = False


@dataclass(frozen=True)
class State:
    """Where a run stands, in our conventions.

    Attributes:
        object_: (Y, X) on the grid of the scan.
        probe: (P, H, W) in counts.
        positions_px: (N, 2), refined ones where they were freed.
        epochs: That were run so far.
        seconds: CPU seconds that they took.
    """

    object_: NDArray[Any]
    probe: NDArray[Any]
    positions_px: NDArray[numpy.float64]
    epochs: int
    seconds: float


def import_ptychi() -> Any:
    """Returns Pty-Chi's API without torchvision.

    Pty-Chi imports one filter of torchvision at its start and uses it in a function that is not
    called here. torchvision is bound to a release of torch and takes the place of the one that is
    installed, so an empty module stands in for it.
    """
    if 'torchvision' not in sys.modules:
        package = types.ModuleType('torchvision')
        transforms = types.ModuleType('torchvision.transforms')
        for module in (package, transforms):
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        package.transforms = transforms  # type: ignore[attr-defined]
        transforms.GaussianBlur = None  # type: ignore[attr-defined]
        sys.modules |= {'torchvision': package, 'torchvision.transforms': transforms}
    os.environ.setdefault('TQDM_DISABLE', '1')
    import ptychi.api

    return ptychi.api


def _choose(api: Any, setting: Setting, freed: Freed, seed: int) -> Any:
    """Returns the options of a run."""
    options = getattr(api, f'{setting.engine}Options')()
    engine = options.reconstructor_options
    engine.batch_size = setting.batch
    engine.batching_mode = api.BatchingModes.RANDOM
    engine.default_device = api.Devices.CPU
    engine.displayed_loss_function = None
    engine.random_seed = seed
    if setting.engine == 'LSQML':
        engine.momentum_acceleration_gain = setting.momentum
        if setting.is_poisson:
            engine.noise_model = api.NoiseModels.POISSON
    else:
        options.object_options.alpha = options.probe_options.alpha = setting.alpha
    for part in (options.object_options, options.probe_options):
        part.optimizer, part.step_size = api.Optimizers.SGD, 1.0
    options.object_options.step_size = setting.step
    options.probe_options.optimizable = freed.probe
    options.probe_position_options.optimizable = freed.positions
    return options


def _begin(api: Any, options: Any, scan: Scan) -> Any:
    """Returns the task of a scan, from a flat object.

    Pty-Chi's Fourier transform is not normalised, so the probe is divided by the root of the
    number of pixels; positions are counted from a given point, here the middle of the object.
    """
    from ptychi.api.task import PtychographyTask

    shape = tuple(size + 2 * _MARGIN_PX for size in scan.object_.shape)
    middle = (numpy.asarray(scan.object_.shape) - 1.0) / 2.0
    origin = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.determine_position_origin_coords_by = origin
    options.object_options.position_origin_coords = tuple(float(x) for x in middle + _MARGIN_PX)
    positions_px = (scan.positions_px - middle).astype(numpy.float32)
    height, width = scan.pattern_shape
    return PtychographyTask(
        options,
        diffraction_data=numpy.asarray(scan.patterns, dtype=numpy.float32),
        object_data=numpy.ones((1, *shape), dtype=numpy.complex64),
        probe_data=(scan.probe[None] / (height * width) ** 0.5).astype(numpy.complex64),
        probe_position_y_px=positions_px[:, 0],
        probe_position_x_px=positions_px[:, 1],
        valid_pixel_mask=scan.good_pixels,
    )


def _look(task: Any, scan: Scan, epochs: int, seconds: float) -> State:
    """Returns where a run stands."""
    height, width = scan.pattern_shape
    inner = slice(_MARGIN_PX, -_MARGIN_PX)
    middle = (numpy.asarray(scan.object_.shape) - 1.0) / 2.0
    return State(
        object_=task.get_data_to_cpu('object', as_numpy=True)[0, inner, inner].copy(),
        probe=task.get_data_to_cpu('probe', as_numpy=True)[0] * (height * width) ** 0.5,
        positions_px=task.get_data_to_cpu('probe_positions', as_numpy=True) + middle,
        epochs=epochs,
        seconds=seconds,
    )


def iter_states(
    scan: Scan, setting: Setting, freed: Freed, *, marks_s: tuple[float, ...], seed: int = 0
) -> Iterator[State]:
    """Yields where a run stands after the epoch that passes each mark, in CPU seconds.

    What is done with a state stays outside of the clock, and so does the making of the task.
    """
    api = import_ptychi()
    task = _begin(api, _choose(api, setting, freed, seed), scan)
    run: Callable[[int], None] = task.run
    epochs, seconds = 0, 0.0
    try:
        for mark_s in marks_s:
            while seconds < mark_s:
                started = time.process_time()
                run(1)
                seconds += time.process_time() - started
                epochs += 1
            yield _look(task, scan, epochs, seconds)
    finally:
        # Pty-Chi sets a default device for everybody, which slows every call of torch.
        torch.set_default_device(None)
