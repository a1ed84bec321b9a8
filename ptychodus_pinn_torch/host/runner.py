"""Runs the worker process and never waits for one that is dead."""

from __future__ import annotations

import collections
import contextlib
import json
import logging
import multiprocessing.spawn
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, Self

from .payload import ReconstructPayload, TrainPayload, encode_payload

__all__ = ['Message', 'Worker', 'WorkerError']

logger = logging.getLogger(__name__)

TICK_S = 0.25
SILENCE_LIMIT_S = 300.0
EXIT_GRACE_S = 5.0
STOP_GRACE_S = 1.0
TERMINATE_GRACE_S = 0.2
LAST_WORDS_S = 1.0

Message = dict[str, Any]
_END: Message = {'tag': 'end'}
_TICK: Message = {'tag': 'tick'}

_BOOTSTRAP = """
import json, os, sys
control = open(os.dup(0), 'rb')
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
sys.path[:] = json.loads(control.readline())
from ptychodus_pinn_torch.host.worker import main
sys.exit(main(control))
"""
"""A fresh interpreter, so nothing of the parent's `__main__` is imported a second time."""

_SENTENCES = {'ConfigError', 'FileNotFoundError', 'KeyError', 'RuntimeError', 'ValueError'}
_SILENCE = (
    f'The worker process has not answered for {SILENCE_LIMIT_S:.0f} s and was ended: the device '
    'may be hung or the machine out of memory. Try again.'
)
_MEMORY_ADVICE = 'lower the option memory_MB, use fewer patterns, or close other programs'


class WorkerError(RuntimeError):
    """The worker process failed; the message is one sentence, the cause its traceback."""


class RemoteTraceback(Exception):  # noqa: N818 - the traceback of an error, not one itself
    """Where in the worker process it happened."""


class Worker:
    """A process that runs an engine on a payload. Leaving the context ends it and its children."""

    def __init__(self, payload: TrainPayload | ReconstructPayload) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._last_words: collections.deque[str] = collections.deque(maxlen=20)
        level = logging.getLogger('ptychodus_pinn_torch').getEffectiveLevel()
        words = encode_payload(level, payload)
        is_posix = os.name == 'posix'
        self._process = subprocess.Popen(
            [multiprocessing.spawn.get_executable(), '-c', _BOOTSTRAP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=is_posix,
            creationflags=0 if is_posix else getattr(subprocess, 'CREATE_NEW_PROCESS_GROUP', 0),
        )
        self._start_thread(self._receive, self._process.stdout)
        self._stderr_reader = self._start_thread(self._keep_last_words, self._process.stderr)
        self._tell(json.dumps([str(path) for path in sys.path]).encode() + b'\n')
        self._tell(words)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_group(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(TERMINATE_GRACE_S)
        self._kill_group(getattr(signal, 'SIGKILL', signal.SIGTERM))
        self._process.wait()
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()

    def messages(self) -> Iterator[Message]:
        """Yields the messages of the worker, and a tick now and then without one, until it ends.

        Raises:
            WorkerError: the worker raised, was killed, crashed, or fell silent.
        """
        heard_s = time.monotonic()
        has_result = False
        while (message := self._next_message()) is not _END:
            now_s = time.monotonic()
            if message is _TICK:
                if has_result and now_s - heard_s > EXIT_GRACE_S:
                    return
                if now_s - heard_s > SILENCE_LIMIT_S:
                    raise WorkerError(_SILENCE)
            elif not (has_result and message['tag'] == 'beat'):
                heard_s = now_s
            has_result |= message['tag'] in {'trained', 'reconstructed', 'stopped'}
            self._handle(message)
            yield message
        if not has_result:
            raise WorkerError(self._explain_end())

    def _next_message(self) -> Message:
        """Returns the next message, a tick without one, or the end.

        A process that is dead ends it even where a grandchild still holds its pipe open.
        """
        is_dead = self._process.poll() is not None
        try:
            return self._messages.get(timeout=TICK_S)
        except queue.Empty:
            return _END if is_dead else _TICK

    def stop(self) -> list[Message]:
        """Asks the worker to stop; returns what it still says within the grace period."""
        self._tell(b'stop\n')
        end_s = time.monotonic() + STOP_GRACE_S
        late: list[Message] = []
        while (left_s := end_s - time.monotonic()) > 0:
            try:
                message = self._messages.get(timeout=left_s)
            except queue.Empty:
                break
            if message is _END:
                break
            if message['tag'] != 'error':
                self._handle(message)
            late.append(message)
        return late

    @staticmethod
    def _handle(message: Message) -> None:
        """Logs what the worker logs, and raises what it raises."""
        if message['tag'] == 'log':
            logging.getLogger(message['name']).log(message['level'], '%s', message['message'])
        elif message['tag'] == 'error':
            raise WorkerError(_explain_error(message)) from RemoteTraceback(
                '\n' + message['traceback']
            )

    def _explain_end(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1.0)
        self._stderr_reader.join(LAST_WORDS_S)  # what a dead worker said may not be read yet
        status = self._process.returncode
        words = ' Its last words: ' + ' | '.join(self._last_words) if self._last_words else ''
        if status == -getattr(signal, 'SIGKILL', 9):
            return (
                'The worker process was killed, most often because memory ran out: '
                f'{_MEMORY_ADVICE}, and try again.{words}'
            )
        if status is not None and status < 0:
            name = signal.Signals(-status).name
            return f'The worker process crashed ({name}); Ptychodus is unharmed: try again.{words}'
        return f'The worker process ended without a result (exit status {status}).{words}'

    @staticmethod
    def _start_thread(target: Callable[[IO[bytes]], None], stream: Any) -> threading.Thread:
        thread = threading.Thread(target=target, args=(stream,), daemon=True)
        thread.start()
        return thread

    def _receive(self, stream: IO[bytes]) -> None:
        """Reads messages until the pipe ends; a line that a killed worker cut short is none."""
        with stream:
            for line in stream:
                with contextlib.suppress(ValueError):
                    self._messages.put(json.loads(line))
        self._messages.put(_END)

    def _keep_last_words(self, stream: IO[bytes]) -> None:
        with stream:
            while chunk := stream.readline(4096):
                if text := chunk.decode(errors='replace').strip():
                    self._last_words.append(text[:200])

    def _tell(self, words: bytes) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # a dead worker is noticed by `messages`
            self._process.stdin.write(words)
            self._process.stdin.flush()

    def _kill_group(self, signal_number: int) -> None:
        """Ends the worker and what it started, also when the worker itself has gone already."""
        pid = self._process.pid
        if os.name == 'posix':
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal_number)
        elif self._process.poll() is None:
            command = ['taskkill', '/F', '/T', '/PID', str(pid)]
            subprocess.run(command, capture_output=True, check=False)


def _explain_error(message: Message) -> str:
    kind, text = message['kind'], message['message'].strip()
    if kind in {'MemoryError', 'OutOfMemoryError'} or 'out of memory' in text.lower():
        return f'Memory ran out: {_MEMORY_ADVICE}. ({text.splitlines()[0] if text else kind})'
    return text if kind in _SENTENCES and text else f'{kind}: {text}'
