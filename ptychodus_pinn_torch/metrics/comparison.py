"""How close an image is to a reference, and how well it explains the measured counts."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

from ..scan.probe_variation import ProbeVariation
from ..scan.scan import Scan, split_positions
from ..scan.triage import examine_frames
from ..simulation.reference_model import iter_expected_counts
from .registration import Registration, register
from .rings import find_crossing, ring_correlation
from .similarity import multiscale_similarity

__all__ = [
    'ObjectMetrics',
    'compare_objects',
    'coverage_map',
    'coverage_mask',
    'coverage_of',
    'data_error',
]

_MARGIN_PX = 8
_SSIM_BORDER_PX = 3


@dataclass(frozen=True)
class ObjectMetrics:
    """Distances of an image from a reference, after removal of what cannot be known.

    Removed are one complex factor, a phase ramp and a sub-pixel shift. Everything is taken over
    the compared area only.

    Attributes:
        nrmse: Norm of the complex difference relative to the norm of the reference.
        ssim_amplitude: Structural similarity; `ssim_phase` likewise. Data range: see below.
        ms_ssim_amplitude: The same on several scales; `ms_ssim_phase` likewise.
        psnr_amplitude_dB: Peak signal-to-noise ratio for `amplitude_range`.
        psnr_phase_dB: The same for `phase_range_rad`.
        amplitude_range: Largest minus smallest amplitude of the reference; likewise the phase.
        phase_rms_rad: Root mean square of the phase difference.
        frc_half_per_nyquist: Where the Fourier ring correlation falls below 0.5, as a fraction of
            the Nyquist frequency; 1.0 where it never does.
        num_pixels: Pixels that were compared.
        frc_frequency: Rings, as fractions of Nyquist, and `frc_correlation` on them.
    """

    nrmse: float
    ssim_amplitude: float
    ssim_phase: float
    ms_ssim_amplitude: float
    ms_ssim_phase: float
    psnr_amplitude_dB: float  # noqa: N815
    psnr_phase_dB: float  # noqa: N815
    amplitude_range: float
    phase_range_rad: float
    phase_rms_rad: float
    frc_half_per_nyquist: float
    num_pixels: int
    shift_px: tuple[float, float] = (0.0, 0.0)
    frc_frequency: tuple[float, ...] = field(default=(), repr=False)
    frc_correlation: tuple[float, ...] = field(default=(), repr=False)

    def to_dict(self, *, with_curve: bool = True) -> dict[str, Any]:
        """Returns the numbers for JSON; what is not finite becomes None."""
        values = asdict(self)
        if not with_curve:
            values.pop('frc_frequency')
            values.pop('frc_correlation')
        return {name: _finite(value) for name, value in values.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        return [_finite(item) for item in value]
    return value if not isinstance(value, float) or math.isfinite(value) else None


def compare_objects(
    test: NDArray[Any],
    reference: NDArray[Any],
    *,
    weights: NDArray[Any] | None = None,
    pixel_size_m: float | tuple[float, float] | None = None,
) -> ObjectMetrics:
    """Returns how far the image `test` is from `reference`.

    Args:
        test: Complex (Y, X).
        reference: Complex (Y, X), on the same grid.
        weights: (Y, X), not negative; pixels of weight zero have no influence on any figure.
        pixel_size_m: Only its ratio (y to x) matters: rings are round in metres.

    Raises:
        ValueError: shapes differ, values are not finite, or the area is empty.

    Examples:
        >>> import ptychodus_pinn_torch as pinn
        >>> truth = pinn.simulate(pattern_size=32, num_positions=100).truth
        >>> found = pinn.compare_objects(2j * truth, truth)  # a factor cannot be known
        >>> found.phase_rms_rad < 1e-3, found.frc_half_per_nyquist
        (True, 1.0)
        >>> pinn.compare_objects(truth[::-1], truth).nrmse > 0.1
        True
    """
    test, reference, weights = _check(test, reference, weights)
    box = tuple(
        slice(max(0, part.start - _MARGIN_PX), part.stop + _MARGIN_PX)
        for part in ndimage.find_objects((weights > 0.0).astype(int))[0]
    )
    test, reference, weights = test[box], reference[box], weights[box]
    pixel_m = numpy.broadcast_to(
        numpy.asarray(1.0 if pixel_size_m is None else pixel_size_m, dtype=float), (2,)
    )
    registered = register(test, reference, weights, pixel_m)
    return _measure(registered, reference, pixel_m)


def _check(
    test: NDArray[Any], reference: NDArray[Any], weights: NDArray[Any] | None
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    if test.shape != reference.shape or test.ndim != 2:
        raise ValueError(
            f'the image has shape {test.shape} but the reference {reference.shape}: both must be '
            'on one grid of height and width.'
        )
    weights = numpy.ones(test.shape) if weights is None else numpy.asarray(weights, dtype=float)
    if weights.shape != test.shape:
        raise ValueError(
            f'the weights have shape {weights.shape} but the image {test.shape}: both must be on '
            'one grid.'
        )
    area = weights > 0.0
    if numpy.count_nonzero(area) < 64:
        raise ValueError(
            f'only {numpy.count_nonzero(area)} pixels have a weight: at least 64 are needed to '
            'compare two images.'
        )
    for name, values in (('image', test), ('reference', reference)):
        if not numpy.isfinite(values[area]).all():
            raise ValueError(f'the {name} is not finite in the compared area: give another one.')
    if not numpy.any(reference[area]):
        raise ValueError('the reference is zero in the compared area: give another one.')
    clean = [
        numpy.where(numpy.isfinite(values), values, 0).astype(numpy.complex128)
        for values in (test, reference)
    ]
    return clean[0], clean[1], weights


def _measure(
    registered: Registration, reference: NDArray[Any], pixel_m: NDArray[Any]
) -> ObjectMetrics:
    test, weights = registered.array, registered.weights
    area = weights > 0.0
    # Phases about the mean of the reference, and the image's phase by difference: no wraps.
    reference_phase = numpy.angle(reference * numpy.exp(-1j * numpy.angle(reference[area].sum())))
    phase_error = numpy.angle(test * reference.conj())
    phase = (reference_phase, reference_phase + phase_error)
    amplitude = (numpy.abs(reference), numpy.abs(test))
    frequency, correlation = ring_correlation(test, reference, area, pixel_m)
    return ObjectMetrics(
        nrmse=registered.distance,
        ssim_amplitude=_similarity(*amplitude, area),
        ssim_phase=_similarity(*phase, area),
        ms_ssim_amplitude=multiscale_similarity(amplitude[1], amplitude[0], area),
        ms_ssim_phase=multiscale_similarity(phase[1], phase[0], area),
        psnr_amplitude_dB=_peak_ratio(*amplitude, area),
        psnr_phase_dB=_peak_ratio(*phase, area),
        amplitude_range=float(numpy.ptp(amplitude[0][area])),
        phase_range_rad=float(numpy.ptp(phase[0][area])),
        phase_rms_rad=float(numpy.sqrt(numpy.average(phase_error**2, weights=weights))),
        frc_half_per_nyquist=find_crossing(frequency, correlation),
        num_pixels=int(numpy.count_nonzero(area)),
        shift_px=registered.shift_px,
        frc_frequency=tuple(float(value) for value in frequency),
        frc_correlation=tuple(float(value) for value in correlation),
    )


def _similarity(reference: NDArray[Any], test: NDArray[Any], area: NDArray[numpy.bool_]) -> float:
    from skimage.metrics import structural_similarity

    data_range = float(numpy.ptp(reference[area])) or 1.0
    filled = numpy.where(area, test, reference)
    _, values = structural_similarity(reference, filled, data_range=data_range, full=True)
    inner = numpy.zeros_like(area)
    border = slice(_SSIM_BORDER_PX, -_SSIM_BORDER_PX)
    inner[border, border] = area[border, border]
    return float(values[inner].mean()) if inner.any() else float('nan')


def _peak_ratio(reference: NDArray[Any], test: NDArray[Any], area: NDArray[numpy.bool_]) -> float:
    from ptychodus.api.metrics import compute_peak_signal_to_noise_ratio

    if numpy.array_equal(reference[area], test[area]):
        return math.inf
    data_range = float(numpy.ptp(reference[area])) or 1.0
    return compute_peak_signal_to_noise_ratio(reference[area], test[area], data_range=data_range)


def coverage_of(
    shape: tuple[int, ...], probe: NDArray[Any], positions_px: NDArray[numpy.float64]
) -> NDArray[numpy.float64]:
    """Returns the power of the probe (P, H, W) that each pixel of an object saw, at most 1."""
    power = numpy.sum(numpy.abs(probe.astype(numpy.complex128)) ** 2, axis=0)
    height, width = power.shape
    corners, _ = split_positions(positions_px, (height, width))
    unique, counts = numpy.unique(corners, axis=0, return_counts=True)
    if (unique < 0).any() or (unique > numpy.asarray(shape) - power.shape).any():
        raise ValueError(
            f'positions lie outside the object of {shape[0]} x {shape[1]} pixels: they belong to '
            'another image.'
        )
    coverage = numpy.zeros(shape)
    for (y, x), count in zip(unique, counts, strict=True):
        coverage[y : y + height, x : x + width] += count * power
    return coverage / coverage.max()


def coverage_map(scan: Scan) -> NDArray[numpy.float64]:
    """Returns the probe power that each object pixel saw, (Y, X), at most 1."""
    return coverage_of(scan.object_.shape, scan.probe, scan.positions_px[scan.frames()])


def coverage_mask(scan: Scan, threshold: float = 0.3) -> NDArray[numpy.bool_]:
    """Returns the mask (Y, X) of where the scan saw more than `threshold` of the highest power."""
    return coverage_map(scan) > threshold


def data_error(
    scan: Scan,
    object_: NDArray[Any],
    probe: NDArray[Any],
    indices: NDArray[Any] | None = None,
    *,
    positions_px: NDArray[numpy.float64] | None = None,
    variation: ProbeVariation | None = None,
) -> float:
    """Returns the relative amplitude error `sum (sqrt I - sqrt D)**2 / sum D` over good pixels.

    D are the measured counts, I those of the object (Y, X) on the grid of the scan, under the probe
    (P, H, W) in counts. All patterns are judged by, or those of the indices (J,); positions (N, 2)
    take the place of those of the scan, for example refined ones; `variation` says how the probe
    varies over the patterns of the scan.

    Raises:
        ValueError: no counts at all.
    """
    positions_px = scan.positions_px if positions_px is None else positions_px
    rows = (
        examine_frames(scan).kept(scan.num_patterns) if indices is None else numpy.asarray(indices)
    )
    difference, total = 0.0, 0.0
    varying = None if variation is None else variation.select(rows)
    for block, expected in iter_expected_counts(object_, probe, positions_px[rows], varying):
        counts = numpy.asarray(scan.patterns[rows[block]], dtype=numpy.float64)
        counts = counts[:, scan.good_pixels]
        residual = numpy.sqrt(expected[:, scan.good_pixels]) - numpy.sqrt(counts)
        difference += float(numpy.sum(residual**2))
        total += float(counts.sum())
    if not total > 0.0:
        raise ValueError(f'{scan.name}: the patterns to judge by hold no counts: choose others.')
    return difference / total
