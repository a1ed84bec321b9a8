"""Devices and threads."""

from __future__ import annotations

import os

import torch

__all__ = ['choose_accelerator', 'choose_device', 'set_threads']


def choose_accelerator(name: str) -> str:
    """Returns Lightning's name of the device to use.

    Raises:
        RuntimeError: the device that was asked for is not there.
    """
    if name == 'auto':
        if torch.cuda.is_available():
            return 'cuda'
        return 'mps' if torch.backends.mps.is_available() else 'cpu'
    if name == 'cuda' and not torch.cuda.is_available():
        raise RuntimeError('no CUDA device is available: choose --execution.accelerator cpu.')
    if name == 'mps' and not torch.backends.mps.is_available():
        raise RuntimeError('no Apple GPU is available: choose --execution.accelerator cpu.')
    return name


def choose_device(name: str) -> torch.device:
    """Returns the device to use (see `choose_accelerator`); of several GPUs, each process has one."""
    found = choose_accelerator(name)
    local = int(os.environ.get('LOCAL_RANK', '0'))
    if found == 'cuda' and local:
        return torch.device(found, local % torch.cuda.device_count())
    return torch.device(found)


def set_threads(number: int) -> int:
    """Sets and returns the number of CPU threads; 0 takes as many as there are idle cores.

    More threads than idle cores make small kernels many times slower, because they wait for each
    other by spinning: OMP_NUM_THREADS may ask for fewer, not for more.
    """
    if number == 0:
        number = _idle_cores()
        given = os.environ.get('OMP_NUM_THREADS', '').partition(',')[0].strip()
        if given.isdigit() and int(given) > 0:
            number = min(number, int(given))
    torch.set_num_threads(number)
    return number


def _idle_cores() -> int:
    """Returns how many cores this process may use that have nothing to do, 1 to 16."""
    may_use = hasattr(os, 'sched_getaffinity')
    cores = len(os.sched_getaffinity(0)) if may_use else (os.cpu_count() or 1)
    busy = os.getloadavg()[0] if hasattr(os, 'getloadavg') else 0.0
    return max(1, min(16, int(cores - busy + 0.5)))
