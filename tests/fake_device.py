"""A device without numbers: shapes, dtypes and devices are followed, host tensors stay real."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ['DEVICE', 'Watch', 'watched_device']

DEVICE = torch.device('meta')
WIDE = (torch.float64, torch.complex128)
WAITING = {
    'aten::_local_scalar_dense',
    'aten::nonzero',
    'aten::masked_select',
    'aten::_unique2',
    'aten::equal',
    'aten::is_nonzero',
}
"""The host cannot go on before it has the result of these, or knows its size."""
ATOMIC = {'aten::index_add', 'aten::index_add_', 'aten::scatter_add', 'aten::scatter_add_'}
COPIES = {'aten::_to_copy', 'aten::copy_'}


class Watch(TorchDispatchMode):
    """Notes for what the host waits, and refuses operators between two devices.

    Attributes:
        waits: Operators whose result the host waited for, or whose input it waited to hand over.
        wide: Operators that made float64 or complex128, which Apple's GPUs do not have.
        uploads: Type and shape of what was copied from the host to the device.
        atomic: Operators that GPUs add up in another order each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.wide: list[str] = []
        self.uploads: list[tuple[torch.dtype, tuple[int, ...]]] = []
        self.atomic: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func._schema.name, kwargs or {}
        given = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        on_host = [value for value in given if value.device.type == 'cpu']
        on_device = [value for value in given if value.device == DEVICE]
        if name in ATOMIC and on_device:
            self.atomic.append(name)
        if name in COPIES:
            self._note_copy(name, args, kwargs)
        elif name in WAITING and on_device:
            self.waits.append(name)
        elif on_device and any(value.ndim for value in on_host):
            if not name.startswith('aten::index'):
                raise AssertionError(f'{name} between two devices')
            self.waits.append(name)  # indices on the host are handed over first
        if name == 'aten::_local_scalar_dense' and on_device:
            return 1.0 if given[0].is_floating_point() else 1
        if name == 'aten::_to_copy' and on_device and self._target(args, kwargs).type == 'cpu':
            return torch.zeros(given[0].shape, dtype=kwargs.get('dtype') or given[0].dtype)
        found = func(*args, **kwargs)
        for value in tree_leaves(found):
            is_there = isinstance(value, torch.Tensor) and value.device == DEVICE
            if is_there and value.dtype in WIDE:
                self.wide.append(name)
        return found

    def _target(self, args: Any, kwargs: Any) -> torch.device:
        return torch.device(kwargs.get('device') or args[0].device)

    def _note_copy(self, name: str, args: Any, kwargs: Any) -> None:
        if name == 'aten::copy_':
            source, target = args[1], args[0].device
        else:
            source, target = args[0], self._target(args, kwargs)
        if source.device == target:
            return
        if target == DEVICE:
            self.uploads.append((source.dtype, tuple(source.shape)))
        if target.type == 'cpu' or not (kwargs.get('non_blocking') or args[2:3] == (True,)):
            self.waits.append(name)


@contextmanager
def watched_device() -> Iterator[Watch]:
    """Yields what watches the device; mixed precision is as on the host meanwhile."""
    autocast, is_enabled = torch.autocast, torch.is_autocast_enabled

    def known(name: str) -> str:
        return 'cpu' if name == DEVICE.type else name

    def autocast_on_host(device_type: str, **options: Any) -> torch.autocast:
        return autocast(known(device_type), **options)

    with (
        mock.patch.object(torch, 'autocast', autocast_on_host),
        mock.patch.object(torch, 'is_autocast_enabled', lambda name: is_enabled(known(name))),
        Watch() as watch,
    ):
        yield watch
