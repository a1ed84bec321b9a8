"""Supervised sets: a scan with the object of a reconstruction, whole and as a patch per pattern."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy
from jaxtyping import Complex
from numpy.typing import NDArray

from ..scan.io.images import Image
from ..scan.io.pattern_store import stage_blocks
from ..scan.scan import Scan

__all__ = ['cut_patches', 'label_scan']


def label_scan(scan: Scan, image: Image) -> Scan:
    """Returns the scan with an image for its object, and the positions and the probe of that image.

    They belong together: where a reconstruction has moved the positions, its object fits these only.

    Raises:
        ValueError: the image lies on another grid, or has another number of positions.
    """
    if image.object_.shape != scan.object_.shape:
        rows, columns = image.object_.shape
        raise ValueError(
            f'{image.path} holds an object of {rows} x {columns} pixels but that of {scan.name} has '
            f'{scan.object_.shape[0]} x {scan.object_.shape[1]}: reconstruct that very scan.'
        )
    positions = scan.positions_px if image.positions_px is None else image.positions_px
    if len(positions) != scan.num_patterns:
        raise ValueError(
            f'{image.path} has {len(positions)} positions but {scan.name} {scan.num_patterns} '
            'patterns: reconstruct that very scan.'
        )
    is_probe = image.probe is not None and image.probe.shape[-2:] == scan.pattern_shape
    return replace(
        scan,
        object_=image.object_,
        truth=None,
        has_object=True,
        positions_px=numpy.asarray(positions, dtype=numpy.float64),
        probe=numpy.asarray(image.probe, dtype=numpy.complex64) if is_probe else scan.probe,
        probe_variation=image.probe_variation if is_probe else scan.probe_variation,
    )


def cut_patches(scan: Scan) -> Complex[NDArray[Any], 'pattern height width']:
    """Returns what each pattern saw of the object of a scan, (N, H, W) complex64, read only.

    Between pixels it is interpolated linearly, and outside of the object its border is repeated.
    """
    height, width = scan.pattern_shape
    rows, columns = scan.object_.shape
    exact = scan.positions_px - (numpy.asarray(scan.pattern_shape) - 1.0) / 2.0

    def cut(part: slice) -> NDArray[numpy.complex64]:
        first = numpy.floor(exact[part]).astype(numpy.int64)
        rest = exact[part] - first
        found = numpy.zeros((len(first), height, width), dtype=numpy.complex128)
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            y = numpy.clip(first[:, :1] + down + numpy.arange(height), 0, rows - 1)
            x = numpy.clip(first[:, 1:] + right + numpy.arange(width), 0, columns - 1)
            weight = numpy.abs(1 - down - rest[:, 0]) * numpy.abs(1 - right - rest[:, 1])
            found += weight[:, None, None] * scan.object_[y[:, :, None], x[:, None, :]]
        return found.astype(numpy.complex64)

    return stage_blocks((scan.num_patterns, height, width), numpy.dtype(numpy.complex64), cut)
