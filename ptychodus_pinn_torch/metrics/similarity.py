"""Figures beside the comparison of objects: probes, structure on several scales, one image alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from scipy import ndimage

from .rings import find_crossing, ring_correlation

__all__ = ['ProbeSimilarity', 'compare_probes', 'multiscale_similarity', 'single_image_resolution']

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales, the finest first (Wang, Simoncelli & Bovik, Asilomar 2003)."""

SMALLEST_PX = 16
"""Scales on which an image would be smaller are left out, and the weights of the others grow."""

SIGMA_PX = 1.5
STABLE = (0.01, 0.03)
"""Parts of the data range that keep quotients finite (ibid.)."""


@dataclass(frozen=True)
class ProbeSimilarity:
    """How alike two probes are, after removal of a factor, a shift and a tilt.

    Attributes:
        overlap: Of the strongest modes, `|<P, Q>| / (|P| |Q|)`: 1 where they are the same.
        shared_power: Part of the power of the first probe in the space that the modes of the other
            span: mixtures of the same modes are the same beam.
        shift_px: By which the first was moved (y, x), and `power_ratio` its power over the other's.
    """

    overlap: float
    shared_power: float
    shift_px: tuple[float, float]
    power_ratio: float


def compare_probes(
    test: Complex[NDArray[Any], 'mode height width'],
    reference: Complex[NDArray[Any], 'mode2 height2 width2'],
) -> ProbeSimilarity:
    """Returns how alike two probes (P, H, W) and (Q, H, W) are.

    Both are brought to the same centre of mass, in the plane of the object and on the detector:
    what moves with the object, or tilts against it, no pattern tells.

    Raises:
        ValueError: shapes differ, or a probe is zero.
    """
    if test.shape[1:] != reference.shape[1:]:
        raise ValueError(
            f'the probes have {test.shape[1:]} and {reference.shape[1:]} pixels: both must have one '
            'size.'
        )
    powers = [float(numpy.sum(numpy.abs(probe) ** 2)) for probe in (test, reference)]
    if not min(powers) > 0.0:
        raise ValueError('a probe is zero everywhere: give another one.')
    centers = [_center(numpy.abs(probe) ** 2) for probe in (test, reference)]
    shift = centers[1] - centers[0]
    moved = numpy.stack([_fourier_shift(mode, shift) for mode in test.astype(numpy.complex128)])
    spectra = [numpy.fft.fft2(probe) for probe in (moved, reference)]
    tilts = [_center(numpy.fft.fftshift(numpy.abs(x) ** 2, axes=(1, 2))) for x in spectra]
    y, x = (numpy.arange(number) / number for number in test.shape[1:])
    tilt = tilts[1] - tilts[0]
    moved = moved * numpy.exp(2j * numpy.pi * (tilt[0] * y[:, None] + tilt[1] * x))
    bases = [_orthogonal_modes(probe) for probe in (moved, reference)]
    overlap = abs(numpy.vdot(bases[0][0][0], bases[1][0][0]))
    inside = numpy.abs(bases[1][0].conj() @ bases[0][0].T) ** 2
    strengths = bases[0][1]
    shared = float((inside.sum(axis=0) * strengths).sum() / strengths.sum())
    return ProbeSimilarity(
        float(overlap), shared, (float(shift[0]), float(shift[1])), powers[0] / powers[1]
    )


def _center(power: NDArray[Any]) -> NDArray[numpy.float64]:
    """Returns the centre of mass (y, x) of the power of all modes."""
    return numpy.asarray(ndimage.center_of_mass(power.sum(axis=0)))


def _fourier_shift(mode: NDArray[Any], shift: NDArray[Any]) -> NDArray[numpy.complex128]:
    spectrum = numpy.fft.fft2(mode.astype(numpy.complex128))
    return numpy.fft.ifft2(ndimage.fourier_shift(spectrum, shift))


def _orthogonal_modes(probe: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns modes of norm 1 (P, pixels), the strongest first, and their powers."""
    flat = probe.reshape(len(probe), -1)
    _, strengths, modes = numpy.linalg.svd(flat, full_matrices=False)
    keep = strengths > 1e-6 * strengths[0]
    return modes[keep], strengths[keep] ** 2


def multiscale_similarity(
    test: Float[NDArray[Any], 'y x'],
    reference: Float[NDArray[Any], 'y x'],
    area: NDArray[numpy.bool_],
) -> float:
    """Returns the multi-scale structural similarity of an image (Y, X) with a reference.

    Contrast and structure on each scale, and the luminance on the coarsest (Wang, Simoncelli &
    Bovik, Asilomar 2003), over the pixels of the area; outside of it, the reference stands in.
    """
    data_range = float(numpy.ptp(reference[area])) or 1.0
    second = numpy.asarray(reference, dtype=float)
    first = numpy.where(area, test, second)
    weights = [
        weight
        for scale, weight in enumerate(SCALE_WEIGHTS)
        if min(area.shape) >> scale >= SMALLEST_PX
    ] or [1.0]
    result = 1.0
    for scale, weight in enumerate(weights):
        luminance, structure = _similarities(first, second, data_range)
        inside = area if area.any() else numpy.ones_like(area)
        value = float(
            (structure * (luminance if scale == len(weights) - 1 else 1.0))[inside].mean()
        )
        result *= max(value, 0.0) ** (weight / sum(weights))
        first, second = (_halved(image) for image in (first, second))
        area = _halved(area.astype(float)) > 0.5
    return result


def _similarities(
    first: NDArray[Any], second: NDArray[Any], data_range: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Returns the luminance term, and that of contrast and structure, at each pixel."""
    low, high = ((part * data_range) ** 2 for part in STABLE)
    means = [ndimage.gaussian_filter(image, SIGMA_PX) for image in (first, second)]
    products = [
        ndimage.gaussian_filter(a * b, SIGMA_PX) - x * y
        for a, b, x, y in (
            (first, first, means[0], means[0]),
            (second, second, means[1], means[1]),
            (first, second, *means),
        )
    ]
    luminance = (2 * means[0] * means[1] + low) / (means[0] ** 2 + means[1] ** 2 + low)
    return luminance, (2 * products[2] + high) / (products[0] + products[1] + high)


def _halved(image: NDArray[Any]) -> NDArray[Any]:
    """Returns the means of squares of two by two pixels."""
    height, width = (number // 2 * 2 for number in image.shape)
    part = image[:height, :width].reshape(height // 2, 2, width // 2, 2)
    return part.mean(axis=(1, 3))


def single_image_resolution(
    image: Complex[NDArray[Any], 'y x'], area: NDArray[numpy.bool_]
) -> float:
    """Returns where the Fourier ring correlation of one image (Y, X) with itself falls below 0.5.

    The image is taken apart into pixels of even and of odd rows and columns, which have their own
    noise where it is independent from pixel to pixel (Koho et al., Nat. Commun. 10, 3103, 2019).
    As a part of the Nyquist frequency; at most 0.5, since each part has half the pixels. What
    neighbouring pixels share, noise as much as structure, it takes for resolution.
    """
    height, width = (number // 2 * 2 for number in image.shape)
    even, odd = image[:height:2, :width:2], image[1:height:2, 1:width:2]
    odd = _fourier_shift(odd, numpy.asarray([0.5, 0.5]))
    inside = area[:height:2, :width:2] & area[1:height:2, 1:width:2]
    frequency, correlation = ring_correlation(odd, even, inside, numpy.ones(2))
    return 0.5 * find_crossing(frequency, correlation)
