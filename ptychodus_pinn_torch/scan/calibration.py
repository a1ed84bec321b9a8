"""The probe in units of counts."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy
from numpy.typing import NDArray

from .scan import Scan
from .triage import Triage, examine_frames

__all__ = ['CALIBRATED_RATIO', 'calibrate_probe', 'calibrate_scan']

logger = logging.getLogger(__name__)

CALIBRATED_RATIO = (0.05, 1.25)
"""Counts of the brightest frame over photons of the probe, if the probe is calibrated: less than
one behind an absorbing object, a little more where the probe was scaled to the mean frame."""


def calibrate_probe(
    scan: Scan, triage: Triage | None = None
) -> tuple[NDArray[numpy.complex64], float]:
    """Returns the probe (P, H, W) in counts, brightest mode first, and the factor that was applied.

    `sum |P|**2` of a calibrated probe is the number of photons of a frame without object. A probe
    counts as calibrated when the brightest frame holds a part of that within `CALIBRATED_RATIO`;
    otherwise it is scaled so that the brightest frame is what an empty frame would be.

    Frames that are not like their neighbours, which `triage` names where it is known already, say
    nothing about the brightness. Where the first mode varies from pattern to pattern it stays first,
    and the brightest probe is what is compared.

    Raises:
        ValueError: the probe is zero everywhere.
    """
    probe = numpy.asarray(scan.probe, dtype=numpy.complex64)
    variation = scan.probe_variation
    mean = probe if variation is None else variation.mean_probe(probe)
    powers = numpy.sum(mean.real.astype(float) ** 2 + mean.imag.astype(float) ** 2, axis=(1, 2))
    power = float(powers.sum())
    if not power > 0.0 or not numpy.isfinite(power):
        raise ValueError(f'{scan.name}: the probe is zero or not finite: give another probe.')
    first = 0 if variation is None else 1
    order = numpy.arange(len(probe))
    order[first:] = first + numpy.argsort(-powers[first:], kind='stable')
    probe, mean = probe[order], mean[order]
    brightest = (triage or examine_frames(scan)).brightest
    # photons of an empty frame on good pixels; a beamstop hides the others
    far_field = numpy.fft.fft2(mean.astype(numpy.complex128), norm='ortho')
    frame = numpy.fft.fftshift(numpy.sum(numpy.abs(far_field) ** 2, axis=0))
    visible = float(frame[scan.good_pixels].sum())
    if variation is not None:  # the brightest frame has the brightest probe
        brightening = float(variation.powers(probe).max() + powers[1:].sum()) / power
        power, visible = power * brightening, visible * brightening
    is_calibrated = CALIBRATED_RATIO[0] * visible <= brightest <= CALIBRATED_RATIO[1] * power
    if brightest <= 0.0 or visible <= 0.0 or is_calibrated:
        return probe, 1.0
    factor = float(numpy.sqrt(brightest / visible))
    logger.warning(
        '%s: the probe holds %.3g photons but the brightest frame %.3g counts: the probe was '
        'multiplied by %.4g.',
        scan.name,
        visible,
        brightest,
        factor,
    )
    return (probe * factor).astype(numpy.complex64), factor


def calibrate_scan(scan: Scan, triage: Triage | None = None) -> tuple[Scan, float]:
    """Returns the scan with its probe, and how that one varies, in counts; and the factor applied.

    Raises:
        ValueError: the probe is zero everywhere.
    """
    probe, factor = calibrate_probe(scan, triage)
    variation = scan.probe_variation
    if variation is not None:
        variation = variation.scaled(factor)
    return replace(scan, probe=probe, probe_variation=variation), factor
