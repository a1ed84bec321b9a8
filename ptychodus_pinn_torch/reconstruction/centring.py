"""A beam that does not meet the middle of the patterns: a ramp of the phase, known beforehand."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..physics.measured_scan import MeasuredScan
from ..physics.measurement import Measurement
from ..physics.memory import with_chunks_that_fit
from ..physics.propagation import intensity, to_detector
from ..solver.state import mean_frequency, tilted_phase
from .run_log import RunLog
from .splitting import sample_patterns

__all__ = ['centre_beam']

LEAST_OFFSET_PX = 0.3
"""What an object makes of the centre of mass of the patterns of a scan stays below."""

LEAST_VISIBLE = 0.5
"""Part of the light of an empty beam on good pixels, below which its middle cannot be seen."""


def centre_beam(measured: MeasuredScan, log: RunLog) -> MeasuredScan:
    """Returns the scan with a probe that meets the detector where its patterns do; says so.

    Patterns that lie beside the middle are those of an object with a ramp over its phase, which
    neither networks nor the solver find from a flat one as surely as an object without.
    """
    measurement = measured.measurement
    if measurement.variation is not None or float(measurement.visible_part) < LEAST_VISIBLE:
        return measured
    counts = with_chunks_that_fit(measurement, _add_up)
    sent = intensity(to_detector(measurement.probe))
    if measurement.good_pixels is not None:
        sent = sent * measurement.good_pixels
    tilt = mean_frequency(counts) - mean_frequency(sent)
    offset = tilt.cpu() * torch.tensor(measurement.window)
    if not float(offset.abs().max()) > LEAST_OFFSET_PX:
        return measured
    log.say(
        f'{measured.scan.name}: the patterns lie ({offset[0]:.2g}, {offset[1]:.2g}) pixels (y, x) '
        'beside the middle that the probe has: the image gets a ramp of the phase.'
    )
    probe = measurement.probe * tilted_phase(tilt, measurement.window)
    return replace(
        measured, measurement=replace(measurement, probe=probe), tilt=tuple(tilt.tolist())
    )


def _add_up(measurement: Measurement) -> Tensor:
    """Returns the counts (H, W) of some patterns, corner order."""
    counts = torch.zeros(measurement.window, device=measurement.device)
    for chunk in measurement.chunks(sample_patterns(measurement)):
        counts += chunk.good_counts().sum(dim=0)
    return counts
