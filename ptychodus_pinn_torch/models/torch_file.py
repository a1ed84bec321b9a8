"""Files of torch, read without torch: values at once, tensors when they are asked for."""

from __future__ import annotations

import math
import pickle
from typing import Any, Literal

import numpy
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from .plain_pickle import PickleReader, Reference, plain_values
from .restricted_pickle import DAMAGE, KNOWN, damage, resolve_array
from .safe_zip import ArchiveError, SafeZip

__all__ = ['StoredTensor', 'load_tensors']

_BRAIN_FLOAT = 'BFloat16Storage'
_CODES = {
    'FloatStorage': 'f4',
    'DoubleStorage': 'f8',
    'HalfStorage': 'f2',
    _BRAIN_FLOAT: 'u2',  # the upper half of a number of 32 bits
    'ComplexFloatStorage': 'c8',
    'ComplexDoubleStorage': 'c16',
    'LongStorage': 'i8',
    'IntStorage': 'i4',
    'ShortStorage': 'i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': '?',
}
"""numpy's code for each type of number that torch has files of."""


def load_tensors(bundle: SafeZip) -> Any:
    """Returns the tree of tensors and plain values in a torch file; no tensor is read yet.

    Raises:
        ArchiveError: it wants to run code, or is damaged.
    """
    names = [name for name in bundle.names if name.endswith('/data.pkl')]
    if len(names) != 1:
        raise ArchiveError(f'{bundle.source}: is no torch file; found {bundle.shown()}.')
    storages = _Storages(bundle, names[0].removesuffix('data.pkl'))
    try:
        reader = PickleReader(_KNOWN, storages.find)
        return plain_values(reader.read(bundle.read(names[0])), _resolve)
    except ArchiveError:
        raise
    except DAMAGE as error:
        raise damage(error, bundle.source) from error


class _Storages:
    """The members of a torch file that hold numbers."""

    def __init__(self, bundle: SafeZip, folder: str) -> None:
        self.bundle, self._folder = bundle, folder
        self._arrays: dict[tuple[str, str], NDArray[Any]] = {}
        order = f'{folder}byteorder'
        is_swapped = order in bundle.names and bundle.read(order) == b'big'
        self._order: Literal['<', '>'] = '>' if is_swapped else '<'

    def find(self, identifier: Any) -> _Storage:
        """Returns the member that a reference to data outside of the pickle means."""
        word, kind, key, *_ = identifier
        if word != 'storage' or not isinstance(key, str) or kind not in _CODES:
            raise pickle.UnpicklingError('it refers to data that no tensor has')
        return _Storage(self, f'{self._folder}data/{key}', kind)

    def read(self, name: str, kind: str) -> NDArray[Any]:
        """Returns all numbers of a member (n,)."""
        if (name, kind) not in self._arrays:
            dtype = numpy.dtype(_CODES[kind]).newbyteorder(self._order)
            data = self.bundle.read(name)
            self._arrays[name, kind] = numpy.frombuffer(data, dtype, len(data) // dtype.itemsize)
        return self._arrays[name, kind]


class _Storage(Reference):
    """A member with the numbers of one or more tensors."""

    def __init__(self, storages: _Storages, name: str, kind: str) -> None:
        self.storages, self.name, self.kind = storages, name, kind


class StoredTensor(Reference):
    """A tensor of a torch file: which numbers of which member, and in what order."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> None:
        sizes = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(
            isinstance(size, int) and size >= 0 for size in sizes
        ):
            raise pickle.UnpicklingError('a tensor has no place in the file')
        self._storage, self._offset = storage, offset
        self.shape, self._strides = tuple(shape), tuple(strides)
        if len(self.shape) != len(self._strides):
            raise pickle.UnpicklingError('a tensor has no place in the file')

    def numbers(self) -> NDArray[Any]:
        """Returns the array: floating-point numbers in 32 bits, complex ones in 64.

        Raises:
            ArchiveError: its numbers are not in the file, or are made of fewer that are repeated.
        """
        bundle, name = self._storage.storages.bundle, self._storage.name
        held = self._storage.storages.read(name, self._storage.kind)
        num_wanted = math.prod(self.shape)
        last = self._offset + sum((n - 1) * step for n, step in zip(self.shape, self._strides))
        if num_wanted > len(held) or num_wanted and last >= len(held):
            raise ArchiveError(
                f'{bundle.source}: {name} holds {len(held)} numbers, a tensor of shape '
                f'{self.shape} needs others: it is damaged or forged.'
            )
        if not num_wanted:
            return numpy.zeros(self.shape, held.dtype)
        bundle.spend(num_wanted * held.itemsize, name)
        strides = [step * held.itemsize for step in self._strides]
        values = as_strided(held[self._offset :], self.shape, strides, writeable=False)
        return _in_single_precision(values, is_upper_half=self._storage.kind == _BRAIN_FLOAT)


def _in_single_precision(values: NDArray[Any], *, is_upper_half: bool) -> NDArray[Any]:
    if is_upper_half:
        return (values.astype('u4') << 16).view('f4')
    codes = {'f': 'f4', 'c': 'c8'}
    with numpy.errstate(over='ignore'):  # what is too large is not finite, and is said to be
        return values.astype(codes.get(values.dtype.kind, values.dtype.newbyteorder('=')))


def _resolve(item: Reference) -> Any:
    return item if isinstance(item, StoredTensor) else resolve_array(item)


def _refuse_kind(*_: Any) -> None:
    raise pickle.UnpicklingError('it holds a tensor that is sparse, quantised or without numbers')


def _items(values: Any = ()) -> Any:
    """Returns what a set, a size or a counter is made of."""
    return values


def _tensor_of(tensor: Any, *_: Any) -> Any:
    """Returns the tensor of a parameter."""
    return tensor


def _device(kind: Any, *number: Any) -> Any:
    return kind


_KNOWN: dict[tuple[str, str], Any] = {
    **KNOWN,
    **{('torch', name): name for name in _CODES},
    **{
        ('torch', name): f'torch.{name}'
        for name in [
            'float64',
            'float32',
            'float16',
            'bfloat16',
            'complex64',
            'complex128',
            'int64',
            'int32',
            'bool',
        ]
    },
    ('torch._utils', '_rebuild_tensor'): StoredTensor,
    ('torch._utils', '_rebuild_tensor_v2'): StoredTensor,
    ('torch._utils', '_rebuild_parameter'): _tensor_of,
    ('torch._utils', '_rebuild_parameter_with_state'): _tensor_of,
    **{
        ('torch._utils', f'_rebuild_{kind}'): _refuse_kind
        for kind in ('sparse_tensor', 'sparse_csr_tensor', 'qtensor', 'meta_tensor_no_storage')
    },
    ('torch.serialization', '_get_layout'): _items,
    ('torch', 'Size'): _items,
    ('torch', 'device'): _device,
    ('collections', 'Counter'): _items,
    **{(module, 'set'): _items for module in ('builtins', '__builtin__')},
}
"""What a file of torch may name, and what stands for each."""
