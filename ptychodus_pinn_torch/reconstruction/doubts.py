"""What makes an image doubtful although its counts are explained: they do not say enough."""

from __future__ import annotations

import numpy
import torch
from jaxtyping import Complex
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from ..physics.forward_model import predict
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..solver.state import SolverState
from .misfit import Misfit
from .refined import Refined
from .splitting import sample_patterns
from .stretching import LEAST_STRETCH, measure_stretch

__all__ = ['find_doubt', 'strongest_mode']

MOST_FLICKER = 0.08
"""Brightness of the frames, rms of its relative changes, up to which it is told from the object."""

MOST_DROWNED = 0.5
"""Part of the pixels that may have more background than light."""

SUSPICIOUS = 1.1
"""Error over that of photon noise from which a wrong scale of the positions is not by chance."""

ENOUGH_PHOTONS = 5e3
"""Per pattern, below which an image has a scale of its own by chance."""

ALIKE, SAME_SIZE = 0.995, 0.02
"""Overlap of two probes that are the same but for their size; what sizes may differ by."""

MAGNIFICATIONS = numpy.arange(0.8, 1.26, 0.01)
"""Sizes of the probe that are tried, in steps of half of `SAME_SIZE`."""


def find_doubt(refined: Refined, measurement: Measurement, seen: Misfit) -> str:
    """Returns what makes an image doubtful that explains its counts, and what to do; or nothing."""
    state, freed = refined.state, refined.freed
    if stretched := _describe_stretch(refined, measurement, seen):
        return stretched
    if freed.background and (part := _drowned_part(state, measurement)) > MOST_DROWNED:
        return (
            f'a background, found from the patterns themselves, is stronger than the light in '
            f'{100 * part:.0f} % of the pixels, and its noise hides fine details: lower it, or expose longer'
        )
    if freed.factors and state.factors is not None:
        flicker = float(state.factors.std(correction=0) / state.factors.mean())
        if flicker > MOST_FLICKER:
            return (
                f'the brightness changes by {100 * flicker:.0f} % rms from frame to frame, which '
                'patterns hardly tell from slow changes of the amplitude of the object: believe '
                'its phase, or scan under a steady beam'
            )
    return ''


def _describe_stretch(refined: Refined, measurement: Measurement, seen: Misfit) -> str:
    """Returns that positions have the wrong scale, unless they, or nothing, have."""
    photons = float(measurement.totals.sum()) / measurement.num_patterns
    is_suspicious = seen.to_noise > SUSPICIOUS
    if refined.freed.positions or photons < ENOUGH_PHOTONS:
        return ''
    if not (refined.freed.probe or is_suspicious):
        return ''
    stretch = measure_stretch(refined.state, measurement, sample_patterns(measurement))
    what = f'the patterns want the positions {"farther apart" if stretch > 0 else "nearer"}'
    advice = (
        'positions, pixel size or distance have the wrong scale: compare images under several '
        'values of --scale-positions'
    )
    if refined.freed.probe and stretch:  # a probe that has changed its size shows what is wrong
        given, found = (
            strongest_mode(probe).reshape(measurement.window).numpy()
            for probe in (measurement.probe, refined.state.probe)
        )
        magnification, overlap = _magnification(given, found)
        if overlap > ALIKE and abs(magnification - 1.0) > SAME_SIZE:
            return f'{what}, and the probe has become {magnification:.2f} times as large: {advice}'
    if abs(stretch) > LEAST_STRETCH and is_suspicious:
        return f'{what}: {advice}'
    return ''


def _magnification(
    given: Complex[NDArray[numpy.complex64], 'height width'],
    found: Complex[NDArray[numpy.complex64], 'height width'],
) -> tuple[float, float]:
    """Returns how large the given mode has to be to be most like the found one, and how alike."""
    best = 1.0, 0.0
    for magnification in MAGNIFICATIONS:
        matrix = numpy.eye(2) / magnification
        middle = (numpy.asarray(given.shape) - 1) / 2
        offset = middle - matrix @ middle
        parts = [affine_transform(x, matrix, offset, order=3) for x in (given.real, given.imag)]
        resized = parts[0] + 1j * parts[1]
        norms = numpy.linalg.norm(resized) * numpy.linalg.norm(found)
        overlap = float(abs(numpy.vdot(resized, found)) / max(norms, 1e-20))
        if overlap > best[1]:
            best = float(magnification), overlap
    return best


def _drowned_part(state: SolverState, measurement: Measurement) -> float:
    """Returns in which part of the good pixels of some patterns the background is stronger."""
    background, sample = state.background, sample_patterns(measurement)
    assert background is not None

    def part_of(seen: Measurement) -> float:
        drowned, number = 0.0, 0.0
        for chunk in seen.chunks(sample):
            light = predict(state.canvas, chunk) - background
            good = (
                torch.ones_like(light)
                if chunk.good_pixels is None
                else chunk.good_pixels.expand_as(light)
            )
            drowned += float(((light < background) * good).sum())
            number += float(good.sum())
        return drowned / max(number, 1.0)

    return with_chunks_that_fit(state.seen(measurement), part_of)


def strongest_mode(probe: Complex[Tensor, 'mode height width']) -> Complex[Tensor, ' pixel']:
    """Returns the strongest of the orthogonal modes of a probe, of norm 1, on the host.

    Modes that are mixed unitarily are the same probe; their orthogonal ones do not change.
    """
    modes = probe.flatten(1).cpu()
    weights = torch.linalg.eigh(modes.conj() @ modes.T).eigenvectors[:, -1]
    mode = weights @ modes
    return mode / torch.linalg.vector_norm(mode).clamp(min=1e-20)
