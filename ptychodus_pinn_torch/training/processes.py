"""Which of several training processes this one is."""

from __future__ import annotations

import os

__all__ = ['num_processes', 'is_started_by_slurm', 'process_rank']


def is_started_by_slurm() -> bool:
    """Returns whether `srun` has started this process; an allocation alone has not."""
    return 'SLURM_STEP_ID' in os.environ and 'SLURM_PROCID' in os.environ


def num_processes() -> int:
    """Returns how many processes train together, once they are coupled."""
    from torch import distributed

    is_coupled = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if is_coupled else 1


def process_rank(devices: int = 1) -> tuple[int, int]:
    """Returns rank and number of processes: of torchrun, of SLURM, or of Lightning's own launcher.

    Args:
        devices: Processes that Lightning starts on this machine where nobody else does.
    """
    if 'RANK' in os.environ:
        return int(os.environ['RANK']), int(os.environ.get('WORLD_SIZE', '1'))
    if is_started_by_slurm():
        return int(os.environ['SLURM_PROCID']), int(os.environ.get('SLURM_NTASKS', '1'))
    return int(os.environ.get('LOCAL_RANK', '0')), devices
