"""What is known before the first frame comes: probe, mask and pixel size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy
from numpy.typing import ArrayLike, NDArray

from ..scan.io.npz import NpzArrays
from ..scan.io.output import write_npz
from .frame_store import FrameStore, JournalError

__all__ = ['SETUP', 'Setup', 'begin_journal', 'is_journal', 'open_journal']

SETUP = 'setup.npz'


@dataclass(frozen=True)
class Setup:
    """Modes (P, N, N), mask (N, N), True where the detector cannot be trusted, and pixel size."""

    probe: NDArray[numpy.complex64]
    bad_pixels: NDArray[numpy.bool_]
    pixel_size_m: tuple[float, float] | None

    @property
    def pattern_shape(self) -> tuple[int, int]:
        """(N, N)."""
        height, width = self.bad_pixels.shape
        return height, width

    @classmethod
    def of(
        cls,
        probe: ArrayLike,
        bad_pixels: ArrayLike | None,
        pixel_size_m: tuple[float, float] | None,
    ) -> Self:
        """Returns what was given, checked.

        Raises:
            ValueError: a probe or a mask that makes no sense.
        """
        modes = numpy.asarray(probe, dtype=numpy.complex64)
        modes = modes[None] if modes.ndim == 2 else modes
        if modes.ndim != 3 or modes.shape[1] != modes.shape[2] or not numpy.isfinite(modes).all():
            raise ValueError(
                f'the probe has shape {modes.shape}: finite modes (P, N, N) are needed.'
            )
        shape = modes.shape[-2:]
        mask = numpy.asarray(numpy.zeros(shape) if bad_pixels is None else bad_pixels, bool)
        if mask.shape != shape:
            raise ValueError(f'the mask has shape {mask.shape} but patterns {shape}.')
        return cls(modes, mask, pixel_size_m)


def is_journal(folder: Path) -> bool:
    """Returns whether a journal was begun in a folder."""
    return (folder / SETUP).exists() or FrameStore.is_begun(folder)


def begin_journal(folder: Path, setup: Setup) -> FrameStore:
    """Returns a new journal that begins with the setup.

    Raises:
        JournalError: there is one already.
        OSError: the folder cannot be written to.
    """
    store = FrameStore(folder, setup.pattern_shape)  # which locks the folder
    arrays: dict[str, Any] = {'probe': setup.probe, 'bad_pixels': setup.bad_pixels}
    if setup.pixel_size_m is not None:
        arrays['pixel_size_m'] = numpy.asarray(setup.pixel_size_m)
    try:
        write_npz(folder / SETUP, arrays)
    except OSError:
        store.close()
        raise
    return store


def open_journal(folder: Path) -> tuple[Setup, FrameStore | None]:
    """Returns setup and journal of a folder; no journal where it was stopped before the first frame.

    Raises:
        JournalError: no journal, or one that cannot be used; nothing is changed by it.
    """
    if not (folder / SETUP).is_file():
        raise JournalError(f'{folder}: holds no journal, for {SETUP} is missing: name another.')
    reader = NpzArrays(folder / SETUP)
    try:
        setup = Setup.of(
            reader.array('probe'), reader.array('bad_pixels'), reader.pair('pixel_size_m')
        )
    except (ValueError, TypeError) as error:
        raise JournalError(f'{folder / SETUP}: {error}') from error
    is_begun = FrameStore.is_begun(folder)
    return setup, FrameStore.open(folder, setup.pattern_shape) if is_begun else None
