"""What to do when memory runs out: fewer patterns at a time, and on."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from jaxtyping import Int
from torch import Tensor

if TYPE_CHECKING:
    from .chunk import Chunk
    from .measurement import Measurement

__all__ = ['ChunkLimit', 'for_each_part', 'with_chunks_that_fit']

logger = logging.getLogger(__name__)

Result = TypeVar('Result')

BATCH_CHUNKS = 4
"""So many chunks of patterns are taken together where that saves more than it costs."""


@dataclass
class ChunkLimit:
    """How many patterns fit into memory at once: one for all measurements of a scan.

    Attributes:
        say: Takes a sentence for the user.
        most: Patterns.
    """

    say: Callable[[str], None] = logger.warning
    most: int = 2**31

    def give_way(self, error: BaseException, tried: int) -> None:
        """Halves what was tried and says so, if an error says that memory ran out.

        Raises:
            BaseException: the error, where it says something else, or where one pattern was tried.
        """
        if tried <= 1 or not _is_out_of_memory(error):
            raise error
        self.most = tried // 2
        self.say(f'out of memory: going on with {self.most} patterns at a time.')


def with_chunks_that_fit(measurement: Measurement, work: Callable[[Measurement], Result]) -> Result:
    """Returns what `work` makes of a measurement, whose chunks are halved when memory runs out.

    Args:
        measurement: Its chunks are the first try.
        work: Must not depend on the size of the chunks, nor change anything before its end.

    Raises:
        MemoryError: a single pattern does not fit; or what else `work` raises.
    """
    while True:
        try:
            return work(measurement)
        except (MemoryError, RuntimeError) as error:
            measurement.limit.give_way(error, measurement.patterns_at_once)


def for_each_part(
    measurement: Measurement, indices: Int[Tensor, ' pattern'], work: Callable[[Chunk], None]
) -> None:
    """Has `work` done on some patterns, all at once where they fit, and in parts where not.

    Args:
        measurement: That the patterns belong to.
        indices: (J,) of the patterns, on the host.
        work: Changes nothing before its end, so that it can be done again on a part.

    Raises:
        MemoryError: a single pattern does not fit; or what else `work` raises.
    """
    while len(indices):
        number = min(len(indices), BATCH_CHUNKS * measurement.chunk_size, measurement.limit.most)
        try:
            work(measurement.chunk(indices[:number]))
        except (MemoryError, RuntimeError) as error:
            measurement.limit.give_way(error, number)
            continue
        indices = indices[number:]


def _is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory ran out; torch's CPU allocator raises a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(text in str(error) for text in ("can't allocate memory", 'not enough memory'))
