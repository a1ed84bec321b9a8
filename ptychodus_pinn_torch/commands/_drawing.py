"""Pictures of scans and images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..scan.images import Image
from ..scan.output import write_atomically
from ..scan.scan import Scan

__all__ = ['draw_image', 'draw_scan']

_MAX_PATTERNS = 256


def draw_scan(path: Path, scan: Scan) -> Path:
    """Returns the path of a PNG with mean pattern, positions, probe and object."""
    step = max(1, scan.num_patterns // _MAX_PATTERNS)
    mean = numpy.asarray(scan.patterns[::step]).mean(axis=0, dtype=numpy.float64)
    mean = numpy.where(scan.good_pixels, mean, numpy.nan)
    figure, axes = _make_figure(2, 3, scan.name)
    _show(axes[0], numpy.log10(mean + 0.1), 'mean pattern, log10 of counts', 'viridis')
    _show(
        axes[1],
        numpy.log10(numpy.asarray(scan.patterns[scan.num_patterns // 2], dtype=float) + 0.1),
        f'pattern {scan.num_patterns // 2}, log10 of counts',
        'viridis',
    )
    y_px, x_px = scan.positions_px.T
    axes[2].plot(x_px, y_px, '-', color='0.8', linewidth=0.5)
    axes[2].scatter(x_px, y_px, c=numpy.arange(len(x_px)), s=3)
    axes[2].set_xlim(0, scan.object_.shape[1])
    axes[2].set_ylim(scan.object_.shape[0], 0)
    axes[2].set_aspect('equal')
    axes[2].set_title('positions in object pixels, in order of colour')
    _show(axes[3], numpy.abs(scan.probe[0]), 'strongest probe mode, amplitude', 'viridis')
    object_, what = (scan.object_, 'object') if scan.truth is None else (scan.truth, 'truth')
    _show(axes[4], numpy.abs(object_), f'{what}, amplitude', 'gray')
    _show(axes[5], numpy.angle(object_), f'{what}, phase in rad', 'gray')
    return _save(path, figure)


def draw_image(path: Path, image: Image) -> Path:
    """Returns the path of a PNG with amplitude, phase and probe."""
    figure, axes = _make_figure(1, 2 if image.probe is None else 3, image.path.name)
    _show(axes[0], numpy.abs(image.object_), 'amplitude', 'gray')
    _show(axes[1], numpy.angle(image.object_), 'phase in rad', 'gray')
    if image.probe is not None:
        probe = image.probe[0] if image.probe.ndim == 3 else image.probe
        _show(axes[2], numpy.abs(probe), 'strongest probe mode, amplitude', 'viridis')
    return _save(path, figure)


def _make_figure(rows: int, columns: int, title: str) -> tuple[Any, Sequence[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * columns, 4.1 * rows), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    axes = numpy.ravel(figure.subplots(rows, columns))
    return figure, list(axes)


def _show(axes: Any, values: NDArray[Any], title: str, colours: str) -> None:
    # A few wild pixels outside the scanned area must not take all the contrast.
    low, high = numpy.nanpercentile(values, [0.5, 99.5])
    picture = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation='nearest')
    axes.figure.colorbar(picture, ax=axes, shrink=0.8)
    axes.set_title(title)


def _save(path: Path, figure: Any) -> Path:
    return write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=110))
