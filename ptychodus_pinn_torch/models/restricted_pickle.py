"""The plain values and arrays in a pickle, without running what it names."""

from __future__ import annotations

import pickle
from typing import Any

import numpy

from .plain_pickle import NameRefused, PickleReader, Reference, plain_values
from .safe_zip import ArchiveError

__all__ = ['DAMAGE', 'KNOWN', 'damage', 'read_pickle', 'resolve_array']

DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
)
"""What a damaged pickle leads to."""


def read_pickle(data: bytes, source: str) -> Any:
    """Returns the plain values, lists, dicts, paths and numpy arrays in a pickle.

    Of all the things that a pickle may name, a dozen are known, and each is replaced by a
    function of this module; none is imported.

    Raises:
        ArchiveError: the pickle names anything else, is damaged, or too large.
    """
    try:
        return plain_values(PickleReader(KNOWN).read(data), resolve_array)
    except DAMAGE as error:
        raise damage(error, source) from error


def damage(error: Exception, source: str) -> ArchiveError:
    """Returns the sentence about a pickle that cannot be read."""
    if isinstance(error, NameRefused):
        return ArchiveError(
            f'{source}: names {error}, which would have to be run to be read: refused.'
        )
    reason = str(error).partition('\n')[0].rstrip('.') or type(error).__name__
    return ArchiveError(f'{source}: is damaged: {reason}.')


class _Array(Reference):
    """Stands for `numpy.ndarray`: keeps the state that a pickled array brings."""

    def __init__(self, *_: Any) -> None:
        self.value = numpy.zeros(0)

    def set_state(self, state: Any) -> None:
        """Makes the array."""
        _, shape, dtype, is_fortran, data = state
        self.value = _make_array(data, shape, dtype, is_fortran)


class _Type(Reference):
    """Stands for `numpy.dtype`: the character code, byte order from its state."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or len(code) > 8:
            raise pickle.UnpicklingError('an array holds no numbers')
        self.code, self.is_swapped = code, False

    def set_state(self, state: Any) -> None:
        """Takes the order of the bytes."""
        self.is_swapped = state[1] == '>'

    def resolve(self) -> numpy.dtype[Any]:
        """Returns the type, if it is one of numbers."""
        dtype = numpy.dtype(self.code).newbyteorder('>' if self.is_swapped else '<')
        if dtype.kind not in 'biufc' or dtype.itemsize > 32:
            raise pickle.UnpicklingError(f'an array of {self.code} holds no numbers')
        return dtype


def resolve_array(item: Reference) -> Any:
    """Returns the array that stands in the place of a value.

    Raises:
        TypeError: it is no array.
    """
    if isinstance(item, _Array):
        return item.value
    raise TypeError('it holds something that is no plain value')


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
    array.set_state(state)
    return array


def _encode(text: Any, encoding: Any = 'latin1') -> bytes:
    if encoding != 'latin1' or not isinstance(text, str):
        raise pickle.UnpicklingError('its bytes are in another encoding than latin1')
    return text.encode('latin1')


def _complex(real: Any, imaginary: Any = 0.0) -> complex:
    return complex(real, imaginary)  # which refuses text before a second part


def _no_items() -> dict[Any, Any]:
    """Returns a dict, whose items follow."""
    return {}


KNOWN: dict[tuple[str, str], Any] = {
    ('tensorflow.python.framework.ops', 'convert_to_tensor'): lambda value=None, *_: value,
    ('dill._dill', '_create_array'): _create_array,
    ('numpy', 'ndarray'): _Array,
    ('numpy', 'dtype'): _Type,
    ('builtins', 'complex'): _complex,
    ('__builtin__', 'complex'): _complex,
    ('collections', 'OrderedDict'): _no_items,
    ('_codecs', 'encode'): _encode,
    **{
        ('pathlib', name): lambda *parts: '/'.join(parts)
        for name in ('Path', 'PosixPath', 'WindowsPath', 'PurePosixPath', 'PureWindowsPath')
    },
    **{
        (f'numpy{core}.multiarray', name): function
        for core in ('', '._core', '.core')
        for name, function in (('_reconstruct', _Array), ('scalar', _scalar))
    },
}
"""Names of what plain values are made of, and what stands for each."""
