"""An image that grows: only what new frames touch is computed again, the rest gets better meanwhile."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from ..networks.contract import Network
from ..physics.measured_scan import CPU_CHUNK_BYTES, MAX_CHUNK, ScanCounts, measure_scan
from ..physics.measurement import Measurement
from ..reconstruction.misfit import misfit, misfit_map
from ..scan.scan import Scan, split_positions
from ..solver.annealing import LOW_DOSE, LOWEST_DOSE
from ..solver.momentum import Momentum
from ..solver.rpie import RpieSettings, rpie_epoch
from ..solver.state import NOTHING, SolverState

__all__ = ['GrowingImage']

NEIGHBOURS = 1.0
"""Known frames for each new one that the network sees as well: those that overlap most."""

NEW_BATCH, NEW_STEP = 16, 0.7
"""Frames per update, and the step, over frames that are new."""

SEARCH_LOOKS = 10
"""Mean looks at a frame while momentum searches; after that, steps get smaller."""

STRAIGHTENED_PASSES = 2.0
"""After so many passes over the frames, large scales are put right."""

PHASES = ((SEARCH_LOOKS, 16, 1.0), (14, 16, 0.5), (18, 16, 0.2), (math.inf, 64, 0.1))
"""Until so many mean looks at a frame: frames per update, and the step."""

TRUSTED = 4.0
"""Weight of what is known, over that of what the network finds anew with the same coverage."""


class GrowingImage:
    """The object under the frames that have come so far, on a canvas that follows them.

    New frames are seen at once: the network makes an image of their surroundings, which is turned to
    the phase of what is known and laid under it, and the solver takes a step over each of them.
    `refine` spends the time that is left on frames that were looked at least often.

    Args:
        probe: (P, H, W) as it was given; it is calibrated by the first frames.
        good_pixels: (H, W), True where the detector can be trusted.
        network: That makes images of surroundings; None leaves them to the solver.
        device: Where the work is done.
    """

    def __init__(
        self,
        probe: NDArray[numpy.complex64],
        good_pixels: NDArray[numpy.bool_],
        network: Network | None,
        device: torch.device,
    ) -> None:
        self._given, self._good_pixels = probe, good_pixels
        self._network, self._device = network, device
        self._window = numpy.asarray(probe.shape[-2:])
        self._probe: Tensor | None = None
        self._patterns: NDArray[Any] = numpy.empty((0, *probe.shape[-2:]))
        self._rows = numpy.empty(0, numpy.int64)
        self._positions = numpy.empty((0, 2))
        self._looks = numpy.empty(0, numpy.int64)
        self._origin = numpy.zeros(2, numpy.int64)
        self._canvas = torch.empty((1, 0, 0), dtype=torch.complex64, device=device)
        self._coverage = torch.empty((1, 0, 0), device=device)
        self._momentum: Momentum | None = None
        self._passes, self._photons, self._level = 0.0, 0.0, 1.0
        self._seen: Measurement | None = None
        self._rng = numpy.random.default_rng(0)

    @property
    def num_seen(self) -> int:
        """Frames that have been seen."""
        return len(self._rows)

    @torch.inference_mode()
    def see(
        self,
        patterns: NDArray[Any],
        rows: NDArray[numpy.int64],
        positions_px: NDArray[numpy.float64],
        *,
        with_network: bool = True,
    ) -> None:
        """Takes new frames in.

        Args:
            patterns: All frames (n, H, W), of which some are new.
            rows: (J,) which of them.
            positions_px: (J, 2) of these, (y, x).
            with_network: Whether there is time for the network.
        """
        known = self.num_seen
        self._patterns = patterns
        self._rows = numpy.concatenate([self._rows, rows])
        self._positions = numpy.concatenate([self._positions, positions_px])
        self._looks = numpy.concatenate([self._looks, numpy.zeros(len(rows), numpy.int64)])
        if self._probe is None:
            self._calibrate()
        self._make_room(positions_px)
        measurement = self._seen = self._measurement()
        new = torch.arange(known, self.num_seen)
        added = self._cover(measurement, new)
        if self._network is not None and with_network:
            self._lay_under(measurement, self._surroundings(known), added)
        self._coverage += added
        self._momentum = None
        self._step(self._state(measurement), measurement, new.numpy(), NEW_BATCH, NEW_STEP)

    @torch.inference_mode()
    def refine(self, number: int) -> None:
        """Takes a step over so many frames that were looked at least often.

        With momentum until each was looked at some times, with smaller and smaller steps after that.
        Now and then large scales are put right: what has grown from one end to the other has them all
        wrong.
        """
        measurement = self._seen
        assert measurement is not None
        order = numpy.argsort(self._looks + self._rng.random(self.num_seen), kind='stable')
        looks = float(self._looks.mean())
        batch, step = next((b, s) for last, b, s in PHASES if looks < last)
        state = self._state(measurement)
        if looks >= SEARCH_LOOKS:
            self._momentum = None
        elif self._momentum is None:
            self._momentum = Momentum(state)
        self._step(state, measurement, order[:number], batch, step, self._momentum)
        self._passes += number / self.num_seen
        if self._passes < STRAIGHTENED_PASSES:
            return
        self._passes = 0.0
        state.straighten(measurement, torch.arange(self.num_seen), NOTHING)
        self._canvas = state.canvas
        if self._momentum is not None:
            self._momentum.follow(state)

    def image(
        self,
    ) -> tuple[Complex[NDArray[Any], 'y x'], Float[NDArray[Any], 'y x'], NDArray[numpy.int64]]:
        """Returns object and coverage (at most 1) on the canvas, and the position of pixel (0, 0)."""
        coverage = self._coverage[0].cpu().numpy()
        peak = coverage.max() if coverage.size else 1.0
        return (
            self._canvas[0].cpu().numpy().copy(),
            coverage / max(peak, 1e-20),
            self._origin.copy(),
        )

    @torch.inference_mode()
    def judge(self, number: int) -> Float[NDArray[Any], 'y x']:
        """Returns the map of the misfit over photon noise (Y, X) of so many frames, NaN beside them."""
        chosen = numpy.sort(self._rng.permutation(self.num_seen)[:number])
        assert self._seen is not None
        part, box = self._seen.part(torch.from_numpy(chosen))
        state = SolverState(self._canvas[:, box[0], box[1]], part.probe, part.shifts, part.corners)
        found = numpy.full(self._canvas.shape[1:], numpy.nan, dtype=numpy.float32)
        found[box] = misfit_map(state, part, misfit(state, part).ratios).cpu().numpy()
        return found

    def _scan(self) -> Scan:
        return Scan(
            name='live',
            patterns=self._patterns,
            positions_px=self._positions,
            probe=self._given,
            object_=numpy.ones((1, 1), numpy.complex64),
            good_pixels=self._good_pixels,
        )

    def _calibrate(self) -> None:
        """Brings the probe into counts by the frames that are there; how bright a flat object is."""
        scan = replace(self._scan(), patterns=numpy.asarray(self._patterns[self._rows]))
        first = measure_scan(scan, device=self._device).measurement
        self._probe, self._level = first.probe, float(first.level())
        self._photons = float(first.totals) / first.num_patterns

    def _make_room(self, positions_px: NDArray[numpy.float64]) -> None:
        """Lets the canvas hold the windows of new positions."""
        corners, _ = split_positions(positions_px, (int(self._window[0]), int(self._window[1])))
        shape = numpy.asarray(self._canvas.shape[1:])
        low, high = corners.min(axis=0), corners.max(axis=0) + self._window
        margin = self._window // 2  # so that it need not grow each time
        if not shape.all():
            first, last = low - margin, high + margin
        elif (low >= self._origin).all() and (high <= self._origin + shape).all():
            return
        else:
            first = numpy.where(low < self._origin, low - margin, self._origin)
            end = self._origin + shape
            last = numpy.where(high > end, high + margin, end)
        size = (1, *(last - first).tolist())
        canvas = torch.full(size, self._level, dtype=torch.complex64, device=self._device)
        coverage = torch.zeros(size, device=self._device)
        y, x = (self._origin - first).tolist() if shape.all() else (0, 0)
        inside = (slice(None), slice(y, y + int(shape[0])), slice(x, x + int(shape[1])))
        if shape.all():
            canvas[inside], coverage[inside] = self._canvas, self._coverage
        self._canvas, self._coverage, self._origin = canvas, coverage, first

    def _measurement(self) -> Measurement:
        """Returns all frames that were seen as one measurement of the canvas."""
        assert self._probe is not None
        shape = int(self._window[0]), int(self._window[1])
        corners, shifts = split_positions(self._positions, shape)
        good = numpy.fft.ifftshift(self._good_pixels)
        frame_bytes = shape[0] * shape[1] * (8 + 16 * len(self._probe))
        return Measurement(
            counts=ScanCounts(self._scan(), self._device, self._rows),
            rows=torch.zeros(self.num_seen, dtype=torch.int64),
            corners=torch.from_numpy(corners - self._origin),
            shifts=torch.from_numpy(shifts.astype(numpy.float32)).to(self._device),
            probe=self._probe,
            canvas_shape=(1, self._canvas.shape[1], self._canvas.shape[2]),
            good_pixels=None if good.all() else torch.from_numpy(good).to(self._device),
            chunk_size=int(max(1, min(MAX_CHUNK, CPU_CHUNK_BYTES // frame_bytes))),
        )

    def _cover(self, measurement: Measurement, chosen: Tensor) -> Float[Tensor, '1 y x']:
        """Returns the photons that some frames have sent through each pixel."""
        part, (y, x) = measurement.part(chosen)
        covered = torch.zeros_like(self._coverage)
        covered[:, y, x] = part.coverage()
        return covered

    def _surroundings(self, known: int) -> Tensor:
        """Returns the new frames, and of the `known` ones those that lie nearest to them."""
        new = numpy.arange(known, self.num_seen)
        if not known:
            return torch.from_numpy(new)
        from scipy.spatial import KDTree

        distances, _ = KDTree(self._positions[new]).query(self._positions[:known])
        reach = numpy.flatnonzero(distances < self._window.max() / 2)
        nearest = reach[numpy.argsort(distances[reach], kind='stable')]
        chosen = nearest[: int(NEIGHBOURS * len(new))]
        return torch.from_numpy(numpy.concatenate([numpy.sort(chosen), new]))

    def _lay_under(self, measurement: Measurement, chosen: Tensor, added: Tensor) -> None:
        """Puts the network's image of some frames where little is known, in the phase of the rest."""
        assert self._network is not None
        part, (y, x) = measurement.part(chosen)
        found = self._network.reconstruct(part).object_
        new, old = added[:, y, x], self._coverage[:, y, x]
        canvas = self._canvas[:, y, x]
        overlap = (found.conj() * canvas * torch.minimum(part.coverage(), old)).sum()
        if float(overlap.abs()) > 0.0:
            found = found * (overlap / overlap.abs())
        weight = new / (new + TRUSTED * old).clamp(min=1e-20)
        self._canvas[:, y, x] = canvas + weight * (found - canvas)

    def _state(self, measurement: Measurement) -> SolverState:
        return SolverState(self._canvas, measurement.probe, measurement.shifts, measurement.corners)

    def _step(
        self,
        state: SolverState,
        measurement: Measurement,
        chosen: NDArray[numpy.int64],
        batch: int,
        step: float,
        momentum: Momentum | None = None,
    ) -> None:
        """Takes one step of the solver over some frames."""
        order = torch.from_numpy(self._rng.permutation(chosen))
        is_likely = momentum is None and LOWEST_DOSE <= self._photons < LOW_DOSE
        settings = RpieSettings(step=step, is_likely=is_likely, measured_every=10**9)
        rpie_epoch(state, measurement, order.split(batch), settings, momentum=momentum)
        self._canvas = state.canvas
        self._looks[chosen] += 1
