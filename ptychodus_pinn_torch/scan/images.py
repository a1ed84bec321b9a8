"""Complex images in files: reconstructions, products, simulated truth, and references."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from .hdf5_layouts import load_host_product
from .npz_layouts import NpzReader
from .products import arrays_of_product
from .scan_checks import check_object

__all__ = ['Image', 'read_image', 'read_object']

_MIN_ILLUMINATION = 0.3


@dataclass(frozen=True)
class Image:
    """An image with what its file says about it.

    Attributes:
        object_: (Y, X), complex64.
        weights: (Y, X), where the image can be trusted, or None.
        pixel_size_m: (y, x), or None.
        positions_px: (N, 2), and `probe` (P, H, W), where the file has them.
    """

    path: Path
    object_: NDArray[Any]
    weights: NDArray[Any] | None = None
    pixel_size_m: tuple[float, float] | None = None
    positions_px: NDArray[numpy.float64] | None = None
    probe: NDArray[Any] | None = None


def read_image(path: Path | str, *, is_reference: bool = False) -> Image:
    """Returns the image in an NPZ or in a Ptychodus product.

    A reference is the truth of a simulated scan where the file has one.

    Raises:
        ValueError: the file holds no image; says what it holds.
    """
    path = Path(path)
    with path.open('rb') as file:
        magic = file.read(8)
    if magic.startswith(b'\x89HDF'):
        return _read_product(path)
    if not magic.startswith(b'PK'):
        raise ValueError(
            f'{path} is neither an NPZ nor an HDF5 file: name a reconstruction or a product.'
        )
    reader = NpzReader(path)
    names = ('truth', 'object') if is_reference else ('object', 'truth')
    name = reader.require(*names, 'objectGuess')
    illumination = reader.optional('illumination')
    size = reader.optional('pixel_size_m')
    return Image(
        path,
        check_object(path, name, reader.array(name)),
        None if illumination is None else illumination > _MIN_ILLUMINATION,
        None if size is None else (float(size.ravel()[0]), float(size.ravel()[-1])),
        _read_positions(reader),
        reader.optional('probe', 'probeGuess'),
    )


def _read_positions(reader: NpzReader) -> NDArray[numpy.float64] | None:
    if 'xcoords' in reader and 'ycoords' in reader:
        return numpy.stack([reader.array('ycoords'), reader.array('xcoords')], axis=-1)
    return reader.optional('positions_px')


def _read_product(path: Path) -> Image:
    arrays = arrays_of_product(load_host_product(path))
    return Image(
        path,
        check_object(path, 'object', arrays.object_),
        None,
        arrays.pixel_size_m,
        arrays.positions_px,
        arrays.probe,
    )


def read_object(path: Path | str) -> NDArray[numpy.complex64]:
    """Returns the object (Y, X) of an NPZ or a product, as a label or a reference.

    Raises:
        ValueError: the file holds no object; says what it holds.
    """
    object_: NDArray[numpy.complex64] = read_image(path, is_reference=True).object_
    return object_
