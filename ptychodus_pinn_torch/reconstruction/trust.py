"""Whether an image is to be believed: how far the counts are explained, frame by frame."""

from __future__ import annotations

import logging

import numpy
import torch

from ..backend import Moved, Trust
from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from .doubts import find_doubt, strongest_mode
from .misfit import UNDER_NOISE, Misfit, misfit, misfit_map
from .placing import place_map
from .refined import Refined
from .run_log import RunLog

__all__ = ['judge_image', 'measure_moves']

logger = logging.getLogger(__name__)

EXPLAINED, HELD_OUT_EXPLAINED = 1.3, 1.6
"""Error over that of photon noise up to which an image is right: on what has made it, and on
patterns that were held out."""

WRONG = 4.0
"""From this on the image is wrong, since the counts say something else."""

CLOSE = 1e-4
"""Part of the counts up to which errors are small in any case: the limit of very bright scans."""

OUTLIER, MOST_OUTLIERS = 3.0, 0.05
"""A frame stands out from the median by this factor; an image may have so many of them."""

BADLY, MOST_BADLY = 2.0, 0.05
"""A place is explained badly from this value of the map on; an image may have so much of it."""

ESTIMATED_PROBE = (
    'the scan came without a probe, and counts alone do not always tell the right one from others: '
    'give a measured probe'
)

ADVICE = 'examine the scan with ptychodus-pinn check'


def judge_image(refined: Refined, measured: MeasuredScan, log: RunLog) -> Trust:
    """Returns what is to be thought of an image, and says so unless it is right."""
    scan, state, measurement = measured.scan, refined.state, measured.measurement

    seen = misfit(state, measurement)
    where = misfit_map(state, measurement, seen.ratios)
    frames = numpy.full(scan.num_patterns, numpy.nan, dtype=numpy.float32)
    frames[measured.frames] = seen.ratios.cpu().numpy()
    noise = float(seen.noise.sum() / seen.counts.sum().clamp(min=1e-9))
    held_out = None if refined.held_out is None else refined.held_out / max(noise, 1e-12)
    placed = place_map(where.cpu().numpy(), measured.origin, scan.object_.shape)
    verdict, why = _decide(seen, held_out, frames, placed)
    if verdict == 'right':
        doubt = find_doubt(refined, measurement, seen)
        doubt = doubt or (ESTIMATED_PROBE if scan.metadata.get('probe_is_estimated') else '')
        verdict, why = ('doubtful', doubt) if doubt else (verdict, why)
    what = f'{scan.name}: the image is {verdict}'
    sentence = f'{what}: {why}.' if verdict == 'right' else f'{what}, because {why}.'
    if verdict == 'right':
        logger.info('%s', sentence)
    else:
        log.say(sentence)
    moved = measure_moves(refined, measurement)
    if moved.figures():
        logger.info('%s: %s', scan.name, moved.sentence())
    return Trust(verdict, sentence, seen.to_noise, frames, placed, moved)


@torch.no_grad()
def measure_moves(refined: Refined, given: Measurement) -> Moved:
    """Returns how far what was freed beside the object is from what was given."""
    state, freed, found = refined.state, refined.freed, {}
    if freed.positions:
        moves = state.moves(given)
        distances = torch.linalg.vector_norm(moves - moves.median(dim=0).values, dim=-1)
        found['positions_rms_px'] = distances.square().mean().sqrt()
        found['positions_max_px'] = distances.max()
    if freed.probe:
        before, after = strongest_mode(given.probe), strongest_mode(state.probe)
        found['probe_overlap'] = torch.vdot(before, after).abs()
        found['probe_power_ratio'] = state.seen(given).power / given.power
    if freed.factors and state.factors is not None:
        found['factors_rms'] = state.factors.std(correction=0) / state.factors.mean()
    if freed.background and state.background is not None:
        found['background_counts'] = state.background
    return Moved(**{name: float(value) for name, value in found.items()})


def _decide(
    seen: Misfit, held_out: float | None, frames: numpy.ndarray, where: numpy.ndarray
) -> tuple[str, str]:
    """Returns the verdict and the reason; the held-out error is over that of photon noise."""
    to_noise, relative = seen.to_noise, seen.relative
    badly = f'the counts are explained {to_noise:.2g} times as badly as photon noise allows'
    if not numpy.isfinite(to_noise) or (to_noise > WRONG and relative > CLOSE):
        return 'wrong', f'{badly}: {ADVICE}'
    if to_noise > EXPLAINED and relative > CLOSE:
        return 'doubtful', f'{badly}: {ADVICE}'
    if to_noise < UNDER_NOISE:
        return 'doubtful', (
            'the counts scatter less than photons do, so that nothing says how far they ought to be '
            'explained: give counts of photons'
        )
    if held_out is not None and held_out > HELD_OUT_EXPLAINED and relative > CLOSE:
        return 'doubtful', (
            f'patterns that were held out were explained {held_out:.2g} times as badly as photon '
            f'noise allows: {ADVICE}, or scan with more overlap'
        )
    outliers = numpy.flatnonzero(frames > max(2.0, OUTLIER * float(numpy.nanmedian(frames))))
    if len(outliers) > MOST_OUTLIERS * len(frames) and relative > CLOSE:
        return 'doubtful', (
            f'{len(outliers)} frames, of which the first is number {outliers[0]}, are explained much '
            f'worse than the others: {ADVICE}'
        )
    if relative > CLOSE and (place := _bad_place(where)):
        return 'doubtful', f'{place}: {ADVICE}'
    return 'right', f'the counts are explained to {to_noise:.2g} times photon noise'


def _bad_place(where: numpy.ndarray) -> str:
    """Returns which part of a map (Y, X) is badly explained, in words, unless it is small."""
    known = where[numpy.isfinite(where)]
    if not known.size:
        return ''
    is_bad = known > BADLY * max(1.0, float(numpy.median(known)))
    if is_bad.mean() <= MOST_BADLY:
        return ''
    y, x = numpy.unravel_index(numpy.nanargmax(where), where.shape)
    return (
        f'{100 * is_bad.mean():.0f} % of it, around row {y} and column {x}, are explained up to '
        f'{known.max():.2g} times as badly as photon noise allows'
    )
