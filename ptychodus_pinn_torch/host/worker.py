"""The worker process: runs an engine, tells its parent how it goes, dies with its parent."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy

from ..backend import EpochReport, Reconstruction, ReconstructRequest, TrainRequest
from .payload import ReconstructPayload, TrainPayload, decode_payload, read_scan_files

__all__ = ['Channel', 'main']

HEARTBEAT_S = 1.0
REPORT_PERIOD_S = 0.2
STOP_WORD = b'stop\n'

_PACKAGE = __name__.partition('.')[0]


class Channel:
    """Sends messages to the parent, one line of JSON each, from any thread."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def send(self, tag: str, **content: Any) -> None:
        """Sends one message; a parent that is gone is noticed elsewhere."""
        line = json.dumps({'tag': tag, **content}, default=_to_json).encode() + b'\n'
        with self._lock, contextlib.suppress(OSError):
            self._stream.write(line)
            self._stream.flush()


def _to_json(value: Any) -> Any:
    if isinstance(value, numpy.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f'a {type(value).__name__} cannot be sent to Ptychodus')


class ChannelHandler(logging.Handler):
    """Sends log records to the parent: ours as they are, those of others from WARNING on."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        is_ours = record.name.partition('.')[0] == _PACKAGE
        if not is_ours and record.levelno < logging.WARNING:
            return
        message = self.format(record) if is_ours else f'{record.name}: {self.format(record)}'
        name = record.name if is_ours else __name__
        self._channel.send('log', level=record.levelno, name=name, message=message)


def _listen(control: IO[bytes], is_stopping: threading.Event, folder: Path) -> None:
    """Waits for the word to stop, and dies with the parent, whose end closes the pipe."""
    for line in control:
        if line == STOP_WORD:
            is_stopping.set()
    shutil.rmtree(folder, ignore_errors=True)
    if hasattr(os, 'killpg') and os.getpgid(0) == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)


def _beat(channel: Channel) -> None:
    while True:
        channel.send('beat')
        time.sleep(HEARTBEAT_S)


def _start_thread(target: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=target, args=arguments, daemon=True).start()


class Reporter:
    """Passes on the reports of the engine, not more of them than a person can follow."""

    def __init__(self, channel: Channel, is_stopping: threading.Event) -> None:
        self._channel = channel
        self._is_stopping = is_stopping
        self._last_s = 0.0

    def __call__(self, report: EpochReport) -> None:
        """Sends a report.

        Raises:
            KeyboardInterrupt: the user pressed Stop.
        """
        now_s = time.monotonic()
        is_due = now_s - self._last_s >= REPORT_PERIOD_S
        if is_due or report.is_epoch_end or report.message or report.step >= report.total:
            self._last_s = now_s
            self._channel.send('report', report=asdict(report))
        if self._is_stopping.is_set():
            raise KeyboardInterrupt


def find_procedure(payload: TrainPayload | ReconstructPayload, module: str, name: str) -> Any:
    """Returns a procedure of this package, or that of another engine, which the payload names."""
    if not payload.engine:
        return getattr(importlib.import_module(module, _PACKAGE), name)
    module, _, attribute = payload.engine.partition(':')
    return getattr(getattr(importlib.import_module(module), attribute)(), name)


def _train(payload: TrainPayload, channel: Channel, report: Reporter) -> None:
    from ..scan.io.reading import read_scan

    train = find_procedure(payload, '.training.run', 'train')
    request = TrainRequest(
        scans=tuple(read_scan(path) for path in payload.inputs),
        validation=tuple(read_scan(path) for path in payload.validation),
        config=payload.config,
        output=payload.output,
        backend=payload.backend,
    )
    channel.send('trained', path=train(request, report))


def _reconstruct(payload: ReconstructPayload, channel: Channel, report: Reporter) -> None:
    """Leaves the arrays in the folder and sends the rest."""
    scan = read_scan_files(payload.scan)
    reconstruct = find_procedure(payload, '.reconstruction.procedure', 'reconstruct')
    request = ReconstructRequest(scan, payload.config, payload.model, payload.backend)
    result: Reconstruction = reconstruct(request, report)
    changed = {'positions': 'positions_px', 'probe': 'probe'}
    for name in ('object_', *(changed[what] for what in result.freed if what in changed)):
        array = getattr(result, name)
        numpy.save(payload.folder / f'result_{name}.npy', array, allow_pickle=False)
    if 'probe' in result.freed and result.probe_variation is not None:
        for name in ('modes', 'weights'):
            array = getattr(result.probe_variation, name)
            numpy.save(payload.folder / f'result_variation_{name}.npy', array, allow_pickle=False)
    told = ('losses', 'seconds', 'start', 'messages', 'backend')
    comment = '' if result.trust is None else result.trust.summary(without=scan.name)
    channel.send('reconstructed', comment=comment, **{name: getattr(result, name) for name in told})


def _send_error(error: BaseException, channel: Channel) -> None:
    channel.send(
        'error',
        kind=type(error).__name__,
        message=str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error),
        traceback=''.join(traceback.format_exception(error)),
    )


def _separate_output() -> IO[bytes]:
    """Returns a stream to the parent; whatever is printed from now on goes to standard error."""
    stream = os.fdopen(os.dup(1), 'wb')
    os.dup2(2, 1)
    return stream


def main(control: IO[bytes]) -> int:
    """Returns the exit status of a run whose payload is read from `control`."""
    channel = Channel(_separate_output())
    faulthandler.enable()
    _start_thread(_beat, channel)
    level, payload = decode_payload(control.readline())
    is_stopping = threading.Event()
    _start_thread(_listen, control, is_stopping, payload.folder)
    tempfile.tempdir = str(payload.folder)  # the parent removes it, however this ends
    logging.basicConfig(
        level=logging.WARNING, format='%(message)s', handlers=[ChannelHandler(channel)]
    )
    logging.getLogger(_PACKAGE).setLevel(level)
    reporter = Reporter(channel, is_stopping)
    try:
        if isinstance(payload, TrainPayload):
            _train(payload, channel, reporter)
        else:
            _reconstruct(payload, channel, reporter)
    except KeyboardInterrupt:
        channel.send('stopped')
    except BaseException as error:  # noqa: BLE001 - the parent raises it
        _send_error(error, channel)
        return 1
    finally:
        sys.stderr.flush()
    return 0
