"""The forward model in plain numpy: slow, obvious, and the measure for the fast ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
import scipy.fft
from numpy.typing import NDArray

from ..scan.io.pattern_store import block_slices
from ..scan.probe_variation import ProbeVariation
from ..scan.scan import split_positions

__all__ = ['iter_expected_counts', 'predict_counts', 'shift_probe', 'take_patches']


def shift_probe(probe: NDArray[Any], shifts_px: NDArray[Any]) -> NDArray[numpy.complex128]:
    """Returns the modes (P, H, W), or (n, P, H, W), moved by each (y, x) shift, as (n, P, H, W).

    The shift is a phase ramp in Fourier space, which is exact for a band-limited probe; a positive
    shift moves towards larger indices.
    """
    height, width = probe.shape[-2:]
    spectrum = scipy.fft.fft2(numpy.asarray(probe, dtype=numpy.complex128))
    frequency_y, frequency_x = scipy.fft.fftfreq(height), scipy.fft.fftfreq(width)
    ramp_y = numpy.exp(-2j * numpy.pi * shifts_px[:, :1] * frequency_y)
    ramp_x = numpy.exp(-2j * numpy.pi * shifts_px[:, 1:] * frequency_x)
    ramp = ramp_y[:, None, :, None] * ramp_x[:, None, None, :]
    return scipy.fft.ifft2(spectrum * ramp, overwrite_x=True)


def take_patches(
    object_: NDArray[Any], corners: NDArray[numpy.int64], shape: tuple[int, int]
) -> NDArray[Any]:
    """Returns the windows (n, H, W) of the object that start at the corners."""
    windows = numpy.lib.stride_tricks.sliding_window_view(object_, shape)
    return windows[corners[:, 0], corners[:, 1]]


def predict_counts(
    object_: NDArray[Any], probe: NDArray[Any], positions_px: NDArray[numpy.float64]
) -> NDArray[numpy.float64]:
    """Returns the expected counts (n, H, W) of each position, zero frequency in the middle.

    `I = sum_m |F(P_m O)|**2` with the unitary Fourier transform F, the modes P_m moved by the
    sub-pixel rest of the position, and the object O seen through the integer window; the probe is
    (P, H, W), or (n, P, H, W) where each position has its own. Far field,
    thin object, incoherent modes (Thibault and Menzel, Nature 494, 68, 2013).
    """
    corners, shifts_px = split_positions(positions_px, (probe.shape[-2], probe.shape[-1]))
    patches = take_patches(object_, corners, (probe.shape[-2], probe.shape[-1]))
    far_field = scipy.fft.fft2(
        shift_probe(probe, shifts_px) * patches[:, None], norm='ortho', overwrite_x=True
    )
    counts = (far_field.real**2 + far_field.imag**2).sum(axis=1)
    return scipy.fft.fftshift(counts, axes=(-2, -1))


def iter_expected_counts(
    object_: NDArray[Any],
    probe: NDArray[Any],
    positions_px: NDArray[numpy.float64],
    variation: ProbeVariation | None = None,
) -> Iterator[tuple[slice, NDArray[numpy.float64]]]:
    """Yields slices over the positions with their expected counts, in bounded memory.

    `variation` says how the probe (P, H, W) varies over these positions, if it does.
    """
    everything = numpy.arange(len(positions_px))
    for rows in block_slices(len(positions_px), 8 * probe.size):
        own = probe if variation is None else variation.probes(probe, everything[rows])
        yield rows, predict_counts(object_, own, positions_px[rows])
