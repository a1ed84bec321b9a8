"""Reads the values of a pickle by following its opcodes, in memory and time bound by its length.

Python's own reader is not used: it makes room for as many values as a pickle asks for, and takes
the hash of whatever is the key of a dict, which never ends for tuples of tuples.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ['NameRefused', 'PickleReader', 'Reference', 'plain_values']

MAX_BYTES = 2**26
MAX_OPCODES = 2_000_000
"""A checkpoint of PtychoPINN has 15 000, one of a run of ours 30 for each epoch of its history."""
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
MAX_NUMBER = 2**64

_LITERALS = frozenset(
    [
        'INT',
        'BININT',
        'BININT1',
        'BININT2',
        'LONG',
        'LONG1',
        'LONG4',
        'FLOAT',
        'BINFLOAT',
        'STRING',
        'BINSTRING',
        'SHORT_BINSTRING',
        'BINBYTES',
        'SHORT_BINBYTES',
        'BINBYTES8',
        'UNICODE',
        'SHORT_BINUNICODE',
        'BINUNICODE',
        'BINUNICODE8',
    ]
)
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_LENGTHS = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class NameRefused(pickle.UnpicklingError):
    """The pickle names something that is not on the list."""


class Reference:
    """A place that the name in a pickle leads to; what its state changes is up to it."""

    def set_state(self, state: Any) -> None:
        """Takes the state that a pickle brings after the call that made it.

        Raises:
            UnpicklingError: it has none.
        """
        raise pickle.UnpicklingError('it gives a state to something that has none')


class PickleReader:
    """Follows the opcodes of one pickle; nothing is imported, and no value is hashed or compared.

    Args:
        known: What stands for each (module, name): a function of ours, or a value. A function may
            take time and memory in proportion to its arguments, without what is nested in them.
        find_stored: What stands for a reference to data outside of the pickle.
    """

    def __init__(
        self,
        known: Mapping[tuple[str, str], Any],
        find_stored: Callable[[Any], Any] | None = None,
    ) -> None:
        self._known, self._find_stored = known, find_stored
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}
        self._left = MAX_BYTES

    def read(self, data: bytes) -> Any:
        """Returns the value.

        Raises:
            NameRefused: a name that is not known.
            UnpicklingError: too long, or an opcode that no plain value needs.
            LookupError, TypeError, ValueError: damaged.
        """
        if len(data) > MAX_BYTES:
            raise pickle.UnpicklingError(f'it is larger than {MAX_BYTES} bytes')
        for number, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if number > MAX_OPCODES:
                raise pickle.UnpicklingError(f'it has more than {MAX_OPCODES} parts')
            if opcode.name in _LITERALS:
                self._stack.append(_literal(argument))
            elif opcode.name in _CONSTANTS:
                self._stack.append(_CONSTANTS[opcode.name])
            elif not (
                self._move(opcode.name, argument)
                or self._gather(opcode.name)
                or self._call(opcode.name, argument)
            ):
                raise pickle.UnpicklingError(f'no plain value needs {opcode.name}')
        return self._stack.pop()

    def _move(self, name: str, argument: Any) -> bool:
        """Returns whether the opcode was one that moves values, and has done so."""
        match name:
            case 'PROTO' | 'FRAME' | 'STOP':
                pass
            case 'MARK':
                self._marks.append(len(self._stack))
            case 'BINPUT' | 'LONG_BINPUT' | 'PUT':
                self._memo[argument] = self._stack[-1]
            case 'MEMOIZE':
                self._memo[len(self._memo)] = self._stack[-1]
            case 'BINGET' | 'LONG_BINGET' | 'GET':
                self._stack.append(self._memo[argument])
            case 'POP' if self._marks and self._marks[-1] == len(self._stack):
                self._marks.pop()
            case 'POP':
                self._stack.pop()
            case 'POP_MARK':
                self._take_marked()
            case 'DUP':
                self._stack.append(self._stack[-1])
            case _:
                return False
        return True

    def _gather(self, name: str) -> bool:
        """Returns whether the opcode was one that gathers values, and has done so."""
        match name:
            case 'EMPTY_LIST':
                self._stack.append([])
            case 'EMPTY_DICT':
                self._stack.append({})
            case 'TUPLE' | 'LIST':
                values = self._take_marked()
                self._stack.append(values if name == 'LIST' else tuple(values))
            case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
                self._stack.append(tuple(self._take(_LENGTHS[name])))
            case 'DICT':
                values = self._take_marked()
                self._stack.append({})
                self._set_items(values)
            case 'APPEND' | 'APPENDS':
                values = self._take(1) if name == 'APPEND' else self._take_marked()
                self._target(list).extend(values)
            case 'SETITEM' | 'SETITEMS':
                self._set_items(self._take(2) if name == 'SETITEM' else self._take_marked())
            case _:
                return False
        return True

    def _call(self, name: str, argument: Any) -> bool:
        """Returns whether the opcode was one that names or calls something, and has done so."""
        match name:
            case 'GLOBAL':
                self._stack.append(self._find(*argument.split(' ', 1)))
            case 'STACK_GLOBAL':
                self._stack.append(self._find(*self._take(2)))
            case 'REDUCE' | 'NEWOBJ':
                function, arguments = self._take(2)
                if not isinstance(arguments, tuple) or not callable(function):
                    raise pickle.UnpicklingError('it calls something that is no function')
                self._spend(arguments)
                self._stack.append(function(*arguments))
            case 'BUILD':
                (state,) = self._take(1)
                self._spend(state)
                if not isinstance(self._stack[-1], dict):  # whose attributes are of no use here
                    self._target(Reference).set_state(state)
            case 'BINPERSID' if self._find_stored is not None:
                self._stack.append(self._find_stored(self._stack.pop()))
            case _:
                return False
        return True

    def _find(self, module: Any, name: Any) -> Any:
        if not isinstance(module, str) or not isinstance(name, str):
            raise pickle.UnpicklingError('it calls something that has no name')
        if (module, name) not in self._known:
            raise NameRefused(f'{module}.{name}')
        return self._known[module, name]

    def _spend(self, values: Any) -> None:
        """Counts what a function is given: one pattern that is copied again and again would fill the memory."""
        for value in values if isinstance(values, tuple) else ():
            self._left -= len(value) if isinstance(value, (str, bytes, list, tuple)) else 1
        if self._left < 0:
            raise pickle.UnpicklingError('it makes more out of its values than it holds')

    def _take(self, number: int) -> list[Any]:
        if len(self._stack) < number:
            raise IndexError('a value is missing')
        values = self._stack[-number:]
        del self._stack[-number:]
        return values

    def _take_marked(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _target(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise pickle.UnpicklingError(f'it changes a value that is no {kind.__name__}')
        return self._stack[-1]

    def _set_items(self, values: list[Any]) -> None:
        """Sets keys, which must be of a kind whose hash is taken at once and cannot be chosen."""
        target = self._target(dict)
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int)):
                raise pickle.UnpicklingError(f'a key is a {type(key).__name__}, not a name')
            target[key] = value


def _literal(value: Any) -> Any:
    if isinstance(value, int) and abs(value) >= MAX_NUMBER:
        raise pickle.UnpicklingError('it holds a number of more than 64 bits')
    return value


def plain_values(value: Any, resolve: Callable[[Reference], Any]) -> Any:
    """Returns the value with what stands for other things resolved, and nothing shared unfolded.

    Raises:
        ValueError: nested too deep, or too many values.
        TypeError: something that is no plain value.
    """
    left = MAX_VALUES

    def plain(item: Any, depth: int) -> Any:
        nonlocal left
        left -= 1
        if depth > MAX_DEPTH or left < 0:
            raise ValueError('it is nested too deep')
        if isinstance(item, Reference):
            return resolve(item)
        if isinstance(item, dict):
            return {key: plain(held, depth + 1) for key, held in item.items()}
        if isinstance(item, (list, tuple)):
            return type(item)(plain(held, depth + 1) for held in item)
        if item is None or isinstance(item, (bool, int, float, complex, str, bytes)):
            return item
        raise TypeError('it holds something that is no plain value')

    return plain(value, 0)
