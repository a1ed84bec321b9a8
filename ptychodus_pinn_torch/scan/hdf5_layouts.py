"""Scans in Ptychodus' HDF5 files: `diffraction.h5` and `product.h5`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import numpy
from numpy.typing import NDArray

from .hdf5_arrays import Hdf5Reader
from .npz_layouts import RawScan, read_pixel_layout
from .pattern_store import map_hdf5_dataset, stage_blocks
from .products import arrays_of_product, with_weights_of

__all__ = ['load_host_product', 'read_hdf5_layout']

logger = logging.getLogger(__name__)

_DIFFRACTION, _PRODUCT = 'diffraction.h5', 'product.h5'
_CXI_ENTRY = 'entry_1'


def read_hdf5_layout(path: Path, product: Path | None, diffraction_kind: str) -> RawScan:
    """Returns the scan of a diffraction and a product file, paired by index as Ptychodus does.

    The path is that of the folder with both, or of one of the two; or that of a training set with
    the arrays of an NPZ.

    Raises:
        ValueError: one of the two cannot be found or read.
    """
    if path.is_file() and _is_training_set(path):
        return read_pixel_layout(Hdf5Reader(path), diffraction_kind)
    diffraction, product = _find_pair(path, product)
    patterns, indexes, bad_pixels, pixel_m = _read_diffraction(diffraction)
    rows, paired = _pair_by_index(diffraction, indexes, load_host_product(product))
    if len(rows) != len(patterns):
        logger.info(
            '%s: %d of %d patterns have a position; the others are left out.',
            diffraction,
            len(rows),
            len(patterns),
        )
        measured, shape = patterns, (len(rows), *patterns.shape[1:])
        patterns = stage_blocks(shape, patterns.dtype, lambda block: measured[rows[block]])
    arrays = arrays_of_product(paired)
    variation = arrays.variation
    metadata = {**arrays.metadata, 'position_indexes': arrays.indexes}
    if pixel_m is not None:
        metadata['detector_pixel_m'] = pixel_m
    return RawScan(
        patterns=patterns,
        positions_px=arrays.positions_px,
        probe=arrays.probe,
        object_=arrays.object_,
        bad_pixels=bad_pixels,
        pixel_size_m=arrays.pixel_size_m,
        object_center_m=arrays.object_center_m,
        metadata=metadata,
        source=diffraction,
        probe_variations=None if variation is None else variation.modes,
        probe_weights=None if variation is None else variation.weights,
    )


def _is_training_set(path: Path) -> bool:
    with _open(path) as file:
        names = ({'xcoords'}, {'ycoords'}, {'diff3d', 'diffraction'}, {'probeGuess'})
        return sum(bool(found & set(file)) for found in names) >= 2


def _find_pair(path: Path, product: Path | None) -> tuple[Path, Path]:
    """Returns the diffraction and the product file meant by a folder or by one of the two."""
    if path.is_dir():
        diffraction = path / _DIFFRACTION
        if not diffraction.exists():
            raise ValueError(
                f'{path} is a folder without {_DIFFRACTION}: name a folder that holds '
                f'{_DIFFRACTION} and {_PRODUCT}, or name a file.'
            )
    else:
        with _open(path) as file:
            keys = set(file)
        if _CXI_ENTRY in keys:
            return path, product or _find_cxi_product(path)
        if 'patterns' in keys:
            diffraction = path
        elif 'probe_position_x_m' in keys:
            product, diffraction = product or path, path.parent / _DIFFRACTION
        else:
            raise ValueError(
                f'{path} is neither a diffraction file (no patterns) nor a product (no '
                f'probe_position_x_m); it holds {", ".join(sorted(keys)) or "nothing"}.'
            )
    product = diffraction.parent / _PRODUCT if product is None else product
    for needed, what in ((diffraction, 'patterns'), (product, 'positions and probe')):
        if not needed.exists():
            raise ValueError(
                f'{needed} with the {what} is missing: put {_DIFFRACTION} and {_PRODUCT} into '
                'one folder, or name the product with --product.'
            )
    return diffraction, product


def _find_cxi_product(path: Path) -> Path:
    """Returns the file itself when it holds an object, else its neighbour `product.cxi`."""
    with _open(path) as file:
        if f'{_CXI_ENTRY}/image_2' in file:
            return path
    neighbour = path.with_name('product.cxi')
    if not neighbour.exists():
        raise ValueError(
            f'{path} holds no object and probe, and {neighbour} is missing: name the product with '
            '--product.'
        )
    return neighbour


def load_host_product(path: Path) -> Any:
    """Returns Ptychodus' `Product` of a file.

    Raises:
        ValueError: the file is no product; names what is missing.
    """
    from ptychodus.api.io import load_product

    with _open(path) as file:
        keys = sorted(file)
    try:
        if _CXI_ENTRY in keys:
            from ptychodus.plugins.cxi_file import CXIProductFileIO

            return CXIProductFileIO().read(path)
        return load_product(path)
    except KeyError as error:
        raise ValueError(
            f'{path} is no complete product ({str(error.args[0]).rstrip(".")}); it holds '
            f'{", ".join(keys) or "nothing"}: save it again from Ptychodus.'
        ) from error
    except (ValueError, TypeError, OSError) as error:
        raise ValueError(f'{path} cannot be read as a product: {error}') from error


def _open(path: Path) -> h5py.File:
    if not path.is_file():
        raise FileNotFoundError(2, 'No such file or directory', str(path))
    with path.open('rb'):
        pass
    try:
        return h5py.File(path, 'r')
    except OSError as error:
        raise ValueError(
            f'{path} is no HDF5 file, or is damaged or cut short: copy or export it again.'
        ) from error


def _read_diffraction(
    path: Path,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, float | None]:
    with _open(path) as file:
        if _CXI_ENTRY in file:
            return _read_cxi(path)
        dataset = file.get('patterns')
        if not isinstance(dataset, h5py.Dataset):
            raise ValueError(
                f'{path} has no dataset patterns; it holds {", ".join(sorted(file)) or "nothing"}.'
            )
        if dataset.ndim != 3:
            raise ValueError(
                f'{path}: patterns has shape {dataset.shape} but (patterns, height, width) is '
                'needed: export it again.'
            )
        patterns = map_hdf5_dataset(path, dataset)
        try:
            if patterns is None:
                patterns = stage_blocks(dataset.shape, dataset.dtype, lambda rows: dataset[rows])
            indexes = file['indexes'][()] if 'indexes' in file else numpy.arange(len(patterns))
            bad_pixels = file['bad_pixels'][()] if 'bad_pixels' in file else None
        except OSError as error:
            if error.errno is not None:
                raise
            raise ValueError(f'{path} is damaged or cut short: copy or export it again.') from error
        pixel_m = dataset.attrs.get('detector_pixel_width_m')
    if len(indexes) != len(patterns):
        raise ValueError(
            f'{path} holds {len(patterns)} patterns but {len(indexes)} indexes: export it again.'
        )
    return patterns, indexes, bad_pixels, None if pixel_m is None else float(pixel_m)


def _read_cxi(path: Path) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, float | None]:
    """Returns the patterns of a CXI file (Maia, Nature Methods 9, 2012) by Ptychodus' reader."""
    from ptychodus.plugins.cxi_file import CXIDiffractionFileReader

    try:
        dataset = CXIDiffractionFileReader().read(path)
        parts = [numpy.asarray(array.get_patterns()) for array in dataset]
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f'{path} cannot be read as a CXI file: {error}') from error
    if not parts:
        raise ValueError(f'{path} holds no patterns: export it again.')
    patterns = numpy.concatenate(parts)
    pixel = dataset.get_metadata().detector_pixel_geometry
    staged = stage_blocks(patterns.shape, patterns.dtype, lambda rows: patterns[rows])
    bad_pixels = dataset.get_bad_pixels()
    return staged, numpy.arange(len(patterns)), bad_pixels, pixel.width_m if pixel else None


def _pair_by_index(
    path: Path, indexes: NDArray[Any], product: Any
) -> tuple[NDArray[numpy.int64], Any]:
    """Returns the rows of the patterns that have a position, and the product with those alone."""
    from ptychodus.api.assemble import AssembledDiffractionData
    from ptychodus.api.geometry import PixelGeometry
    from ptychodus.api.reconstruct import prepare_reconstruct_input

    # Row numbers stand for the patterns, so that the host's own rule decides without a copy.
    rows = numpy.arange(len(indexes), dtype=numpy.int64).reshape(-1, 1, 1)
    stand_in = AssembledDiffractionData(
        numpy.asarray(indexes), rows, PixelGeometry(1.0, 1.0), numpy.zeros((1, 1), dtype=bool)
    )
    try:
        prepared = prepare_reconstruct_input(stand_in, product)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
    kept = numpy.asarray(prepared.diffraction_patterns)[:, 0, 0].astype(numpy.int64)
    return kept, with_weights_of(product, prepared.product)
