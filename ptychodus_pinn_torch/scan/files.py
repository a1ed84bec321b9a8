"""Reading scans from files and folders, and writing scans and images."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
from numpy.typing import NDArray

from .hdf5_layouts import load_host_product, read_hdf5_layout
from .npz_layouts import NpzReader, RawScan, read_npz_layout
from .output import write_product, write_reconstruction_npz, write_scan_npz
from .positions import PositionTransform
from .probe_variation import ProbeVariation
from .products import arrays_of_product
from .resampling import bin_scan, crop_scan
from .scan import Scan
from .scan_checks import build_scan, check_object

__all__ = [
    'DiffractionKind',
    'Image',
    'Layout',
    'read_image',
    'read_object',
    'read_scan',
    'write_product',
    'write_reconstruction_npz',
    'write_scan_npz',
]

logger = logging.getLogger(__name__)

DiffractionKind = Literal['auto', 'counts', 'amplitude']


@dataclass(frozen=True)
class Layout:
    """A way in which scans lie in files or folders.

    Attributes:
        recognises: Whether a path holds a scan of this kind; a look at its head is enough.
        read: The scan at a path, with its product and the kind of its patterns where those were
            named. What is read is checked and calibrated afterwards, the same for every layout.
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Path, Path | None, DiffractionKind], RawScan]


_ZIP_MAGIC, _HDF5_MAGIC = b'PK\x03\x04', b'\x89HDF\r\n\x1a\n'
_MIN_SIZE, _MAX_SIZE = 32, 512
_MIN_ILLUMINATION = 0.3


def read_scan(
    path: Path | str,
    *,
    product: Path | str | None = None,
    crop: int | None = None,
    bin: int | None = None,
    diffraction_kind: DiffractionKind = 'auto',
    positions: PositionTransform | None = None,
) -> Scan:
    """Returns the scan in a file or folder, in the package's conventions.

    Read are Ptychodus' training NPZ, PtychoPINN's NPZ, an NPZ with positions in metres, the NPZ
    of `ptychodus-pinn simulate`, Ptychodus' `diffraction.h5` with `product.h5`, and CXI files by
    Ptychodus' reader. Patterns keep the dtype of the file and stay on disk.

    Args:
        path: An NPZ, a folder with `diffraction.h5` and `product.h5`, or one of the two.
        product: The product that goes with the patterns, where it is not next to them.
        crop: Detector pixels to keep in the middle, per side; applied before `bin`.
        bin: Detector pixels to add up, per side.
        diffraction_kind: What the patterns of an NPZ are, where the file does not tell.
        positions: What is done to the positions, which the log says; object and truth stay where
            they are, and are enlarged where they do not hold the changed positions.

    Raises:
        ValueError: the file is no scan, or one that cannot be used; says why and what to do.
        OSError: the file cannot be opened.

    Examples:
        >>> import tempfile
        >>> import ptychodus_pinn_torch as pinn
        >>> from ptychodus_pinn_torch.scan.files import write_scan_npz
        >>> scan = pinn.simulate(pattern_size=64, num_positions=25)
        >>> path = write_scan_npz(tempfile.mkdtemp() + '/scan.npz', scan)
        >>> pinn.read_scan(path).patterns.shape
        (25, 64, 64)
        >>> pinn.read_scan(path, crop=32).pattern_shape
        (32, 32)
        >>> turned = pinn.PositionTransform(exchange_axes=True, flip_y=True)
        >>> pinn.read_scan(path, positions=turned).num_patterns
        25
    """
    path = Path(path)
    layout = _find_layout(path)
    raw = layout.read(path, None if product is None else Path(product), diffraction_kind)
    scan = build_scan(raw.source or path, raw, positions)
    scan = scan if crop is None else crop_scan(scan, crop)
    scan = scan if bin is None else bin_scan(scan, bin)
    size = scan.pattern_shape[0]
    if size % 2 or not _MIN_SIZE <= size <= _MAX_SIZE:
        raise ValueError(
            f'{path}: patterns of {size} pixels cannot be used, an even number from {_MIN_SIZE} '
            f'to {_MAX_SIZE} is needed: say --crop or --bin.'
        )
    logger.info(
        '%s: %d patterns of %d x %d (%s), %d probe modes, object %d x %d',
        scan.name,
        scan.num_patterns,
        size,
        size,
        scan.patterns.dtype,
        scan.num_modes,
        *scan.object_.shape,
    )
    return scan


def _find_layout(path: Path) -> Layout:
    for layout in LAYOUTS:
        if layout.recognises(path):
            return layout
    raise ValueError(
        f'{path} is neither an NPZ nor an HDF5 file: name a training NPZ, or a folder with '
        'diffraction.h5 and product.h5.'
    )


def _read_magic(path: Path) -> bytes:
    with path.open('rb') as file:
        return file.read(8)


LAYOUTS = (
    Layout(lambda path: path.is_dir() or _read_magic(path) == _HDF5_MAGIC, read_hdf5_layout),
    Layout(lambda path: _read_magic(path).startswith(_ZIP_MAGIC), read_npz_layout),
)
"""The first that recognises a path reads it; a new one goes to the front."""


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


def read_image(path: Path | str, *, is_reference: bool = False) -> Image:
    """Returns the image in an NPZ or in a Ptychodus product.

    A reference is the truth of a simulated scan where the file has one.

    Raises:
        ValueError: the file holds no image; says what it holds.
    """
    path = Path(path)
    magic = _read_magic(path)
    if magic == _HDF5_MAGIC:
        return _read_product(path)
    if not magic.startswith(_ZIP_MAGIC):
        raise ValueError(
            f'{path} is neither an NPZ nor an HDF5 file: name a reconstruction or a product.'
        )
    reader = NpzReader(path)
    names = ('truth', 'object') if is_reference else ('object', 'truth')
    name = reader.require(*names, 'objectGuess')
    illumination = reader.optional('illumination')
    return Image(
        path,
        check_object(path, name, reader.array(name)),
        None if illumination is None else illumination > _MIN_ILLUMINATION,
        reader.pair('pixel_size_m'),
        _read_positions(reader),
        reader.optional('probe', 'probeGuess'),
        _read_variation(reader),
    )


def _read_variation(reader: NpzReader) -> ProbeVariation | None:
    modes, weights = (reader.optional(f'probe_{name}') for name in ('variations', 'weights'))
    return None if modes is None or weights is None else ProbeVariation(modes, weights)


def _read_positions(reader: NpzReader) -> NDArray[numpy.float64] | None:
    if 'xcoords' in reader and 'ycoords' in reader:
        return numpy.stack([reader.array('ycoords'), reader.array('xcoords')], axis=-1)
    return reader.optional('positions_px')


def _read_product(path: Path) -> Image:
    arrays = arrays_of_product(load_host_product(path))
    object_ = check_object(path, 'object', arrays.object_)
    return Image(
        path,
        object_,
        None,
        arrays.pixel_size_m,
        arrays.positions_px,
        arrays.probe,
        arrays.variation,
    )


def read_object(path: Path | str) -> NDArray[numpy.complex64]:
    """Returns the object (Y, X) of an NPZ or a product, as a label or a reference.

    Raises:
        ValueError: the file holds no object; says what it holds.
    """
    return read_image(path, is_reference=True).object_
