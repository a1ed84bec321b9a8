"""The defocus of a probe that was estimated from the mean pattern, which has no phases: by the counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy
import torch
from jaxtyping import Complex
from numpy.typing import NDArray

from ..physics.measured_scan import measure_scan
from ..scan.io.build import ESTIMATED
from ..scan.resampling import crop_scan
from ..scan.scan import Scan
from ..scan.triage import Triage, examine_frames
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import Freed, SolverState
from .splitting import take_middle

__all__ = ['bend_probe', 'quick_misfit', 'with_found_defocus']

NUM_FRAMES, NUM_EPOCHS, NUM_FIXED, BATCH, ALPHA = 48, 8, 2, 8, 0.05
"""Neighbouring frames that are reconstructed from a flat object, and how: as `check` does to tell
orientations, but with a probe that is freed after two epochs, which widens the valley."""

SIZES, INSIDE = (64, 128, 256), 0.9
"""Detector pixels that are looked at, per side: the fewest that hold that part of the counts."""

STEP_RAD = 1.5
"""Curvature that is tried next, as the phase at the rms radius of the far field: the misfit has a
valley of +-2.5 rad about the true one, where the range is +-10 (docs/benchmarks.md)."""

CERTAIN = 3.0
"""Standard errors by which the best curvature must stand out of the misfits of all others."""


def with_found_defocus(
    scan: Scan, say: Callable[[str], None], triage: Triage | None = None
) -> Scan:
    """Returns a scan whose estimated probe has the defocus that explains the counts best.

    The far field of a lens is known but for its phases, of which defocus is the largest: a parabola.
    All curvatures whose beam fits into the window are tried. A probe that was given is left alone.

    Args:
        scan: As read.
        say: Takes what was found, in a sentence.
        triage: Of its frames, where it is known.
    """
    if scan.metadata.get(ESTIMATED) is not True or scan.num_patterns < BATCH:
        return scan
    triage = triage or examine_frames(scan)
    kept = triage.kept(scan.num_patterns)
    middle = take_middle(scan.positions_px[kept], NUM_FRAMES).numpy()
    part = _crop(triage.take(scan, kept[middle]))
    tried = _curvatures(part)
    misfits = numpy.asarray([_misfit(part, curvature) for curvature in tried])
    step = tried[1] - tried[0]
    finer = tried[misfits.argmin()] + step * numpy.asarray([-0.5, -0.25, 0.0, 0.25, 0.5])
    errors = [_misfit(part, curvature) for curvature in finer]
    usual = numpy.median(misfits)
    spread = 1.4826 * numpy.median(numpy.abs(misfits - usual))
    rms_rad = finer[int(numpy.argmin(errors))] / step * STEP_RAD
    if usual - min(errors) < CERTAIN * spread:
        say(
            f'{scan.name}: the counts do not tell the defocus of the probe that was estimated '
            f'(misfits {min(errors):.4f} to {misfits.max():.4f}): give a probe.'
        )
        return scan
    curvature = (
        finer[int(numpy.argmin(errors))] * (scan.pattern_shape[0] / part.pattern_shape[0]) ** 2
    )
    say(
        f'{scan.name}: the estimated probe has a defocus that the counts tell: {rms_rad:.2g} rad at the '
        f'rms radius of the far field (misfit {min(errors):.4f}, usually {usual:.4f}).'
    )
    metadata = {**scan.metadata, ESTIMATED: 'with the defocus that the counts tell'}
    return replace(scan, probe=bend_probe(scan.probe, curvature), metadata=metadata)


def bend_probe(
    probe: Complex[NDArray[numpy.complex64], 'mode height width'], curvature: float
) -> Complex[NDArray[numpy.complex64], 'mode height width']:
    """Returns the probe whose far field has the phase `curvature * f**2`, f in cycles per pixel.

    The probe is (P, H, W). As free space of a length z makes of it, with curvature -pi lambda z (Goodman 2005, eq. 3-74).
    """
    fy, fx = (numpy.fft.fftfreq(length) for length in probe.shape[-2:])
    phase = curvature * (fy[:, None] ** 2 + fx**2)
    spectrum = numpy.fft.fft2(numpy.fft.ifftshift(probe, axes=(-2, -1)))
    bent = numpy.fft.ifft2(spectrum * numpy.exp(1j * phase))
    return numpy.fft.fftshift(bent, axes=(-2, -1)).astype(numpy.complex64)


def _mean_pattern(part: Scan) -> NDArray[numpy.float64]:
    return numpy.asarray(part.patterns).mean(axis=0, dtype=numpy.float64) * part.good_pixels


def _crop(part: Scan) -> Scan:
    """Returns the scan with the middle of the detector that holds most counts."""
    mean, old = _mean_pattern(part), part.pattern_shape[0]
    for size in SIZES:
        start = (old - size) // 2
        inside = mean[start : start + size, start : start + size] if size < old else mean
        if size >= old or inside.sum() > INSIDE * mean.sum():
            return part if size >= old else crop_scan(part, size)
    return crop_scan(part, SIZES[-1])


def _curvatures(part: Scan) -> NDArray[numpy.float64]:
    """Returns the curvatures that are tried, zero among them, in even steps.

    Rays at the rms radius f of the far field move by curvature * f / pi pixels, at most half a window.
    """
    fy, fx = (numpy.fft.fftshift(numpy.fft.fftfreq(length)) for length in part.pattern_shape)
    mean = _mean_pattern(part)
    mean_square = float((mean * (fy[:, None] ** 2 + fx**2)).sum() / mean.sum())
    number = int(numpy.pi * min(part.pattern_shape) * mean_square**0.5 / 2.0 / STEP_RAD)
    return numpy.arange(-number, number + 1, dtype=numpy.float64) * (STEP_RAD / mean_square)


def _misfit(part: Scan, curvature: float) -> float:
    bent = replace(part, probe=bend_probe(part.probe, curvature))
    return quick_misfit(bent, NUM_EPOCHS, num_fixed=NUM_FIXED)


@torch.no_grad()
def quick_misfit(
    part: Scan, num_epochs: int, num_modes: int = 0, num_fixed: int | None = None
) -> float:
    """Returns the relative amplitude error of a few epochs from a flat object, in the last of them.

    The probe is freed after `num_fixed` epochs, or not at all.
    """
    measurement = measure_scan(part, num_probe_modes=num_modes).measurement
    state, number = SolverState.start(measurement.flat(), measurement), measurement.num_patterns
    num_subsets = -(-number // BATCH)
    batches = [torch.arange(k, number, num_subsets) for k in range(num_subsets)]
    error = 0.0
    for epoch in range(num_epochs):
        is_freed = num_fixed is not None and epoch >= num_fixed
        settings = RpieSettings(alpha=ALPHA, freed=Freed(probe=is_freed))
        error = rpie_epoch(state, measurement, batches, settings)
    return error
