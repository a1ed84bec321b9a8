"""Quality at CPU time beside Pty-Chi: `python tests/benchmarks/beside_ptychi.py CASE [CASE ...]`.

One thread. Seconds are CPU seconds of the engine's own work, quality is scored outside of the
clock: NRMSE against the truth, on the measured scan phase rms against the stored reference, or the
error on frames that were held out. docs/benchmarks.md says how Pty-Chi is installed.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import measure
import numpy
import torch
from numpy.typing import NDArray
from pty_chi import Freed, Setting, iter_states

import ptychodus_pinn_torch as pinn
from ptychodus_pinn_torch.metrics.comparison import compare_objects, coverage_mask, data_error
from ptychodus_pinn_torch.scan.io.reading import read_scan
from ptychodus_pinn_torch.scan.scan import Scan

OUR_ROWS = {'ours': 'network', 'ours, flat start': 'flat'}
MEASURED = 'velociprobe_siemens_128.npz'


def tuned(
    lsqml_batch: int = 32, rpie_batch: int = 8, other_step: float = 2.0, other_alpha: float = 1.0
) -> tuple[Setting, ...]:
    """Returns the settings of Pty-Chi: LSQML, and rPIE with two of them."""
    return (
        Setting('LSQML', 'LSQML', lsqml_batch),
        Setting('rPIE', 'RPIE', rpie_batch),
        Setting('rPIE, other', 'RPIE', 8, step=other_step, alpha=other_alpha),
    )


Score = Callable[[NDArray[Any], NDArray[Any]], float]


@dataclass(frozen=True)
class Case:
    """A scan and what is wrong with it.

    Attributes:
        spec: What `simulate` is told; empty for the measured scan.
        fault: A name that `measure.py` knows.
        freed: What Pty-Chi adjusts; ours decides by itself.
        settings: Of Pty-Chi, found by trial on seed 0 of the photographs.
    """

    spec: dict[str, Any] = field(default_factory=dict)
    fault: str = ''
    freed: Freed = field(default_factory=Freed)
    settings: tuple[Setting, ...] = field(default_factory=tuned)


@dataclass(frozen=True)
class Point:
    """A point of a curve: what was run, the CPU seconds that it took, and its error."""

    label: str
    seconds: float
    error: float


Curves = dict[str, list[Point]]

_DENSE: dict[str, Any] = {'num_positions': 1024}
CASES: dict[str, Case] = {
    '80': Case(_DENSE),
    '60': Case(
        {'num_positions': 256, 'step_px': 8.0, 'jitter_px': 2.0}, settings=tuned(rpie_batch=16)
    ),
    '40': Case(
        {'num_positions': 144, 'step_px': 12.0, 'jitter_px': 3.0}, settings=tuned(rpie_batch=16)
    ),
    '1e4': Case(_DENSE | {'photons': 1e4}, settings=tuned(other_step=0.3)),
    '1e3': Case(_DENSE | {'photons': 1e3}, settings=tuned(128, other_step=0.2)),
    **{
        f'probe-{overlap}': Case(_DENSE, fault=f'probe {overlap}', freed=Freed(probe=True))
        for overlap in ('0.95', '0.80', '0.5')
    },
    **{
        f'positions-{rms_px}': Case(
            _DENSE, fault=f'positions {rms_px}', freed=Freed(positions=True)
        )
        for rms_px in ('0.5', '1', '3')
    },
    'beamstop': Case(_DENSE | {'beamstop_px': 6.0}),
    'background': Case(_DENSE, fault='background'),
    'background-bad': Case(_DENSE, fault='background and bad frames'),
    '128': Case({'pattern_size': 128, 'num_positions': 400, 'step_px': 8.0, 'jitter_px': 2.0}),
    'measured': Case(settings=tuned(other_step=1.0, other_alpha=0.3)),
    'held-out': Case(settings=tuned(lsqml_batch=8, other_step=1.0, other_alpha=0.3)),
}


def make_problem(name: str, kind: str, seed: int) -> tuple[Scan, Score]:
    """Returns what is given to the engines, and the judge of object and probe."""
    case = CASES[name]
    if case.spec:
        scan = pinn.simulate(object_kind=kind, seed=seed, **case.spec)
        area = coverage_mask(scan)
        given = measure.spoil(scan, case.fault, seed)
        return given, lambda object_, _: compare_objects(object_, scan.truth, weights=area).nrmse
    scan = read_scan(measure.DATA / MEASURED)
    if name == 'held-out':
        order = numpy.random.default_rng(seed + 3).permutation(scan.num_patterns)
        middle = scan.num_patterns // 2
        half, other = (scan.select(numpy.sort(part)) for part in (order[:middle], order[middle:]))
        return half, lambda object_, probe: data_error(other, object_, probe)
    with numpy.load(measure.DATA / MEASURED) as file:
        area = file['illumination'] > 0.3
    return (
        scan,
        lambda object_, _: compare_objects(object_, scan.object_, weights=area).phase_rms_rad,
    )


def iter_ours(given: Scan, score: Score, numbers: Sequence[int]) -> Iterator[tuple[str, Point]]:
    """Yields our rows: with given numbers of epochs, and as it ends by itself."""
    measure.image(given, refine_epochs=1)  # the first run on a size of pattern is slower
    for row, start in OUR_ROWS.items():
        for epochs in (*numbers, -1):
            result, seconds = measure.image(given, start=start, refine_epochs=epochs)
            label = f'{epochs} epochs' if epochs >= 0 else 'default'
            yield row, Point(label, seconds, score(result.object_, result.probe))


def iter_theirs(
    given: Scan, score: Score, case: Case, marks_s: tuple[float, ...], seed: int
) -> Iterator[tuple[str, Point]]:
    """Yields Pty-Chi's rows: one point for each mark on the clock."""
    for setting in case.settings:
        for mark_s, state in zip(
            marks_s, iter_states(given, setting, case.freed, marks_s=marks_s, seed=seed)
        ):
            is_finite = bool(numpy.isfinite(state.object_).all())
            found = score(state.object_, state.probe) if is_finite else math.inf
            yield setting.name, Point(f'{mark_s:g} s', state.seconds, found)


def measure_case(name: str, kind: str, chosen: argparse.Namespace) -> Curves:
    """Returns the curves of a case, medians of the seeds, and says every point."""
    marks_s = tuple(2.0**power for power in range(12) if 2.0**power <= chosen.limit)
    found: dict[tuple[str, str], list[Point]] = {}
    for seed in range(chosen.seeds):
        given, score = make_problem(name, kind, seed)
        for rows in (
            iter_ours(given, score, chosen.epochs),
            iter_theirs(given, score, CASES[name], marks_s, seed),
        ):
            for row, point in rows:
                found.setdefault((row, point.label), []).append(point)
                measure.say(
                    f'{name:<15} {kind:<7} seed {seed}  {row:<18} {point.label:<10} '
                    f'{point.seconds:7.2f} s  {point.error:#.3g}'
                )
    curves: Curves = {}
    for (row, label), points in found.items():
        seconds, error = numpy.median([(each.seconds, each.error) for each in points], axis=0)
        curves.setdefault(row, []).append(Point(label, float(seconds), float(error)))
    return curves


def _state_row(name: str, curves: Curves) -> str:
    """Returns a row of the table; the lowest error of the case in bold."""
    ends = {row: points[-1] for row, points in curves.items() if row in OUR_ROWS}
    theirs = {row: points for row, points in curves.items() if row not in OUR_ROWS}
    ours_s = ends['ours'].seconds
    best = {row: min(points, key=lambda point: point.error) for row, points in theirs.items()}
    lowest = min(point.error for point in (*ends.values(), *best.values()))

    def show(point: Point) -> str:
        error = f'{point.error:#.3g}'
        return f'{f"**{error}**" if point.error == lowest else error} in {point.seconds:.1f} s'

    cells = [name, *(show(ends[row]) for row in OUR_ROWS)]
    for row, points in theirs.items():
        equal = next((point for point in points if point.seconds >= ours_s), points[-1])
        cells.append(f'{show(equal)}; {show(best[row])}' if equal != best[row] else show(equal))
    return f'| {" | ".join(cells)} |'


def say_table(measured: dict[str, Curves]) -> None:
    """Says a table: ours at its end; Pty-Chi after at least our time, and at its best."""
    rows = list(next(iter(measured.values())))
    measure.say(f'\n| case | {" | ".join(rows)} |\n|{"---|" * (len(rows) + 1)}')
    for name, curves in measured.items():
        measure.say(_state_row(name, curves))


def plot(measured: dict[str, Curves], path: Path) -> None:
    """Writes a picture: one panel per case, error over CPU seconds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    columns = min(3, len(measured))
    lines = -(-len(measured) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * lines + 0.6), layout='constrained')
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (name, curves) in zip(panels, measured.items()):
        for number, (row, points) in enumerate(curves.items()):
            is_ours = row in OUR_ROWS
            drawn = points[:-1] if is_ours else points
            x, y = ([getattr(point, of) for point in drawn] for of in ('seconds', 'error'))
            panel.plot(x, y, '.-' if is_ours else 'x--', color=f'C{number}', label=row)
            if is_ours:
                panel.plot(points[-1].seconds, points[-1].error, '*', ms=13, color=f'C{number}')
        panel.set(title=name, xscale='log', yscale='log', xlabel='CPU seconds', ylabel='error')
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter('{x:g}'))
            axis.set_minor_formatter(NullFormatter())
        panel.grid(which='both', alpha=0.3)
    for panel in panels[len(measured) :]:
        panel.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    title = 'dots: ours with given numbers of epochs; stars: ours ends by itself'
    figure.legend(handles, labels, loc='outside lower center', ncols=len(labels), title=title)
    figure.savefig(path, dpi=110)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the cases that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('case', nargs='+', choices=CASES)
    parser.add_argument('--kinds', nargs='+', default=['leaves', 'photo'], help='of objects')
    parser.add_argument('--seeds', type=int, default=1, help='how many; medians are told')
    parser.add_argument('--limit', type=float, default=16.0, metavar='SECONDS', help='of Pty-Chi')
    parser.add_argument(
        '--epochs',
        nargs='*',
        type=int,
        default=[1, 2, 4, 8, 16],
        help='of ours, for its curve; none: only where it ends by itself',
    )
    parser.add_argument('--plot', type=Path, metavar='FILE', help='a picture of the curves')
    chosen = parser.parse_args(arguments)
    warnings.filterwarnings('ignore')
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    measured: dict[str, Curves] = {}
    for name in chosen.case:
        for kind in chosen.kinds if CASES[name].spec else ('',):
            curves = measure_case(name, kind, chosen)
            measured[f'{name} {kind}'.strip()] = curves
    say_table(measured)
    if chosen.plot:
        plot(measured, chosen.plot)


if __name__ == '__main__':
    main()
