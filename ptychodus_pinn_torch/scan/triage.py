"""Frames and single pixels that are not what the others are: empty, torn, far too bright, hit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy
from numpy.typing import NDArray
from scipy.spatial import KDTree

from .io.pattern_store import block_slices
from .scan import Scan

__all__ = ['Triage', 'examine_frames', 'name_frames']

NUM_NEIGHBOURS = 8
EMPTY, GLARING, SPIKE = 0.02, 2.5, 3.0
"""Counts of a frame, and of its brightest pixel, over those of its neighbours."""

ABOVE_ALL = 1.5
"""A glaring frame or pixel is that much brighter than nearly all others as well."""

MOST_GLARING = 0.1
"""Where more frames than this part are glaring, the beam flickers, and nothing is wrong."""

GAP = 8.0
"""Brightness of two groups of frames, with none in between, from which on one of them is wrong: where
windows overlap, the brightness of neighbours changes by small steps. 1.2 is the largest step of the
simulated families at steps of 3 to 20 px (three seeds), 1.01 of two measured scans."""

EVEN = (0.4, 0.6)
"""Parts of a scan that are about half of it: neither is the exception."""

ALIKE = 0.5
"""Correlation of the mean patterns of two groups from which on both are light of the beam."""

MORE_BORDER = 2.0
"""How much longer the border of a dark region may be across the lines of a scan than along them."""

MOST_FULL = 0.1
"""Part of the pixels that are saturated from which on a frame is."""

MOST_REPEATS = 0.9
"""Where more frames than this part are repeated, they have no noise, and nothing is wrong."""

BANDS, LEAST, BRIGHT_BAND = 4, 50.0, 0.2
"""Parts of a frame along each axis; counts that are expected in one that has none, where it is torn; and
the part of the counts from which on no frame lacks a band, whatever its neighbours do."""


@dataclass(frozen=True)
class Triage:
    """What must not be believed.

    Attributes:
        left_out: By what is wrong with them, the numbers of frames (n,).
        spikes: (n, 3) frame, row and column of single pixels far brighter than those of neighbours,
            or saturated, which `num_full` of them are.
        brightest: Counts of the brightest frame of the others, over good pixels, without spikes; and
            `mean` of all of them.
        total: Counts of all others together, spikes included.
    """

    left_out: Mapping[str, NDArray[numpy.int64]]
    spikes: NDArray[numpy.int64]
    num_full: int
    brightest: float
    mean: float
    total: float

    def kept(self, num_patterns: int) -> NDArray[numpy.int64]:
        """Returns the numbers of all other frames."""
        out = [numpy.empty(0, numpy.int64), *self.left_out.values()]
        return numpy.setdiff1d(numpy.arange(num_patterns), numpy.concatenate(out))

    def take(self, scan: Scan, frames: NDArray[numpy.int64]) -> Scan:
        """Returns the scan of some frames (J,), in memory, zero where a single pixel spiked."""
        part = replace(scan.select(frames), saturation=numpy.inf)
        frame, y, x = self.spikes.T
        row, of_spike = numpy.nonzero(frames[:, None] == frame)
        patterns = numpy.array(part.patterns)
        patterns[row, y[of_spike], x[of_spike]] = 0
        return replace(part, patterns=patterns)

    def describe(self) -> str:
        """Returns how many frames and pixels, and which frames, in words; or nothing."""
        found = []
        for what, frames in self.left_out.items():
            if len(frames):
                verb = 'frame is' if len(frames) == 1 else 'frames are'
                found.append(f'{len(frames)} {verb} {what} ({name_frames(frames)})')
        number = len(self.spikes) - self.num_full
        shown = name_frames(numpy.unique(self.spikes[:, 0]))
        if number:
            verb = 'pixel spikes' if number == 1 else 'pixels spike'
            found.append(f'{number} {verb} in single frames ({shown})')
        if self.num_full:
            found.append(f'{self.num_full} counts of single frames are saturated ({shown})')
        return ', '.join(found)

    def sentence(self) -> str:
        """Returns what is left out, or nothing."""
        found = self.describe()
        return f'{found}: they are left out.' if found else ''


def name_frames(frames: NDArray[numpy.int64]) -> str:
    """Returns the first numbers of some frames (n,), for a sentence."""
    shown = ', '.join(str(frame) for frame in frames[:8])
    noun = 'number' if len(frames) == 1 else 'numbers'
    return f'{noun} {shown}{", ..." if len(frames) > 8 else ""}'


@dataclass
class _Frames:
    """What the frames (N,) of a scan hold over good pixels.

    Attributes:
        totals: Counts.
        bands: (N, 2 * BANDS) counts in horizontal and in vertical bands.
        peaks: The most in a pixel, and `places` where, counted through the frame.
        full: (n, 3) frame, row and column of saturated pixels, whose counts are left out.
        repeats: Frames with the very counts of the one before.
    """

    totals: NDArray[numpy.float64]
    bands: NDArray[numpy.float64]
    peaks: NDArray[numpy.float64]
    places: NDArray[numpy.int64]
    full: NDArray[numpy.int64]
    repeats: NDArray[numpy.int64]


def examine_frames(scan: Scan) -> Triage:
    """Returns which frames and pixels of a scan are not like their neighbours; reads it once."""
    found, is_known = _measure(scan), numpy.zeros(scan.num_patterns, bool)
    is_known[scan.frames()] = True
    left_out = {why: frames for why, frames in scan.left_out.items() if len(frames)}
    num_full = numpy.bincount(found.full[:, 0], minlength=scan.num_patterns)
    _leave_out(left_out, 'saturated', num_full > MOST_FULL * scan.good_pixels.sum(), is_known)
    spikes = found.full[is_known[found.full[:, 0]]]
    for what, is_out in _compare_groups(scan, found, is_known).items():
        _leave_out(left_out, what, is_out, is_known)
    known = numpy.flatnonzero(is_known)
    hit, num_spikes = numpy.empty(0, numpy.int64), len(spikes)
    if len(known) > NUM_NEIGHBOURS:
        hit = _compare_neighbours(scan, found, left_out, is_known, known)
        spikes = spikes[is_known[spikes[:, 0]]]
        y, x = numpy.divmod(found.places[hit], scan.pattern_shape[1])
        num_spikes = len(spikes)
        spikes = numpy.unique(numpy.concatenate([spikes, numpy.stack([hit, y, x], 1)]), axis=0)
    rest = found.totals.copy()
    rest[hit] -= found.peaks[hit]
    return Triage(
        left_out,
        spikes,
        num_spikes,
        float(rest[is_known].max(initial=0.0)),
        float(rest[is_known].mean()) if len(known) else 0.0,
        float(found.totals[is_known].sum()),
    )


def _leave_out(
    left_out: dict[str, NDArray[numpy.int64]],
    what: str,
    is_out: NDArray[numpy.bool_],
    is_known: NDArray[numpy.bool_],
) -> None:
    """Takes frames (N,) that are out, and not known to be, from those that are known to be well."""
    frames = numpy.flatnonzero(is_out & is_known)
    if len(frames):
        left_out[what] = numpy.union1d(left_out.get(what, frames), frames)
        is_known[frames] = False


def _compare_groups(
    scan: Scan, found: _Frames, is_known: NDArray[numpy.bool_]
) -> dict[str, NDArray[numpy.bool_]]:
    """Returns by what is wrong with them frames (N,) without counts, and a group unlike the rest."""
    is_dark = found.totals <= 0.0
    totals = numpy.maximum(found.totals - found.peaks, 0.5)  # whatever single pixels have
    lit = numpy.sort(totals[is_known & ~is_dark])
    out = {'empty': is_dark}
    if len(lit) < 2:
        return out
    steps = lit[1:] / lit[:-1]
    place = int(steps.argmax())
    if steps[place] < GAP:
        return out
    lower = is_known & ~is_dark & (totals <= lit[place])
    upper = is_known & ~is_dark & (totals > lit[place])
    if _is_of_the_object(scan, lower, upper):
        return out
    part = upper.sum() / len(lit)
    dim, bright = _mean(scan, lower), _mean(scan, upper)
    likeness = float(numpy.corrcoef(dim, bright)[0, 1]) if dim.std() * bright.std() else 0.0
    power = float((numpy.abs(scan.probe) ** 2).sum())
    is_fit = [
        1.0 / GAP < totals[group].max() / max(power, 1e-300) < GAP**0.5 for group in (lower, upper)
    ]
    if (
        likeness < ALIKE
    ):  # one of them is no light of the beam: that of a shutter, or the more even one
        shares = [found.bands[group].sum(axis=0) for group in (lower, upper)]
        low, high = (float(share.max() / share.sum()) for share in shares)
        is_even = high < low - 3.0 * (low / shares[0].sum()) ** 0.5
        out['far too bright' if is_even else 'empty'] = upper if is_even else is_dark | lower
    elif is_fit[0] != is_fit[1]:
        out['far too bright' if is_fit[0] else 'far too dim'] = upper if is_fit[0] else lower
    elif part > EVEN[1]:
        out['far too dim'] = lower
    else:
        out['far too bright'] = upper
    return out


def _is_of_the_object(scan: Scan, lower: NDArray[numpy.bool_], upper: NDArray[numpy.bool_]) -> bool:
    """Returns whether the smaller of two groups is a region, which the scan enters again and again.

    A shutter, or a beam that fails, makes a group that ends in space where it ends in time, too.
    """
    frames = numpy.flatnonzero(lower | upper)
    if len(frames) <= NUM_NEIGHBOURS:
        return False
    is_in = upper[frames] if 2 * upper.sum() <= len(frames) else lower[frames]
    _, near = KDTree(scan.positions_px[frames]).query(
        scan.positions_px[frames[is_in]], NUM_NEIGHBOURS + 1
    )
    is_other = numpy.abs(near - numpy.flatnonzero(is_in)[:, None]) > 1  # not the next in time
    in_space = float((~is_in[near])[is_other].mean()) if is_other.any() else 1.0
    in_time = float((is_in[1:] != is_in[:-1]).sum() / (2 * is_in.sum()))
    return max(in_space, in_time) < 0.5 and in_space < MORE_BORDER * in_time


def _mean(scan: Scan, group: NDArray[numpy.bool_]) -> NDArray[numpy.float64]:
    frames = numpy.flatnonzero(group)
    sample = scan.patterns[frames[:: max(1, len(frames) // 64)]]
    mean = numpy.sqrt(numpy.asarray(sample)[:, scan.good_pixels]).mean(axis=0, dtype=numpy.float64)
    return numpy.minimum(mean, numpy.quantile(mean, 0.999))  # without spikes


def _compare_neighbours(
    scan: Scan,
    found: _Frames,
    left_out: dict[str, NDArray[numpy.int64]],
    is_known: NDArray[numpy.bool_],
    known: NDArray[numpy.int64],
) -> NDArray[numpy.int64]:
    """Leaves frames out that are unlike their neighbours; returns those with a spike."""
    totals, peaks = found.totals[known], found.peaks[known]
    positions = scan.positions_px[known]
    _, near = KDTree(positions).query(positions, k=NUM_NEIGHBOURS + 1)
    around = numpy.median(totals[near[:, 1:]], axis=1)
    usual_peak = numpy.median(peaks[near[:, 1:]], axis=1)
    is_spike = (peaks > SPIKE * numpy.maximum(usual_peak, 1.0) + 10.0) & (
        peaks > ABOVE_ALL * numpy.quantile(peaks, 0.95)
    )
    # without its brightest pixel, a frame with a spike is like its neighbours
    is_spike &= totals - peaks < GLARING * around
    rest = totals - numpy.where(is_spike, peaks, 0.0)
    is_glaring = (rest > GLARING * around) & (rest > ABOVE_ALL * numpy.quantile(rest, 0.95))
    if is_glaring.mean() > MOST_GLARING:
        is_glaring[:] = False
    share = found.bands[known] / numpy.maximum(totals, 1e-300)[:, None]
    usual = numpy.median(share, axis=0)
    usual *= usual > BRIGHT_BAND
    wanted = numpy.maximum(numpy.median(share[near[:, 1:]], axis=1), usual) * rest[:, None]
    is_torn = ((wanted > LEAST) & (found.bands[known] < EMPTY * wanted)).any(axis=1)
    is_repeat = numpy.isin(known, found.repeats)
    if is_repeat.mean() > MOST_REPEATS:  # as patterns of an empty sample without noise are
        is_repeat[:] = False
    for what, is_out in (
        ('empty', rest < EMPTY * around),
        ('far too bright', is_glaring),
        ('torn', is_torn),
        ('the same as the one before', is_repeat),
    ):
        everywhere = numpy.zeros(scan.num_patterns, bool)
        everywhere[known] = is_out
        _leave_out(left_out, what, everywhere, is_known)
    return known[is_spike & is_known[known]]


def _measure(scan: Scan) -> _Frames:
    (height, width), num_patterns = scan.pattern_shape, scan.num_patterns
    bands = numpy.zeros((num_patterns, 2 * BANDS))
    totals, peaks = numpy.zeros(num_patterns), numpy.zeros(num_patterns)
    places, full = numpy.zeros(num_patterns, numpy.int64), []
    number = next(each for each in (BANDS, 2, 1) if height % each == width % each == 0)
    has_bad = not scan.good_pixels.all()
    for rows in block_slices(num_patterns, scan.patterns[0].nbytes):
        counts = numpy.asarray(scan.patterns[rows])
        if has_bad:
            counts = counts * scan.good_pixels
        if counts.max(initial=0) >= scan.saturation:
            is_full = counts >= scan.saturation
            full.append(numpy.argwhere(is_full) + [rows.start, 0, 0])
            counts = numpy.where(is_full, 0, counts)
        flat = counts.reshape(len(counts), -1)
        places[rows] = flat.argmax(axis=1)
        peaks[rows] = numpy.take_along_axis(flat, places[rows, None], axis=1)[:, 0]
        # one pass over the counts: the sums of columns within horizontal bands
        columns = numpy.einsum(
            'nbhw->nbw',
            counts.reshape(len(counts), number, -1, width),
            dtype=numpy.float64,
            casting='unsafe',
        )
        bands[rows, :number] = columns.sum(axis=2)
        down = columns.sum(axis=1).reshape(len(counts), number, -1)
        bands[rows, BANDS : BANDS + number] = down.sum(axis=2)
        totals[rows] = bands[rows, :BANDS].sum(axis=1)
    same = (numpy.diff(bands, axis=0) == 0.0).all(axis=1) & (numpy.diff(places) == 0)
    pairs = numpy.flatnonzero(same & (totals[1:] > LEAST))
    repeats = [k + 1 for k in pairs if numpy.array_equal(scan.patterns[k], scan.patterns[k + 1])]
    return _Frames(
        totals,
        bands,
        peaks,
        places,
        numpy.concatenate([numpy.empty((0, 3), numpy.int64), *full]),
        numpy.asarray(repeats, numpy.int64),
    )
