"""Makes the model that the package ships: random objects, random probes, known truth."""

from __future__ import annotations

from pathlib import Path

import torch

from ..backend import Report
from ..config import Config, ConfigError, override_config
from .data_module import SyntheticDataModule
from .device import set_threads
from .module import PtychoPINN
from .training import Run, run_training

__all__ = ['pretrain']

DEFAULT_BATCH = 2


def pretrain(
    config: Config,
    output: Path,
    report: Report,
    *,
    pattern_size: int = 64,
    canvas_size: int = 112,
    is_resumed: bool = False,
) -> Path:
    """Returns the path of a model trained on random scans only, supervised by their truth.

    Raises:
        ConfigError: a canvas that cannot hold a group, or a network that needs a scan.
        KeyboardInterrupt: stopped; the best model so far has been written.
    """
    if config.network.architecture != 'unrolled':
        raise ConfigError('pretrain makes unrolled networks: leave out --network.')
    if canvas_size < pattern_size + 16 or canvas_size % 8:
        raise ConfigError(
            f'--canvas-size {canvas_size}: must be a multiple of 8 and at least 16 more than the '
            f'pattern size of {pattern_size}.'
        )
    config = override_config(config, {'mode': 'supervised', 'training.start': 'none'})
    set_threads(config.execution.num_threads)
    torch.manual_seed(config.training.seed)
    shape = {
        'pattern_size': pattern_size,
        'canvas_size': canvas_size,
        'group_size': config.grouping.group_size or 36,
        'batch': config.training.batch_size or DEFAULT_BATCH,
    }
    data = SyntheticDataModule(config, **shape)
    module = PtychoPINN(config, total_steps=config.training.max_steps)
    steps = max(1, data.STEPS_PER_EPOCH // config.training.accumulate)
    run = Run(config, module, data, output, steps_per_epoch=steps, is_resumed=is_resumed)
    details = {
        'made_from': 'random objects under random probes (scan/random_scans.py)',
        'seed': config.training.seed,
        **shape,
    }
    return run_training(run, report, details)
