"""The image of a scan while it is measured: frames and positions in, an image at any time."""

from __future__ import annotations

import logging
import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy
from numpy.typing import ArrayLike, NDArray

from ..backend import Reconstruction, ReconstructRequest, Report, ignore_report, resolve_backend
from ..config import Config, override_config, refuse_without_effect
from ..scan.io.build import build_scan
from ..scan.io.pattern_store import stage_blocks
from ..scan.io.raw import RawScan
from ..scan.scan import Scan
from .arrivals import check_frames, check_positions, check_type
from .frame_store import FrameStore, JournalError
from .joiner import Joined, Joiner
from .live_image import LiveImage, LiveStatus
from .reach import Reach, find_near
from .setup import Setup, begin_journal, is_journal, open_journal

if TYPE_CHECKING:
    from .paced_image import PacedImage

__all__ = ['LiveReconstruction']

logger = logging.getLogger(__name__)

FIRST_FRAMES, FIRST_WAIT_S = 16, 0.5
"""The image begins with so many frames, or with what has come when the first has waited so long."""

IDLE_S = 0.02


class LiveReconstruction:
    """Makes an image of frames while they arrive, in any order and pieces, and loses none.

    Frames and positions are joined by number. Every frame is written into a journal on disk before
    `append` returns, so that memory does not grow, and a run that was killed is taken up by
    `resume`. A thread lays what the network makes of new surroundings under the image and lets the
    solver step over the frames; `finish` makes the image of the whole procedure, the same as that
    of the file would be.

    Args:
        probe: (P, H, W) or (H, W) complex.
        bad_pixels: (H, W), True where the detector cannot be trusted.
        pixel_size_m: (y, x) of the object, or None.
        folder: Of the journal, which is kept; without it, one that goes with the object.
        model: A model archive; the shipped model by default.
        config: A whole configuration; `options` go on top, as those of `reconstruct`.
        options: `{'section.name': value}`.
        backend: `pytorch` or `tensorflow`.

    Raises:
        ValueError: a probe or a mask that makes no sense, or an option.
        JournalError: a folder with a journal in it.

    Examples:
        >>> import numpy, ptychodus_pinn_torch as pinn
        >>> scan = pinn.simulate(pattern_size=32, num_positions=64, step_px=3.0)
        >>> ids = numpy.arange(64)
        >>> with pinn.LiveReconstruction(scan.probe) as live:
        ...     live.append_positions(ids[::-1], scan.positions_px[::-1])
        ...     live.append(ids, scan.patterns)
        ...     image = live.finish()
        >>> live.status().joined, image.trust.verdict
        (64, 'right')
    """

    def __init__(
        self,
        probe: ArrayLike,
        *,
        bad_pixels: ArrayLike | None = None,
        pixel_size_m: tuple[float, float] | None = None,
        folder: Path | str | None = None,
        model: Path | str | None = None,
        config: Config | None = None,
        options: dict[str, Any] | None = None,
        backend: str | None = None,
    ) -> None:
        setup = Setup.of(probe, bad_pixels, pixel_size_m)
        if folder is not None and is_journal(Path(folder)):
            raise JournalError(
                f'{folder}: holds a journal already: resume it, or name another folder.'
            )
        self._begin(setup, folder, model, config, options, backend)

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        *,
        model: Path | str | None = None,
        config: Config | None = None,
        options: dict[str, Any] | None = None,
        backend: str | None = None,
    ) -> LiveReconstruction:
        """Returns the live reconstruction whose journal lies in a folder, with all that it had taken.

        Raises:
            JournalError: no journal that can be read.
        """
        setup, store = open_journal(Path(folder))
        live = cls.__new__(cls)
        live._begin(setup, folder, model, config, options, backend)
        live._store = store
        if store is not None:
            live._joiner.add_frames(store.frame_ids(), 0)
            live._joiner.add_positions(*check_positions(*store.positions()))
            live._start()
        return live

    def _begin(
        self,
        setup: Setup,
        folder: Path | str | None,
        model: Path | str | None,
        config: Config | None,
        options: dict[str, Any] | None,
        backend: str | None,
    ) -> None:
        given = options or {}
        self._backend = resolve_backend(backend)
        self._config = override_config(config or Config(), given, source='options')
        refuse_without_effect(
            self._config, command='reconstruct', backend=self._backend, given=given
        )
        self._model = None if model is None else Path(model)
        self._setup = setup
        self._folder = Path(
            tempfile.mkdtemp(prefix='ptychodus-pinn-') if folder is None else folder
        )
        self._remove_temporary: Callable[[], object] = lambda: None
        if folder is None:  # it goes with the object, or with the process
            self._remove_temporary = weakref.finalize(
                self, shutil.rmtree, self._folder, ignore_errors=True
            )
        self._store: FrameStore | None = None
        self._joiner, self._reach = Joiner(), Reach(setup.pattern_shape[0])
        self._lock = threading.Lock()
        self._arrived, self._stopping = threading.Event(), threading.Event()
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._snapshot: LiveImage | None = None
        self._seen, self._late, self._trouble = 0, 0, ''
        self._is_finished = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def probe(self) -> NDArray[numpy.complex64]:
        """The probe (P, H, W) as it was given."""
        return self._setup.probe

    def prepare(self) -> None:
        """Loads libraries and model; without it the first frames wait until that is done."""
        self._start()
        self._ready.wait()

    # -- what comes in

    def append(self, ids: ArrayLike, frames: NDArray[Any]) -> None:
        """Takes frames (n, H, W) by number (n,); they are in the journal when this returns.

        Frames with counts that are not finite are named and left out.

        Raises:
            ValueError: frames of another shape, that are not numbers, or negative.
            OSError: the disk is full; these frames are not taken.
        """
        numbers, frames = check_frames(ids, frames, self._setup.pattern_shape)
        with self._lock:
            if self._is_finished:
                self._late += len(numbers)
                return
            is_new = self._joiner.new_frames(numbers)
            if not is_new.any():
                return
            store = self._open_store()
            check_type(frames, store.dtype)
            first = store.num_frames
            store.append(numbers[is_new], frames[is_new])
            self._joiner.add_frames(numbers[is_new], first)
        self._start()

    def append_positions(self, ids: ArrayLike, positions: ArrayLike) -> None:
        """Takes positions (n, 2) of (y, x) in object pixels by the numbers (n,) of their frames.

        Those that are not finite are named and left out. Of one that is too far from the others
        for an image of all, the frame is kept, named, and left out of the image.

        Raises:
            ValueError: another shape.
        """
        numbers, places = check_positions(ids, positions)
        with self._lock:
            if self._is_finished:
                return
            is_new = self._joiner.new_positions(numbers)
            if not is_new.any():
                return
            self._open_store().append_positions(numbers[is_new], places[is_new])
            self._joiner.add_positions(numbers[is_new], places[is_new])
        self._start()

    def _open_store(self) -> FrameStore:
        """Returns the journal, which is made when something comes for the first time."""
        if self._store is None:
            self._store = begin_journal(self._folder, self._setup)
        return self._store

    # -- what goes out

    def status(self) -> LiveStatus:
        """Returns the counts, lag and rate of this moment."""
        with self._lock:
            joiner, store = self._joiner, self._store
            waiting = joiner.joined(self._seen).since_s
            recent = joiner.joined(max(0, joiner.num_joined - 2000)).since_s
            now = joiner.clock()
            recent = recent[recent > now - 5.0]
            return LiveStatus(
                frames=0 if store is None else store.num_frames,
                positions=0 if store is None else store.num_positions,
                joined=joiner.num_joined,
                waiting_frames=joiner.num_waiting_frames,
                waiting_positions=joiner.num_waiting_positions,
                repeated=joiner.repeated_frames + joiner.repeated_positions,
                late=self._late,
                seen=int(self._reach.near[: self._seen].sum()),
                far=self._reach.num_far,
                lag_s=float(now - waiting[0]) if len(waiting) and not self._is_finished else 0.0,
                frames_per_s=len(recent) / max(now - recent[0], 1.0) if len(recent) else 0.0,
                trouble=self._trouble,
            )

    def image(self) -> LiveImage | None:
        """Returns the image of this moment; None as long as too few frames have come."""
        self._start()
        return self._snapshot

    def joined(self) -> Joined:
        """Returns numbers and positions of the frames that are joined, and near enough."""
        with self._lock:
            joined = self._joiner.joined()
        return joined.only(self._reach.of(joined))

    def scan(self) -> Scan:
        """Returns what was joined so far as a scan, in the order of the numbers of the frames.

        Raises:
            ValueError: nothing was joined, or it makes no scan.
        """
        with self._lock:
            joined = self._joiner.joined()
            if not len(joined) or self._store is None:
                raise ValueError('no frame has both counts and a position yet: there is no scan.')
            frames = self._store.frames()
        joined = joined.only(find_near(joined.positions, self._setup.pattern_shape[0]))
        order = numpy.argsort(joined.ids, kind='stable')
        rows = joined.rows[order]
        patterns = stage_blocks(
            (len(rows), *frames.shape[1:]), frames.dtype, lambda part: frames[rows[part]]
        )
        raw = RawScan(
            patterns=patterns,
            positions_px=joined.positions[order],
            probe=self._setup.probe,
            object_=None,
            bad_pixels=self._setup.bad_pixels,
            pixel_size_m=self._setup.pixel_size_m,
        )
        return replace(build_scan(Path('live scan'), raw), source=None)

    def finish(self, report: Report = ignore_report) -> Reconstruction:
        """Returns the image of the whole procedure of all frames that were joined.

        It is the one that `reconstruct` makes of a file with the same frames. What comes later is
        counted as late.

        Raises:
            ValueError: nothing was joined.
        """
        self._stop()
        from ..reconstruction.procedure import reconstruct

        request = ReconstructRequest(self.scan(), self._config, self._model, self._backend)
        return reconstruct(request, report)

    def close(self) -> None:
        """Ends the work; the journal stays, unless it was a temporary one."""
        self._stop()
        with self._lock:
            if self._store is not None:
                self._store.close()
        self._remove_temporary()

    # -- the thread

    def _start(self) -> None:
        self._arrived.set()
        with self._lock:  # several sources may be the first
            if self._thread is None and not self._is_finished:
                self._thread = threading.Thread(target=self._work, name='live', daemon=True)
                self._thread.start()

    def _stop(self) -> None:
        with self._lock:
            self._is_finished = True
        self._stopping.set()
        self._arrived.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        """Takes frames in as they are joined, and refines the image meanwhile."""
        try:
            from .paced_image import PacedImage

            is_valid = False
            while not self._stopping.is_set():
                if not is_valid:
                    image = PacedImage(
                        self._setup.probe,
                        ~self._setup.bad_pixels,
                        self._config,
                        self._model,
                        self._backend,
                    )
                self._ready.set()
                self._arrived.clear()
                is_valid = self._round(image)
        except Exception as error:  # or nobody would hear of it in this thread
            reason = ' '.join(str(error).split()) or type(error).__name__
            self._trouble = f'the image no longer grows: {reason}'
            logger.error('%s', self._trouble)
            logger.debug('here', exc_info=error)
        finally:
            self._ready.set()

    def _round(self, image: PacedImage) -> bool:
        """Takes new frames in, or refines; returns False where the image must begin again."""
        with self._lock:
            is_more = self._joiner.num_joined > len(self._reach.near)
            if is_more and self._reach.update(self._joiner.joined()):
                self._seen = 0
                return False
            places = numpy.flatnonzero(self._reach.near[self._seen :])
            if not len(places):  # those that are too far do not wait
                self._seen = len(self._reach.near)
            new = self._joiner.joined(self._seen).only(places)
            frames = self._store.frames() if self._store is not None and len(new) else None
            waited = self._joiner.clock() - new.since_s[0] if len(new) else 0.0
        is_first = not self._seen and len(new) < FIRST_FRAMES and waited < FIRST_WAIT_S
        if frames is None or is_first:
            if not image.refine():
                self._arrived.wait(IDLE_S if is_first else 10 * IDLE_S)
                return True
        else:
            taken = image.see(frames, new, waited)
            self._seen += int(places[taken - 1]) + 1
        self._snapshot = image.snapshot()
        return True
