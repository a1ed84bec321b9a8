"""Devices, threads, and what to do when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import torch

from .measurement import Measurement

__all__ = ['choose_accelerator', 'choose_device', 'set_threads', 'with_chunks_that_fit']

Result = TypeVar('Result')


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
    """Returns the device to use (see `choose_accelerator`)."""
    return torch.device(choose_accelerator(name))


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


def with_chunks_that_fit(
    measurement: Measurement, work: Callable[[Measurement], Result], say: Callable[[str], None]
) -> Result:
    """Returns what `work` makes of a measurement, whose chunks are halved when memory runs out.

    Args:
        measurement: Its chunks are the first try.
        work: Must not depend on the size of the chunks.
        say: Takes a sentence for the user.

    Raises:
        MemoryError: a single pattern does not fit; or what else `work` raises.
    """
    while True:
        try:
            return work(measurement)
        except (MemoryError, RuntimeError) as error:
            if measurement.chunk_size == 1 or not _is_out_of_memory(error):
                raise
        measurement = replace(measurement, chunk_size=measurement.chunk_size // 2)
        say(f'out of memory: going on with {measurement.chunk_size} patterns at a time.')


def _is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory ran out; torch's CPU allocator raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in ("can't allocate memory", 'not enough memory'))
