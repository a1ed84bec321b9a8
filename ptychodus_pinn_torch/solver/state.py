"""What the solver moves: object, probe, positions, brightness, background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from ..physics.measurement import Measurement
from ..physics.probe import shift_probe
from ..physics.propagation import intensity, to_detector
from ..physics.tilts import integrate_tilts, measure_tilts
from ..physics.variation import Variation, orthogonalise

__all__ = ['NOTHING', 'Freed', 'SolverState', 'mean_frequency', 'tilted_phase']


@dataclass(frozen=True)
class Freed:
    """What is moved beside the object.

    Attributes:
        weights: Those of a varying probe alone; they move with the probe in any case.
    """

    probe: bool = False
    positions: bool = False
    factors: bool = False
    background: bool = False
    weights: bool = False

    def names(self) -> tuple[str, ...]:
        """Returns the names of what is free."""
        return tuple(name for name, is_free in vars(self).items() if is_free)


NOTHING = Freed()

ENOUGH_PATTERNS, ENOUGH_PHOTONS = 4.0, 2e5
"""Patterns over the same place that say which large scales it wants, and photons of all of them."""

SAME_PLACE_PX = 0.02
"""A probe that is off by less stays there: every move costs a little sharpness at the border."""


@dataclass
class SolverState:
    """What the solver changes in place.

    Attributes:
        canvas: (1, Y, X) object.
        probe: (P, H, W) modes, calibrated to counts.
        shifts: (N, 2) sub-pixel positions, pixels.
        corners: (N, 2) first pixels of the windows, which follow the positions, on the host.
        factors: (N,) brightness of the beam, frame by frame; None until it is updated.
        background: Counts that every pixel has beside those of the object; None likewise.
        variation: How the first mode of the probe varies, or None.
    """

    canvas: Complex[Tensor, '1 y x']
    probe: Complex[Tensor, 'mode height width']
    shifts: Float[Tensor, 'pattern 2']
    corners: Int[Tensor, 'pattern 2']
    factors: Float[Tensor, ' pattern'] | None = None
    background: Float[Tensor, ''] | None = None
    variation: Variation | None = None

    @classmethod
    def start(cls, canvas: Tensor, measurement: Measurement) -> SolverState:
        """Returns an independent state with what is given beside the object by a measurement."""
        given = cls(
            canvas.detach(),
            measurement.probe,
            measurement.shifts,
            measurement.corners,
            measurement.factors,
            measurement.background,
            measurement.variation,
        )
        return given.clone()

    def clone(self) -> SolverState:
        """Returns an independent copy."""
        copies: dict[str, Any] = {k: x if x is None else x.clone() for k, x in vars(self).items()}
        return SolverState(**copies)

    def is_finite(self) -> bool:
        """Returns whether all of it are numbers."""
        values = dict(vars(self))
        variation = values.pop('variation')
        is_finite = all(x is None or bool(torch.isfinite(x).all()) for x in values.values())
        return is_finite and (variation is None or variation.is_finite())

    def seen(self, measurement: Measurement) -> Measurement:
        """Returns the measurement as it is explained at present."""
        kept, probe, shifts = measurement.shifted, self.probe, self.shifts
        if kept is not None and kept.equal(probe, shifts):
            probe, shifts = kept.probe, kept.shifts  # what was computed for them is used again
        return replace(
            measurement,
            probe=probe,
            shifts=shifts,
            corners=self.corners,
            factors=self.factors,
            background=self.background,
            variation=self.variation,
        )

    def moves(self, measurement: Measurement) -> Float[Tensor, 'pattern 2']:
        """Returns by how much the positions differ from those of a measurement, in pixels."""
        windows = (self.corners - measurement.corners).to(self.shifts.device, non_blocking=True)
        return windows + self.shifts - measurement.shifts

    def straighten(
        self, measurement: Measurement, indices: Int[Tensor, ' chosen'], freed: Freed
    ) -> None:
        """Gives the phase the large scales that the patterns `indices` (host) want.

        A ramp over all of it is a matter of the probe, where that is free.
        """
        seen = self.seen(replace(measurement, after_chunk=None))
        times = float(seen.coverage().max() / intensity(self.probe).max().clamp(min=1e-20))
        photons = float(measurement.totals.sum()) / measurement.num_patterns
        enough = max(ENOUGH_PATTERNS, ENOUGH_PHOTONS / max(photons, 1.0))
        tilts = measure_tilts(self.canvas, seen, indices[:: max(1, int(times / enough))])
        phase = integrate_tilts(tilts.around_mean() if freed.probe else tilts)
        self.canvas *= torch.polar(torch.ones((), device=phase.device).expand_as(phase), phase)

    def anchor(
        self, given: Complex[Tensor, 'mode height width'], *, is_placed: bool = True
    ) -> None:
        """Gives the probe place, power and tilt of the `given` one, and the object what follows.

        A probe that is moved with its object, that is brighter over a darker one, or whose phase
        has a ramp where the object's has the opposite one, makes the same patterns: where it is
        free, nothing else holds them.

        Args:
            given: The probe as it came.
            is_placed: Its place is known to a part of a pixel; else it is kept to one.
        """
        number, variation = len(self.probe), self.variation
        modes = self.probe if variation is None else torch.cat([self.probe, variation.modes])
        factor = torch.sqrt(intensity(given).sum() / intensity(self.probe).sum().clamp(min=1e-20))
        tilt = _tilt_of(given) - _tilt_of(self.probe)
        modes = modes * factor * tilted_phase(tilt, modes.shape[-2:])
        self.canvas = self.canvas / factor * tilted_phase(-tilt, self.canvas.shape[-2:])
        way = (_center(given) - _center(self.probe))[None]
        way = way if is_placed else way.round()
        if float(way.abs().max()) > SAME_PLACE_PX:
            modes = shift_probe(modes, way)[0]
            self.canvas = shift_probe(self.canvas, way)[0]
        self.probe = modes[:number]
        if variation is not None:
            self.variation = replace(variation, modes=modes[number:])

    def orthogonalise(self) -> None:
        """Makes the variations of a probe that has moved orthogonal; keeps what patterns have."""
        if self.variation is not None:
            self.probe, self.variation = orthogonalise(self.probe, self.variation)

    def move_windows(self) -> None:
        """Lets the windows follow positions by whole pixels, as far as the canvas goes."""
        limit = torch.tensor(self.canvas.shape[1:]) - torch.tensor(self.probe.shape[-2:])
        wanted = self.corners + self.shifts.round().to('cpu', torch.int64)
        after = torch.minimum(wanted.clamp(min=0), limit)
        self.shifts -= (after - self.corners).to(self.shifts.device, non_blocking=True)
        self.corners = after


def _center(probe: Complex[Tensor, 'mode height width']) -> Float[Tensor, ' 2']:
    """Returns the centre of mass (y, x) of the power of all modes, pixels."""
    power = intensity(probe)
    places = [torch.arange(number, device=power.device) for number in power.shape]
    return _mean_place(power, places)


def _tilt_of(probe: Complex[Tensor, 'mode height width']) -> Float[Tensor, ' 2']:
    """Returns the centre of mass (y, x) of the power in the far field, cycles per pixel."""
    return mean_frequency(intensity(to_detector(probe)))


def mean_frequency(power: Float[Tensor, 'height width']) -> Float[Tensor, ' 2']:
    """Returns the centre of mass (y, x) of a far field in corner order, cycles per pixel."""
    return _mean_place(
        power, [torch.fft.fftfreq(number, device=power.device) for number in power.shape]
    )


def _mean_place(power: Tensor, places: Sequence[Tensor]) -> Float[Tensor, ' 2']:
    """Returns the mean of the places of rows and of columns, weighted by the power (H, W)."""
    sums = [power.sum(dim=1), power.sum(dim=0)]
    return torch.stack([(p * x).sum() / x.sum().clamp(min=1e-20) for p, x in zip(places, sums)])


def tilted_phase(tilt: Float[Tensor, ' 2'], shape: Sequence[int]) -> Complex[Tensor, 'y x']:
    """Returns the phase factors of a tilt (y, x) in cycles per pixel, one in the middle."""
    y, x = (torch.arange(number, device=tilt.device) - number / 2.0 for number in shape)
    phase = 2.0 * torch.pi * (tilt[0] * y[:, None] + tilt[1] * x)
    return torch.polar(torch.ones_like(phase), phase)
