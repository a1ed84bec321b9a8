"""Frames from an EPICS areaDetector over pvAccess."""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from functools import partial
from typing import Any

import numpy

from .sources import POLL_S, Sink, SourceError

__all__ = ['PvaSource']

logger = logging.getLogger(__name__)

QUEUE = 4096
"""Updates that may wait here; pvAccess itself drops what comes when its queue is full."""

Y_NAME, X_NAME = 'y_px', 'x_px'


class PvaSource:
    """An NTNDArray, whose `uniqueId` is the number of the frame, and its positions.

    Positions come as attributes `y_px` and `x_px` of the frames, or from a PV of its own, an array of
    numbers: id, y, x, id, y, x and so on, in object pixels. It ends when it is told to stop.

    Args:
        frames: Name of the PV of the frames.
        positions: Name of that of the positions, or nothing.

    Raises:
        SourceError: p4p is not installed.
    """

    def __init__(self, frames: str, positions: str = '') -> None:
        self.frames, self.positions = frames, positions
        self.num_bad = 0
        try:
            import p4p  # noqa: F401
        except ImportError as error:
            raise SourceError(
                f"{frames}: needs p4p: pip install 'ptychodus-pinn-torch[epics]'"
            ) from error

    def run(self, sink: Sink, stopping: threading.Event) -> None:
        """Feeds updates; a PV that is not there yet is waited for."""
        from p4p.client.thread import Context

        updates: queue.Queue[tuple[str, Any]] = queue.Queue(QUEUE)
        request = f'record[queueSize={QUEUE}]field()'

        def keep(kind: str, value: Any) -> None:
            while not stopping.is_set():  # a queue that is full must not hold up the end
                with contextlib.suppress(queue.Full):
                    updates.put((kind, value), timeout=POLL_S)
                    return

        with Context('pva') as context:
            subscriptions = [
                context.monitor(name, partial(keep, kind), request)
                for kind, name in (('frames', self.frames), ('positions', self.positions))
                if name
            ]
            try:
                while not stopping.is_set():
                    try:
                        kind, value = updates.get(timeout=POLL_S)
                    except queue.Empty:
                        continue
                    self._take(kind, value, sink)
            finally:
                for subscription in subscriptions:
                    subscription.close()

    def _take(self, kind: str, value: Any, sink: Sink) -> None:
        try:
            if kind == 'positions':
                records = numpy.asarray(value, dtype=float).reshape(-1, 3)
                if len(records):
                    sink.append_positions(records[:, 0].astype(numpy.int64), records[:, 1:])
                return
            frame = numpy.asarray(value)
            if not frame.size:
                return  # what a PV shows before its first frame
            number = numpy.asarray([int(value.raw.uniqueId)])
            sink.append(number, frame.reshape(-1, *frame.shape[-2:])[:1])
            known = dict(getattr(value, 'attrib', {}) or {})
            if Y_NAME in known and X_NAME in known:
                sink.append_positions(number, [[float(known[Y_NAME]), float(known[X_NAME])]])
        except (ValueError, TypeError, AttributeError) as error:
            self.num_bad += 1
            logger.warning('%s: an update is left out: %s', getattr(self, kind), error)
