"""Writing scans and images: to a temporary file first, so that nothing is ever half written."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy
from numpy.typing import ArrayLike, NDArray

from ..probe_variation import ProbeVariation
from ..scan import Scan
from .comments import add_comment

__all__ = [
    'training_arrays',
    'write_atomically',
    'write_npz',
    'write_product',
    'write_reconstruction_npz',
    'write_scan_npz',
]

_SCALAR_METADATA = ('photon_energy_eV', 'detector_distance_m', 'detector_pixel_m')

NOTHING: Mapping[str, Any] = MappingProxyType({})


def write_atomically(path: Path | str, write: Callable[[Path], object]) -> Path:
    """Returns the path, after `write` filled a temporary file beside it that then took its name.

    When `write` fails, nothing is left behind and what was there before stays.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(21, 'Is a directory', str(path))
    if not path.parent.is_dir():
        raise FileNotFoundError(2, 'No such folder', str(path.parent))
    # a name that is known before the file is there, so that nothing can end in between
    temporary = path.with_name(f'.{secrets.token_hex(8)}{path.suffix}')
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno is None:
            raise OSError(f'{path}: {error}'.replace(str(temporary), str(path))) from error
        named = {str(name) for name in (error.filename, error.filename2) if name is not None}
        if named and str(temporary) not in named:
            raise  # it is about another file, which was read
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def write_npz(path: Path | str, arrays: Mapping[str, Any]) -> Path:
    """Returns the path of the NPZ that now holds the arrays; see `write_atomically`.

    It is not compressed, so that it can be memory-mapped.
    """

    def write(temporary: Path) -> None:
        with temporary.open('wb') as file:
            numpy.savez(file, **arrays)

    return write_atomically(path, write)


def training_arrays(
    *,
    positions_px: NDArray[Any],
    patterns: NDArray[Any],
    probe: NDArray[Any],
    object_: NDArray[Any],
    bad_pixels: NDArray[Any] | None = None,
    kind: Literal['counts', 'amplitude'] = 'counts',
    variation: ProbeVariation | None = None,
) -> dict[str, Any]:
    """Returns arrays by the keys of Ptychodus' training data, and what `diff3d` holds.

    Positions (N, 2) are (y, x) in object pixels; patterns (N, H, W) are counts or their roots; the
    probe is (P, H, W), or one mode (H, W); the object is (Y, X); bad pixels (H, W) are True where
    the detector cannot be trusted; `variation` says how the probe varies.
    """
    y_px, x_px = positions_px.T
    arrays = {
        'xcoords': x_px,
        'ycoords': y_px,
        'xcoords_start': x_px,
        'ycoords_start': y_px,
        'diff3d': patterns,
        'diff3d_kind': numpy.asarray(kind),
        'probeGuess': probe,
        'objectGuess': object_,
        'scan_index': numpy.zeros(len(patterns), dtype=numpy.int64),
    }
    arrays |= _variation_arrays(variation)
    return arrays if bad_pixels is None else {**arrays, 'bad_pixels': bad_pixels}


def _variation_arrays(variation: ProbeVariation | None) -> dict[str, Any]:
    """Returns by their keys in an NPZ the modes and weights of a varying probe."""
    if variation is None:
        return {}
    return {'probe_variations': variation.modes, 'probe_weights': variation.weights}


def write_scan_npz(path: Path | str, scan: Scan, extra: Mapping[str, Any] = NOTHING) -> Path:
    """Returns the path of the NPZ that now holds the scan (see `scan_arrays`) and `extra` arrays."""
    return write_npz(path, {**scan_arrays(scan), **extra})


def scan_arrays(scan: Scan) -> dict[str, Any]:
    """Returns all that is known of a scan by the keys of Ptychodus' training data.

    Beside those, the truth where there is one, pixel size, energy and distance.
    """
    arrays = training_arrays(
        positions_px=scan.positions_px,
        patterns=scan.patterns,
        probe=scan.probe,
        object_=scan.object_,
        bad_pixels=~scan.good_pixels,
        variation=scan.probe_variation,
    )
    arrays['object_center_m'] = numpy.asarray(scan.object_center_m)
    arrays['name'] = numpy.asarray(str(scan.metadata.get('name', scan.name)))
    if scan.truth is not None:
        arrays['truth'] = scan.truth
    if scan.pixel_size_m is not None:
        arrays['pixel_size_m'] = numpy.asarray(scan.pixel_size_m)
    for key in _SCALAR_METADATA:
        if key in scan.metadata:
            arrays[key] = numpy.asarray(float(scan.metadata[key]))
    return arrays


def write_reconstruction_npz(
    path: Path | str,
    *,
    object_: NDArray[Any],
    positions_px: NDArray[Any],
    probe: NDArray[Any],
    losses: ArrayLike | Sequence[tuple[int, float]],
    judged: Mapping[str, NDArray[Any]] = NOTHING,
    variation: ProbeVariation | None = None,
    messages: Sequence[str] = (),
) -> Path:
    """Returns the path of the NPZ that now holds an image.

    Keys: `object` (Y, X) and `probe` (P, H, W) complex64, `positions_px` (N, 2) float64,
    `losses` (n, 2) with epoch and value; and what is known of the image's quality, as float32, by
    the keys of `judged`: `coverage` and `misfit_map` (Y, X), `misfit_frames` (N,). Where the probe
    varies, `probe_variations` (V, H, W) and `probe_weights` (N, 1 + V) say how. `messages` are the
    sentences that were said of scan and image.
    """
    return write_npz(
        path,
        {
            'object': numpy.asarray(object_, dtype=numpy.complex64),
            'positions_px': numpy.asarray(positions_px, dtype=numpy.float64),
            'probe': numpy.asarray(probe, dtype=numpy.complex64),
            'losses': numpy.asarray(losses, dtype=numpy.float64).reshape(-1, 2),
            **_variation_arrays(variation),
            **{key: numpy.asarray(values, numpy.float32) for key, values in judged.items()},
            'messages': numpy.asarray(messages, dtype=numpy.str_),
        },
    )


def write_product(
    path: Path | str,
    scan: Scan,
    object_: NDArray[Any],
    positions_px: NDArray[Any],
    probe: NDArray[Any],
    losses: ArrayLike | Sequence[tuple[int, float]],
    comment: str = '',
) -> Path:
    """Returns the path of the Ptychodus product that now holds an image of the scan.

    `object_` is (Y, X), `positions_px` (N, 2) of (y, x) and `probe` (P, H, W), as in a `Scan`.
    Pixel size, centre, metadata and how the probe varies are those of the scan; where it does not
    know them, nominal values are written and said. `comment` is added to the comments of the metadata.
    """
    from ptychodus.api.io import save_product

    from .products import make_host_product

    if comment:
        comments = add_comment(str(scan.metadata.get('comments', '')), comment)
        scan = replace(scan, metadata={**scan.metadata, 'comments': comments})
    product = make_host_product(scan, object_, positions_px, probe, losses)
    content = io.BytesIO()  # h5py itself ends the process where a disk is full
    save_product(cast(Path, content), product)
    return write_atomically(path, lambda temporary: temporary.write_bytes(content.getbuffer()))
