"""Reading in a process of its own, where a damaged file may crash the library, or never end it."""

from __future__ import annotations

import io
import json
import logging
import math
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .npz import DAMAGE, damage_named
from .raw import StoredPatterns

__all__ = ['read_apart']

SILENCE_S = 15.0
"""A file from which nothing has come for so long will not be read any more."""

MEMORY = 3 * 2**29
"""Bytes that reading may take more than the process has: 1.5 GB."""

Tree = dict[str, Any]


def read_apart(path: Path, read: Callable[[], Mapping[str, Any]]) -> Tree:
    """Returns what `read` does: values by name, arrays, paths and `StoredPatterns` among them.

    On Linux it runs in a copy of this process, with a limit of memory, so that nothing that the
    libraries do with a damaged file harms this one; elsewhere it runs here. Stored patterns come
    back loaded.

    Raises:
        ValueError: it failed, crashed, or fell silent; names the file.
        OSError: the file cannot be opened.
    """
    if sys.platform != 'linux':
        with damage_named(path):
            found = dict(read())
        return {
            name: value.load() if isinstance(value, StoredPatterns) else value
            for name, value in found.items()
        }
    receiving, sending = os.pipe()
    process = os.fork()
    if not process:
        os.close(receiving)
        _serve(path, read, sending)
    os.close(sending)
    try:
        with open(receiving, 'rb', buffering=0) as pipe:
            return _receive(path, pipe)
    except EOFError:
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        process = 0
        raise ValueError(
            f'{path} cannot be read: the library that reads it crashed ({_name(status)}): copy or '
            'export it again.'
        ) from None
    finally:
        if process:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


def _name(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f'exit status {status}'


# -- the process that reads


def _serve(path: Path, read: Callable[[], Mapping[str, Any]], sending: int) -> None:
    """Sends what is read, and ends the process."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _limit_memory()
        with open(sending, 'wb') as pipe:
            _send(path, read, pipe)
        status = 0
    except BaseException:  # noqa: BLE001 - nothing of this process may go on
        pass
    finally:
        os._exit(status)


def _limit_memory() -> None:
    import resource

    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        self.records.append((record.name, record.levelno, record.getMessage()))


def _send(path: Path, read: Callable[[], Mapping[str, Any]], pipe: Any) -> None:
    keeper = _Keeper()
    for logger in (logging.getLogger('ptychodus_pinn_torch'), logging.getLogger('ptychodus')):
        logger.handlers, logger.propagate = [keeper], False
    arrays: list[NDArray[Any]] = []
    stored: StoredPatterns | None = None
    header: Tree
    try:
        with damage_named(path):
            found = dict(read())
        tree: Tree = {}
        for name, value in found.items():
            if isinstance(value, StoredPatterns):
                stored = value
                place = None if value.place is None else [str(value.place[0]), value.place[1]]
                told: list[Any] = [list(value.shape), value.dtype.str, place, value.is_transposed]
                tree[name] = {'stored': told}
            else:
                tree[name] = _encode(value, arrays)
        header = {'tree': tree, 'log': keeper.records}
    except OSError as error:
        header = {'os': [error.errno, error.strerror or str(error), str(error.filename or path)]}
    except DAMAGE as error:
        header = {'error': str(error)}
    shapes = [[array.dtype.str, list(array.shape)] for array in arrays]
    words = json.dumps({**header, 'arrays': shapes}).encode()
    pipe.write(len(words).to_bytes(8, 'little') + words)
    for array in arrays:
        pipe.write(numpy.ascontiguousarray(array).data.cast('B') if array.size else b'')
    if stored is not None and stored.place is None:
        _send_blocks(path, stored, pipe)


def _send_blocks(path: Path, stored: StoredPatterns, pipe: Any) -> None:
    """Sends patterns block by block, each after its length; an error instead of one ends it."""
    try:
        with damage_named(path):
            for block in stored.blocks():
                data = numpy.ascontiguousarray(block, dtype=stored.dtype).data.cast('B')
                pipe.write(len(data).to_bytes(8, 'little', signed=True))
                pipe.write(data)
    except DAMAGE as error:
        text = str(error).encode()
        pipe.write((-len(text)).to_bytes(8, 'little', signed=True) + text)


def _encode(value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, numpy.ndarray):
        arrays.append(value)
        return {'array': len(arrays) - 1}
    if isinstance(value, Path):
        return {'path': str(value)}
    if isinstance(value, Mapping):
        return {'map': {str(name): _encode(item, arrays) for name, item in value.items()}}
    if isinstance(value, numpy.generic):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


# -- the process that waits


def _receive(path: Path, pipe: io.FileIO) -> Tree:
    length = int.from_bytes(_read(path, pipe, 8), 'little')
    header = json.loads(_read(path, pipe, length))
    if 'error' in header:
        raise ValueError(header['error'])
    if 'os' in header:
        number, text, name = header['os']
        raise OSError(number, text, name) if number else ValueError(f'{name}: {text}.')
    for name, level, text in header['log']:
        logging.getLogger(name).log(level, '%s', text)
    arrays = []
    for dtype, shape in header['arrays']:
        data = _read(path, pipe, math.prod(shape) * numpy.dtype(dtype).itemsize)
        arrays.append(numpy.frombuffer(data, dtype).reshape(shape))
    return {name: _decode(path, pipe, value, arrays) for name, value in header['tree'].items()}


def _decode(path: Path, pipe: io.FileIO, value: Any, arrays: list[NDArray[Any]]) -> Any:
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, dict):
        return value
    ((kind, told),) = value.items()
    if kind == 'array':
        return arrays[told]
    if kind == 'path':
        return Path(told)
    if kind == 'map':
        return {name: _decode(path, pipe, item, arrays) for name, item in told.items()}
    shape, code, place, is_transposed = told
    dtype = numpy.dtype(code)
    at = None if place is None else (Path(place[0]), int(place[1]))
    blocks = lambda: _read_blocks(path, pipe, tuple(shape), dtype)  # noqa: E731
    return StoredPatterns(tuple(shape), dtype, blocks, at, is_transposed).load()


def _read_blocks(
    path: Path, pipe: io.FileIO, shape: tuple[int, ...], dtype: numpy.dtype[Any]
) -> Iterator[NDArray[Any]]:
    left = math.prod(shape) * dtype.itemsize
    while left:
        length = int.from_bytes(_read(path, pipe, 8), 'little', signed=True)
        if length <= 0:
            raise ValueError(_read(path, pipe, -length).decode())
        left -= length
        yield numpy.frombuffer(_read(path, pipe, length), dtype)


def _read(path: Path, pipe: io.FileIO, length: int) -> bytearray:
    """Returns so many bytes."""
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        _wait(path, pipe)
        got = pipe.readinto(view[done : done + 2**20])
        if not got:
            raise EOFError
        done += got
    return data


def _wait(path: Path, pipe: io.FileIO) -> None:
    if not select.select([pipe], [], [], SILENCE_S)[0]:
        raise ValueError(
            f'{path} cannot be read: for {SILENCE_S:.0f} s nothing has come from it: it is damaged, or '
            'its disk does not answer.'
        )
