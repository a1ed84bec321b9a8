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
"""Updates that may wait here; pvAccess itself drops what comes when its queue is full. That shows in the
numbers of the frames."""

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
        self._first, self._last = 0, -1
        self._heard: set[int] = set()  # a server that comes back sends its last frame again
        try:
            import p4p  # noqa: F401
        except ImportError as error:
            raise SourceError(
                f"{frames}: needs p4p: pip install 'ptychodus-pinn-torch[epics]'"
            ) from error

    @property
    def num_missing(self) -> int:
        """Frames whose numbers are between those that have come, and have not."""
        return self._last - self._first + 1 - len(self._heard)

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
                if self.num_missing > 0:
                    logger.warning(
                        '%s: %d frames with numbers from %d to %d have not come: the detector has '
                        'not sent them, or they were dropped on the way, since they came too fast.',
                        *(self.frames, self.num_missing, self._first, self._last),
                    )

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
            self._note(int(number[0]))
            sink.append(number, frame.reshape(-1, *frame.shape[-2:])[:1])
            known = dict(getattr(value, 'attrib', {}) or {})
            if Y_NAME in known and X_NAME in known:
                sink.append_positions(number, [[float(known[Y_NAME]), float(known[X_NAME])]])
        except (ValueError, TypeError, AttributeError) as error:
            self.num_bad += 1
            logger.warning('%s: an update is left out: %s', getattr(self, kind), error)

    def _note(self, number: int) -> None:
        """Takes notice of the number of a frame, and says when the first ones are missing."""
        if not self._heard:
            self._first, self._last = number, number - 1
        elif number > self._last + 1 and self.num_missing == 0:
            logger.warning(
                '%s: after frame %d comes %d: those between are missing; what is missing is counted.',
                *(self.frames, self._last, number),
            )
        self._first, self._last = min(self._first, number), max(self._last, number)
        self._heard.add(number)
