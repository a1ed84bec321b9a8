"""Pictures of scans, images, losses and comparisons, drawn without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .backend import Reconstruction
from .console import plain_text
from .metrics.comparison import ObjectMetrics
from .scan.io.images import Image
from .scan.io.output import write_atomically
from .scan.scan import Scan

__all__ = [
    'Panel',
    'draw_comparison',
    'draw_image',
    'draw_live',
    'draw_reconstruction',
    'draw_scan',
]

SEEN = 0.02
_MAX_PATTERNS = 256


@dataclass(frozen=True)
class Panel:
    """One image of a comparison: a title, the object, and how good it is."""

    title: str
    object_: NDArray[Any]
    metrics: ObjectMetrics | None = None


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout='constrained')


def _save(figure: Any, path: Path) -> Path:
    """Returns the path, written; names in the figure are shown as they are, dollars included."""
    from matplotlib.text import Text

    for item in figure.findobj(Text):
        item.set_text(plain_text(item.get_text()).replace('$', r'\$'))
    return write_atomically(
        path, lambda temporary: figure.savefig(temporary, dpi=100, format='png')
    )


def draw_scan(path: Path, scan: Scan) -> Path:
    """Returns the path of a PNG with patterns, positions, probe and object of a scan."""
    step = max(1, scan.num_patterns // _MAX_PATTERNS)
    middle = scan.num_patterns // 2
    mean = numpy.asarray(scan.patterns[::step]).mean(axis=0, dtype=numpy.float64)
    single = numpy.asarray(scan.patterns[middle], dtype=float)
    object_, what = (scan.object_, 'object') if scan.truth is None else (scan.truth, 'truth')
    figure = _figure(13.8, 8.2)
    figure.suptitle(scan.name)
    axes = figure.subplots(2, 3).ravel()
    for place, counts, title in zip(axes, (mean, single), ('mean pattern', f'pattern {middle}')):
        counts = numpy.where(scan.good_pixels, counts, numpy.nan)
        _show(place, numpy.log10(counts + 0.1), f'{title}, log10 of counts', 'viridis')
    y_px, x_px = scan.positions_px[scan.frames()].T
    axes[2].plot(x_px, y_px, '-', color='0.8', linewidth=0.5)
    axes[2].scatter(x_px, y_px, c=numpy.arange(len(x_px)), s=3)
    axes[2].set(
        xlim=(0, scan.object_.shape[1]),
        ylim=(scan.object_.shape[0], 0),
        aspect='equal',
        title='positions in object pixels, in order of colour',
    )
    _show(axes[3], numpy.abs(scan.probe[0]), 'strongest probe mode, amplitude', 'viridis')
    _show_object(axes[4:], object_, f'{what}, ')
    return _save(figure, path)


def draw_image(path: Path, image: Image) -> Path:
    """Returns the path of a PNG with amplitude, phase and, where there is one, the probe."""
    columns = 2 if image.probe is None else 3
    figure = _figure(4.6 * columns, 4.1)
    figure.suptitle(image.path.name)
    axes = figure.subplots(1, columns)
    _show_object(axes, image.object_)
    if image.probe is not None:
        probe = image.probe[0] if image.probe.ndim == 3 else image.probe
        _show(axes[2], numpy.abs(probe), 'strongest probe mode, amplitude', 'viridis')
    return _save(figure, path)


def _show_object(axes: Sequence[Any], object_: NDArray[Any], what: str = '') -> None:
    _show(axes[0], numpy.abs(object_), f'{what}amplitude', 'gray')
    _show(axes[1], numpy.angle(object_), f'{what}phase [rad]', 'gray')


def _window(coverage: NDArray[Any]) -> tuple[slice, slice]:
    seen = coverage > SEEN * coverage.max()
    if not seen.any():
        return slice(None), slice(None)
    y = numpy.flatnonzero(seen.any(axis=1))
    x = numpy.flatnonzero(seen.any(axis=0))
    return slice(y[0], y[-1] + 1), slice(x[0], x[-1] + 1)


def _flatten(object_: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
    """Returns the object without mean phase and phase ramp, which no scan determines."""
    weight = numpy.where(weight > SEEN * weight.max(), numpy.abs(object_) ** 2, 0.0)
    flat = numpy.asarray(object_, dtype=numpy.complex128)
    for axis in (0, 1):
        ahead = numpy.roll(flat, -1, axis)
        both = weight * numpy.roll(weight, -1, axis)
        slope = numpy.angle((both * ahead * flat.conj()).sum())
        flat = flat * numpy.exp(-1j * slope * numpy.indices(flat.shape)[axis])
    return flat * numpy.exp(-1j * numpy.angle((weight * flat).sum()))


_CAPTION_LENGTH = 150
_MISFIT_LIMITS = 0.25, 4.0
_VERDICTS = {'right': 'black', 'doubtful': 'darkorange', 'wrong': 'firebrick'}


def draw_reconstruction(path: Path, scan: Scan, result: Reconstruction) -> Path:
    """Writes a PNG of amplitude, phase, map of the misfit, probe and refinement losses.

    Rows run downwards as stored. Only the scanned part is shown, mean phase and phase ramp
    removed; the files keep them.
    """
    figure = _figure(16.5, 4.4)
    axes = figure.subplots(1, 5, width_ratios=(1, 1, 1, 0.8, 0.8))
    window = _window(result.coverage)
    flat = _flatten(result.object_, result.coverage)[window]
    seen = result.coverage[window] > SEEN
    amplitude, phase = numpy.abs(flat), numpy.angle(flat)
    _show(axes[0], amplitude, 'amplitude', 'gray', _limits(amplitude[seen]))
    _show(axes[1], phase, 'phase [rad]', 'viridis', _limits(phase[seen]))
    power = numpy.sqrt((numpy.abs(result.probe) ** 2).sum(axis=0))
    _show(axes[3], power, 'probe, all modes', 'magma', (0.0, float(power.max())))
    if result.losses:
        epochs, values = zip(*result.losses)
        axes[4].plot(epochs, values, 'o-')
    axes[4].set(xlabel='refinement epoch', title='relative amplitude error')
    title = f'{scan.name}: {scan.num_patterns} patterns, from the {result.start} start'
    if result.trust is None:
        axes[2].set_axis_off()
        figure.suptitle(title)
        return _save(figure, path)
    _show_misfit(axes[2], result.trust.map[window])
    told = result.trust.summary(without=scan.name)
    told = f'{told[:1].upper()}{told[1:]}'
    caption = textwrap.fill(told, _CAPTION_LENGTH, break_on_hyphens=False)
    colour = _VERDICTS.get(result.trust.verdict, 'black')
    figure.suptitle(f'{title}\n{caption}', color=colour, fontsize=11)
    return _save(figure, path)


def draw_live(
    path: Path,
    title: str,
    object_: NDArray[Any],
    coverage: NDArray[Any],
    misfit_map: NDArray[Any] | None,
) -> Path:
    """Returns the path of a PNG of an image that still grows: amplitude, phase, map of the misfit.

    All are (Y, X); only the part that was seen is shown, mean phase and phase ramp removed.
    """
    figure = _figure(12.6, 4.4)
    axes = figure.subplots(1, 3)
    window = _window(coverage)
    flat = numpy.where(coverage > SEEN, _flatten(object_, coverage), numpy.nan)[window]
    for place, values, what, colours in (
        (axes[0], numpy.abs(flat), 'amplitude', 'gray'),
        (axes[1], numpy.angle(flat), 'phase [rad]', 'viridis'),
    ):
        _show(place, values, what, colours)
    if misfit_map is None:
        axes[2].set_axis_off()
    else:
        _show_misfit(axes[2], misfit_map[window])
    figure.suptitle(textwrap.fill(title, _CAPTION_LENGTH), fontsize=11)
    return _save(figure, path)


def _show_misfit(axes: Any, values: NDArray[Any]) -> None:
    """Shows a map of the misfit: white where the counts are explained, grey where none are."""
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm

    colours = colormaps['RdBu_r'].with_extremes(bad='0.6')
    low, high = _MISFIT_LIMITS
    image = axes.imshow(values, cmap=colours, norm=LogNorm(low, high), interpolation='nearest')
    axes.set(title='misfit over photon noise', xticks=[], yticks=[])
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.7, extend='both')
    ticks = {'1/4': 0.25, '1/2': 0.5, '1': 1.0, '2': 2.0, '4': 4.0}
    bar.set_ticks(list(ticks.values()), labels=list(ticks))
    bar.minorticks_off()


def _limits(values: NDArray[Any]) -> tuple[float, float]:
    """Returns where the contrast ends; a few wild pixels outside the scan must not take it all."""
    if values.size == 0:
        return 0.0, 1.0
    low, high = numpy.nanpercentile(values, (0.5, 99.5))
    return float(low), float(max(high, low + 1e-6))


def _show(
    axes: Any,
    values: NDArray[Any],
    title: str,
    colours: str,
    limits: tuple[float, float] | None = None,
) -> None:
    low, high = limits or _limits(values)
    image = axes.imshow(values, cmap=colours, vmin=low, vmax=high, interpolation='nearest')
    axes.set(title=title, xticks=[], yticks=[])
    axes.figure.colorbar(image, ax=axes, shrink=0.7)


def draw_comparison(
    path: Path,
    rows: Sequence[tuple[str, Sequence[Panel], NDArray[Any]]],
    history: Sequence[Mapping[str, float | None]] = (),
) -> Path:
    """Writes a PNG: a row of panels per scan (the first is the truth), losses, correlations.

    Args:
        path: Where to write.
        rows: Title, panels and coverage of each scan.
        history: Rows of a training history, for the loss curve; none where nothing was trained.
    """
    columns = max(len(panels) for _, panels, _ in rows)
    figure = _figure(2.6 * columns, 5.2 * len(rows) + 3.4)
    parts = figure.subfigures(len(rows) + 1, 1, height_ratios=[5.2] * len(rows) + [3.4])
    for part, (title, panels, coverage) in zip(parts, rows):
        _draw_row(part, title, panels, coverage, columns)
    *left, right = parts[-1].subplots(1, 2 if history else 1, squeeze=False)[0]
    for axes in left:
        _draw_history(axes, history)
    for title, panels, _ in rows:
        for panel in panels:
            found = panel.metrics
            if found is not None and found.frc_frequency:
                label = panel.title if len(rows) == 1 else f'{title}: {panel.title}'
                right.plot(found.frc_frequency, found.frc_correlation, label=label, lw=1)
    right.axhline(0.5, color='gray', ls=':')
    right.set(xlabel='frequency / Nyquist', title='Fourier ring correlation', ylim=(-0.1, 1.05))
    right.legend(fontsize=6, ncols=2)
    return _save(figure, path)


def _draw_row(
    part: Any, title: str, panels: Sequence[Panel], coverage: NDArray[Any], columns: int
) -> None:
    part.suptitle(title)
    axes = part.subplots(2, columns, squeeze=False)
    for spare in axes[:, len(panels) :].ravel():
        spare.set_axis_off()
    flat = [_flatten(panel.object_, coverage)[_window(coverage)] for panel in panels]
    kinds: Any = (('amplitude', numpy.abs, 'gray'), ('phase', numpy.angle, 'viridis'))
    for row, (label, values_of, colours) in zip(axes, kinds):
        low, high = _limits(values_of(flat[0]))
        for place, object_ in zip(row, flat):
            place.imshow(values_of(object_), cmap=colours, vmin=low, vmax=high)
            place.set(xticks=[], yticks=[])
        row[0].set_ylabel(label)
    for place, panel in zip(axes[0], panels):
        score = '' if panel.metrics is None else f'\nNRMSE {panel.metrics.nrmse:.3f}'
        place.set_title(panel.title + score, fontsize=9)


def _draw_history(axes: Any, history: Sequence[Mapping[str, float | None]]) -> None:
    twin = axes.twinx()
    for place, key, style, label in (
        (axes, 'loss', '-', 'training loss'),
        (axes, 'floor', '-', 'photon floor'),
        (twin, 'held_out', 'C3--', 'held-out error'),
    ):
        points = [(row['step'], row[key]) for row in history if row.get(key) is not None]
        if points:
            place.plot(*zip(*points), style, label=label)
            place.set_yscale('log')
    axes.set(xlabel='step', title='training from scratch, without labels')
    axes.legend(loc='upper right', fontsize=7)
    twin.legend(loc='center right', fontsize=7)
