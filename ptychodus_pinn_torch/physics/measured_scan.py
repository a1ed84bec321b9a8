"""A scan as a measurement: on its own canvas, calibrated, read from its memory map as needed."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor

from ..scan.calibration import calibrate_scan
from ..scan.probe_variation import ProbeVariation
from ..scan.scan import Scan, split_positions
from ..scan.triage import Triage, examine_frames
from .measurement import Measurement
from .variation import Variation

__all__ = ['MeasuredScan', 'ScanCounts', 'measure_scan']

MAX_CHUNK = 4096
CPU_CHUNK_BYTES = 3 * 2**20
RESIDENT_PART = 0.5
"""A device keeps all patterns of a scan where they take less than this part of its free memory."""


class ScanCounts:
    """The counts of a scan by index: float32, corner order, bad pixels zero (see `Counts`).

    A device with room for all patterns receives each of them once. On the CPU, whose memory map is
    fast, they are read whenever they are needed, unless somebody goes through them often: `kept`.

    Args:
        scan: Patterns (N, H, W) in the dtype of the file, zero frequency in the middle.
        device: Where the counts are wanted.
        frames: (J,) numbers of those frames that are looked at; all by default.
        total: Their counts over good pixels, where they have been added up already.
    """

    def __init__(
        self,
        scan: Scan,
        device: torch.device,
        frames: NDArray[numpy.int64] | None = None,
        total: float | None = None,
    ) -> None:
        self.scan, self.device, self.frames = scan, device, frames
        number = scan.num_patterns if frames is None else len(frames)
        self.shape = (number, *scan.pattern_shape)
        good = numpy.fft.ifftshift(scan.good_pixels)
        self._good = None if good.all() else torch.from_numpy(good).to(device, non_blocking=True)
        self._total = total
        self._resident: Tensor | None = None
        if _has_room(device, 4 * int(numpy.prod(self.shape))):
            self._resident = self._read_all()

    def __getitem__(self, indices: Tensor) -> Float[Tensor, 'pattern height width']:
        if self._resident is not None:
            return self._resident.index_select(0, indices.to(self.device, non_blocking=True))
        return self._read(indices.numpy())

    def total(self) -> float:
        """Returns the sum of all counts over good pixels; they are added up once."""
        if self._total is None:
            good, total = self.scan.good_pixels, 0.0
            for part in self._parts():
                raw = self._raw(part)
                total += float(raw.sum(axis=0, dtype=numpy.float64)[good].sum())
            self._total = total
        return self._total

    def kept(self, num_bytes: int) -> ScanCounts:
        """Returns these counts in memory, where they take no more than so much of it."""
        if self._resident is not None or 4 * int(numpy.prod(self.shape)) > num_bytes:
            return self
        found = copy(self)
        found._resident = self._read_all()
        return found

    def _read_all(self) -> Float[Tensor, 'pattern height width']:
        found = torch.empty(self.shape, device=self.device)
        for part in self._parts():
            found[part[0] : part[-1] + 1] = self._read(part)
        return found

    def _parts(self) -> list[NDArray[numpy.int64]]:
        length = max(1, CPU_CHUNK_BYTES // (4 * self.shape[1] * self.shape[2]))
        everything = numpy.arange(self.shape[0])
        return [everything[i : i + length] for i in range(0, len(everything), length)]

    def _raw(self, indices: NDArray[numpy.int64]) -> NDArray[Any]:
        frames = indices if self.frames is None else self.frames[indices]
        return numpy.asarray(self.scan.patterns[frames])

    def _read(self, indices: NDArray[numpy.int64]) -> Float[Tensor, 'pattern height width']:
        raw: Any = self._raw(indices)
        values: Any
        if self.device.type != 'cpu':
            raw = _upload(raw, self.device)
            values = torch.empty(raw.shape, device=self.device)
        else:
            values = numpy.empty(raw.shape, dtype=numpy.float32)
        # two rolls of half the size are an ifftshift of even patterns; slices are faster
        height, width = self.shape[1:]
        half_y, half_x = height // 2, width // 2
        values[:, : height - half_y, : width - half_x] = raw[:, half_y:, half_x:]
        values[:, : height - half_y, width - half_x :] = raw[:, half_y:, :half_x]
        values[:, height - half_y :, : width - half_x] = raw[:, :half_y, half_x:]
        values[:, height - half_y :, width - half_x :] = raw[:, :half_y, :half_x]
        counts = torch.from_numpy(values) if isinstance(values, numpy.ndarray) else values
        return counts if self._good is None else counts * self._good


def _upload(raw: NDArray[Any], device: torch.device) -> Tensor:
    """Returns counts on a device that is not waited for, as they are where they are small integers."""
    is_small = raw.dtype.kind in 'ui' and raw.dtype.itemsize <= 2 and raw.dtype.isnative
    host = torch.from_numpy(numpy.ascontiguousarray(raw, dtype=raw.dtype if is_small else 'f4'))
    if device.type == 'cuda':
        host = host.pin_memory()
    return host.to(device, non_blocking=True)


def _has_room(device: torch.device, num_bytes: int) -> bool:
    if device.type != 'cuda':
        return False
    return num_bytes < RESIDENT_PART * torch.cuda.mem_get_info(device)[0]


@dataclass(frozen=True)
class MeasuredScan:
    """A scan as a measurement of one canvas, and the way back onto its grid and calibration.

    Attributes:
        scan: As it was read.
        measurement: The canvas is the smallest box that holds every window.
        origin: (2,) first pixel (y, x) of the canvas on the object grid.
        calibration: What the given probe was multiplied with.
        frames: (J,) numbers in the scan of the patterns of the measurement.
        tilt: (y, x) cycles per pixel, that the probe was tilted by; the scan's object has it.
    """

    scan: Scan
    measurement: Measurement
    origin: NDArray[numpy.int64]
    calibration: float
    frames: NDArray[numpy.int64]
    tilt: tuple[float, float] = (0.0, 0.0)

    @property
    def positions_px(self) -> Float[NDArray[numpy.float64], 'pattern 2']:
        """The given positions (J, 2) of the patterns of the measurement."""
        return self.scan.positions_px[self.frames]

    def variation_of_scan(self, variation: Variation | None) -> ProbeVariation | None:
        """Returns how a probe that was found varies, for all patterns and as the scan is calibrated.

        Patterns that were left out have the mean probe.
        """
        if variation is None:
            return None
        found = variation.weights.cpu().numpy().astype(numpy.float64)
        weights = numpy.repeat(found.mean(axis=0)[None], self.scan.num_patterns, axis=0)
        weights[self.frames] = found
        return ProbeVariation(variation.modes.cpu().numpy() / self.calibration, weights)

    def cut(
        self, object_: NDArray[Any], shape: tuple[int, int], offset: Any = (0, 0)
    ) -> NDArray[numpy.complex64]:
        """Returns a window (Y, X) of an object on the scan's grid, its border repeated outside.

        Args:
            object_: (Y, X) on the grid of the scan.
            shape: Of the window.
            offset: First pixel of the window on the canvas.
        """
        first = self.origin + numpy.asarray(offset)
        y, x = (
            numpy.clip(numpy.arange(length) + start, 0, limit - 1)
            for start, length, limit in zip(first, shape, object_.shape)
        )
        return object_[y[:, None], x[None, :]].astype(numpy.complex64)


def measure_scan(
    scan: Scan,
    *,
    device: torch.device | None = None,
    num_probe_modes: int = 0,
    chunk_bytes: int = CPU_CHUNK_BYTES,
    triage: Triage | None = None,
) -> MeasuredScan:
    """Returns the scan as a measurement with a calibrated probe.

    Args:
        scan: As read.
        device: Where the physics happens; the CPU by default.
        num_probe_modes: Modes that are used, brightest first, with the power of all; 0 is all.
        chunk_bytes: Memory that the arrays of a chunk may take, roughly.
        triage: What is left out of it; found out where it is not given.
    """
    device = device or torch.device('cpu')
    triage = triage or examine_frames(scan)
    calibrated, calibration = calibrate_scan(scan, triage)
    frames, spikes = triage.kept(scan.num_patterns), _place_spikes(triage, scan)
    if not len(frames):
        raise ValueError(f'{scan.name}: no frame can be used: {triage.sentence()}')
    probe, variation = _make_probe(calibrated, frames, num_probe_modes)
    corners, shifts = split_positions(scan.positions_px[frames], scan.pattern_shape)
    origin = corners.min(axis=0)
    extent = (corners - origin).max(axis=0) + numpy.asarray(scan.pattern_shape)
    good = numpy.fft.ifftshift(scan.good_pixels)
    frame_bytes = scan.pattern_shape[0] * scan.pattern_shape[1] * (8 + 16 * len(probe))
    measurement = Measurement(
        counts=ScanCounts(
            scan,
            device,
            frames if len(frames) < scan.num_patterns else None,
            triage.total,
        ),
        rows=torch.zeros(len(frames), dtype=torch.int64),
        corners=torch.from_numpy(corners - origin),
        shifts=torch.from_numpy(shifts.astype(numpy.float32)).to(device),
        probe=probe.to(device),
        variation=None if variation is None else variation.to(device),
        canvas_shape=(1, int(extent[0]), int(extent[1])),
        good_pixels=None if good.all() else torch.from_numpy(good).to(device),
        spikes=spikes,
        chunk_size=int(max(1, min(MAX_CHUNK, chunk_bytes // frame_bytes))),
    )
    return MeasuredScan(scan, measurement, origin, calibration, frames)


def _make_probe(
    scan: Scan, frames: NDArray[numpy.int64], num_modes: int
) -> tuple[Complex[Tensor, 'mode height width'], Variation | None]:
    """Returns the modes of a calibrated scan, and how the first varies over some frames.

    Of a probe that varies, the first mode is the mean one; what it loses with modes that are not
    used goes to all others.
    """
    probe, varying = scan.probe, scan.probe_variation
    factor = 1.0
    if num_modes and num_modes < len(probe):
        power = numpy.sum(numpy.abs(probe) ** 2)
        probe = probe[:num_modes]
        factor = numpy.sqrt(power / numpy.sum(numpy.abs(probe) ** 2))
        probe = probe * factor
    modes = torch.from_numpy(numpy.ascontiguousarray(probe, dtype=numpy.complex64))
    if varying is None:
        return modes, None
    variations = numpy.ascontiguousarray(varying.modes * factor, dtype=numpy.complex64)
    weights = varying.weights[frames].astype(numpy.float32)
    given = Variation(torch.from_numpy(variations), torch.from_numpy(weights))
    return given.about_mean(modes)


def _place_spikes(triage: Triage, scan: Scan) -> Tensor | None:
    """Returns spikes as a measurement of the other frames counts them, in corner order."""
    if not len(triage.spikes):
        return None
    height, width = scan.pattern_shape
    frame, y, x = triage.spikes.T
    rows = numpy.searchsorted(triage.kept(scan.num_patterns), frame)
    places = [rows, (y - height // 2) % height, (x - width // 2) % width]
    return torch.from_numpy(numpy.stack(places, axis=1))
