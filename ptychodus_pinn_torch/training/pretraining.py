"""Makes the model that the package ships: random objects, random probes, known truth."""

from __future__ import annotations

from pathlib import Path

from ..backend import Report, get_backend
from ..config import Config, ConfigError, override_config
from ..physics.devices import set_threads
from .batches import RandomBatches
from .fitting import TrainingRun
from .run import fit_and_write
from .run_folder import folder_of
from .training_log import TrainingLog

__all__ = ['pretrain']

DEFAULT_BATCH = 2
DEFAULT_GROUP = 36
ABOUT = """
Trained on random objects under random probes only; it has seen no measurement. The probe is an input,
so it serves instruments that it has never met.

- Objects: dead leaves, Gaussian fields, stars, lines and gratings, blobs, constants, and mixtures;
  amplitude down to 0.3, phase within 1.7 rad; amplitude and phase independent in three of four.
- Probes: defocused soft discs, zone plates, crossed mirrors, with astigmatism and coma; 1 to 3 modes.
- Scans: jittered grids and spirals, steps of 0.25 to 1.1 rms radii of the probe; 5e3 to 2.5e6 photons.
- Loss: squared complex error of the object where it is covered, its global phase removed; the last
  stage, and each earlier one with a weight of 0.3.
- Limits: thin objects and the far field. Always refine by at least one epoch. With a wrong probe,
  update the probe.

The command `ptychodus-pinn pretrain` with the options below makes it again.
"""


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
    if config.network.is_patchwise:
        raise ConfigError(
            'pretrain makes networks that see whole groups (prior, unrolled): leave out --network.'
        )
    if canvas_size < pattern_size + 16 or canvas_size % 8:
        raise ConfigError(
            f'--canvas-size {canvas_size}: must be a multiple of 8 and at least 16 more than the '
            f'pattern size of {pattern_size}.'
        )
    config = override_config(config, {'mode': 'supervised', 'training.start': 'none'})
    set_threads(config.execution.num_threads)
    shape = {
        'pattern_size': pattern_size,
        'canvas_size': canvas_size,
        'num_patterns': config.grouping.group_size or DEFAULT_GROUP,
        'num_groups': config.training.batch_size or DEFAULT_BATCH,
    }
    run = TrainingRun(
        config,
        RandomBatches(config.training.seed, **shape),
        TrainingLog(report, config.training.max_steps),
        folder_of(output),
        is_resumed,
    )
    details = {
        'made_from': 'random objects under random probes (simulation/random_scans.py)',
        'seed': config.training.seed,
        'pattern_size': pattern_size,
        'canvas_size': canvas_size,
        'group_size': shape['num_patterns'],
        'batch': shape['num_groups'],
        'start': 'none',
    }
    return fit_and_write(run, get_backend('pytorch'), output, details, about=ABOUT)
