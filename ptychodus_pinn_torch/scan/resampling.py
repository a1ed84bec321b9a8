"""Patterns of another size: cropping the detector, or binning it, with all that follows from it.

Convention: FFTs are unitary, the zero frequency of a pattern is at `[N // 2, N // 2]`, and the
window of a pattern is centred on its position. Both operations keep this, so a probe in counts
stays a probe in counts.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy
from numpy.typing import NDArray
from scipy import ndimage

from .io.pattern_store import stage_blocks
from .probe_variation import ProbeVariation
from .scan import Scan

__all__ = ['bin_scan', 'crop_scan']

logger = logging.getLogger(__name__)


def crop_scan(scan: Scan, size: int, center: tuple[float, float] | None = None) -> Scan:
    """Returns the scan with only `size` x `size` pixels of the detector, the central ones.

    Fewer detector pixels mean larger object pixels, by N / size along each axis: positions and object
    are put on the coarser grid about the same centre, and the probe loses its high frequencies.

    Args:
        scan: Whose patterns need not be square.
        size: Even.
        center: Pixel (y, x) of the detector where the zero frequency is; by default the middle one.

    Raises:
        ValueError: the size is odd, or more than there is about the centre.
    """
    old = scan.pattern_shape
    at = [length // 2 for length in old] if center is None else [round(value) for value in center]
    first = [middle - size // 2 for middle in at]
    is_inside = all(start >= 0 and start + size <= length for start, length in zip(first, old))
    if not is_inside or size < 2 or size % 2:
        raise ValueError(
            f'{scan.name}: cannot crop patterns of {old[0]} x {old[1]} pixels to {size} about (y '
            f'{at[0]}, x {at[1]}): give an even number that leaves the window inside.'
        )
    if old == (size, size):
        return scan
    window = tuple(slice(start, start + size) for start in first)
    ratio = numpy.asarray(old) / size
    shape = tuple(int(numpy.ceil(length / by)) for length, by in zip(scan.object_.shape, ratio))
    old_center = (numpy.asarray(scan.object_.shape) - 1.0) / 2.0
    new_center = (numpy.asarray(shape) - 1.0) / 2.0
    pixel = scan.pixel_size_m
    return replace(
        scan,
        patterns=scan.patterns[:, *window],
        good_pixels=scan.good_pixels[window],
        positions_px=(scan.positions_px - old_center) / ratio + new_center,
        probe=_crop_spectrum(scan.probe, size),
        probe_variation=_change_variation(scan, lambda modes: _crop_spectrum(modes, size)),
        object_=_resample(scan.object_, ratio, shape),
        truth=None if scan.truth is None else _resample(scan.truth, ratio, shape),
        pixel_size_m=None if pixel is None else (pixel[0] * ratio[0], pixel[1] * ratio[1]),
    )


def bin_scan(scan: Scan, factor: int) -> Scan:
    """Returns the scan with the counts of `factor` x `factor` detector pixels added.

    Larger detector pixels mean a smaller window: the object's pixels stay, the probe is cut in
    real space. A bin's centre lies between pixels, which is a phase ramp on the probe. A bin is
    good where all its pixels are.

    Raises:
        ValueError: the factor does not divide the patterns into an even number of bins.
    """
    old = scan.pattern_shape[0]
    if factor < 1 or old % (2 * factor):
        raise ValueError(
            f'{scan.name}: cannot bin patterns of {old} pixels by {factor}: the number of bins '
            'must be whole and even.'
        )
    if factor == 1:
        return scan
    size = old // factor
    good = scan.good_pixels
    source = scan.patterns
    dtype = _sum_dtype(source.dtype)

    def read_block(rows: slice) -> NDArray[Any]:
        block = numpy.where(good, source[rows], 0)
        bins = block.reshape(len(block), size, factor, size, factor)
        return bins.sum(axis=(2, 4), dtype=dtype)

    _warn_of_cut(scan, size, factor)
    metadata = dict(scan.metadata)
    if 'detector_pixel_m' in metadata:
        metadata['detector_pixel_m'] = metadata['detector_pixel_m'] * factor
    return replace(
        scan,
        patterns=stage_blocks((scan.num_patterns, size, size), dtype, read_block),
        saturation=numpy.inf,
        good_pixels=numpy.all(good.reshape(size, factor, size, factor), axis=(1, 3)),
        probe=_cut_window(scan.probe, size, factor),
        probe_variation=_change_variation(scan, lambda modes: _cut_window(modes, size, factor)),
        metadata=metadata,
    )


def _middle(old: int, size: int) -> slice:
    """Returns the middle `size` of `old` pixels."""
    start = (old - size) // 2
    return slice(start, start + size)


def _sum_dtype(dtype: numpy.dtype[Any]) -> numpy.dtype[Any]:
    """Returns the type of that kind, of 4 or 8 bytes, that holds sums of a few values."""
    is_small = dtype.itemsize <= (4 if dtype.kind == 'f' else 2)
    return numpy.dtype(f'{dtype.kind}{4 if is_small else 8}')


def _crop_spectrum(probe: NDArray[Any], size: int) -> NDArray[numpy.complex64]:
    height, width = probe.shape[-2:]
    window = _middle(height, size), _middle(width, size)
    spectrum = numpy.fft.fftshift(numpy.fft.fft2(probe, norm='ortho'), axes=(-2, -1))
    # The middle of the window, (N - 1) / 2, stays where it is.
    down, right = (
        numpy.exp(2j * numpy.pi * (numpy.arange(size) - size // 2) * (old / size - 1.0) / 2.0 / old)
        for old in (height, width)
    )
    cropped = spectrum[..., *window] * down[:, None] * right
    shifted = numpy.fft.ifftshift(cropped, axes=(-2, -1))
    return numpy.fft.ifft2(shifted, norm='ortho').astype(numpy.complex64)


def _resample(
    object_: NDArray[numpy.complex64], ratio: NDArray[numpy.float64], shape: tuple[int, ...]
) -> NDArray[numpy.complex64]:
    sigma = tuple(0.5 * numpy.sqrt(ratio**2 - 1.0))
    axes = [
        (numpy.arange(new) - (new - 1.0) / 2.0) * by + (old - 1.0) / 2.0
        for new, old, by in zip(shape, object_.shape, ratio, strict=True)
    ]
    grid = numpy.meshgrid(*axes, indexing='ij')
    smooth = ndimage.gaussian_filter(object_, sigma, mode='nearest')
    return ndimage.map_coordinates(smooth, grid, order=3, mode='nearest')


def _change_variation(
    scan: Scan, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> ProbeVariation | None:
    """Returns how the probe varies, its modes (V, H, W) changed as those of the probe are."""
    variation = scan.probe_variation
    return None if variation is None else replace(variation, modes=change(variation.modes))


def _warn_of_cut(scan: Scan, size: int, factor: int) -> None:
    """Warns where a window of `size` pixels cuts a part of the probe off that matters."""
    window = _middle(scan.pattern_shape[0], size)
    cut = scan.probe[:, window, window]
    kept = float(numpy.sum(numpy.abs(cut) ** 2) / numpy.sum(numpy.abs(scan.probe) ** 2))
    if kept < 0.99:
        logger.warning(
            '%s: binning by %d leaves a window that holds only %.1f %% of the probe: crop instead.',
            scan.name,
            factor,
            100.0 * kept,
        )


def _cut_window(modes: NDArray[Any], size: int, factor: int) -> NDArray[numpy.complex64]:
    """Returns the middle of modes (P, H, W), with the ramp that the centres of bins want."""
    window = _middle(modes.shape[-1], size)
    cut = modes[:, window, window]
    offset = (factor - 1.0) / (2.0 * factor)
    ramp = numpy.exp(-2j * numpy.pi * offset * numpy.arange(size) / size)
    return (cut * ramp[:, None] * ramp).astype(numpy.complex64)
