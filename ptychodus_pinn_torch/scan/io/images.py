"""Reading images, anybody's, from files of every known layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from ..probe_variation import ProbeVariation
from .apart import read_apart
from .build import check_object
from .hdf5 import is_hdf5, open_hdf5
from .matlab import is_matlab
from .named import PATTERNS
from .npz import NpzArrays, is_zip
from .product_files import find_product, read_product
from .raw import ReadOptions

__all__ = ['Image', 'is_image', 'read_image', 'read_object']

_MIN_ILLUMINATION = 0.3


@dataclass(frozen=True)
class Image:
    """An image with what its file says about it.

    Attributes:
        object_: (Y, X), complex64.
        weights: (Y, X), where the image can be trusted, or None.
        pixel_size_m: (y, x), or None.
        positions_px: (N, 2), and `probe` (P, H, W), where the file has them.
        probe_variation: How the probe varies from pattern to pattern, or None.
    """

    path: Path
    object_: NDArray[numpy.complex64]
    weights: NDArray[Any] | None = None
    pixel_size_m: tuple[float, float] | None = None
    positions_px: NDArray[numpy.float64] | None = None
    probe: NDArray[Any] | None = None
    probe_variation: ProbeVariation | None = None


def is_image(path: Path) -> bool:
    """Returns whether a file is an image, and no scan, by the names of what lies in it.

    Raises:
        ValueError: it is damaged.
    """
    keys: set[str] = set()
    if is_zip(path):
        keys = set(NpzArrays(path).keys)
    elif path.is_file() and is_hdf5(path):

        def find() -> dict[str, Any]:
            with open_hdf5(path) as file:
                return {'keys': list(file)}

        keys = set(read_apart(path, find)['keys'])
    return 'object' in keys and keys.isdisjoint((*PATTERNS, 'entry_1'))


def read_image(path: Path | str, *, is_reference: bool = False) -> Image:
    """Returns the image in an NPZ or in a Ptychodus product.

    A reference is the truth of a simulated scan where the file has one.

    Raises:
        ValueError: the file holds no image, or arrays that belong to none; says what.
    """
    path = Path(path)
    if not path.exists() or path.is_dir():
        with path.open('rb'):  # says why not
            pass
    if not path.is_file():
        raise ValueError(f'{path} is no file: name a reconstruction or a product.')
    is_product = is_zip(path) and find_product(path)[0] == 'NPZ'
    if is_hdf5(path) or is_matlab(path) or is_product:
        return _check(path, 'object', read_apart(path, lambda: _read_product(path)))
    if not is_zip(path):
        raise ValueError(
            f'{path} is neither an NPZ nor an HDF5 file: name a reconstruction or a product.'
        )
    arrays = NpzArrays(path)
    names = ('truth', 'object') if is_reference else ('object', 'truth')
    name = arrays.require(*names, 'objectGuess')
    positions = arrays.optional('positions_px')
    if 'xcoords' in arrays and 'ycoords' in arrays:
        y_px, x_px = (arrays.array(column).ravel() for column in ('ycoords', 'xcoords'))
        positions = numpy.stack([y_px, x_px], axis=-1) if len(y_px) == len(x_px) else x_px
    found = {
        'object_': arrays.array(name),
        'illumination': arrays.optional('illumination'),
        'pixel_size_m': arrays.pair('pixel_size_m'),
        'positions_px': positions,
        'probe': arrays.optional('probe', 'probeGuess'),
        'modes': arrays.optional('probe_variations'),
        'weights': arrays.optional('probe_weights'),
    }
    return _check(path, name, found)


def _read_product(path: Path) -> dict[str, Any]:
    arrays = read_product(path, ReadOptions())
    variation = arrays.variation
    return {
        'object_': arrays.object_,
        'illumination': None,
        'pixel_size_m': arrays.pixel_size_m,
        'positions_px': arrays.positions_px,
        'probe': arrays.probe,
        'modes': None if variation is None else variation.modes,
        'weights': None if variation is None else variation.weights,
    }


def _check(path: Path, name: str, found: Mapping[str, Any]) -> Image:
    """Returns the image of arrays that belong together."""
    object_ = check_object(path, name, found['object_'])
    light, positions, probe = (found[key] for key in ('illumination', 'positions_px', 'probe'))
    modes, weights = found['modes'], found['weights']
    faults = {
        'illumination': light is not None
        and (light.shape != object_.shape or light.dtype.kind not in 'biuf'),
        'positions': positions is not None
        and (
            positions.ndim != 2
            or positions.shape[1:] != (2,)
            or positions.dtype.kind not in 'iuf'
            or not numpy.isfinite(positions).all()
        ),
        'probe': probe is not None
        and (probe.ndim not in (2, 3) or not probe.size or not numpy.isfinite(probe).all()),
        'probe_weights': modes is not None
        and weights is not None
        and (
            modes.ndim != 3
            or probe is None
            or modes.shape[1:] != probe.shape[-2:]
            or weights.ndim != 2
            or weights.shape[1] != 1 + len(modes)
            or not (numpy.isfinite(modes).all() and numpy.isfinite(weights).all())
        ),
    }
    for key, is_wrong in faults.items():
        if is_wrong:
            raise ValueError(
                f'{path}: its {key} belong to no image (shape, type or values): export it again.'
            )
    return Image(
        path,
        object_,
        None if light is None else light > _MIN_ILLUMINATION,
        found['pixel_size_m'],
        None if positions is None else positions.astype(numpy.float64),
        probe,
        None if modes is None or weights is None else ProbeVariation(modes, weights.real),
    )


def read_object(path: Path | str) -> NDArray[numpy.complex64]:
    """Returns the object (Y, X) of an NPZ or a product, as a label or a reference.

    Raises:
        ValueError: the file holds no object; says what it holds.
    """
    return read_image(path, is_reference=True).object_
