"""Several processes that make one image: each takes a share of the work, all come to the same."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, distributed

__all__ = ['ALONE', 'Team', 'places_in_launch']


def places_in_launch() -> tuple[int, int]:
    """Returns rank and number of the processes that torchrun has started; (0, 1) without it."""
    if 'RANK' not in os.environ:
        return 0, 1
    return int(os.environ['RANK']), int(os.environ.get('WORLD_SIZE', '1'))


@dataclass(frozen=True)
class Team:
    """Processes that go through the same procedure side by side, and share what takes time.

    What decides how it goes on is the same in all of them: it comes from sums over the team, or
    was computed from those by each in the same way.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    rank: int = 0
    size: int = 1

    @classmethod
    def gather(cls, device: torch.device) -> Team:
        """Returns the team of the processes that torchrun has started, coupled for a device.

        Raises:
            RuntimeError: the others cannot be reached.
        """
        rank, size = places_in_launch()
        if size > 1 and not distributed.is_initialized():
            if device.index is not None:
                torch.cuda.set_device(device)
            distributed.init_process_group('nccl' if device.type == 'cuda' else 'gloo')
        return cls(rank, size)

    def disband(self) -> None:
        """Lets the processes go their own ways."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def share(self, indices: Int[Tensor, ' chosen']) -> Int[Tensor, ' share']:
        """Returns those of some indices that this process takes care of."""
        return indices if self.size == 1 else indices[self.rank :: self.size]

    def add_up(self, values: Shaped[Tensor, '*shape']) -> Shaped[Tensor, '*shape']:
        """Returns values with those of all processes added, in place."""
        if self.size > 1:
            distributed.all_reduce(torch.view_as_real(values) if values.is_complex() else values)
        return values

    def agree(self, value: float) -> float:
        """Returns the value of the first process."""
        if self.size == 1:
            return value
        is_nccl = distributed.get_backend() == 'nccl'
        shared = torch.tensor([value], dtype=torch.float64, device='cuda' if is_nccl else 'cpu')
        distributed.broadcast(shared, 0)
        return float(shared)


ALONE = Team()
