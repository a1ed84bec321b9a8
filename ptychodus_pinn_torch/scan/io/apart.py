"""Reading in a process of its own, where a damaged file may crash the library, or never end it."""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy
from numpy.typing import NDArray

from .npz import DAMAGE, damage_named
from .pattern_store import check_room
from .raw import StoredPatterns

__all__ = ['read_apart']

SILENCE_S = 10.0
"""A file from which nothing has come for so long will not be read any more."""

MEMORY = 3 * 2**29
"""Bytes that reading may take more than the process has: 1.5 GB."""

ALIGNMENT = 64
"""Bytes of which arrays start at a multiple."""


def read_apart(path: Path, read: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
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
            return {name: _load(value) for name, value in read().items()}
    # What is read goes through a file without a name, so that patterns are mapped where they lie.
    with tempfile.TemporaryFile(prefix='ptychodus-pinn-', buffering=0) as shared:
        ends, held = os.pipe()
        process = os.fork()
        if not process:
            _serve(path, read, shared)
        os.close(held)  # the other process has it until it ends
        is_silent = True
        try:
            is_silent = not _wait(ends, shared.fileno())
        finally:
            os.close(ends)
            if is_silent:
                os.kill(process, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        if is_silent:
            raise ValueError(
                f'{path} cannot be read: for {SILENCE_S:.0f} s nothing has come from it: it is '
                'damaged, or its disk does not answer.'
            )
        if status:
            name = signal.Signals(-status).name if status < 0 else f'exit status {status}'
            raise ValueError(
                f'{path} cannot be read: the library that reads it crashed ({name}): copy or '
                'export it again.'
            )
        return _take(shared)


def _load(value: Any) -> Any:
    return value.load() if isinstance(value, StoredPatterns) else value


def _wait(ends: int, shared: int) -> bool:
    """Returns whether the other process has ended; not, where it has written nothing for long."""
    size = -1
    while size < (size := os.fstat(shared).st_size):
        if select.select([ends], [], [], SILENCE_S)[0]:
            return True
    return False


# -- the process that reads: arrays, then how they are named and what was logged, then its length


class _Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[tuple[str, int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a record."""
        self.records.append((record.name, record.levelno, record.getMessage()))


def _serve(path: Path, read: Callable[[], Mapping[str, Any]], shared: Any) -> NoReturn:
    """Writes what is read, and ends the process."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _limit_memory()
        keeper = _Keeper()
        for logger in (logging.getLogger('ptychodus_pinn_torch'), logging.getLogger('ptychodus')):
            logger.handlers, logger.propagate = [keeper], False
        try:
            with damage_named(path):
                words = json.dumps([dict(read()), keeper.records], default=_writer(shared))
        except OSError as error:
            told = error.errno, error.strerror or str(error), str(error.filename or path)
            words = json.dumps({'os': told})
        except DAMAGE as error:
            words = json.dumps({'error': str(error)})
        if words[0] == '{':
            shared.truncate(0)  # a full disk has room again
            shared.seek(0)
        shared.write(words.encode() + len(words.encode()).to_bytes(8, 'little'))
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


def _writer(shared: Any) -> Callable[[Any], Any]:
    """Returns what makes JSON of values that are none; arrays are written to the file."""

    def keep(dtype: numpy.dtype[Any], shape: Any, blocks: Iterable[NDArray[Any]]) -> list[Any]:
        offset = -(-shared.tell() // ALIGNMENT) * ALIGNMENT
        check_room(math.prod(shape) * dtype.itemsize)
        shared.seek(offset)
        for block in blocks:
            data = numpy.ascontiguousarray(block, dtype).data.cast('B') if block.size else b''
            while data := data[shared.write(data) :]:
                pass
        return [dtype.str, list(shape), offset]

    def encode(value: Any) -> Any:
        if isinstance(value, numpy.ndarray):
            return {'#array': keep(value.dtype, value.shape, [value])}
        if isinstance(value, StoredPatterns):
            place = None if value.place is None else [str(value.place[0]), value.place[1]]
            blocks = value.blocks() if place is None else ()
            return {
                '#stored': [*keep(value.dtype, value.shape, blocks), place, value.is_transposed]
            }
        if isinstance(value, Mapping):
            return dict(value)
        return value.item() if isinstance(value, numpy.generic) else {'#path': str(value)}

    return encode


# -- the process that waits


def _take(shared: Any) -> dict[str, Any]:
    shared.seek(-8, os.SEEK_END)
    length = int.from_bytes(shared.read(8), 'little')
    shared.seek(-8 - length, os.SEEK_END)

    def decode(found: dict[str, Any]) -> Any:
        if '#path' in found:
            return Path(found['#path'])
        if '#array' in found:
            dtype, shape, offset = found['#array']
            shared.seek(offset)
            return numpy.fromfile(shared, dtype, math.prod(shape)).reshape(shape)
        if '#stored' in found:
            dtype, shape, offset, place, is_transposed = found['#stored']
            where = (shared, offset) if place is None else (Path(place[0]), place[1])
            return StoredPatterns(
                tuple(shape), numpy.dtype(dtype), tuple, where, is_transposed
            ).load()
        return found

    told = json.loads(shared.read(length), object_hook=decode)
    if isinstance(told, list):
        for name, level, text in told[1]:
            logging.getLogger(name).log(level, '%s', text)
        return {
            key: tuple(item) if isinstance(item, list) else item for key, item in told[0].items()
        }
    if 'error' in told:
        raise ValueError(told['error'])
    number, text, name = told['os']
    raise OSError(number, text, name) if number else ValueError(f'{name}: {text}.')
