"""Scans in the NPZ convention of PtychoPINN's TensorFlow code: amplitudes and one probe mode."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..scan.calibration import calibrate_probe
from ..scan.io.output import NOTHING, training_arrays, write_npz
from ..scan.io.pattern_store import stage_blocks
from ..scan.scan import Scan

__all__ = ['write_amplitude_npz']

logger = logging.getLogger(__name__)


def write_amplitude_npz(path: Path, scan: Scan, extra: Mapping[str, Any] = NOTHING) -> Path:
    """Returns the path of the NPZ that now holds the scan as PtychoPINN's TensorFlow code wants it.

    `diff3d` is the root of the counts, float32, bad pixels zero, and `diff3d_kind` says so;
    `probeGuess` is the brightest mode, with the power of all, because that code takes one mode. `extra` arrays
    are written as well.
    """
    probe, _ = calibrate_probe(scan)
    power = numpy.sum(numpy.abs(probe.astype(numpy.complex128)) ** 2, axis=(1, 2))
    main = probe[0] * numpy.sqrt(power.sum() / power[0])
    if len(probe) > 1:
        logger.warning(
            '%s: the brightest of %d probe modes is written, %.0f %% of the power; the others '
            'have no place in this convention.',
            scan.name,
            len(probe),
            100.0 * power[0] / power.sum(),
        )

    def roots(rows: slice) -> NDArray[Any]:
        counts = numpy.asarray(scan.patterns[rows], dtype=numpy.float32) * scan.good_pixels
        return numpy.sqrt(numpy.maximum(counts, 0.0))

    arrays = training_arrays(
        positions_px=scan.positions_px,
        patterns=stage_blocks(scan.patterns.shape, numpy.dtype(numpy.float32), roots),
        probe=main.astype(numpy.complex64),
        object_=scan.object_.astype(numpy.complex64),
        kind='amplitude',
    )
    return write_npz(path, {**arrays, **extra})
