"""Reads the plain values of pickles and of files of torch without running what they name."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy

from .safe_zip import ArchiveError, SafeZip

__all__ = ['load_tensors', 'read_pickle']

MAX_BYTES = 2**26
MAX_DEPTH = 32
MAX_VALUES = 100_000
_DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    AssertionError,
    OverflowError,
    MemoryError,
    RuntimeError,
    OSError,
)
"""What readers of pickles, Python's and torch's, raise on damaged ones."""


def read_pickle(data: bytes, source: str) -> Any:
    """Returns the plain values, lists, dicts, paths and numpy arrays in a pickle.

    Of all the things that a pickle may name, a dozen are known, and each is replaced by a
    function of this module; none is imported.

    Raises:
        ArchiveError: the pickle names anything else, is damaged, or too large.
    """
    if len(data) > MAX_BYTES:
        raise ArchiveError(f'{source}: is larger than {MAX_BYTES} bytes: refused.')
    try:
        return _plain(_Reader(io.BytesIO(data)).load(), [MAX_VALUES], 0)
    except _NameError as error:
        raise ArchiveError(
            f'{source}: names {error}, which would have to be run to be read: refused.'
        ) from error
    except _DAMAGE as error:
        raise ArchiveError(f'{source}: is damaged: {_first_line(error)}.') from error


def load_tensors(bundle: SafeZip) -> Any:
    """Returns the tree of tensors and plain values in a torch file.

    Raises:
        ArchiveError: it wants to run code, or is damaged.
    """
    import torch

    source = bundle.source
    try:
        return torch.load(bundle.repacked(), map_location='cpu', weights_only=True)
    except ArchiveError:
        raise
    except pickle.UnpicklingError as error:
        raise ArchiveError(
            f'{source}: holds Python objects that would have to be run to be read: refused.'
        ) from error
    except _DAMAGE as error:
        reason = _first_line(error)
        raise ArchiveError(f'{source}: is damaged or no torch file: {reason}.') from error


def _first_line(error: Exception) -> str:
    return str(error).partition('\n')[0].rstrip('.') or type(error).__name__


class _NameError(pickle.UnpicklingError):
    """The pickle names something that is not on the list."""


class _Array:
    """Stands for `numpy.ndarray`: keeps the state that a pickled array brings."""

    def __init__(self, *_: Any) -> None:
        self.value = numpy.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.value = _make_array(data, shape, dtype, is_fortran)


class _Type:
    """Stands for `numpy.dtype`: the character code, byte order from its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        self.code, self.is_swapped = str(code), False

    def __setstate__(self, state: Any) -> None:
        self.is_swapped = state[1] == '>'

    def resolve(self) -> numpy.dtype[Any]:
        """Returns the type, if it is one of numbers."""
        dtype = numpy.dtype(self.code).newbyteorder('>' if self.is_swapped else '<')
        if dtype.kind not in 'biufc' or dtype.itemsize > 32:
            raise pickle.UnpicklingError(f'an array of {self.code} holds no numbers')
        return dtype


def _make_array(data: Any, shape: Any, dtype: Any, is_fortran: Any) -> numpy.ndarray:
    if not isinstance(data, bytes) or not isinstance(dtype, _Type):
        raise pickle.UnpicklingError('an array holds no numbers')
    flat = numpy.frombuffer(data, dtype=dtype.resolve())
    return flat.reshape(tuple(shape), order='F' if is_fortran else 'C').copy()


def _scalar(dtype: Any, data: Any = b'') -> Any:
    return _make_array(data, (1,), dtype, False)[0].item()


def _create_array(_: Any, arguments: Any, state: Any, *__: Any) -> _Array:
    """Returns an array from the call that dill writes: (function, arguments, state, ...)."""
    array = _Array()
    array.__setstate__(state)
    return array


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if encoding != 'latin1':
        raise pickle.UnpicklingError('its bytes are in another encoding than latin1')
    return str(text).encode('latin1')


class _Call:
    """A function that a pickle may call but not change."""

    __slots__ = ('_function',)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError('it tries to change a function')


_KNOWN: dict[tuple[str, str], Any] = {
    ('tensorflow.python.framework.ops', 'convert_to_tensor'): _Call(lambda value=None, *_: value),
    ('dill._dill', '_create_array'): _Call(_create_array),
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Type,
    ('builtins', 'complex'): complex,
    ('collections', 'OrderedDict'): dict,
    ('_codecs', 'encode'): _Call(_encode),
    **{
        ('pathlib', name): _Call(lambda *parts: '/'.join(str(part) for part in parts))
        for name in ('Path', 'PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')
    },
    **{
        (f'numpy{core}.multiarray', name): _Call(function)
        for core in ('', '._core', '.core')
        for name, function in (('_reconstruct', _Array), ('scalar', _scalar))
    },
}


class _Reader(pickle.Unpickler):
    """An unpickler that imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        """Returns what stands for a name of the list."""
        if (module, name) not in _KNOWN:
            raise _NameError(f'{module}.{name}')
        return _KNOWN[module, name]

    def persistent_load(self, identifier: Any) -> Any:
        """Refuses references to storage outside the pickle."""
        raise pickle.UnpicklingError('it refers to data outside of itself')


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """Returns the value with the stand-ins replaced by arrays; `left` values may follow."""
    left[0] -= 1
    if depth > MAX_DEPTH or left[0] < 0:
        raise ValueError('it is nested too deep')
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, dict):
        return {
            _plain(key, left, depth + 1): _plain(item, left, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item, left, depth + 1) for item in value)
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    raise TypeError('it holds something that is no plain value')
