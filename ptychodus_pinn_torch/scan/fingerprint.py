"""Tells one measurement from another by its counts, whatever its file is called."""

from __future__ import annotations

import hashlib

import numpy

from .scan import Scan

__all__ = ['fingerprint']

_NUM_PATTERNS = 16


def fingerprint(scan: Scan) -> str:
    """Returns a text that is the same for the same counts, in whatever file and type they are.

    Positions, probe and object may change without making another measurement of it.
    """
    digest = hashlib.sha256(repr(tuple(scan.patterns.shape)).encode())
    chosen = numpy.unique(numpy.linspace(0, scan.num_patterns - 1, _NUM_PATTERNS).astype(int))
    for index in chosen:
        counts = numpy.asarray(scan.patterns[index], dtype=numpy.float64)
        digest.update(numpy.ascontiguousarray(counts * scan.good_pixels).tobytes())
    return digest.hexdigest()[:32]
